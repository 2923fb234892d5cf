"""Figures of a run, as the book draws them."""

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
    """Draws training and validation values over the epochs (below) and the examples seen (above).

    They are the book's figures 6.16 and 6.17, but that each value stands where it was measured; the book spreads them
    evenly from the beginning to the end. Writes `{label}-plot.pdf` and `{label}-plot.png` into `output_dir`.

    Args:
        epochs: passes over the training messages after which each value was measured, (N,).
        train_values, val_values: the values, (N,). Without validation values only the training's are drawn.
        examples_per_epoch: messages to a pass.
        label: what they are, "loss" or "accuracy".
        output_dir: the folder.
    """
    figure = Figure(figsize=(5, 3), layout="constrained")
    below = figure.subplots()
    marker = "o" if len(train_values) == 1 else None  # a line of one point would not be seen
    below.plot(epochs, train_values, marker=marker, label=f"Training {label}")
    if val_values:
        below.plot(epochs, val_values, marker=marker, linestyle="-.", label=f"Validation {label}")
    below.set_xlim(left=0)
    below.set_xlabel("Epochs")
    below.set_ylabel(label.capitalize())
    below.legend()
    figure.suptitle(f"{label.capitalize()} on training{' and validation' if val_values else ''} messages")
    of_examples = (lambda passes: passes * examples_per_epoch), (lambda examples: examples / examples_per_epoch)
    above = below.secondary_xaxis("top", functions=of_examples)
    above.set_xlabel("Examples seen")
    for suffix in ("pdf", "png"):
        image = io.BytesIO()  # written in one piece: on a full disk Matplotlib stumbles over its own half of a file
        figure.savefig(image, format=suffix, dpi=150)
        (output_dir / f"{label}-plot.{suffix}").write_bytes(image.getvalue())
