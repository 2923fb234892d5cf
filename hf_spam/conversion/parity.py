"""Compare the answers of an export in every runtime with those of its model."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write_json
from ..modeling.configuration_spam_gpt import SpamGPTConfig, decide
from .runtimes import RUNTIMES, Format, Runtime

logger = logging.getLogger(__name__)

LABELS_TOLERANCE = 0.001  # fraction of messages whose label may differ
SCORE_TOLERANCE = {"fp32": 1e-4, "int8": 1.0}  # largest difference of a probability
AWKWARD_TOLERANCE = {"fp32": 1e-4, "int8": 0.1}
NEWER = "letters newer than Unicode 9"
AWKWARD = {
    "empty message": "",
    "100,000 characters": "win a prize " * 8334,
    "emoji": "🎉 You won 🏆 👨\u200d👩\u200d👧 🇯🇵",
    "NUL": "free\x00entry",
    "lone surrogate": "free \ud800 entry",
    "right-to-left": "مبروك! لقد ربحت جائزة، اتصل بالرقم 09061701461",
    "look-alikes and unusual spaces": "Уоu hаvе wоn\x85\u3000а\u200b ｆｒｅｅ рrizе",
    # FREE PRIZE in outlined letters: Transformers.js knows them from the browser, tokenizers has older tables.
    NEWER: "\U0001ccdb\U0001cce7\U0001ccda\U0001ccda \U0001cce5\U0001cce7\U0001ccde\U0001ccef\U0001ccda",
}
LEFT_PADDED = "left-padded batch"


def compare_runtimes(
    folder: Path,
    format: Format,
    config: SpamGPTConfig,
    answer: Callable[[Sequence[str]], np.ndarray],
    texts: Sequence[str],
    labels: np.ndarray,
) -> dict[str, Any]:
    """Run an export in every runtime that is installed, and compare it with its model.

    `answer` returns the model's probabilities for texts, (N, num_labels), and `labels` are the classes that the texts
    must get, (N,). The result has the number of `messages`, a comparison for each of the `runtimes`, and why others
    were `not_run`.

    Raises:
        ValueError: A runtime does not agree.
    """
    expected, awkward = answer(texts), answer(list(AWKWARD.values()))
    results: list[dict[str, Any]] = []
    not_run: dict[str, str] = {}
    for runtime in (one for one in RUNTIMES if one.format == format):
        if reason := runtime.missing():
            not_run[runtime.name] = reason
            continue
        logger.info("Running %s messages in %s (%s) ...", f"{len(texts):,}", runtime.name, runtime.precision)
        about = {"runtime": runtime.name, "precision": runtime.precision, "version": runtime.version()}
        result = _compare(config, runtime, expected, runtime.probabilities(folder, texts), labels)
        results.append({**about, **result, **_compare_awkward(folder, runtime, awkward, expected, texts)})
    return {"messages": len(texts), "runtimes": results, "not_run": not_run}


def _compare(
    config: SpamGPTConfig, runtime: Runtime, expected: np.ndarray, actual: np.ndarray, labels: np.ndarray
) -> dict[str, int | float]:
    """Check that nearly all messages get the same label, and in fp32 nearly the same score; no answer is no label."""
    answered = ~np.isnan(actual).any(-1)
    found = decide(config, torch.from_numpy(actual[answered])).numpy()
    differ = int((found != labels[answered]).sum() + (~answered).sum())
    difference = float(np.abs(actual[answered] - expected[answered]).max(initial=0))
    where = f"in {runtime.name} ({runtime.precision})"
    if differ > LABELS_TOLERANCE * len(labels):
        raise ValueError(
            f"{where}, {differ} of {len(labels)} messages get a different label, more than {LABELS_TOLERANCE:.1%}."
        )
    if difference > (tolerance := SCORE_TOLERANCE[runtime.precision]):
        raise ValueError(f"{where}, a score differs by {difference:.1g}, more than {tolerance:.0e}.")
    return {"labels_differ": differ, "largest_score_difference": difference}


def _compare_awkward(
    folder: Path, runtime: Runtime, awkward: np.ndarray, expected: np.ndarray, texts: Sequence[str]
) -> dict[str, list[str]]:
    """Find awkward messages that are `not_answered`, or `answered_differently`."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".left-") as temporary:
        left = Path(shutil.copytree(folder, Path(temporary, "left"), copy_function=os.link))
        path = left / "tokenizer_config.json"
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"padding_side": "left"})  # replaces the link
        batch = runtime.probabilities(left, texts[:8])
    names = np.array([LEFT_PADDED] * len(batch) + list(AWKWARD))
    actual = np.concatenate([batch, runtime.probabilities(folder, list(AWKWARD.values()))])
    expected = np.concatenate([expected[: len(batch)], awkward])
    unanswered = np.isnan(actual).any(-1)
    differs = ~unanswered & (np.abs(actual - expected).max(-1) > AWKWARD_TOLERANCE[runtime.precision])
    found = {"not_answered": unanswered, "answered_differently": differs}
    return {what: list(dict.fromkeys(names[which].tolist())) for what, which in found.items()}
