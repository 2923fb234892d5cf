"""Fine-tune a classifier: from a recipe and messages to a saved model."""

import atexit
import logging
import os
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from datasets import Dataset, DatasetDict
from tqdm.contrib.logging import logging_redirect_tqdm

from ..conversion.loading import save_classifier
from ..data.labels import FEATURES, check_classes
from ..data.names import Sources, source_name
from ..data.sources import check_splits, load_sms_spam, read_texts
from ..evaluation.baseline import measure_baseline
from ..files import check_empty, read_manifest, write_folder
from ..hub.push import Uploader
from ..hub.snapshots import QUEUE
from ..signals import listening
from .calibration import check_validation_split
from .checkpoints import Checkpoints
from .corrections import read_corrections, rehearse
from .distillation import spliced_messages
from .loop import TrainingLoop
from .pretraining import pretrain
from .recipes import get_recipe
from .run import Run
from .saving import save_run
from .settings import Recipe, RunOptions, checked
from .setup import Setup, set_up
from .subwords import without_ngrams

logger = logging.getLogger(__name__)

PROJECT = "hf_spam"  # name of the project for experiment trackers, and of their folder
TEMPORARY = (".writing-", ".replaced-", ".fetching-")  # prefixes of what a killed run leaves behind


def finetune(recipe: Recipe | str = "book", *, data: DatasetDict | Sources | None = None, **settings: Any) -> Run:
    """Fine-tune a spam classifier, and save it if `output_dir` is given.

    Args:
        recipe: a `Recipe` or the name of one.
        data: messages instead of the recipe's: a source as for `load_sms_spam`. The splits of a `DatasetDict` are used
            as they are; only `train` is required.
        settings: fields of `Recipe` to replace, and fields of `RunOptions`, such as `output_dir`, `save_steps`,
            `resume_from_checkpoint` and `push_to_hub`.

    Returns:
        The `Run`. Its metrics describe the final weights on all messages of each split, calibrated if the recipe says
        so; the losses and accuracies of its history are uncalibrated.

    Raises:
        ValueError: settings, messages or a tracker that cannot be used, a checkpoint of another run, a token or a
            repository that cannot be pushed to, or a loss that is no longer finite.
        FileExistsError: `output_dir` is not empty.
        KeyboardInterrupt: Ctrl-C or SIGTERM. During training, the current step is finished and a checkpoint written
            first (`RunInterrupted`); after the last step, a run with an `output_dir` finishes normally. A second signal
            stops at once. Pretraining stops at the first signal, and saves nothing.
    """
    names = {field.name for field in fields(RunOptions)} & settings.keys()
    options = RunOptions(**checked(RunOptions, {name: settings.pop(name) for name in names}))
    if data is not None:
        settings["data"] = source_name(data)
    recipe = get_recipe(recipe, **settings)
    data = recipe.data if data is None else data
    accelerator = _accelerator(recipe, options)
    output_dir = None if options.output_dir is None else _prepare_output_dir(options)
    with ExitStack() as stack:
        stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        if output_dir is not None:
            stack.callback(remove_if_empty, output_dir)  # the run failed before writing anything
        interruption = stack.enter_context(listening())
        uploader = checkpoint = None
        if accelerator.is_main_process:
            if options.push_to_hub:
                uploader = stack.enter_context(_uploader(output_dir, options))
            checkpoint = _find_checkpoint(options.resume_from_checkpoint, output_dir, uploader)
        checkpoint = broadcast_object_list([checkpoint])[0]
        with accelerator.main_process_first():  # one process downloads, the others read the cache
            setup = _prepare(recipe, data, accelerator)
        checkpoints = None if output_dir is None else Checkpoints(output_dir, options.save_total_limit, uploader)
        if checkpoints and options.resume_from_checkpoint is None and accelerator.is_main_process:
            for step in checkpoints.steps():  # otherwise this run could be resumed from one of them
                checkpoints.delete(step)
        if options.report_to is not None:
            accelerator.init_trackers(PROJECT, {k: v for k, v in asdict(setup.recipe).items() if v is not None})
        with logging_redirect_tqdm():
            started = time.perf_counter()
            if recipe.pretraining_steps and checkpoint is None:
                pretrain(setup, accelerator)
            pretraining_seconds = time.perf_counter() - started
            loop = TrainingLoop(accelerator, setup, options, checkpoints)
            if checkpoint is None:
                loop.start(pretraining_seconds)
            else:
                loop.resume(checkpoint)
            run = loop.run(interruption)
        if output_dir is not None and accelerator.is_main_process:
            run.baseline = {} if recipe.replay_messages else measure_baseline(setup.splits)
            save_run(run, output_dir)
            interruption.postpones = False
            if uploader is not None:
                progress = loop.state.progress
                uploader.submit(output_dir, progress.step, "final", is_best=progress.is_best)
        accelerator.wait_for_everyone()  # other processes may read the folder
    return run


def pretrain_base(recipe: Recipe | str = "inbox", *, output_dir: str | os.PathLike, **settings: Any) -> list[float]:
    """Pretrain a network on messages without labels and save it with its tokenizer, for `finetune(base=output_dir)`.

    Args:
        recipe: A `Recipe` or the name of one; `data` and `text_column` say where the texts are, `base` where to start.
        output_dir: The folder to write; it must be empty or not exist.
        settings: Fields of `Recipe` to replace.

    Returns:
        The loss of each step, in nats per token.

    Raises:
        ValueError: Settings or texts that cannot be used, or no `pretraining_steps`.
        FileExistsError: `output_dir` is a file or is not empty.
    """
    settings = {"trainable": "all", "lora_r": None, "causal": True, **settings}
    recipe, output = get_recipe(recipe, **settings), Path(output_dir).resolve()
    if not recipe.pretraining_steps:
        raise ValueError("The number of steps is missing: add --pretraining-steps 5000.")
    check_empty(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(recipe, RunOptions())
    with accelerator.main_process_first():
        how = {name: getattr(recipe, name) for name in ("text_column", "encoding", "skip_bad_rows")}
        texts = read_texts(recipe.data, **how)
        unlabelled = Dataset.from_dict({"text": texts, "label": [0] * len(texts)}, FEATURES)
        setup = set_up(recipe, DatasetDict(train=unlabelled))
    losses = pretrain(setup, accelerator)
    if accelerator.is_main_process:
        gpt = without_ngrams(setup.model.gpt)
        write_folder(output, lambda folder: save_classifier(gpt, setup.tokenizer, folder))
    return losses


def _prepare_output_dir(options: RunOptions) -> Path:
    """Create the output directory, or check that this run may use it."""
    path = Path(options.output_dir)
    path.mkdir(parents=True, exist_ok=True)
    steps, resumes = Checkpoints(path).steps(), options.resume_from_checkpoint is not None
    # A run that was killed before its first checkpoint leaves nothing else.
    is_used = not all(entry.name.startswith((".", QUEUE, PROJECT)) for entry in path.iterdir())
    if is_used and not (options.overwrite_output_dir or (resumes and steps)):
        found = "has no checkpoint to resume from" if resumes else "is not empty"
        raise FileExistsError(f"{path} {found}: choose another --output-dir, or --overwrite-output-dir.")
    for left in path.iterdir():
        if left.name.startswith(TEMPORARY):
            shutil.rmtree(left, ignore_errors=True)
    return path


def remove_if_empty(output_dir: Path) -> None:
    """Remove the output directory if nothing was written to it."""
    with suppress(OSError):
        output_dir.rmdir()


def _accelerator(recipe: Recipe, options: RunOptions) -> Accelerator:
    """Create the `Accelerator`; raise `ValueError` for a tracker or engine that is not supported."""
    if options.report_to not in (None, *map(str, get_available_trackers())):
        raise ValueError(f"The tracker {options.report_to!r} is not installed, or Accelerate does not know it.")
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine}"):
            raise ValueError(f"{engine} is not supported: launch with torchrun, or accelerate launch --multi_gpu.")
    AcceleratorState._reset_state()  # otherwise later runs would keep the precision of the first
    return Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=options.report_to,
        project_dir=options.output_dir,
    )


def _uploader(output_dir: Path, options: RunOptions) -> Uploader:
    return Uploader(
        output_dir,
        options.hub_model_id or output_dir.absolute().name,
        strategy=options.hub_strategy,
        private=options.hub_private_repo,
        revision=options.hub_revision,
        timeout=options.hub_timeout,
    )


def _find_checkpoint(named: str | None, output_dir: Path, uploader: Uploader | None) -> Path | None:
    """Return the checkpoint to resume from; None if none is named, or "auto" finds none."""
    if named is None:
        return None
    if named == "hub":
        return uploader.fetch_checkpoint()
    if named == "auto":
        return Checkpoints(output_dir).latest()
    read_manifest(Path(named))
    return Path(named)


def _prepare(recipe: Recipe, data: DatasetDict | Sources, accelerator: Accelerator) -> Setup:
    """Read the messages, check that they can be trained on, and set up the run."""
    if recipe.replay_messages:
        recipe, splits, replay = read_corrections(recipe, data)
        setup = set_up(recipe, splits)
        rehearse(setup, replay)
        return setup
    if isinstance(data, dict):  # such as a `DatasetDict`
        splits = check_splits(data, **recipe.reading)
    else:
        splits = load_sms_spam(data, protocol=recipe.protocol, seed=recipe.seed, **recipe.reading)
    few = check_classes(splits)
    if few and accelerator.is_main_process:
        logger.warning("Few training messages: %s. Is a label misspelt?", few)
    check_validation_split(recipe, splits)
    count, batch = len(splits["train"]), recipe.per_device_train_batch_size * accelerator.num_processes
    if count < batch:
        advice = "lower --per-device-train-batch-size"
        raise ValueError(f"{count} training messages do not fill a batch of {batch}: {advice}.")
    setup = set_up(recipe, splits)
    if recipe.spliced_messages:
        setup.extra = spliced_messages(splits["train"], recipe.spliced_messages, recipe.seed)
    return setup


@atexit.register
def _disconnect() -> None:
    """Leave the process group once, at exit; `end_training` would leave it after the first run."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
