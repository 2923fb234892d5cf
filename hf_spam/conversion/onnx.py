"""Export a classifier as an ONNX graph in fp32 or int8, and run the graph with ONNX Runtime.

The graph includes the model's padding, pooling, temperature and threshold.
"""

import importlib
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
from transformers.modeling_outputs import SequenceClassifierOutput

from ..data.batching import batch_tokens_for, predict_logits, text_batches
from ..data.names import Sources, source_name
from ..files import hash_file, public, versions, write_folder, write_json
from ..modeling.configuration_spam_gpt import decide
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line
from .loading import HISTORY, history_file, load_classifier, load_config, load_tokenizer, local_folder, named_model
from .parity import check_parity

GRAPH = "model.onnx"
REPORT = "export.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 23  # the first with attention as a single operator
MAX_MESSAGES = 1000  # to compare on: a large model needs minutes for all messages of a source
MAX_INLINE_BYTES = 2**28  # larger weights get their own file: storing them in the graph copies them in memory


class OnnxModel:
    """Exported classifier that is called like a `SpamGPTForSequenceClassification`.

    It runs on the CPU, in the precision of the export, and on as many threads as torch.

    Args:
        folder: A folder that `export_onnx` wrote.

    Attributes:
        config: The model's configuration.
        device: The CPU; inputs must be there.

    Raises:
        OSError: There is no model in the folder.
        ValueError: ONNX Runtime is not installed, or cannot load the graph.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder).absolute()
        require("onnxruntime")
        self.config = load_config(folder)
        self._start_session()

    def _start_session(self) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # they have no common base class

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.log_severity_level = 4  # do not log errors, which are raised as well
        path, providers = self._folder / GRAPH, ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.RuntimeException) as error:
            name = repr(str(self._folder))
            raise ValueError(f"{name} cannot be loaded: its {GRAPH} is damaged ({one_line(error)})") from error

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Return the `logits` (B, num_labels) of messages (B, T), T at least 1, padded on either side."""
        if self._threads != torch.get_num_threads():  # a session's number of threads cannot be changed
            self._start_session()
        batch = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (logits,) = self._session.run(["logits"], batch)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[Path]]:
        """Pickle only the folder, from which another process loads the graph."""
        return OnnxModel, (self._folder,)

    def eval(self) -> "OnnxModel":
        """Return the model itself, which has no training mode."""
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the bytes of the graph's files, (size,) in uint8, which identify the model."""
        return {
            path.name: torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
            for path in sorted(self._folder.glob(f"{GRAPH}*"))
        }


def is_onnx(source: str | os.PathLike) -> bool:
    """Return whether a local folder holds an exported classifier."""
    return Path(named_model(source), GRAPH).is_file()


def require(package: str) -> None:
    """Check that a package needed for ONNX is installed.

    Raises:
        ValueError: The package is not installed; the message says how to install it.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"ONNX needs {package}, which is not installed: pip install hf-spam[onnx]") from error


def export_onnx(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    int8: bool = False,
    data: Sources = "sample",
    progress: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Export a classifier as an ONNX graph, and check that both give the same labels.

    The graph takes `input_ids` and `attention_mask` in int64, (B, T) with B and T at least 1, padded on either side. It
    returns `logits` (B, num_labels) in float32, divided by the model's temperature, and `label` (B,) in int64, by the
    model's threshold. `SpamClassifier.from_pretrained` loads the folder.

    Args:
        source: The folder or Hub id of the classifier.
        output_dir: The folder to create.
        int8: Whether to quantize weights and activations to 8 bits.
        data: Source of the messages to compare on, as for `load_sms_spam`; of more than 1,000 messages, 1,000 are used,
            evenly spaced. With `int8`, activation ranges are measured on them too.
        progress: Whether to show progress bars.
        **reading: How to read `data`, as for `load_sms_spam`; its labels are not read.

    Returns:
        The report, which is also written to `export.json`: the result of `check_parity`, the `precision`, the name of
        the `data`, the size and sha256 of the `weights`, and the `versions` of the packages.

    Raises:
        FileExistsError: `output_dir` exists.
        OSError: `source` does not exist, or `output_dir` cannot be written.
        ValueError: There is no SpamGPT classifier at `source`, a package is missing, or more than one label in a
            thousand differs. Nothing is written.
    """
    from ..data.sources import read_texts  # loads pandas

    for package in PACKAGES:
        require(package)
    output_dir = Path(output_dir).absolute()
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} already exists; choose another folder.")
    texts = read_texts(data, **reading)
    count = min(len(texts), MAX_MESSAGES)
    texts = [texts[i * len(texts) // count] for i in range(count)]  # not the first: a source may be sorted
    model = load_classifier(source, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = load_tokenizer(source)
    expected = predict_logits(model, tokenizer, texts, progress=progress)
    weights = sorted(local_folder(source).glob("*.safetensors"))
    report = {
        "precision": "int8" if int8 else "fp32",
        "data": public(source_name(data)),
        "weights": {path.name: hash_file(path) for path in weights},
        "versions": versions() | {name: version(name) for name in PACKAGES},
    }

    def fill(folder: Path) -> None:
        settings = json.loads(model.config.to_json_string())
        for name in ("auto_map", "custom_pipelines"):  # Python files, which an export does not have
            settings.pop(name, None)
        write_json(folder / "config.json", settings)
        tokenizer.save_pretrained(folder)
        if history := history_file(source):
            shutil.copyfile(history, folder / HISTORY)
        with _quiet():
            if int8:
                batches = text_batches(model.config, tokenizer, texts, batch_tokens_for(model.config, model.device))
                _write_int8_graph(model, folder / GRAPH, (batch for _, batch in batches))
            else:
                _write_graph(model, folder / GRAPH)
        logits = predict_logits(OnnxModel(folder), tokenizer, texts, progress=progress)
        try:
            report.update(check_parity(model.config, expected, logits))
        except ValueError as error:
            raise ValueError(f"The {report['precision']} export was not written: {error}") from error
        write_json(folder / REPORT, report)

    write_folder(output_dir, fill)
    return report


class _LabelledModel(nn.Module):
    """Classifier that also returns the class chosen by its threshold, for programs that run the bare graph."""

    def __init__(self, model: SpamGPTForSequenceClassification):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, decide(self.model.config, logits.softmax(-1))


def _write_graph(model: SpamGPTForSequenceClassification, path: Path) -> None:
    """Trace the model's `forward` into a graph; large weights go into a second file next to it."""
    batch = {name: torch.ones(2, 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    program = torch.onnx.export(
        _LabelledModel(model),
        kwargs=batch,
        input_names=list(batch),
        output_names=["logits", "label"],
        dynamic_shapes={name: {0: "batch", 1: "tokens"} for name in batch},
        opset_version=OPSET,
        verbose=False,
    )
    program.save(path, external_data=4 * model.num_parameters() > MAX_INLINE_BYTES)


def _write_int8_graph(
    model: SpamGPTForSequenceClassification, path: Path, batches: Iterator[dict[str, torch.Tensor]]
) -> None:
    """Write a graph whose matrix products, except in the head, multiply 8-bit integers.

    Weights have one scale per output. Activations have one fixed range per product, measured once on `batches`: the
    usual dynamic ranges would make the answer for a message depend on the others in its batch. Only 7 bits of the
    weights are used, because processors without VNNI add two products in 16 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_static

    inputs = ({name: tensor.numpy() for name, tensor in batch.items()} for batch in batches)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fp32 = Path(folder, GRAPH)
        _write_graph(model, fp32)
        quantize_static(
            fp32,
            path,
            SimpleNamespace(get_next=partial(next, inputs, None)),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=fp32.with_name(f"{GRAPH}.data").exists(),
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about the internals of the exporter and the quantizer."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
