"""What may be said of where a result is from: settings without private paths, and versions."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

HISTORY = "history.json"  # beside a model: how it was trained, and with that how its data were split


def public(value: Any) -> Any:
    """A setting without the path to it on the machine that it was used on, which is nobody else's business."""
    return Path(value).name if is_path(value) else value


def is_path(value: Any) -> bool:
    """Whether a setting names something on this machine, be it there still or not."""
    if not isinstance(value, str):
        return False
    return Path(value).exists() or value.count("/") > 1 or value.startswith((".", "~", "/"))


def versions() -> dict[str, str]:
    """The versions of this package and of those that its numbers depend on."""
    return {name: version(name) for name in ("hf-spam", "torch", "transformers", "accelerate", "tokenizers")}
