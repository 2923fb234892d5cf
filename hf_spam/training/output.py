"""What a run leaves in its output directory."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.plots import plot_values
from ..hub.card import render_card

if TYPE_CHECKING:
    from .loop import Run


def check_output_dir(output_dir: str | os.PathLike, *, overwrite: bool) -> Path:
    """Makes the folder, before any work is done.

    Raises:
        FileExistsError: it holds files already, and `overwrite` is not set.
        NotADirectoryError: it is a file.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: give another --output-dir.")
    path.mkdir(parents=True, exist_ok=True)
    if not overwrite and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty: give another --output-dir, or --overwrite-output-dir.")
    return path


def save_run(run: "Run", output_dir: Path) -> None:
    """Writes model, tokenizer, card, history, metrics and plots, each file whole or not at all."""
    history = run.history
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".writing-") as folder:
        temporary = Path(folder)
        run.model.save_pretrained(temporary)
        run.tokenizer.save_pretrained(temporary)
        _write_json(temporary / "history.json", {"recipe": asdict(run.recipe), **asdict(history)})
        _write_json(temporary / "metrics.json", run.metrics)
        for label, train, val in (
            ("loss", history.train_losses, history.val_losses),
            ("accuracy", history.train_accs, history.val_accs),
        ):
            plot_values(
                train,
                val,
                epochs=history.epochs,
                examples_seen=history.examples_seen,
                label=label,
                output_dir=temporary,
            )
        (temporary / "README.md").write_text(render_card(run), encoding="utf-8")
        # safetensors makes its file private to the user; it should be as readable as its siblings.
        (temporary / "model.safetensors").chmod((temporary / "config.json").stat().st_mode)
        for file in sorted(temporary.iterdir()):
            os.replace(file, output_dir / file.name)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
