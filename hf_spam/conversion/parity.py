"""Run an export in every runtime that is installed, as its users do, and compare the answers with its model's."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..data.batching import predict_logits
from ..files import write_json
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from .loading import load_tokenizer
from .onnx import GRAPHS, OnnxModel
from .transformers_js import missing_in_node, run_in_node, version_in_node

logger = logging.getLogger(__name__)

Format = Literal["gpt2", "onnx"]
BATCH_SIZE = 32  # of the pipeline
LABELS_TOLERANCE = 0.001  # fraction of messages whose label may differ
TOLERANCE = {"fp32": 1e-4, "int8": 0.1}  # largest difference of a probability; in int8, only of awkward messages
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


@dataclass(frozen=True)
class Runtime:
    """A program that runs one format of export in one precision."""

    name: str
    format: Format
    precision: Literal["fp32", "int8"]
    version: Callable[[], str]
    probabilities: Callable[[Path, Sequence[str]], np.ndarray]
    """Takes the folder of an export and texts, and returns the probability of each class, (N, num_labels) in float32;
    a row of NaN for a text that makes the runtime fail."""
    missing: Callable[[], str | None] = lambda: None
    """Returns why it cannot run here, in words that end with a remedy, or `None` if it can."""


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
    were `not_run`. A runtime that does not agree raises a `ValueError`.
    """
    expected = np.concatenate([answer(texts), answer(list(AWKWARD.values()))])
    results: list[dict[str, Any]] = []
    not_run: dict[str, str] = {}
    for runtime in (one for one in RUNTIMES if one.format == format):
        if reason := runtime.missing():
            not_run[runtime.name] = reason
            continue
        logger.info("Running %s messages in %s (%s) ...", f"{len(texts):,}", runtime.name, runtime.precision)
        about = {"runtime": runtime.name, "precision": runtime.precision, "version": runtime.version()}
        actual = runtime.probabilities(folder, [*texts, *AWKWARD.values()])
        agreement = _compare(config, runtime, expected[: len(texts)], actual[: len(texts)], labels)
        results.append({**about, **agreement, **_compare_awkward(folder, runtime, expected, actual, texts)})
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
    if runtime.precision == "fp32" and difference > TOLERANCE["fp32"]:
        raise ValueError(f"{where}, a score differs by {difference:.1g}, more than {TOLERANCE['fp32']:.0e}.")
    return {"labels_differ": differ, "largest_score_difference": difference}


def _compare_awkward(
    folder: Path, runtime: Runtime, expected: np.ndarray, actual: np.ndarray, texts: Sequence[str]
) -> dict[str, list[str]]:
    """Find awkward messages, whose answers follow those of the texts, that are `not_answered` or differ."""
    path = folder / "tokenizer_config.json"
    settings = path.read_bytes()
    write_json(path, json.loads(settings) | {"padding_side": "left"})
    left = runtime.probabilities(folder, texts[:8])
    path.write_bytes(settings)
    names = np.array([LEFT_PADDED] * len(left) + list(AWKWARD))
    actual = np.concatenate([left, actual[len(texts) :]])
    expected = np.concatenate([expected[: len(left)], expected[len(texts) :]])
    unanswered = np.isnan(actual).any(-1)
    differs = ~unanswered & (np.abs(actual - expected).max(-1) > TOLERANCE[runtime.precision])
    found = {"not_answered": unanswered, "answered_differently": differs}
    return {what: list(dict.fromkeys(names[which].tolist())) for what, which in found.items()}


def _run_pipeline(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Run the stock pipeline of transformers on texts of similar length; where a batch fails, on each of its texts."""
    from transformers import pipeline

    options = {"top_k": None, "function_to_apply": "softmax", "truncation": True, "batch_size": BATCH_SIZE}
    classify = pipeline("text-classification", model=str(folder), device="cpu", **options)
    labels = class_names(classify.model.config)
    found = np.full((len(texts), len(labels)), np.nan, np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pending = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    while pending:
        chosen = pending.pop()
        try:
            answers = classify([texts[i] for i in chosen])
        except Exception:  # of any kind; a text without an answer counts as one with another label
            pending += [[i] for i in chosen] if len(chosen) > 1 else []
            continue
        for i, answer in zip(chosen, answers, strict=True):
            scores = {one["label"]: one["score"] for one in answer}
            found[i] = [scores[label] for label in labels]
    return found


def _run_onnx(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Run a graph with ONNX Runtime, and the tokenizer with tokenizers."""
    model = OnnxModel(folder / GRAPHS[precision])
    return predict_logits(model, load_tokenizer(folder), texts).softmax(-1).numpy()


RUNTIMES = [Runtime("transformers", "gpt2", "fp32", partial(version, "transformers"), _run_pipeline)]
for precision in GRAPHS:
    in_python, in_node = (partial(run, precision=precision) for run in (_run_onnx, run_in_node))
    RUNTIMES += [
        Runtime("ONNX Runtime", "onnx", precision, partial(version, "onnxruntime"), in_python),
        Runtime("Transformers.js in Node.js", "onnx", precision, version_in_node, in_node, missing_in_node),
    ]
