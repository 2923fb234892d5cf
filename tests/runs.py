"""Small runs: what they learn from, and what they leave."""

import json
from pathlib import Path

from datasets import DatasetDict

from hf_spam import load_sms_spam


def first_messages(**sizes: int) -> DatasetDict:
    """So many of the sample messages of each split, as the book splits them."""
    data = load_sms_spam("sample", protocol="book")
    return DatasetDict({split: data[split].select(range(size)) for split, size in sizes.items()})


def result(folder: Path) -> tuple:
    """All that a run leaves, but for the time that it took."""
    history = json.loads((folder / "history.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    return (folder / "model.safetensors").read_bytes(), {**history, "seconds": 0}, metrics
