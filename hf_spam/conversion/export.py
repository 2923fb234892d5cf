"""A classifier as an ONNX graph, with all that the model does to a message inside it, in fp32 or int8."""

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..data.batching import batch_tokens_for, text_batches
from ..data.sources import read_messages
from ..files import hash_file, public, versions, write_folder
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import SpamGPTConfig, decide
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .loading import HISTORY, history_file, load_classifier, load_tokenizer, named_model
from .onnx import GRAPH, OnnxModel, require

REPORT = "export.json"
TOLERANCE = 0.001  # the part of the messages that may get another label
OPSET = 23  # the first in which attention is one operator
INLINE = 2**28  # bytes of weights up to which they are put into the graph's own file, at the cost of copies in memory


def export_onnx(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    int8: bool = False,
    data: str | os.PathLike = "sample",
    text_column: str | None = None,
    label_column: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes a classifier as an ONNX graph, if the graph answers as the model does.

    The graph takes `input_ids` and `attention_mask` (B, T) in int64, B and T from 1 on, padded on any side. It gives
    `logits` (B, num_labels) in float32, divided by the model's temperature, and `label` (B,) in int64, the class by the
    model's threshold. Its folder is one for `SpamClassifier.from_pretrained`.

    Args:
        source: the classifier's folder or Hub id.
        output_dir: the folder to make.
        int8: whether to multiply by 8-bit weights (see `_quantise`).
        data: the messages that both classify, a source as for `load_sms_spam`. With `int8` the ranges of the
            activations are taken from them as well.
        text_column, label_column: where they are, as for `load_sms_spam`.
        progress: whether to show bars.

    Returns:
        The report, which is in the folder too (`export.json`): `precision` ("fp32" or "int8"), `data`, `messages`,
        `labels_differ` (on how many of them), `largest_score_difference` and `mean_score_difference` (of the
        probability of a class), the size and sha256 of the `weights` it was made of, and the `versions` it was made by.

    Raises:
        FileExistsError: there is something at `output_dir`.
        OSError: there is nothing at `source`, or the folder cannot be written.
        ValueError: what is at `source` is no whole SpamGPT classifier, a package is missing, or more than one in a
            thousand labels differ. Nothing is written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    output_dir = Path(output_dir).absolute()
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} exists: name a folder that does not.")
    columns = {"text_column": text_column, "label_column": label_column}
    texts = read_messages(data, one_label=True, **columns)["text"][:]
    model = load_classifier(source, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = load_tokenizer(source)
    origin = Path(cached_file(named_model(source), "config.json")).parent
    history = history_file(source)
    expected = SpamClassifier(model, tokenizer).probabilities(texts, progress=progress)
    report = {
        "precision": "int8" if int8 else "fp32",
        "data": public(os.fspath(data)),
        "messages": len(texts),
        "weights": {path.name: hash_file(path) for path in sorted(origin.glob("*.safetensors"))},
        "versions": versions() | {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")},
    }

    def fill(folder: Path) -> None:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if history is not None:
            shutil.copyfile(history, folder / HISTORY)
        with _quiet():
            if int8:
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    _write_graph(model, Path(temporary, GRAPH))
                    _quantise(Path(temporary, GRAPH), folder / GRAPH, _batches(model, tokenizer, texts))
            else:
                _write_graph(model, folder / GRAPH)
        answers = SpamClassifier(OnnxModel(folder), tokenizer).probabilities(texts, progress=progress)
        report.update(_agreement(model.config, expected, answers))
        if report["labels_differ"] > TOLERANCE * len(texts):
            differ = f"{report['labels_differ']} of {len(texts)} messages, more than {TOLERANCE:.1%},"
            raise ValueError(f"Not exported: in {report['precision']} {differ} get another label than from the model.")
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    write_folder(output_dir, fill)
    return report


def _agreement(config: SpamGPTConfig, expected: torch.Tensor, answers: torch.Tensor) -> dict[str, Any]:
    """How far two sets of probabilities (N, num_labels) are from one another."""
    difference = (answers - expected).abs()
    return {
        "labels_differ": int((decide(config, answers) != decide(config, expected)).sum()),
        "largest_score_difference": difference.max().item(),
        "mean_score_difference": difference.mean().item(),
    }


class _Deciding(nn.Module):
    """A classifier that says which class it is, as well: who runs the bare graph knows nothing of `decide`."""

    def __init__(self, model: SpamGPTForSequenceClassification):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, decide(self.model.config, logits.softmax(-1))


def _write_graph(model: SpamGPTForSequenceClassification, path: Path) -> None:
    """Traces the model's `forward`; beside `path` there is a file of its weights where they are many."""
    batch = {name: torch.ones(2, 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    program = torch.onnx.export(
        _Deciding(model),
        kwargs=batch,
        input_names=list(batch),
        output_names=["logits", "label"],
        dynamic_shapes={name: {0: "batch", 1: "tokens"} for name in batch},
        opset_version=OPSET,
        verbose=False,
    )
    program.save(path, external_data=4 * model.num_parameters() > INLINE)


def _batches(
    model: SpamGPTForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> Iterator[dict[str, Any]]:
    """Messages as the graph takes them."""
    batch_tokens = batch_tokens_for(model.config, model.device)
    for _, batch in text_batches(model.config, tokenizer, texts, batch_tokens):
        yield {name: tensor.numpy() for name, tensor in batch.items()}


def _quantise(graph: Path, quantised: Path, batches: Iterator[dict[str, Any]]) -> None:
    """Makes the products with weights, all but the head's, products of 8-bit integers.

    Weights have a scale for each output. Activations have one for each product, taken once from `batches` and not,
    as usual, from each batch anew: a message's answer would depend on those beside it. Of the weights' 8 bits 7 are
    used, since processors without VNNI add two products in 16.
    """
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        graph,
        quantised,
        SimpleNamespace(get_next=partial(next, batches, None)),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=graph.with_name(f"{graph.name}.data").exists(),
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what the exporter and the quantiser say of their own insides."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
