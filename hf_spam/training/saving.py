"""Save a run: its output directory, its checkpoints, and the model with its card, history and metrics."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from ..conversion.loading import HISTORY, save_classifier
from ..data.names import IN_MEMORY
from ..evaluation.plots import plot_values
from ..files import public, versions, write_folder, write_json
from ..hub.card import render_card
from ..hub.push import Uploader
from ..hub.snapshots import QUEUE
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..text import in_markdown
from .calibration import apply_calibration
from .checkpoints import STATE, Checkpoints, TrainingState
from .run import History, Run
from .run_options import RunOptions

logger = logging.getLogger(__name__)

TRACKERS = "runs"  # folder of the experiment trackers
TEMPORARY = (".writing-", ".replaced-", ".deleted-", ".fetching-")  # prefixes of what a killed run leaves behind


def prepare_output_dir(options: RunOptions) -> Path:
    """Create the output directory, or check that this run may use it."""
    path = Path(options.output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: choose another --output-dir.")
    path.mkdir(parents=True, exist_ok=True)
    if (path / STATE).exists():
        raise FileExistsError(f"{path} is a checkpoint: choose another --output-dir.")
    checkpoints, resumes = Checkpoints(path), options.resume_from_checkpoint is not None
    steps = checkpoints.steps()
    # A run that was killed before its first checkpoint leaves nothing else.
    is_used = not all(entry.name.startswith((".", QUEUE, TRACKERS)) for entry in path.iterdir())
    if is_used and not (options.overwrite_output_dir or (resumes and steps)):
        found = "has no checkpoint to resume from" if resumes else "is not empty"
        raise FileExistsError(f"{path} {found}: choose another --output-dir, or --overwrite-output-dir.")
    if not resumes:
        for step in steps:  # otherwise this run could be resumed from one of them
            checkpoints.delete(step)
    for left in path.iterdir():
        if left.name.startswith(TEMPORARY):
            shutil.rmtree(left, ignore_errors=True)
    return path


def remove_if_empty(output_dir: Path) -> None:
    """Remove the output directory if nothing was written to it."""
    with contextlib.suppress(OSError):
        output_dir.rmdir()


@dataclass(frozen=True)
class Saver:
    """Writes the checkpoints of a run, on the main process also to the Hub.

    Without `save_steps`, one is written only if the run is interrupted.
    """

    checkpoints: Checkpoints
    save_steps: int | None = None
    uploader: Uploader | None = None
    card_metadata: Mapping[str, Any] = field(default_factory=dict)

    def is_due(self, step: int) -> bool:
        """Return whether to write a checkpoint after a step: at multiples of `save_steps`, but not at 0."""
        return self.save_steps is not None and step > 0 and step % self.save_steps == 0

    def save(self, accelerator: Accelerator, state: TrainingState, run: Run, identity: dict[str, Any]) -> None:
        """Write a checkpoint; call this on every process. A failure is logged, and training continues."""
        progress = state.progress
        folder = self.checkpoints.path(progress.step)
        rng_states = gather_object([state.rng_states()])
        if accelerator.is_main_process:

            def fill(folder: Path) -> None:
                (folder / STATE).mkdir()
                write_model(run, folder, self.card_metadata)
                state.save(folder / STATE, rng_states)

            try:
                write_folder(folder, fill, {"step": progress.step, "versions": versions(), **identity})
            except (OSError, SafetensorError) as error:
                logger.warning("Step %d: no checkpoint was written (%s). Training continues.", progress.step, error)
            else:
                if self.uploader is not None:
                    self.uploader.submit(folder, progress.step, "checkpoint", is_best=progress.is_best)
                try:
                    self.checkpoints.rotate(progress.step, progress.best_step)
                except OSError as error:
                    logger.warning("An old checkpoint was not deleted (%s). Training continues.", error)
        accelerator.wait_for_everyone()

    def how_to_resume(self, step: int) -> str:
        """Return a hint on how to resume a run that was interrupted after a step."""
        steps = self.checkpoints.steps()
        if not steps:
            return "no checkpoint could be written"
        where = "" if step in steps else f"from step {steps[-1]} "
        return f"resume {where}with the same command and --resume-from-checkpoint auto"


def save_run(run: Run, output_dir: Path, card_metadata: Mapping[str, Any]) -> None:
    """Write model, tokenizer, card, history, metrics and plots; each file is either complete or absent."""
    try:
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".writing-") as folder:
            temporary = Path(folder)
            _plot(run.history, temporary)
            write_model(run, temporary, card_metadata)
            for file in sorted(temporary.iterdir()):
                os.replace(file, output_dir / file.name)
    except OSError as error:
        raise OSError(f"The model was not written to {output_dir}: {error}.") from error


def write_model(run: Run, folder: Path, card_metadata: Mapping[str, Any]) -> None:
    """Write the calibrated model, its card, history and metrics into a folder. `run.model` is not changed."""
    config = run.model.config
    before = config.temperature, config.threshold
    try:
        apply_calibration(config, run.calibration)
        save_classifier(run.model, run.tokenizer, folder)
        recipe = {name: public(value) for name, value in asdict(run.recipe).items()}
        write_json(folder / HISTORY, {"recipe": recipe, **asdict(run.history)})
        write_json(folder / "metrics.json", run.all_metrics)
        plots = [name for name in ("loss", "accuracy") if (folder / f"{name}-plot.png").exists()]
        (folder / "README.md").write_text(card_of(run, plots, card_metadata), encoding="utf-8")
    finally:
        config.temperature, config.threshold = before


def card_of(run: Run, plots: Sequence[str], card_metadata: Mapping[str, Any]) -> str:
    """Return the card of a run, whose model is already calibrated."""
    recipe, config, calibration = run.recipe, run.model.config, run.calibration
    names = class_names(config)
    return render_card(
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
        plots=plots,
        metadata=card_metadata,
    )


def _plot(history: History, folder: Path) -> None:
    steps = [(step + 1) / history.steps_per_epoch for step in history.steps]
    ends = [min(epoch, history.epochs) for epoch in range(1, len(history.train_accs) + 1)]
    for label, epochs, train, val in (
        ("loss", steps, history.train_losses, history.val_losses),
        ("accuracy", ends, history.train_accs, history.val_accs),
    ):
        examples_per_epoch = history.examples_seen / history.epochs
        plot_values(epochs, train, val, examples_per_epoch=examples_per_epoch, label=label, output_dir=folder)
