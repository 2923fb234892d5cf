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
Answer = Callable[[Sequence[str]], np.ndarray]


def compare_runtimes(
    folder: Path, format: Format, config: SpamGPTConfig, answer: Answer, texts: Sequence[str], labels: np.ndarray
) -> dict[str, Any]:
    """Run an export in every runtime that is installed, and compare it with its model.

    Args:
        folder: Folder of the export.
        format: Its format.
        config: The model's configuration, whose threshold decides the label.
        answer: Returns the model's probabilities for texts, (N, num_labels).
        texts: The messages to compare on.
        labels: The class that each of them must get, (N,).

    Returns:
        `messages`, their number; `runtimes`, the result of `compare` for each with its name, precision and version; and
        `not_run`, why the others cannot run here.

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
        result = compare(config, expected, runtime.probabilities(folder, texts), labels)
        check(result, len(texts), runtime)
        results.append({**about, **result, **_compare_awkward(folder, runtime, awkward, expected, texts)})
    return {"messages": len(texts), "runtimes": results, "not_run": not_run}


def compare(
    config: SpamGPTConfig, expected: np.ndarray, actual: np.ndarray, labels: np.ndarray
) -> dict[str, int | float]:
    """Count `labels_differ`, and find the `largest_score_difference`; a row of NaN has another label."""
    answered = ~np.isnan(actual).any(-1)
    found = decide(config, torch.from_numpy(actual[answered])).numpy()
    difference = np.abs(actual[answered] - expected[answered]).max(initial=0)
    differ = (found != labels[answered]).sum() + (~answered).sum()
    return {"labels_differ": int(differ), "largest_score_difference": float(difference)}


def check(result: dict[str, int | float], messages: int, runtime: Runtime) -> None:
    """Check that at least 999 of 1,000 messages get the same label, and in fp32 nearly the same score."""
    where, differ, difference = f"in {runtime.name} ({runtime.precision})", *result.values()
    if differ > LABELS_TOLERANCE * messages:
        raise ValueError(
            f"{where}, {differ} of {messages} messages get a different label, more than {LABELS_TOLERANCE:.1%}."
        )
    if difference > (tolerance := SCORE_TOLERANCE[runtime.precision]):
        raise ValueError(f"{where}, a score differs by {difference:.1g}, more than {tolerance:.0e}.")


def _compare_awkward(
    folder: Path, runtime: Runtime, awkward: np.ndarray, expected: np.ndarray, texts: Sequence[str]
) -> dict[str, list[str]]:
    """Find awkward messages that are `not_answered`, or `answered_differently`."""
    names, found = list(AWKWARD), runtime.probabilities(folder, list(AWKWARD.values()))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".left-") as temporary:
        left = Path(shutil.copytree(folder, Path(temporary, "left"), copy_function=os.link))
        settings = json.loads((left / "tokenizer_config.json").read_text(encoding="utf-8"))
        (left / "tokenizer_config.json").unlink()
        (left / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}), "utf-8")
        batch = np.concatenate([runtime.probabilities(left, texts[:8]), found])
    expected, names = np.concatenate([expected[:8], awkward]), [LEFT_PADDED] * len(expected[:8]) + names
    unanswered = np.isnan(batch).any(-1)
    differs = ~unanswered & (np.abs(batch - expected).max(-1) > AWKWARD_TOLERANCE[runtime.precision])
    found = {"not_answered": unanswered, "answered_differently": differs}
    return {what: list(dict.fromkeys(np.array(names)[which].tolist())) for what, which in found.items()}
