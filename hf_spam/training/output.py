"""What a run leaves in its output directory."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from ..conversion.checksum import save_with_checksum
from ..conversion.loading import HISTORY
from ..data.sources import OWN_DATA
from ..evaluation.baseline import ahead
from ..evaluation.plots import plot_values
from ..files import public, versions, write_folder
from ..hub.card import CardContent, TrainingContent, render_card
from ..hub.push import LOG, Uploader
from ..hub.snapshots import QUEUE
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..text import in_markdown
from .checkpoints import STATE, Checkpoints, TrainingState
from .lora import merged
from .run import History

if TYPE_CHECKING:
    from .loop import Run

logger = logging.getLogger(__name__)

TRACKERS = "runs"  # the folder of what trackers write


def check_output_dir(output_dir: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Makes the folder, before any work is done.

    Args:
        output_dir: the folder.
        overwrite: whether an earlier run in it is replaced; its checkpoints, which a later one could take for its own,
            are deleted.
        resume: whether a run in it may be gone on with.

    Raises:
        FileExistsError: it holds files already, and neither is said.
        NotADirectoryError: it is a file.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: give another --output-dir.")
    path.mkdir(parents=True, exist_ok=True)
    if (path / STATE).exists():
        raise FileExistsError(f"{path} is a checkpoint: give another --output-dir.")
    checkpoints = Checkpoints(path)
    steps = checkpoints.steps()
    if resume:
        # A run that is killed before its first checkpoint leaves no more than this.
        left = (".", QUEUE, LOG, TRACKERS)
        if not (overwrite or steps or all(entry.name.startswith(left) for entry in path.iterdir())):
            raise FileExistsError(f"{path} holds another run, without a checkpoint to go on from: give another folder.")
    elif not overwrite and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty: give another --output-dir, or --overwrite-output-dir.")
    else:
        for step in steps:
            checkpoints.delete(step)
    for prefix in (".writing-", ".replaced-", ".deleted-", ".fetching-"):  # of a run that was killed
        for left in path.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    return path


def remove_if_empty(output_dir: Path) -> None:
    """Removes a folder that nothing was written to."""
    with contextlib.suppress(OSError):
        output_dir.rmdir()


@dataclass(frozen=True)
class Saving:
    """What a run saves on the way.

    Args:
        checkpoints: where checkpoints go.
        save_steps: optimizer steps between two of them. None: none is made.
        resume_from: the one that the run goes on from.
        allow_differences: whether that may be one of another run.
        uploader: what sends them to the Hub, on the main process.
    """

    checkpoints: Checkpoints
    save_steps: int | None = None
    resume_from: Path | None = None
    allow_differences: bool = False
    uploader: Uploader | None = None

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint follows `step`: at the multiples of `save_steps`, as losses are logged, but not at 0."""
        return self.save_steps is not None and step > 0 and step % self.save_steps == 0

    def save(self, accelerator: Accelerator, state: TrainingState, run: "Run", identity: dict[str, Any]) -> None:
        """Writes a checkpoint, from all processes, and hands it to the uploader."""
        progress = state.progress
        folder = self.checkpoints.path(progress.step)
        random = gather_object([state.random()])
        tensors = state.tensors(keep=accelerator.is_main_process)
        run = replace(run, model=merged(run.model, keep=accelerator.is_main_process))
        if accelerator.is_main_process:

            def fill(folder: Path) -> None:
                (folder / STATE).mkdir()
                write_model(run, folder)
                state.save(folder / STATE, tensors, random)

            try:
                write_folder(folder, fill, {"step": progress.step, "versions": versions(), **identity})
            except (OSError, SafetensorError) as error:
                logger.warning("Step %d: no checkpoint was written (%s). Training goes on.", progress.step, error)
            else:
                if self.uploader is not None:
                    self.uploader.submit(folder, progress.run_id, progress.step, "checkpoint", is_best=progress.is_best)
                try:
                    self.checkpoints.rotate(progress.step, progress.best_step)
                except OSError as error:
                    logger.warning("An old checkpoint was not deleted (%s). Training goes on.", error)
        accelerator.wait_for_everyone()

    def way_on(self, step: int) -> str:
        """What to do after a run that was interrupted after `step`, for which a checkpoint was to be written."""
        steps = self.checkpoints.steps()
        if not steps:
            return "no checkpoint could be written"
        where = "" if step in steps else f"from step {steps[-1]} "
        return f"go on {where}with the same command and --resume-from-checkpoint auto"


def save_run(run: "Run", output_dir: Path) -> None:
    """Writes model, tokenizer, card, history, metrics and plots, each file whole or not at all.

    Raises:
        OSError: they could not be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".writing-") as folder:
            temporary = Path(folder)
            _plot(run.history, temporary)
            write_model(run, temporary)
            for file in sorted(temporary.iterdir()):
                os.replace(file, output_dir / file.name)
    except OSError as error:
        raise OSError(f"The model was not written to {output_dir}: {error}.") from error


def write_model(run: "Run", folder: Path) -> None:
    """Writes what anyone needs to use the model, and to know what it is, into a folder."""
    save_with_checksum(run.model, folder)
    run.tokenizer.save_pretrained(folder)
    recipe = {name: public(value) for name, value in asdict(run.recipe).items()}
    _write_json(folder / HISTORY, {"recipe": recipe, **asdict(run.history)})
    _write_json(folder / "metrics.json", run.metrics)
    plots = [name for name in ("loss", "accuracy") if (folder / f"{name}-plot.png").exists()]
    (folder / "README.md").write_text(render_card(card_content(run, plots)), encoding="utf-8")


def card_content(run: "Run", plots: Sequence[str] = ()) -> CardContent:
    """Return what the card says about a run."""
    recipe, config, calibration = run.recipe, run.model.config, run.calibration
    names = class_names(config)
    return CardContent(
        labels=names,
        positive_label=names[spam_index(names)] if len(names) == 2 else calibration and calibration.spam,
        threshold=config.threshold,
        calibrated=config.temperature != 1,
        calibration=calibration.in_words(named=in_markdown) if calibration else (),
        base_model=recipe.base,
        training=TrainingContent(
            recipe=asdict(recipe),
            data=None if recipe.data == OWN_DATA else recipe.data,
            metrics=run.metrics,
            baseline=run.baseline,
            verdicts=[
                f"On {split}, {ahead(run.metrics[split]['f1'], values['f1'], config.threshold)}."
                for split, values in run.baseline.items()
            ],
            parameters=run.model.num_parameters(),
            trained_parameters=run.trained,
            examples_seen=run.history.examples_seen,
            seconds=run.history.seconds,
            trained_before=run.history.trained_before,
            plots=plots,
        ),
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


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
