"""Write the result of a run: model, tokenizer, card, history, metrics and plots."""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from ..conversion.loading import save_classifier
from ..data.names import IN_MEMORY
from ..evaluation.plots import plot_values
from ..files import HISTORY, write_json
from ..hub.card import render_card
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..text import in_markdown
from .run import History, Run
from .settings import SHAPE


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
    names, unused = class_names(config), () if recipe.base == "random" else (*SHAPE, "initialization")
    card = render_card(
        labels=names,
        positive_label=names[spam_index(names)] if len(names) == 2 else calibration and calibration.spam,
        threshold=config.threshold,
        calibrated=config.temperature != 1,
        calibration=calibration.summary(in_markdown) if calibration else (),
        calibrated_on=calibration and calibration.fitted_on,
        base_model=recipe.base,
        recipe={name: value for name, value in asdict(recipe).items() if name not in unused},
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
