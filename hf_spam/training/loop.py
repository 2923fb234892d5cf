"""The training loop: the book's (chapter 6), through Accelerate.

With recipe `book`, one process and fp32, every loss and accuracy is that of the book's plain PyTorch loop under
`torch.manual_seed(recipe.seed)`: the evaluations draw from the same stream of random orders as the training does.
"""

import atexit
import logging
import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object, set_seed
from datasets import DatasetDict
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedTokenizerBase, get_scheduler

from ..data.labels import check_classes, check_splits, label_names
from ..data.sources import OWN_DATA, load_sms_spam
from ..data.splits import fingerprints, undersample
from ..data.tokenization import load_tokenizer
from ..evaluation.baseline import measure_baseline
from ..evaluation.eval_data import learned_from_others
from ..files import read_manifest
from ..hub.push import Uploader
from ..hub.settings import PushSettings
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..signals import Interruption, RunInterrupted, listening
from .batches import Batches
from .calibration import Calibration, check_validation, uncalibrate
from .checkpoints import STATE, Checkpoints, Progress, TrainingState, differences, identity
from .lora import merged
from .measuring import DIVERGED, SPLITS, Measured, Measuring
from .objective import Objective, balanced_weights, log_priors
from .output import TRACKERS, Saving, check_output_dir, remove_if_empty, save_run
from .recipes import Recipe, get_recipe
from .run import History
from .sharding import is_set_up, sharding_asked_for
from .start import start_from

logger = logging.getLogger(__name__)

EPOCHS_LOGGED = 10  # about so many, where there are more; the history has all
INITIAL_ACCURACY_BATCHES, INITIAL_LOSS_BATCHES = 10, 5  # the book's evaluation of the untrained model


@dataclass
class Run:
    """A finished run: the trained model (in evaluation mode), its tokenizer, and all that was measured."""

    recipe: Recipe
    model: SpamGPTForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    history: History
    metrics: dict[str, dict[str, float | None]]
    """Of each split."""
    trained: int
    """How many parameters were trained, those of adapters included, which are merged into others at the end."""
    baseline: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """The metrics of a linear model of the same messages, for the card; of runs that are saved only."""
    calibration: Calibration | None = None
    """What was fitted to the validation split."""
    answers: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """What the metrics of each split are computed from: see `Measured`."""


def finetune(
    recipe: Recipe | str = "book",
    *,
    output_dir: str | Path | None = None,
    data: DatasetDict | str | os.PathLike | None = None,
    report_to: str | None = None,
    overwrite_output_dir: bool = False,
    save_steps: int | None = None,
    save_total_limit: int | None = None,
    resume_from_checkpoint: str | os.PathLike | None = None,
    allow_differences: bool = False,
    push: PushSettings | None = None,
    **settings: Any,
) -> Run:
    """Fine-tunes a spam classifier as a recipe says, and saves it.

    Args:
        recipe: a `Recipe` or the name of one.
        output_dir: where the model, its tokenizer, card, `history.json`, `metrics.json` and plots go. None: nowhere.
        data: messages in place of the recipe's: a source as for `load_sms_spam`, or a `DatasetDict` with columns
            `text` and `label` (a `ClassLabel`, or 0 not spam, 1 spam); only its split `train` must be there.
        report_to: a tracker of Accelerate's ("tensorboard", "wandb", ...), which must be installed.
        overwrite_output_dir: whether files of an earlier run in `output_dir` are replaced.
        save_steps: optimizer steps between two checkpoints, `output_dir/checkpoint-{step}`. None: no checkpoints.
        save_total_limit: checkpoints that are kept, of which the best and the last always are. None: all.
        resume_from_checkpoint: a checkpoint to go on from; "auto": the newest of `output_dir`, if there is one; "hub":
            the one that an earlier run pushed (`push.push_state`). The run ends as if it had never been interrupted.
        allow_differences: whether that checkpoint may be one of other settings, other data or another number of
            processes. Then weights, moments, tokenizer and the number of steps are taken from it, and all else is as
            given here: the place in the data is where these settings would be after so many steps.
        push: where and when to push to the Hub. What cannot be sent is kept in `output_dir`, and the run goes on.
        settings: fields of the recipe that are to differ.

    Returns:
        The `Run`. Metrics are those of the final weights on the whole of each split, calibrated if the recipe says so;
        losses and accuracies of the history never are.

    Raises:
        ValueError: a setting, message or tracker that cannot be used, a checkpoint of another run, a token or a
            repository that cannot be pushed to, or a loss that is no longer a number.
        FileExistsError: `output_dir` is not empty.
        KeyboardInterrupt: Ctrl-C, or SIGTERM (`RunInterrupted`). Between the first step and the last one the
            step is ended and a checkpoint written before, from which the run goes on; after the last one the run is
            finished all the same. A second one stops at once.
    """
    if data is not None:
        settings["data"] = OWN_DATA if isinstance(data, DatasetDict) else data
    recipe = get_recipe(recipe, **settings)
    resume = resume_from_checkpoint is not None
    if resume and resume_from_checkpoint not in ("auto", "hub") and not (Path(resume_from_checkpoint) / STATE).is_dir():
        raise ValueError(
            f"{resume_from_checkpoint} is no checkpoint; a folder such as runs/pocket/checkpoint-100 would be one."
        )
    if output_dir is None and (save_steps or resume or push):
        raise ValueError("Checkpoints and pushing need an output_dir.")
    for name, value in (("save_steps", save_steps), ("save_total_limit", save_total_limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if push is not None and save_steps is None and (push.strategy != "end" or push.push_state):
        raise ValueError("Pushing checkpoints needs save_steps (--save-steps); hub_strategy end pushes the last alone.")
    if resume_from_checkpoint == "hub" and push is None:
        raise ValueError("Resuming from the Hub needs the repository: give --push-to-hub and --hub-model-id.")
    if report_to is not None and report_to not in {str(tracker) for tracker in get_available_trackers()}:
        raise ValueError(f"The tracker {report_to!r} is not installed (or not known to Accelerate).")
    if recipe.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("mixed_precision fp16 needs a GPU; bf16 works on a CPU too.")
    bf16 = "bf16" in (recipe.mixed_precision, recipe.prefix_precision)
    if bf16 and not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning("This processor has no instructions for bfloat16, which is slower on it than float32.")
    shards = sharding_asked_for(recipe)
    if output_dir is not None:
        output_dir = check_output_dir(output_dir, overwrite=overwrite_output_dir, resume=resume)
    # Else the first run's precision would be that of every later one, which could not be sharded either.
    AcceleratorState._reset_state(reset_partial_state=bool(shards))
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=report_to,
        project_config=ProjectConfiguration(project_dir=output_dir, logging_dir=output_dir and output_dir / TRACKERS),
        **shards,
    )
    if shards and not is_set_up(accelerator):
        raise ValueError("FSDP and DeepSpeed need processes that have a GPU (or its like) each: launch without them.")
    with ExitStack() as stack:
        stack.callback(_end, accelerator)
        if output_dir is not None:
            stack.callback(remove_if_empty, output_dir)  # where nothing came of the run, its data being unreadable, say
        interruption = stack.enter_context(listening())
        uploader = None
        if push is not None and accelerator.is_main_process:
            about = asdict(push)
            uploader = stack.enter_context(Uploader(output_dir, about.pop("model_id"), **about))
        checkpoint = None
        if accelerator.is_main_process and resume_from_checkpoint is not None:
            checkpoint = _checkpoint(resume_from_checkpoint, output_dir, uploader)
        checkpoint = broadcast_object_list([checkpoint])[0]
        with accelerator.main_process_first():  # one process downloads, the others read the cache
            if isinstance(data, DatasetDict):
                data = check_splits(data, recipe.positive_label)
            else:
                data = load_sms_spam(recipe.data, protocol=recipe.protocol, seed=recipe.seed, **recipe.reading)
            few = check_classes(data)
            if few and accelerator.is_main_process:
                logger.warning("Few training messages: %s. Is a label misspelt?", few)
            if recipe.undersample:
                data["train"] = undersample(data["train"], recipe.seed)
            # With other messages another one could be learned, which is not that of the weights.
            tokenizer = load_tokenizer(checkpoint) if checkpoint and allow_differences else None
            train = data["train"]
            model, tokenizer = start_from(recipe, train["text"][:], tokenizer, label_names(train))
            check_validation(recipe, data, model.config)
        if report_to is not None:
            config = {key: value for key, value in asdict(recipe).items() if value is not None}
            accelerator.init_trackers("hf_spam", config)
        saving = None
        if output_dir is not None:
            checkpoints = Checkpoints(output_dir, save_total_limit)
            saving = Saving(checkpoints, save_steps, checkpoint, allow_differences, uploader)
        with logging_redirect_tqdm():
            run, progress = _train(accelerator, recipe, model, tokenizer, data, saving, interruption)
        if output_dir is not None and accelerator.is_main_process:
            run.baseline = measure_baseline(data)
            save_run(run, output_dir)
            interruption.postpones = False
            if uploader is not None:
                uploader.submit(output_dir, progress.run_id, progress.step, "final", is_best=progress.is_best)
        accelerator.wait_for_everyone()  # no process may read the folder before it is written
    return run


def _checkpoint(named: str | os.PathLike, output_dir: Path, uploader: Uploader | None) -> Path | None:
    """The checkpoint to go on from; None where "auto" finds none."""
    if named == "hub":
        return uploader.fetch_checkpoint()
    if named == "auto":
        return Checkpoints(output_dir).latest()
    read_manifest(Path(named))
    return Path(named)


def _train(
    accelerator: Accelerator,
    recipe: Recipe,
    model: SpamGPTForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    saving: Saving | None,
    interruption: Interruption,
) -> tuple[Run, Progress]:
    batches = Batches(accelerator, recipe, model, tokenizer, data)
    total_steps = recipe.max_steps or batches.steps_per_epoch * recipe.num_train_epochs
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    trained_parameters = sum(parameter.numel() for parameter in trained)
    labels, weights, adjustment = data["train"]["label"][:], None, None
    if recipe.class_weights is not None:
        weights = balanced_weights(labels, len(batches.names))
    elif recipe.logit_adjustment and not recipe.balanced_sampling:
        adjustment = recipe.logit_adjustment * log_priors(labels, len(batches.names))
    objective = Objective(batches.network, weights, recipe.ignore_index, recipe.adversarial_epsilon, adjustment)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    constant = recipe.lr_scheduler_type == "constant"  # which in the library knows no warm-up
    scheduler = get_scheduler(  # not prepared: it would step once for each process
        "constant_with_warmup" if constant else recipe.lr_scheduler_type,
        optimizer,
        num_warmup_steps=_warmup_steps(recipe.warmup_steps, total_steps),
        num_training_steps=total_steps,
    )
    measure = Measuring(accelerator, prepared, batches, model.config)
    state = TrainingState(model, recipe.weight_average, optimizer, scheduler, accelerator.scaler, batches.rng)
    this_run = identity(recipe, data, batches.encoded, accelerator.num_processes)
    restore_random = None
    if saving and saving.resume_from:
        others = "; ".join(differences(saving.resume_from, this_run))
        if others and not saving.allow_differences:
            raise ValueError(
                f"{saving.resume_from} belongs to another run: {others}. Resume with what it had, start anew in "
                "another --output-dir, or go on all the same with --allow-differences."
            )
        restore_random = state.load(saving.resume_from, accelerator.process_index)
        if others:
            done = state.progress.step % batches.steps_per_epoch + 1  # of the steps of the epoch
            state.progress.epoch = state.progress.step // batches.steps_per_epoch + 1
            state.progress.batch = done * recipe.gradient_accumulation_steps
            if accelerator.is_main_process:
                logger.warning("It goes on from another run, not exactly: %s.", others)
        logger.info("Going on from %s.", saving.resume_from)
    progress = state.progress
    history, splits = progress.history, fingerprints(data)
    history.steps_per_epoch = batches.steps_per_epoch

    set_seed(recipe.seed, device_specific=True)  # dropout, a different one on each process
    if restore_random is None:
        batches.rng.manual_seed(recipe.seed)
        history.initial |= measure.first("acc", INITIAL_ACCURACY_BATCHES, SPLITS)
        history.initial |= measure.first("loss", INITIAL_LOSS_BATCHES, SPLITS)
        logger.info("Before training: %s", _in_words(history.initial))
        batches.rng.manual_seed(recipe.seed)
        history.splits = splits
        history.trained_before = learned_from_others(recipe.base, model.config, splits)
        if history.trained_before:
            logger.warning("The base is a classifier already, and may have learned from messages of any split.")
    elif history.splits != splits:
        history.splits = {}  # the model has learned from others too, among which these of the test split may be

    def ended(model: SpamGPTForSequenceClassification, measured: Measured) -> Run:
        return Run(
            *(recipe, model, tokenizer, history, measured.metrics, trained_parameters),
            calibration=measured.calibration,
            answers=measured.answers,
        )

    start = time.perf_counter() - history.seconds
    hidden = None if accelerator.is_local_main_process else True  # None: where there is no terminal
    bar = tqdm(total=total_steps, initial=progress.step + 1, desc="Training", unit="step", disable=hidden)
    interruption.postpones = True
    epochs = math.ceil(total_steps / batches.steps_per_epoch)
    for epoch in range(progress.epoch, epochs + 1):
        progress.epoch = epoch
        is_logged = epoch % math.ceil(epochs / EPOCHS_LOGGED) == 0 or epoch == epochs
        level = logging.INFO if is_logged else logging.DEBUG
        if restore_random is None:
            state.epoch_order = batches.rng.get_state()
        steps_left = total_steps - (epoch - 1) * batches.steps_per_epoch
        for batch in batches.epoch(epoch, steps_left, progress.batch, restore_random):
            prepared.train()
            with accelerator.accumulate(prepared):
                loss = prepared(**batch).loss
                if not loss.isfinite() and accelerator.scaler is None:  # with fp16 such a step is left out
                    where = f"in epoch {epoch}, batch {progress.batch + 1}, after step {progress.step}"
                    raise ValueError(f"The loss is {loss.item()} {where}. {DIVERGED}")
                accelerator.backward(loss)
                if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            history.examples_seen += int(accelerator.reduce(torch.tensor(len(batch["labels"]), device=loss.device)))
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            if not accelerator.optimizer_step_was_skipped:  # fp16 skips those whose gradients overflow
                scheduler.step()
                state.update_average()
            elif accelerator.scaler is None:  # DeepSpeed skips them whatever the precision, one after another
                raise ValueError(f"The gradients are no longer numbers at step {progress.step}. {DIVERGED}")
            bar.update()
            history.epochs = (progress.step + 1) / batches.steps_per_epoch
            if progress.step % recipe.eval_freq == 0:
                losses = measure.first("loss", recipe.eval_iter)
                history.steps.append(progress.step)
                history.append(losses)
                bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
                logger.log(level, "Epoch %d, step %06d: %s", epoch, progress.step, _in_words(losses))
                accelerator.log({**losses, "learning_rate": scheduler.get_last_lr()[0]}, step=progress.step)
            signal = _signal(accelerator, interruption)
            if signal:
                logger.info("Stopping after step %d ...", progress.step)
            if saving and (signal or saving.is_due(progress.step)):
                history.seconds = time.perf_counter() - start
                finite = all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
                if not all(gather_object([finite])):  # a process that holds a shard knows of its own alone
                    raise ValueError(f"The weights are no longer numbers after step {progress.step}. {DIVERGED}")
                with state.kept_weights():
                    measured = measure.whole(["validation"])
                    progress.compare(measured.loss)
                    saving.save(accelerator, state, ended(model, measured), this_run)
                    uncalibrate(model.config)  # training goes on as it would have without a checkpoint
            if signal:
                way_on = saving.way_on(progress.step) if saving else "nothing is saved without an output_dir"
                raise RunInterrupted(f"interrupted after step {progress.step}; {way_on}", signal)
        restore_random, progress.batch = None, 0
        accuracies = measure.first("acc", recipe.eval_iter)
        history.append(accuracies)
        logger.log(level, "Epoch %d: %s", epoch, _in_words(accuracies))
        accelerator.log(accuracies, step=progress.step)
    bar.close()
    history.seconds = time.perf_counter() - start

    if state.average:
        model.load_state_dict(state.average)
    measured = measure.whole(SPLITS)
    progress.compare(measured.loss)
    if measured.calibration is not None:
        for line in measured.calibration.in_words():
            logger.log(logging.INFO if measured.calibration.is_met else logging.WARNING, line)
    final = {f"{SPLITS[split]}_final_acc": values["accuracy"] for split, values in measured.metrics.items()}
    accelerator.log(final, step=progress.step)
    return ended(merged(model).eval(), measured), progress


def _end(accelerator: Accelerator) -> None:
    """As Accelerate's `end_training`, but the processes stay connected, for another run, until they end."""
    for tracker in accelerator.trackers:
        tracker.finish()


@atexit.register
def _disconnect() -> None:
    """What `end_training` would have done after the first run."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _signal(accelerator: Accelerator, interruption: Interruption) -> int:
    """The signal that any of the processes was sent, which all are to obey at the same step. 0: none."""
    if accelerator.num_processes == 1:
        return interruption.number
    return int(accelerator.gather(torch.tensor([interruption.number], device=accelerator.device)).max())


def _warmup_steps(setting: float, total_steps: int) -> int:
    """As the Trainer reads it: steps, or below 1 the part of all."""
    return int(setting) if setting >= 1 else math.ceil(setting * total_steps)


def _in_words(values: dict[str, float]) -> str:
    """`{"train_loss": 0.5, "val_acc": 0.975}` -> "train loss 0.500, val acc 97.50%"."""
    return ", ".join(
        f"{name.replace('_', ' ')} " + (f"{value:.2%}" if name.endswith("acc") else f"{value:.3f}")
        for name, value in values.items()
    )
