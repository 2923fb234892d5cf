"""What may be said of where a result is from: settings without private paths, digests of messages, and versions."""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import cached_file

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


def history_file(model: str | os.PathLike) -> Path | None:
    """The file that tells how a model, a folder or a Hub id, was trained; None where none is in reach."""
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    found = cached_file(os.fspath(model), HISTORY, **dict.fromkeys(quiet, False))
    return None if found is None else Path(found)


def versions() -> dict[str, str]:
    """The versions of this package and of those that its numbers depend on."""
    return {name: version(name) for name in ("hf-spam", "torch", "transformers", "accelerate", "tokenizers")}
