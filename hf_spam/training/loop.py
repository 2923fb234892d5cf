"""The training loop: the book's (chapter 6), through Accelerate.

With recipe `book`, one process and fp32, every loss and accuracy is that of the book's plain PyTorch loop under
`torch.manual_seed(recipe.seed)`: the evaluations draw from the same stream of random orders as the training does.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from datasets import DatasetDict
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler, Subset
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedTokenizerBase, get_scheduler

from ..data.augmentation import Augmentation
from ..data.collation import EncodedMessages, PadRight
from ..data.messages import OWN_DATA, check_splits, load_sms_spam
from ..data.tokenization import encode
from ..evaluation.metrics import SPAM, SpamMetrics
from ..files import read_manifest
from ..hub.uploader import PushSettings, Uploader
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .checkpoints import Checkpoints, History, Progress, TrainingState, check_identity, identity
from .output import Saving, check_output_dir, save_run
from .recipes import RECIPES, Recipe
from .start import start_from

logger = logging.getLogger(__name__)

# The splits by their names in the data and in the book's lists.
SPLITS = {"train": "train", "validation": "val", "test": "test"}
INITIAL_ACCURACY_BATCHES, INITIAL_LOSS_BATCHES = 10, 5  # the book's evaluation of the untrained model


@dataclass
class Run:
    """A finished run: the trained model (in evaluation mode), its tokenizer, and all that was measured."""

    recipe: Recipe
    model: SpamGPTForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    history: History
    metrics: dict[str, dict[str, float | None]]


class SeededShuffle(Sampler[int]):
    """A new order at each pass, drawn from `rng` as `DataLoader(shuffle=True)` draws it from the global generator.

    With `lengths`, batches hold messages of like length: windows of `WINDOW` batches are sorted, and the batches
    shuffled.
    """

    WINDOW = 16

    def __init__(self, size: int, batch_size: int, rng: torch.Generator, lengths: Sequence[int] | None = None):
        self.size, self.batch_size, self.rng, self.lengths = size, batch_size, rng, lengths

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_draw_seed(self.rng))
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            yield from order
            return
        window = self.WINDOW * self.batch_size
        order = [
            index
            for start in range(0, self.size, window)
            for index in sorted(order[start : start + window], key=self.lengths.__getitem__)
        ]
        whole = self.size - self.size % self.batch_size  # what is left over fills no batch and is dropped
        batches = [order[start : start + self.batch_size] for start in range(0, whole, self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]


def _draw_seed(rng: torch.Generator) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=rng))


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
    push: PushSettings | None = None,
    **settings: Any,
) -> Run:
    """Fine-tunes a spam classifier as a recipe says, and saves it.

    Args:
        recipe: a `Recipe` or the name of one.
        output_dir: where the model, its tokenizer, card, `history.json`, `metrics.json` and plots go. None: nowhere.
        data: messages in place of the recipe's: a source as for `load_sms_spam`, or a `DatasetDict` with columns
            `text` and `label` (0 not spam, 1 spam); only its split `train` must be there.
        report_to: a tracker of Accelerate's ("tensorboard", "wandb", ...), which must be installed.
        overwrite_output_dir: whether files of an earlier run in `output_dir` are replaced.
        save_steps: optimizer steps between two checkpoints, `output_dir/checkpoint-{step}`. None: no checkpoints.
        save_total_limit: checkpoints that are kept, of which the best and the last always are. None: all.
        resume_from_checkpoint: a checkpoint to go on from; "auto": the newest of `output_dir`, if there is one; "hub":
            the one that an earlier run pushed (`push.state`). The run ends as if it had never been interrupted.
        push: where and when to push to the Hub. What cannot be sent is kept in `output_dir`, and the run goes on.
        settings: fields of the recipe that are to differ.

    Returns:
        The `Run`. Metrics are those of the final weights on the whole of each split.

    Raises:
        ValueError: a setting, message or tracker that cannot be used, a checkpoint of another run, a token or a
            repository that cannot be pushed to, or a loss that is no longer a number.
        FileExistsError: `output_dir` is not empty.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {recipe!r}; known: {', '.join(RECIPES)}.")
        recipe = RECIPES[recipe]
    if data is not None:
        settings["data"] = OWN_DATA if isinstance(data, DatasetDict) else os.fspath(data)
    recipe = replace(recipe, **settings)
    if output_dir is not None:
        # What is there already is what a resumed run goes on from.
        output_dir = check_output_dir(output_dir, overwrite=overwrite_output_dir or resume_from_checkpoint is not None)
    elif save_steps or resume_from_checkpoint or push:
        raise ValueError("Checkpoints and pushing need an output_dir.")
    for name, value in (("save_steps", save_steps), ("save_total_limit", save_total_limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if push is not None and save_steps is None and (push.strategy != "end" or push.state):
        raise ValueError("Pushing checkpoints needs save_steps (--save-steps); hub_strategy end pushes the last alone.")
    if resume_from_checkpoint == "hub" and push is None:
        raise ValueError("Resuming from the Hub needs the repository: give --push-to-hub and --hub-model-id.")
    if report_to is not None and report_to not in {str(tracker) for tracker in get_available_trackers()}:
        raise ValueError(f"The tracker {report_to!r} is not installed (or not known to Accelerate).")
    if recipe.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("mixed_precision fp16 needs a GPU; bf16 works on a CPU too.")
    AcceleratorState._reset_state()  # else the first run's precision would be that of every later one
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=report_to,
        project_config=ProjectConfiguration(project_dir=output_dir, logging_dir=output_dir and output_dir / "runs"),
    )
    with ExitStack() as stack:
        uploader = None
        if push is not None and accelerator.is_main_process:
            uploader = stack.enter_context(Uploader(output_dir, push))
        with accelerator.main_process_first():  # one process downloads, the others read the cache
            if isinstance(data, DatasetDict):
                data = check_splits(data)
            else:
                data = load_sms_spam(recipe.data, protocol=recipe.protocol, seed=recipe.seed)
            model, tokenizer = start_from(recipe, data["train"]["text"][:])
        if report_to is not None:
            config = {key: value for key, value in asdict(recipe).items() if value is not None}
            accelerator.init_trackers("hf_spam", config)
        saving = None
        if output_dir is not None:
            checkpoint = None
            with accelerator.main_process_first():
                if resume_from_checkpoint == "hub" and accelerator.is_main_process:
                    uploader.fetch_checkpoint()
                if resume_from_checkpoint in ("auto", "hub"):
                    checkpoint = Checkpoints(output_dir).latest()
                elif resume_from_checkpoint is not None:
                    checkpoint = Path(resume_from_checkpoint)
                    read_manifest(checkpoint)
            saving = Saving(Checkpoints(output_dir, save_total_limit), save_steps, checkpoint, uploader)
        with logging_redirect_tqdm():
            run, progress = _train(accelerator, recipe, model, tokenizer, data, saving)
        if output_dir is not None and accelerator.is_main_process:
            save_run(run, output_dir)
            if uploader is not None:
                uploader.submit(output_dir, progress.run_id, progress.step, "final", is_best=progress.is_best)
        accelerator.wait_for_everyone()  # no process may read the folder before it is written
        accelerator.end_training()
    return run


def _train(
    accelerator: Accelerator,
    recipe: Recipe,
    model: SpamGPTForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    saving: Saving | None,
) -> tuple[Run, Progress]:
    max_length = model.config.padded_length or model.config.n_positions
    # Columns are taken as lists: read one by one, each value would be formatted anew.
    texts = data["train"]["text"][:]
    encoded = {
        split: EncodedMessages(encode(tokenizer, data[split]["text"][:], max_length), data[split]["label"][:])
        for split in SPLITS
        if split in data
    }
    # Training reads a set of its own: with augmentation its ids change from epoch to epoch, those evaluated do not.
    train_set = EncodedMessages(encoded["train"].input_ids, encoded["train"].labels)
    rng = torch.Generator()  # of every order, in training and in evaluation
    batch_size = recipe.per_device_train_batch_size
    global_batch_size = batch_size * accelerator.num_processes
    if len(train_set) < global_batch_size:
        raise ValueError(f"{len(train_set)} training messages do not fill one batch of {global_batch_size}.")
    lengths = None
    if recipe.train_sampling_strategy == "group_by_length":
        lengths = [len(ids) for ids in train_set.input_ids]
    collate = PadRight(model.config.pad_token_id)

    def loader(dataset: EncodedMessages, shuffle: bool) -> DataLoader:
        sampler = SeededShuffle(len(dataset), global_batch_size, rng, lengths) if shuffle else None
        # The loader is given the generator too, since it draws a number from it at the start of each pass.
        return accelerator.prepare(
            DataLoader(dataset, batch_size, sampler=sampler, drop_last=shuffle, collate_fn=collate, generator=rng)
        )

    train_loader = loader(train_set, shuffle=True)
    eval_loaders = {split: loader(dataset, shuffle=split == "train") for split, dataset in encoded.items()}
    whole_loaders = {split: _whole(accelerator, dataset, collate) for split, dataset in encoded.items()}
    steps_per_epoch = math.ceil(len(train_loader) / recipe.gradient_accumulation_steps)
    total_steps = recipe.max_steps or steps_per_epoch * recipe.num_train_epochs
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    average = None
    if recipe.weight_average:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.weight_average))
    prepared, optimizer = accelerator.prepare(model, optimizer)
    constant = recipe.lr_scheduler_type == "constant"  # which in the library knows no warm-up
    scheduler = get_scheduler(  # not prepared: it would step once for each process
        "constant_with_warmup" if constant else recipe.lr_scheduler_type,
        optimizer,
        num_warmup_steps=_warmup_steps(recipe.warmup_steps, total_steps),
        num_training_steps=total_steps,
    )
    state = TrainingState(model, average, optimizer, scheduler, accelerator.scaler, rng, rng.get_state())

    def measure(what: str, batches: int, splits: Iterable[str] = ("train", "validation")) -> dict[str, float]:
        """`{split}_{what}`, `loss` or `acc`, over the first batches of a pass over each split."""
        return {
            f"{SPLITS[split]}_{what}": getattr(evaluate(accelerator, prepared, eval_loaders[split], batches), what)
            for split in splits
            if split in eval_loaders
        }

    def measure_whole(splits: Iterable[str]) -> tuple[dict[str, dict[str, float | None]], float | None]:
        """All metrics of whole splits, and the loss on the validation split. Draws no random number."""
        results = {split: evaluate(accelerator, prepared, whole_loaders[split]) for split in splits if split in encoded}
        metrics = {
            split: SpamMetrics().compute(
                predictions=result.probabilities.argmax(-1),
                references=result.labels,
                scores=result.probabilities[:, SPAM].tolist(),
            )
            for split, result in results.items()
        }
        return metrics, results["validation"].loss if "validation" in results else None

    def save_checkpoint() -> None:
        with state.kept_weights():
            metrics, loss = measure_whole(["validation"])
            progress.compare(loss)
            so_far = replace(history, epochs=(progress.step + 1) / steps_per_epoch)
            saving.save(accelerator, state, Run(recipe, model, tokenizer, so_far, metrics), run_identity)

    run_identity = identity(
        recipe, data, {split: part.input_ids for split, part in encoded.items()}, accelerator.num_processes
    )
    restore_random = None
    if saving and saving.resume_from:
        check_identity(saving.resume_from, run_identity)
        restore_random = state.load(saving.resume_from, accelerator.process_index)
        logger.info("Going on from %s.", saving.resume_from)
    progress = state.progress
    history = progress.history
    set_seed(recipe.seed, device_specific=True)  # dropout, a different one on each process
    if restore_random is None:
        rng.manual_seed(recipe.seed)
        history.initial |= measure("acc", INITIAL_ACCURACY_BATCHES, SPLITS)
        history.initial |= measure("loss", INITIAL_LOSS_BATCHES, SPLITS)
        logger.info("Before training: %s", _in_words(history.initial))
        rng.manual_seed(recipe.seed)
    augmentation = Augmentation(
        tokenizer,
        case=recipe.case_augmentation,
        digits=recipe.digit_augmentation,
        bpe_dropout=recipe.bpe_dropout,
    )
    start = time.perf_counter() - history.seconds
    hidden = None if accelerator.is_local_main_process else True  # None: where there is no terminal
    bar = tqdm(total=total_steps, initial=progress.step + 1, desc="Training", unit="step", disable=hidden)
    for epoch in range(progress.epoch, math.ceil(total_steps / steps_per_epoch) + 1):
        progress.epoch = epoch
        if restore_random is None:
            state.epoch_order = rng.get_state()
        if augmentation:
            train_set.input_ids = [
                augmentation.encode(text, f"{recipe.seed} {epoch} {i}", max_length) for i, text in enumerate(texts)
            ]
        steps_left = total_steps - (epoch - 1) * steps_per_epoch
        batches = _first(train_loader, steps_left * recipe.gradient_accumulation_steps)
        for batch in _after(batches, progress.batch, restore_random):
            restore_random = None
            prepared.train()
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(**batch).loss)
                if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            history.examples_seen += global_batch_size
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            if not accelerator.optimizer_step_was_skipped:  # fp16 skips those whose gradients overflow
                scheduler.step()
                if average is not None:
                    average.update_parameters(model)
            bar.update()
            if progress.step % recipe.eval_freq == 0:
                losses = measure("loss", recipe.eval_iter)
                history.steps.append(progress.step)
                history.append(losses)
                bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
                logger.info("Epoch %d, step %06d: %s", epoch, progress.step, _in_words(losses))
                accelerator.log({**losses, "learning_rate": scheduler.get_last_lr()[0]}, step=progress.step)
            history.seconds = time.perf_counter() - start
            if saving and saving.is_due(progress.step):
                save_checkpoint()
        restore_random, progress.batch = None, 0
        accuracies = measure("acc", recipe.eval_iter)
        history.append(accuracies)
        logger.info("Epoch %d: %s", epoch, _in_words(accuracies))
        accelerator.log(accuracies, step=progress.step)
    bar.close()
    history.epochs = (progress.step + 1) / steps_per_epoch
    history.seconds = time.perf_counter() - start

    if average is not None:
        model.load_state_dict(average.module.state_dict())
    metrics, loss = measure_whole(SPLITS)
    progress.compare(loss)
    accelerator.log(
        {f"{SPLITS[split]}_final_acc": values["accuracy"] for split, values in metrics.items()}, step=progress.step
    )
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)  # Accelerate's autocast, put on the instance: the class's own is back
    return Run(recipe, model.eval(), tokenizer, history, metrics), progress


@dataclass(frozen=True)
class Evaluation:
    """Loss (the mean over batches of their mean losses, as in the book) and accuracy of a pass, with its answers."""

    loss: float
    acc: float
    labels: torch.Tensor  # (N,)
    probabilities: torch.Tensor  # (N, num_labels)


@torch.inference_mode()
def evaluate(
    accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, batches: int | None = None
) -> Evaluation:
    """Evaluates the first `batches` batches of a prepared loader (all, if None), each message counted once."""
    model.eval()
    losses, all_logits, all_labels = [], [], []
    for batch in _first(loader, batches):
        labels = batch.pop("labels")
        # Gathered before the loss is taken: its mean is over the global batch, as on one process.
        logits, labels = accelerator.gather_for_metrics((model(**batch).logits.float(), labels))
        losses.append(cross_entropy(logits, labels).item())
        all_logits.append(logits.cpu())
        all_labels.append(labels.cpu())
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    if not logits.isfinite().all():
        raise ValueError("The loss is no longer a number: training diverged. Lower learning_rate or set max_grad_norm.")
    correct = (logits.argmax(-1) == labels).sum().item()
    return Evaluation(sum(losses) / len(losses), correct / len(labels), labels, logits.softmax(-1))


def _first(loader: DataLoader, batches: int | None) -> Iterator[dict[str, torch.Tensor]]:
    if batches is None or batches >= len(loader):
        yield from loader
    else:
        yield from islice(loader, batches)
        # Left early, a loader of Accelerate's stays the active one, and the end of the training's is not noticed.
        loader.end()


def _after(
    batches: Iterator[dict[str, torch.Tensor]], done: int, restore_random: Callable[[], None] | None
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches after the first `done`, which an earlier process went through, and its random state after them."""
    for _ in islice(batches, done):
        pass
    if restore_random is not None:
        restore_random()
    yield from batches


def _whole(accelerator: Accelerator, messages: EncodedMessages, collate: PadRight) -> DataLoader:
    """All messages of a split, batched by length, which changes nothing but the time.

    The generator is the loader's own: from the global one it would draw a number, and change the dropout that follows.
    """
    order = sorted(range(len(messages)), key=lambda i: len(messages.input_ids[i]))
    loader = DataLoader(Subset(messages, order), batch_size=32, collate_fn=collate, generator=torch.Generator())
    return accelerator.prepare(loader)


def _warmup_steps(setting: float, total_steps: int) -> int:
    """As the Trainer reads it: steps, or below 1 the part of all."""
    return int(setting) if setting >= 1 else math.ceil(setting * total_steps)


def _in_words(values: dict[str, float]) -> str:
    """`{"train_loss": 0.5, "val_acc": 0.975}` -> "train loss 0.500, val acc 97.50%"."""
    return ", ".join(
        f"{name.replace('_', ' ')} " + (f"{value:.2%}" if name.endswith("acc") else f"{value:.3f}")
        for name, value in values.items()
    )
