"""Training curves, drawn as in the book's figures 6.16 and 6.17."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def plot_values(
    epochs: Sequence[float],
    train_values: Sequence[float],
    val_values: Sequence[float],
    *,
    examples_per_epoch: float,
    label: str,
    output_dir: Path,
) -> None:
    """Plot training and validation values over epochs (bottom axis) and examples seen (top axis).

    Unlike in the book, which spaces the values evenly, each is drawn where it was measured, at `epochs`. `val_values`
    may be empty. Writes `{label}-plot.pdf` and `{label}-plot.png`, where `label` is "loss" or "accuracy".
    """
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(train_values) == 1 else None  # a line through a single point is invisible
    axes.plot(epochs, train_values, marker=marker, label=f"Training {label}")
    if val_values:
        axes.plot(epochs, val_values, marker=marker, linestyle="-.", label=f"Validation {label}")
    axes.set_xlim(left=0)
    axes.set(xlabel="Epochs", ylabel=label.capitalize())
    axes.legend()
    figure.suptitle(f"{label.capitalize()} on training{' and validation' if val_values else ''} messages")
    to_examples = (lambda passes: passes * examples_per_epoch), (lambda examples: examples / examples_per_epoch)
    axes.secondary_xaxis("top", functions=to_examples).set_xlabel("Examples seen")
    for suffix in ("pdf", "png"):
        image = io.BytesIO()  # written at once: on a full disk, Matplotlib's clean-up would hide the error
        figure.savefig(image, format=suffix, dpi=150)
        (output_dir / f"{label}-plot.{suffix}").write_bytes(image.getvalue())
