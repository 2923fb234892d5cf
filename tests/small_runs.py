"""Small training runs: messages, settings, and results to compare."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict
from small_data import MESSAGES

from hf_spam import load_sms_spam

# Sizes at which the recipe pocket trains in half a second.
SMALL = {"n_embd": 16, "n_head": 2, "vocab_size": 300}
# An epoch has 5 steps: there is a checkpoint at the end of the first, and one in the middle of the second.
WITH_CHECKPOINTS = {**SMALL, "max_steps": 12, "eval_freq": 3, "save_steps": 4}
# No setting of the recipe pocket that draws random numbers at every step.
NO_DROPOUT = dict.fromkeys(("dropout", "case_augmentation", "digit_augmentation", "bpe_dropout"), 0.0)

# Texts that a reader, a normalization or a terminal might change.
FOREIGN = [
    "ربحت جائزة! اتصل الآن",
    "\u200fمرحبا\u200e abc\u202e",
    "恭喜您中奖了，请立即回复",
    "🎉👩‍👩‍👧 जीतें ₹5000",
    "cafe\u0301 is not caf\u00e9",  # decomposed and composed
    "two\r\nlines, and a third\n",
    'quoted "twice", \u2028\u00a0and\ttabbed ',
    "\ufefffrom the middle of a file",
]


def first_messages(**sizes: int) -> DatasetDict:
    """Return the first messages of each split of tests/messages.csv, split as in the book."""
    data = load_sms_spam(MESSAGES, protocol="book")
    return DatasetDict({split: data[split].select(range(size)) for split, size in sizes.items()})


def result(folder: Path) -> tuple[bytes, dict, dict]:
    """Return the results of a run (weights, history, metrics), except its duration."""
    history = json.loads((folder / "history.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    return (folder / "model.safetensors").read_bytes(), {**history, "seconds": 0}, metrics


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def at_call(count: int, function: Callable, number: int) -> Callable:
    """Return a function that sends a signal to this process during one of its calls."""
    calls = 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return called


def assert_same_history(ours: dict, expected: dict) -> None:
    """Check that two histories agree: losses to 1e-5, accuracies exactly."""
    for name in ("train_losses", "val_losses"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-5), name
        assert max(expected[name]) - min(expected[name]) > 1e-3, "losses that do not change show nothing"
    for name in ("train_accs", "val_accs", "examples_seen"):
        assert ours[name] == expected[name], name
    assert list(ours["final_accs"].items()) == list(expected["final_accs"].items())
    for name, value in expected["initial"].items():
        assert ours["initial"][name] == (pytest.approx(value, abs=1e-5) if "loss" in name else value), name
