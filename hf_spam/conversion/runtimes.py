"""Run an exported folder in every runtime that is installed, as its users do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from ..data.batching import predict_logits
from ..modeling.configuration_spam_gpt import class_names
from .loading import load_tokenizer
from .onnx import GRAPHS, OnnxModel
from .transformers_js import missing_in_node, run_in_node, version_in_node

Format = Literal["gpt2", "onnx"]
Precision = Literal["fp32", "int8"]
BATCH_SIZE = 32


@dataclass(frozen=True)
class Runtime:
    """A program that runs one format of export in one precision."""

    name: str
    format: Format
    precision: Precision
    version: Callable[[], str]
    probabilities: Callable[[Path, Sequence[str]], np.ndarray]
    """Takes the folder of an export and texts, and returns the probability of each class, (N, num_labels) in float32;
    a row of NaN for a text that makes the runtime fail."""
    missing: Callable[[], str | None] = lambda: None
    """Returns why it cannot run here, in words that end with a remedy, or `None` if it can."""


def _run_pipeline(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Run the stock pipeline of transformers."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device="cpu")
    labels = class_names(classify.model.config)

    def answer(batch: Sequence[str]) -> list[list[float]]:
        options = {"top_k": None, "function_to_apply": "softmax", "truncation": True, "batch_size": BATCH_SIZE}
        answers = classify(list(batch), **options)
        scores = [{one["label"]: one["score"] for one in found} for found in answers]
        return [[score[label] for label in labels] for score in scores]

    return in_batches(answer, texts, len(labels))


def _run_onnx(folder: Path, texts: Sequence[str], *, precision: Precision) -> np.ndarray:
    """Run a graph with ONNX Runtime, and the tokenizer with tokenizers."""
    model = OnnxModel(folder / GRAPHS[precision])
    return predict_logits(model, load_tokenizer(folder), texts).softmax(-1).numpy()


def in_batches(
    answer: Callable[[Sequence[str]], Sequence[Sequence[float]]], texts: Sequence[str], num_labels: int
) -> np.ndarray:
    """Answer texts in batches of similar length; where a batch fails, one by one, with NaN for those that fail."""
    found = np.full((len(texts), num_labels), np.nan, np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pending = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    while pending:
        chosen = pending.pop()
        try:
            found[chosen] = answer([texts[i] for i in chosen])
        except Exception:  # of any kind; a text without an answer counts as one with another label
            pending += [[i] for i in chosen] if len(chosen) > 1 else []
    return found


RUNTIMES = [Runtime("transformers", "gpt2", "fp32", partial(version, "transformers"), _run_pipeline)]
for precision in GRAPHS:
    in_python, in_node = (partial(run, precision=precision) for run in (_run_onnx, run_in_node))
    RUNTIMES += [
        Runtime("ONNX Runtime", "onnx", precision, partial(version, "onnxruntime"), in_python),
        Runtime("Transformers.js in Node.js", "onnx", precision, version_in_node, in_node, missing_in_node),
    ]
