"""Figures of a run, as the book draws them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def plot_values(
    train_values: Sequence[float],
    val_values: Sequence[float],
    *,
    epochs: float,
    examples_seen: int,
    label: str,
    output_dir: Path,
) -> None:
    """Draws training and validation values over the epochs (below) and the examples seen (above).

    Writes `{label}-plot.pdf` and `{label}-plot.png` into `output_dir`. The values are spread evenly over the run, as
    in the book's figures 6.16 and 6.17. Without validation values only the training's are drawn.
    """
    figure = Figure(figsize=(5, 3), layout="constrained")
    below = figure.subplots()
    x = np.linspace(0, epochs, len(train_values))
    marker = "o" if len(train_values) == 1 else None  # a line of one point would not be seen
    below.plot(x, train_values, marker=marker, label=f"Training {label}")
    if val_values:
        below.plot(x, val_values, marker=marker, linestyle="-.", label=f"Validation {label}")
    below.set_xlabel("Epochs")
    below.set_ylabel(label.capitalize())
    below.legend()
    per_epoch = examples_seen / epochs
    above = below.secondary_xaxis("top", functions=(lambda e: e * per_epoch, lambda n: n / per_epoch))
    above.set_xlabel("Examples seen")
    for suffix in ("pdf", "png"):
        figure.savefig(output_dir / f"{label}-plot.{suffix}", dpi=150)
