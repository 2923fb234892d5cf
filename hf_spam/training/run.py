"""Plain data of a run: its history, its progress, and its result."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..evaluation.baseline import ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.metrics import Predictions
    from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
    from .calibration import Calibration
    from .recipes import Recipe

Metrics = dict[str, float | None]


@dataclass
class History:
    """Measurements made during training, under the book's names; written to `history.json`.

    Attributes:
        initial: `{split}_loss` and `{split}_acc` before training.
        steps: optimizer steps, counted from 0, after which the losses were measured.
        train_losses, val_losses: losses at `steps`, over the first `eval_iter` batches.
        train_accs, val_accs: accuracies at the end of each epoch, over the first `eval_iter` batches.
        final_accs: accuracy of the final weights on `train`, `validation` and `test` as the book's loaders give it: the
            training loader drops the last short batch.
        examples_seen: training messages seen, counting repetitions.
        seconds: duration of the training, evaluations included.
        splits: number and SHA-256 of the messages of each split (see `fingerprints`).
        before: metrics of the base on each split, for corrections.
        kept: share of the change of the weights that was kept, for corrections (see `keep_within_bound`).
        trained_before: whether training started from a classifier that had been trained on other, or unknown, messages.
    """

    initial: dict[str, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    train_accs: list[float] = field(default_factory=list)
    val_accs: list[float] = field(default_factory=list)
    final_accs: dict[str, float] = field(default_factory=dict)
    examples_seen: int = 0
    epochs: float = 0.0
    steps_per_epoch: int = 0
    seconds: float = 0.0
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, Metrics] = field(default_factory=dict)
    kept: float | None = None
    trained_before: bool = False

    def add_losses(self, step: int, losses: dict[str, float]) -> None:
        """Record `train_loss` and, if there is a validation split, `val_loss` after a step."""
        self.steps.append(step)
        for name, value in losses.items():
            getattr(self, f"{name}es").append(value)

    def add_accuracies(self, accuracies: dict[str, float]) -> None:
        """Record `train_acc` and, if there is a validation split, `val_acc` at the end of an epoch."""
        for name, value in accuracies.items():
            getattr(self, f"{name}s").append(value)


@dataclass
class Progress:
    """Position of a run, saved with every checkpoint.

    Attributes:
        step: last finished optimizer step, counted from 0; -1 before the first.
        epoch: current epoch, counted from 1.
        batch: finished batches of this epoch.
        best_step, best_loss: checkpoint with the lowest validation loss so far, and that loss.
        history: measurements so far.
    """

    step: int = -1
    epoch: int = 1
    batch: int = 0
    best_step: int | None = None
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
    """Result of a run.

    Attributes:
        model: the trained model in evaluation mode, calibrated if the recipe says so.
        metrics: metrics of each split.
        predictions: predictions of each split, from which the metrics are computed.
        trained_parameters: number of parameters that were trained, adapters included.
        baseline: metrics of the linear baseline on the same splits; only for runs that are saved.
    """

    recipe: "Recipe"
    model: "SpamGPTForSequenceClassification"
    tokenizer: "PreTrainedTokenizerBase"
    history: History
    metrics: dict[str, Metrics]
    predictions: "dict[str, Predictions]"
    trained_parameters: int
    calibration: "Calibration | None" = None
    baseline: dict[str, Metrics] = field(default_factory=dict)

    @property
    def all_metrics(self) -> dict[str, Metrics]:
        """Metrics of each split, for corrections after those of the base (such as "validation, before")."""
        before = self.history.before
        rows = {split: {f"{split}, before": before.get(split), split: values} for split, values in self.metrics.items()}
        return {name: values for pair in rows.values() for name, values in pair.items() if values is not None}

    @property
    def corrections(self) -> list[str]:
        """Sentences on what corrections have changed, or an empty list."""
        if not self.history.before:
            return []
        count, lines = len(self.predictions["train"].labels), []
        for split, after in self.metrics.items():
            before = self.history.before[split]
            if split == "train":
                old, new = (round(count * values["accuracy"]) for values in (before, after))
                lines.append(f"Of {count:,} corrections, {new:,} are classified correctly now, and {old:,} before.")
                continue
            names = [name for name in ("accuracy", "false_positive_rate") if None not in (before[name], after[name])]
            changes = (f"{name.replace('_', ' ')} {before[name]:.2%} before, {after[name]:.2%} now" for name in names)
            lines.append(f"{len(self.predictions[split].labels):,} held-out messages ({split}): {'; '.join(changes)}.")
        if self.history.kept < 1:
            kept, bound = f"{self.history.kept:.0%}", f"{100 * self.recipe.max_drop:g} points (--max-drop)"
            lines.append(f"Only {kept} of the change was kept: with more, held-out messages lose more than {bound}.")
        return lines

    @property
    def verdicts(self) -> list[str]:
        """Sentences that compare the model with the baseline on each split."""
        threshold = self.model.config.threshold
        return [
            f"On {split}, {ahead(self.metrics[split]['f1'], values['f1'], threshold)}."
            for split, values in self.baseline.items()
        ]
