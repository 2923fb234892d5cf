"""Small runs: what they learn from, and what they leave."""

import json
from pathlib import Path

from datasets import DatasetDict

from hf_spam import load_sms_spam

# What a reader, a normalisation or a terminal could change.
FOREIGN = [
    "ربحت جائزة! اتصل الآن",
    "\u200fمرحبا\u200e abc\u202e",  # noqa: RUF001  (marks of direction)
    "恭喜您中奖了，请立即回复",  # noqa: RUF001
    "🎉👩‍👩‍👧 जीतें ₹5000",
    "cafe\u0301 is not caf\u00e9",  # the one is decomposed
    "two\r\nlines, and a third\n",
    'quoted "twice", \u2028\u00a0and\ttabbed ',
    "\ufefffrom the middle of a file",
]


def first_messages(**sizes: int) -> DatasetDict:
    """So many of the sample messages of each split, as the book splits them."""
    data = load_sms_spam("sample", protocol="book")
    return DatasetDict({split: data[split].select(range(size)) for split, size in sizes.items()})


def result(folder: Path) -> tuple:
    """All that a run leaves, but for the time that it took."""
    history = json.loads((folder / "history.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    return (folder / "model.safetensors").read_bytes(), {**history, "seconds": 0}, metrics
