"""What may be said of where a result is from: settings without private paths, digests of messages, and versions."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HISTORY = "history.json"  # beside a model: how it was trained, and with that how its data were split


def public(value: Any) -> Any:
    """A setting without the path to it on the machine that it was used on, which is nobody else's business."""
    return Path(value).name if is_path(value) else value


def is_path(value: Any) -> bool:
    """Whether a setting names something on this machine, be it there still or not."""
    if not isinstance(value, str):
        return False
    return Path(value).exists() or value.count("/") > 1 or value.startswith((".", "~", "/"))


def digest(messages: "Dataset", *columns: Sequence[Any]) -> str:
    """The sha256 of messages and their labels, in their order.

    Args:
        messages: with columns `text` and `label`, a `ClassLabel`, whose names count too.
        columns: what else belongs to each message, such as its ids.
    """
    found = hashlib.sha256(f"{messages.features['label'].names}\n".encode("utf-8", "surrogatepass"))
    for row in zip(messages["text"][:], messages["label"][:], *columns, strict=True):
        found.update(f"{row}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def fingerprints(data: "DatasetDict") -> dict[str, dict[str, Any]]:
    """By what the messages of each split can be known again, without telling what they are: number and digest."""
    return {split: {"messages": len(messages), "sha256": digest(messages)} for split, messages in data.items()}


def versions() -> dict[str, str]:
    """The versions of this package and of those that its numbers depend on."""
    return {name: version(name) for name in ("hf-spam", "torch", "transformers", "accelerate", "tokenizers")}
