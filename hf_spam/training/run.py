"""The result of a run: its history, its model and metrics, and the files that hold them."""

import os
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..conversion.loading import HISTORY, save_classifier
from ..data.names import IN_MEMORY
from ..evaluation.baseline import ahead
from ..evaluation.metrics import Predictions
from ..evaluation.plots import plot_values
from ..files import write_json
from ..hub.card import render_card
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import in_markdown
from .calibration import Calibration
from .recipes import Recipe, RunOptions

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


def save_run(run: Run, output_dir: Path) -> None:
    """Write model, tokenizer, card, history, metrics and plots; each file is either complete or absent."""
    try:
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".writing-") as folder:
            temporary = Path(folder)
            _plot(run.history, temporary)
            write_model(run, temporary)
            for file in sorted(temporary.iterdir()):
                os.replace(file, output_dir / file.name)
    except OSError as error:
        raise OSError(f"The model was not written to {output_dir}: {error}.") from error


def write_model(run: Run, folder: Path) -> None:
    """Write the model, its tokenizer, card, history and metrics into a folder."""
    save_classifier(run.model, run.tokenizer, folder)
    write_json(folder / HISTORY, {"recipe": run.recipe.public, **asdict(run.history)})
    write_json(folder / "metrics.json", run.all_metrics)
    recipe, options, config, calibration = run.recipe, run.options, run.model.config, run.calibration
    names = class_names(config)
    card = render_card(
        labels=names,
        positive_label=names[spam_index(names)] if len(names) == 2 else calibration and calibration.spam,
        threshold=config.threshold,
        calibrated=config.temperature != 1,
        calibration=calibration.summary(in_markdown) if calibration else (),
        calibrated_on=calibration and calibration.fitted_on,
        base_model=recipe.base,
        recipe=asdict(recipe),
        data=None if recipe.data.startswith(IN_MEMORY) else recipe.data,
        metrics=run.all_metrics,
        baseline=run.baseline,
        verdicts=run.verdicts,
        parameters=run.model.num_parameters(),
        trained_parameters=run.trained_parameters,
        examples_seen=run.history.examples_seen,
        seconds=run.history.seconds,
        trained_before=run.history.trained_before,
        plots=[name for name in ("loss", "accuracy") if (folder / f"{name}-plot.png").exists()],
        metadata={"license": options.license, "language": options.language and options.language.split(",")},
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _plot(history: History, folder: Path) -> None:
    steps = [(step + 1) / history.steps_per_epoch for step in history.steps]
    ends = [min(epoch, history.epochs) for epoch in range(1, len(history.train_accs) + 1)]
    to = {"examples_per_epoch": history.examples_seen / history.epochs, "output_dir": folder}
    plot_values(steps, history.train_losses, history.val_losses, label="loss", **to)
    plot_values(ends, history.train_accs, history.val_accs, label="accuracy", **to)
