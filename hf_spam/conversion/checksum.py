"""A checksum of a model's weights that travels inside their file: what was damaged on the way is noticed.

Most of a file of weights is numbers, each of which may have any value: nothing else tells a changed one from one that
is meant. The checksum is in the metadata of `model.safetensors`, which other tools pass over and drop when they write.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

CHECKSUM = "hf_spam.sha256"


def save_with_checksum(model: PreTrainedModel, folder: Path) -> None:
    """Writes what `save_pretrained` does, the weights in one file with their checksum, as readable as its siblings.

    Raises:
        OSError: it could not be written.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    name, path = min(weights, key=lambda name: weights[name].numel()), folder / "model.safetensors"
    try:
        # The library takes no metadata of ours: it writes configuration and code, and the smallest of the weights.
        model.save_pretrained(folder, state_dict={name: weights[name]})
        _write(path, weights)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod((folder / "config.json").stat().st_mode)  # safetensors makes its file private to the user


def _write(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes weights, on the CPU and contiguous, with their checksum; the same weights are the same file."""
    metadata = {"format": "pt", CHECKSUM: _digest(weights)}
    save_file(dict(weights), path, metadata=metadata)
    # safetensors writes the metadata at the head of its header, but in another order each time.
    ordered = json.dumps({"__metadata__": metadata}, separators=(",", ":"))[:-1].encode()
    with path.open("r+b") as file:
        file.seek(8)
        if sorted(file.read(len(ordered))) == sorted(ordered):
            file.seek(8)
            file.write(ordered)


def verify_checksum(path: Path) -> None:
    """Looks whether the weights in a file are those that were written, if it says which these were.

    Raises:
        ValueError: they are not.
    """
    with safe_open(path, framework="pt") as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
        # Mapped into memory, not copied.
        if expected is not None and expected != _digest({name: file.get_tensor(name) for name in file.keys()}):  # noqa: SIM118
            raise ValueError(f"{path.name} is damaged, its weights are not those that were written")


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    """The sha256 of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # Contiguous, but where a dimension is of size 1 its stride may be any.
        digest.update(tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy())
    return digest.hexdigest()
