"""A classifier that ONNX Runtime computes, from a folder that `export.py` wrote."""

import importlib
import os
from pathlib import Path

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from ..text import one_line
from .loading import load_config, named_model

GRAPH = "model.onnx"


class OnnxModel:
    """An exported classifier, called as the `SpamGPTForSequenceClassification` that it was made of.

    It computes on the CPU, in the precision that it was exported in, and on as many threads as torch.

    Args:
        folder: what `export_onnx` wrote.

    Attributes:
        config: the model's configuration.
        device: the CPU, where its inputs must be.

    Raises:
        OSError: there is no model in the folder.
        ValueError: ONNX Runtime is not installed, or cannot load what is there.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder).absolute()
        require("onnxruntime")
        self.config = load_config(folder)
        self._open()

    def _open(self) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # which have no base in common

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.log_severity_level = 4  # what fails is raised too
        try:
            self._session = onnxruntime.InferenceSession(
                self._folder / GRAPH, options, providers=["CPUExecutionProvider"]
            )
        except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.RuntimeException) as error:
            name = repr(str(self._folder))
            raise ValueError(f"{name} cannot be loaded, its {GRAPH} is damaged: {one_line(error)}") from error

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """The `logits` (B, num_labels) of messages (B, T), T at least 1, padded on any side."""
        if self._threads != torch.get_num_threads():  # a session's own cannot be changed
            self._open()
        batch = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (logits,) = self._session.run(["logits"], batch)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[Path]]:
        """For another process, which loads the same folder."""
        return OnnxModel, (self._folder,)

    def eval(self) -> "OnnxModel":
        """Itself: it has no other mode."""
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The bytes of the graph's files, (size,) in uint8: by them one model is told from another."""
        return {
            path.name: torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
            for path in sorted(self._folder.glob(f"{GRAPH}*"))
        }


def is_onnx(source: str | os.PathLike) -> bool:
    """Whether a local folder holds an exported classifier."""
    return Path(named_model(source), GRAPH).is_file()


def require(package: str) -> None:
    """Imports a package that only ONNX needs.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"ONNX needs {package}, which is not installed: pip install hf-spam[onnx]") from error
