"""Classify a few messages with ONNX Runtime alone, since torch and transformers take seconds to import."""

import json
from pathlib import Path

from ..conversion.endpoint_handler import GRAPH, EndpointHandler
from ..files import BUNDLED

BUNDLED_GRAPH = "model.onnx"  # its weights are those in model.safetensors, see scripts/bundled_graph.py
MANY = 1000  # for more messages, the larger batches of `SpamClassifier` are worth its start


def classify_quickly(texts: list[str], model: str | Path | None = None) -> list[dict] | None:
    """Return the answers of `SpamClassifier` for the bundled model or an ONNX export on this machine, to 1e-6.

    Return `None` if `SpamClassifier` must answer: for other models, for more than `MANY` messages, and for a damaged
    export, which it reports.
    """
    folder, graph = (BUNDLED, BUNDLED_GRAPH) if model in (None, "bundled") else (Path(model), GRAPH)
    if folder.suffix == ".onnx" and folder.is_file():
        folder, graph = folder.absolute().parent.parent, f"{folder.absolute().parent.name}/{folder.name}"
    if len(texts) > MANY or not (folder / graph).is_file():
        return None
    try:
        config = json.loads((folder / "config.json").read_bytes())
        threshold = (config if folder is BUNDLED else config["spam_gpt"]).get("threshold")
        answers = EndpointHandler(str(folder), graph)({"inputs": texts})
        is_sound = (threshold is None or 0 < threshold <= 1) and all(0 <= each["score"] <= 1 for each in answers)
    except Exception:  # a damaged file can raise anything; `SpamClassifier` loads it again and reports it
        return None
    return answers if is_sound else None
