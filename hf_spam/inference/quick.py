"""Classify with ONNX Runtime alone, since torch and transformers take seconds to import."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from ..conversion.endpoint_handler import GRAPH, EndpointHandler
from ..files import BUNDLED, export_folder, hash_file
from ..text import replace_lone_surrogates

BUNDLED_GRAPH = "model.onnx"  # its weights are those in model.safetensors, see scripts/bundled_graph.py


class QuickClassifier:
    """Answer like `SpamClassifier`, to 1e-6, with the bundled model or an ONNX export on this machine.

    It computes on one thread, and has only the methods that `hf-spam classify` and `hf-spam score` need. A damaged
    export raises errors of any type; `SpamClassifier` explains them.

    Args:
        model: "bundled", a folder, or the path of a graph.
    """

    device_type = "cpu"
    packages = ("onnxruntime", "tokenizers")  # whose versions may change the last digit of an answer

    def __init__(self, model: str | os.PathLike):
        self.model = model if model == "bundled" else Path(model).absolute()
        self.folder, graph = find_graph(model)
        self.graph = self.folder / graph
        config = json.loads((self.folder / "config.json").read_bytes())
        self._handler = EndpointHandler(str(self.folder), graph, threads=1)
        if self.folder != BUNDLED and "spam_gpt" not in config:
            raise ValueError("another program wrote this export")
        if max(self._handler.tokenizer.get_vocab().values()) >= config["vocab_size"]:
            raise ValueError("the tokenizer does not fit the model")
        if not (self._handler.threshold is None or 0 < self._handler.threshold <= 1):
            raise ValueError("the threshold is not a probability")
        self([""])  # a graph may be loaded and fail when it is run

    def __reduce__(self) -> tuple[type["QuickClassifier"], tuple[str | Path]]:
        """Pickle only the name or path, from which another process loads the graph."""
        return QuickClassifier, (self.model,)

    def __call__(self, texts: str | Iterable[str]) -> list[dict[str, Any]]:
        """Return the label and score of each message; for a single string, a list of one.

        Raises:
            TypeError: A message is not a string.
            ValueError: Damaged weights give NaN or infinite logits.
        """
        # The handler replaces surrogates too, but its error for what is not a string would be another one.
        logits = self._handler.logits([replace_lone_surrogates(text) for text in as_list(texts)])
        if not np.isfinite(logits).all():
            raise ValueError("The model returned NaN or infinite logits: its weights are damaged.")
        return [answer for (answer,) in self._handler.answers(logits, "softmax", 1)]

    def answers(self, texts: Sequence[str | None]) -> tuple[list[str | None], list[np.float32 | None]]:
        """Return labels and scores of the rows of a table, see `answer_rows`."""
        return answer_rows(self, texts)

    def fingerprint(self) -> str:
        """Return a hash of everything that the answers depend on."""
        files = [self.folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")]
        files += sorted(self.graph.parent.glob(f"{self.graph.name}*"))
        files += sorted(self.graph.parent.glob("*.safetensors"))  # of the bundled graph
        return hashlib.sha256("".join(hash_file(file)["sha256"] for file in files).encode()).hexdigest()


def find_graph(model: str | os.PathLike) -> tuple[Path, str] | None:
    """Return the folder and the name of the ONNX graph of a model on this machine; `None` if it has none."""
    folder, graph = (BUNDLED, BUNDLED_GRAPH) if model == "bundled" else (Path(model), GRAPH)
    if folder.suffix == ".onnx" and folder.is_file():
        path, folder = folder.absolute(), export_folder(folder)
        graph = path.relative_to(folder).as_posix()
    return (folder, graph) if (folder / graph).is_file() else None


def quick_classifier(model: str | os.PathLike) -> QuickClassifier | None:
    """Return a classifier for a model; `None` if it is not an ONNX export on this machine, or a damaged one."""
    if find_graph(model) is None:
        return None
    try:
        return QuickClassifier(model)
    except Exception:  # a damaged file can raise anything; `SpamClassifier` loads it again and reports it
        return None


def answer_rows(
    classify: Callable[[list[str]], Any], texts: Sequence[str | None]
) -> tuple[list[str | None], list[np.float32 | None]]:
    """Return labels and scores, in float32, of the rows of a table; `None` where the text is missing or empty."""
    has_text = [text is not None and str(text).strip() != "" for text in texts]
    found = iter(classify(list(compress(texts, has_text))))
    rows = [next(found) if there else None for there in has_text]
    return [row and row["label"] for row in rows], [row and np.float32(row["score"]) for row in rows]


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Return messages as a list; raise `TypeError` for bytes, mappings, tables and what is not iterable."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping) or hasattr(texts, "columns"):
        raise TypeError(f"Expected a message or a list of messages, got {type(texts).__name__}.")
    return list(texts)
