"""The training loop: the book's (chapter 6), through Accelerate.

With recipe `book`, one process and fp32, every loss and accuracy is that of the book's plain PyTorch loop under
`torch.manual_seed(recipe.seed)`: the evaluations draw from the same stream of random orders as the training does.
"""

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .output import check_output_dir, save_run
from .recipes import RECIPES, Recipe
from .start import start_from

logger = logging.getLogger(__name__)

# The splits by their names in the data and in the book's lists.
SPLITS = {"train": "train", "validation": "val", "test": "test"}
INITIAL_ACCURACY_BATCHES, INITIAL_LOSS_BATCHES = 10, 5  # the book's evaluation of the untrained model


@dataclass
class History:
    """What was measured on the way, under the book's names.

    `train_losses` and `val_losses` belong to `steps` (optimizer steps, counted from 0), `train_accs` and `val_accs` to
    the ends of the epochs. `examples_seen` counts training messages and `epochs` passes over them; `initial` holds
    `{split}_loss` and `{split}_acc` before training; `seconds` is the time that training took, evaluations included.
    """

    initial: dict[str, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    train_accs: list[float] = field(default_factory=list)
    val_accs: list[float] = field(default_factory=list)
    examples_seen: int = 0
    epochs: float = 0.0
    seconds: float = 0.0

    def append(self, values: dict[str, float]) -> None:
        """Adds `{"train_loss": ..., "val_loss": ...}`, or accuracies, each to its list."""
        for name, value in values.items():
            getattr(self, {"loss": f"{name}es", "acc": f"{name}s"}[name.rpartition("_")[2]]).append(value)


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
        settings: fields of the recipe that are to differ.

    Returns:
        The `Run`. Metrics are those of the final weights on the whole of each split.

    Raises:
        ValueError: a setting, message or tracker that cannot be used, or a loss that is no longer a number.
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
        output_dir = check_output_dir(output_dir, overwrite=overwrite_output_dir)
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
    with accelerator.main_process_first():  # one process downloads, the others read the cache
        if isinstance(data, DatasetDict):
            data = check_splits(data)
        else:
            data = load_sms_spam(recipe.data, protocol=recipe.protocol, seed=recipe.seed)
        model, tokenizer = start_from(recipe, data["train"]["text"][:])
    if report_to is not None:
        accelerator.init_trackers("hf_spam", {key: value for key, value in asdict(recipe).items() if value is not None})

    with logging_redirect_tqdm():
        history, metrics = _train(accelerator, recipe, model, tokenizer, data)
    run = Run(recipe, model.eval(), tokenizer, history, metrics)
    if output_dir is not None and accelerator.is_main_process:
        save_run(run, output_dir)
    accelerator.wait_for_everyone()  # no process may read the folder before it is written
    accelerator.end_training()
    return run


def _train(
    accelerator: Accelerator,
    recipe: Recipe,
    model: SpamGPTForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
) -> tuple[History, dict[str, dict[str, float | None]]]:
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

    def measure(what: str, batches: int, splits: Iterable[str] = ("train", "validation")) -> dict[str, float]:
        """`{split}_{what}`, `loss` or `acc`, over the first batches of a pass over each split."""
        return {
            f"{SPLITS[split]}_{what}": getattr(evaluate(accelerator, prepared, eval_loaders[split], batches), what)
            for split in splits
            if split in eval_loaders
        }

    history = History()
    rng.manual_seed(recipe.seed)
    history.initial |= measure("acc", INITIAL_ACCURACY_BATCHES, SPLITS)
    history.initial |= measure("loss", INITIAL_LOSS_BATCHES, SPLITS)
    logger.info("Before training: %s", _in_words(history.initial))

    rng.manual_seed(recipe.seed)
    set_seed(recipe.seed, device_specific=True)  # dropout, a different one on each process
    augmentation = Augmentation(
        tokenizer,
        case=recipe.case_augmentation,
        digits=recipe.digit_augmentation,
        bpe_dropout=recipe.bpe_dropout,
    )
    start, step = time.perf_counter(), -1  # the book counts steps from 0
    hidden = None if accelerator.is_local_main_process else True  # None: where there is no terminal
    bar = tqdm(total=total_steps, desc="Training", unit="step", disable=hidden)
    for epoch in range(1, math.ceil(total_steps / steps_per_epoch) + 1):
        if augmentation:
            train_set.input_ids = [
                augmentation.encode(text, f"{recipe.seed} {epoch} {i}", max_length) for i, text in enumerate(texts)
            ]
        for batch in _first(train_loader, (total_steps - step - 1) * recipe.gradient_accumulation_steps):
            prepared.train()
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(**batch).loss)
                if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            history.examples_seen += global_batch_size
            if not accelerator.sync_gradients:
                continue
            step += 1
            if not accelerator.optimizer_step_was_skipped:  # fp16 skips those whose gradients overflow
                scheduler.step()
                if average is not None:
                    average.update_parameters(model)
            bar.update()
            if step % recipe.eval_freq == 0:
                losses = measure("loss", recipe.eval_iter)
                history.steps.append(step)
                history.append(losses)
                bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
                logger.info("Epoch %d, step %06d: %s", epoch, step, _in_words(losses))
                accelerator.log({**losses, "learning_rate": scheduler.get_last_lr()[0]}, step=step)
        accuracies = measure("acc", recipe.eval_iter)
        history.append(accuracies)
        logger.info("Epoch %d: %s", epoch, _in_words(accuracies))
        accelerator.log(accuracies, step=step)
    bar.close()
    history.epochs = (step + 1) / steps_per_epoch
    history.seconds = time.perf_counter() - start

    if average is not None:
        model.load_state_dict(average.module.state_dict())
    metrics = {split: _final_metrics(accelerator, prepared, dataset, collate) for split, dataset in encoded.items()}
    accelerator.log({f"{SPLITS[split]}_final_acc": values["accuracy"] for split, values in metrics.items()}, step=step)
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)  # Accelerate's autocast, put on the instance: the class's own is back
    return history, metrics


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


def _final_metrics(
    accelerator: Accelerator, model: torch.nn.Module, messages: EncodedMessages, collate: PadRight
) -> dict[str, float | None]:
    """All metrics on the whole of a split, batched by length, which changes nothing but the time."""
    order = sorted(range(len(messages)), key=lambda i: len(messages.input_ids[i]))
    loader = accelerator.prepare(DataLoader(Subset(messages, order), batch_size=32, collate_fn=collate))
    result = evaluate(accelerator, model, loader)
    predictions = result.probabilities.argmax(-1)
    scores = result.probabilities[:, SPAM]
    return SpamMetrics().compute(predictions=predictions, references=result.labels, scores=scores.tolist())


def _warmup_steps(setting: float, total_steps: int) -> int:
    """As the Trainer reads it: steps, or below 1 the part of all."""
    return int(setting) if setting >= 1 else math.ceil(setting * total_steps)


def _in_words(values: dict[str, float]) -> str:
    """`{"train_loss": 0.5, "val_acc": 0.975}` -> "train loss 0.500, val acc 97.50%"."""
    return ", ".join(
        f"{name.replace('_', ' ')} " + (f"{value:.2%}" if name.endswith("acc") else f"{value:.3f}")
        for name, value in values.items()
    )
