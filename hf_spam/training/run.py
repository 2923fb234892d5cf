"""What was measured in the course of a run, and on which messages."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """What was measured on the way, under the book's names.

    `train_losses` and `val_losses` belong to `steps` (optimizer steps, counted from 0, of which `steps_per_epoch` are
    an epoch), `train_accs` and `val_accs` to the ends of the epochs. `examples_seen` counts training messages and
    `epochs` passes over them; `initial` holds `{split}_loss` and `{split}_acc` before training; `seconds` is the time
    that training took, evaluations included.
    By `splits`, which `fingerprints` makes, the messages are known again; it is empty where there were others before.
    `trained_before` is whether the weights at the start were a classifier's that had learned from others, or nobody
    knows from which.
    """

    initial: dict[str, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    train_accs: list[float] = field(default_factory=list)
    val_accs: list[float] = field(default_factory=list)
    examples_seen: int = 0
    epochs: float = 0.0
    steps_per_epoch: int = 0
    seconds: float = 0.0
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    trained_before: bool = False

    def append(self, values: dict[str, float]) -> None:
        """Adds `{"train_loss": ..., "val_loss": ...}`, or accuracies, each to its list."""
        for name, value in values.items():
            getattr(self, {"loss": f"{name}es", "acc": f"{name}s"}[name.rpartition("_")[2]]).append(value)
