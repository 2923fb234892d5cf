"""Save the model of a run with its card, history, metrics and plots."""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..conversion.loading import HISTORY, save_classifier
from ..data.names import IN_MEMORY
from ..evaluation.plots import plot_values
from ..files import write_json
from ..hub.card import render_card
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..text import in_markdown
from .calibration import apply_calibration
from .run import History, Run


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
    run = replace(run, model=copy.copy(run.model))
    run.model.config = copy.deepcopy(run.model.config)
    apply_calibration(run.model.config, run.calibration)
    save_classifier(run.model, run.tokenizer, folder)
    write_json(folder / HISTORY, {"recipe": run.recipe.public, **asdict(run.history)})
    write_json(folder / "metrics.json", run.all_metrics)
    plots = [name for name in ("loss", "accuracy") if (folder / f"{name}-plot.png").exists()]
    (folder / "README.md").write_text(card_of(run, plots, card_metadata), encoding="utf-8")


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
