"""Write a classifier as ONNX graphs in fp32 and int8, and run one with ONNX Runtime.

The folder has the layout of the Hugging Face Hub, which Transformers.js, optimum and Text Embeddings Inference load. A
graph contains the model's padding, pooling and temperature.
"""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..files import write_json
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .loading import EXPORTED_SETTINGS, errors_as, load_config, local_folder, named_model, read_config
from .remote_code import without_code

if TYPE_CHECKING:
    from onnx import ModelProto

GRAPHS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET, IR_VERSION = 20, 9  # read by ONNX Runtime from 1.17; 20 is the first opset with GELU
MAX_INLINE_BYTES = 2**28  # larger weights get their own file: a graph is limited to 2 GiB
TINY = 1e-12  # the scale of weights that are all zero
# Which input of a node is weights. Absorbed ones are split into heads by a Reshape; the head is a Gemm.
WEIGHTS_INPUT = {"Gather": 0, "MatMul": 1, "Reshape": 0}
# Transformers.js has a list of model types, without `spam_gpt`. For this one, it passes just what our graphs take.
MODEL_TYPE, ARCHITECTURE = "distilbert", "DistilBertForSequenceClassification"


class OnnxModel:
    """Exported classifier that is called like a `SpamGPTForSequenceClassification`.

    The source is a folder that `write_onnx` wrote or the Hub id of one, whose fp32 graph is run, or the path of a
    graph. It runs on the CPU, and on as many threads as torch.
    """

    device = torch.device("cpu")  # where inputs must be

    def __init__(self, source: str | os.PathLike, *, revision: str | None = None):
        self.config = load_config(source, revision=revision)
        path = Path(source)
        if not path.is_file():
            path = local_folder(source, revision=revision, files=[f"{GRAPHS['fp32']}*"]) / GRAPHS["fp32"]
        self._path = path.absolute()
        self._start_session()

    def _start_session(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.log_severity_level = 4  # do not log errors, which are raised as well
        with errors_as(f"{str(self._path)!r} cannot be loaded"):
            self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Return the `logits` (B, num_labels) of messages (B, T), padded on either side."""
        if self._threads != torch.get_num_threads():  # a session's number of threads cannot be changed
            self._start_session()
        batch = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (logits,) = self._session.run(["logits"], batch)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[Path]]:
        """Pickle only the path, from which another process loads the graph."""
        return OnnxModel, (self._path,)

    def eval(self) -> "OnnxModel":
        """Return the model itself, which has no training mode."""
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the bytes of the graph's files, (size,) in uint8, which identify the model."""
        return {
            path.name: torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
            for path in sorted(self._path.parent.glob(f"{self._path.name}*"))
        }


def is_onnx(source: str | os.PathLike, *, revision: str | None = None) -> bool:
    """Return whether a source is an exported classifier: a folder, the path of a graph, or a Hub id."""
    path = Path(named_model(source))
    if path.is_dir():
        return (path / GRAPHS["fp32"]).is_file()
    if path.suffix == ".onnx":
        return path.is_file()
    return EXPORTED_SETTINGS in read_config(source, revision)


def write_onnx(model: SpamGPTForSequenceClassification, folder: Path, *, end_token_id: int | None = None) -> None:
    """Write a classifier's graphs and its `config.json`.

    The graphs take `input_ids` and `attention_mask` in int64, (B, T) with any T, padded anywhere, and return `logits`
    (B, num_labels) in float32, divided by the model's temperature. The second one stores its large weights in int8.

    The model must be in fp32, in evaluation mode, with "sdpa" attention. `end_token_id` is the token with which the
    tokenizer ends every text: the graph puts it back where a program has cut it off, as Transformers.js does.
    """
    import onnx

    (folder / "onnx").mkdir()
    graph, has_data_file = _trace(_Padded(model, end_token_id)), {}
    for precision, name in GRAPHS.items():
        if precision == "int8":
            _quantize(graph)
        path, data = folder / name, f"{Path(name).name}_data"
        has_data_file[path.name] = is_large = graph.ByteSize() > MAX_INLINE_BYTES
        onnx.save(graph, path, save_as_external_data=is_large, location=data, convert_attribute=False)
        if is_large:
            path.with_name(data).chmod(path.stat().st_mode)  # it is created for its owner only
            onnx.load_external_data_for_model(graph, str(path.parent))
    own = without_code(json.loads(model.config.to_json_string()))
    settings: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "max_position_embeddings": model.config.max_tokens,
        # Text Embeddings Inference needs these two, and none of them under another name as well.
        "hidden_size": model.config.n_embd,
        "num_hidden_layers": model.config.n_layer,
        **{name: own[name] for name in ("id2label", "label2id", "pad_token_id", "vocab_size")},
        EXPORTED_SETTINGS: own,
    }
    if any(has_data_file.values()):
        settings["transformers.js_config"] = {"use_external_data_format": has_data_file}
    write_json(folder / "config.json", settings)


class _Padded(nn.Module):
    """Classifier of messages with one more pad, since a traced graph cannot treat T = 0 as a special case."""

    def __init__(self, model: SpamGPTForSequenceClassification, end_token_id: int | None):
        super().__init__()
        self.model, self.end_token_id = model, end_token_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        pad = attention_mask.new_zeros(attention_mask.shape[0], 1)
        ids, mask = (torch.cat([tensor, pad], dim=1) for tensor in (input_ids, attention_mask))
        if self.end_token_id is not None:
            is_last = mask.bool() & (mask.cumsum(1) == self.model.config.max_tokens)
            ids = torch.where(is_last, self.end_token_id, ids)
        return self.model(input_ids=ids, attention_mask=mask).logits


def _trace(module: _Padded) -> "ModelProto":
    """Trace the module's `forward` into a graph."""
    batch = {name: torch.ones(2, 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # about the internals of the exporter, like the warnings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                kwargs=batch,
                input_names=list(batch),
                output_names=["logits"],
                dynamic_shapes={name: {0: "batch", 1: "tokens"} for name in batch},
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        logging.disable(disabled)
    model = program.model_proto
    model.ir_version = IR_VERSION
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # paths of this machine
    del graph.value_info[:]
    return model


def _quantize(model: "ModelProto") -> None:
    """Store embeddings and the weights of products in int8, and restore floats where they are used, in place.

    Embeddings of tokens have a scale per token, other weights one per output. Position embeddings, norms and the head
    are small, and stay in float: rounding position embeddings changes the answers most. So do activations: ranges of a
    whole batch would make the answer for a message depend on the others in it. `Cast` and `Mul` take the place of
    `DequantizeLinear`, which is slower in ONNX Runtime 1.32 and does not give the same answers in all its versions.
    """
    from onnx import TensorProto, helper, numpy_helper

    initializers, nodes = model.graph.initializer, []
    tensors = {tensor.name: tensor for tensor in initializers if len(tensor.dims) == 2 and "pos_emb" not in tensor.name}
    for node in model.graph.node:
        name = node.input[WEIGHTS_INPUT[node.op_type]] if node.op_type in WEIGHTS_INPUT else None
        if name not in tensors:
            nodes.append(node)
            continue
        weights = numpy_helper.to_array(tensors[name])
        # A product has one output for each column of (n_in, n_out), the others one for each row.
        largest = np.abs(weights).max(0 if node.op_type == "MatMul" else 1, keepdims=True)
        scale = np.maximum(largest / 127, TINY).astype(np.float32)
        initializers.remove(tensors.pop(name))
        initializers.append(numpy_helper.from_array(np.rint(weights / scale).astype(np.int8), f"{name}_int8"))
        initializers.append(numpy_helper.from_array(scale, f"{name}_scale"))
        restored = name
        if node.op_type == "Gather":  # of embeddings, only the rows that are used
            restored = node.output[0]
            for part in ("int8", "scale"):
                nodes.append(helper.make_node("Gather", [f"{name}_{part}", node.input[1]], [f"{restored}_{part}"]))
        nodes.append(helper.make_node("Cast", [f"{restored}_int8"], [f"{restored}_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{restored}_float", f"{restored}_scale"], [restored]))
        if node.op_type != "Gather":
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
