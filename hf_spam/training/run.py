"""The result of a run: its history, its model and its metrics."""

from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from ..evaluation.baseline import ahead
from ..evaluation.metrics import Predictions
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .calibration import Calibration
from .settings import Recipe, RunOptions

Metrics = dict[str, float | None]


@dataclass
class History:
    """Measurements made during training, under the book's names; written to `history.json`."""

    initial: dict[str, float] = field(default_factory=dict)  # `{split}_loss` and `{split}_acc` before training
    steps: list[int] = field(default_factory=list)  # optimizer steps with measured losses, counted from 0
    train_losses: list[float] = field(default_factory=list)  # after these steps, over the first `eval_iter` batches
    val_losses: list[float] = field(default_factory=list)
    train_accs: list[float] = field(default_factory=list)  # at the end of each epoch, over as many batches
    val_accs: list[float] = field(default_factory=list)
    final_accs: dict[str, float] = field(default_factory=dict)  # on each split, as the book's loaders give them
    examples_seen: int = 0  # training messages, counting repetitions
    epochs: float = 0.0
    steps_per_epoch: int = 0
    seconds: float = 0.0  # evaluations included
    splits: dict[str, dict[str, int | str]] = field(default_factory=dict)  # see `fingerprints`
    before: dict[str, Metrics] = field(default_factory=dict)  # metrics of the base of corrections
    kept: float | None = None  # share of the change by corrections, see `keep_within_bound`
    trained_before: bool = False  # whether the base was a classifier trained on other, or unknown, messages


@dataclass
class Progress:
    """Position of a run, saved with every checkpoint."""

    step: int = -1  # last finished optimizer step, counted from 0
    epoch: int = 1  # current epoch, counted from 1
    batch: int = 0  # finished batches of this epoch
    best_step: int | None = None  # of the checkpoint with the lowest validation loss so far
    best_loss: float | None = None
    history: History = field(default_factory=History)

    def update_best(self, loss: float | None) -> None:
        """Update the best step with the validation loss of the current weights; None without a validation split."""
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss

    @property
    def is_best(self) -> bool:
        """Whether the current weights have the lowest validation loss so far."""
        return self.best_step == self.step


@dataclass
class Run:
    """Result of a run."""

    recipe: Recipe
    options: RunOptions
    model: SpamGPTForSequenceClassification  # in evaluation mode, calibrated if the recipe says so
    tokenizer: PreTrainedTokenizerBase
    history: History
    predictions: dict[str, Predictions]  # of each split
    trained_parameters: int  # their number, adapters included
    calibration: Calibration | None = None
    baseline: dict[str, Metrics] = field(default_factory=dict)  # on the same splits; only for runs that are saved

    @cached_property
    def metrics(self) -> dict[str, Metrics]:
        """Metrics of each split."""
        return {split: given.metrics() for split, given in self.predictions.items()}

    @property
    def all_metrics(self) -> dict[str, Metrics]:
        """Metrics of each split, for corrections after those of the base (such as "validation, before")."""
        rows = {}
        for split, values in self.metrics.items():
            if split in self.history.before:
                rows[f"{split}, before"] = self.history.before[split]
            rows[split] = values
        return rows

    @property
    def corrections(self) -> list[str]:
        """Sentences on what corrections have changed, or an empty list."""
        if not self.history.before:
            return []
        lines = []
        for split, after in self.metrics.items():
            before, count = self.history.before[split], len(self.predictions[split].labels)
            if split == "train":
                old, new = (round(count * values["accuracy"]) for values in (before, after))
                lines.append(f"Of {count:,} corrections, {new:,} are classified correctly now, and {old:,} before.")
                continue
            names = [name for name in ("accuracy", "false_positive_rate") if None not in (before[name], after[name])]
            changes = (f"{name.replace('_', ' ')} {before[name]:.2%} before, {after[name]:.2%} now" for name in names)
            lines.append(f"{count:,} held-out messages ({split}): {'; '.join(changes)}.")
        if self.history.kept < 1:
            kept, bound = f"{self.history.kept:.0%}", f"{100 * self.recipe.max_drop:g} points (--max-drop)"
            lines.append(
                f"Only {kept} of the change was kept: with more, accuracy or false alarms worsen by over {bound}."
            )
        return lines

    @property
    def verdicts(self) -> list[str]:
        """Sentences that compare the model with the baseline on each split."""
        threshold = self.model.config.threshold
        return [
            f"On {split}, {ahead(self.metrics[split]['f1'], values['f1'], threshold)}."
            for split, values in self.baseline.items()
        ]
