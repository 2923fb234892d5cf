"""Read the book's format: the `state_dict` of its `GPTModel` (chapters 4 to 6), saved with `torch.save`."""

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

PADDED_LENGTH = 120  # the book pads every message to this many tokens

logger = logging.getLogger(__name__)


def read_book_file(path: Path, n_head: int | None) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Memory-map the tensors of a book file, and infer the configuration from their shapes.

    Args:
        path: The file.
        n_head: Number of attention heads, which no shape reveals. `None`: `n_embd / 64`, as in every GPT-2.

    Returns:
        The tensors by their names in `SpamGPTModel`, the fields of a `SpamGPTConfig`, and any problems.

    Raises:
        ValueError: The file is not a `state_dict`.
    """
    tensors = {_rename(name): tensor for name, tensor in _load(path).items() if not name.endswith(".att.mask")}

    def size(name: str, axis: int) -> int | None:
        shape = tensors[name].shape if name in tensors else ()
        return shape[axis] or None if len(shape) == 2 else None

    # Missing tensors are reported later; until then, assume GPT-2's sizes.
    vocab_size, n_positions = size("tok_emb.weight", 0) or 50257, size("pos_emb.weight", 0) or 1024
    n_embd = size("tok_emb.weight", 1) or size("pos_emb.weight", 1) or 768
    if (size("out_head.weight", 0), size("out_head.weight", 1)) == (vocab_size, n_embd):
        logger.info("Dropping the language-model head of %s.", path)
        del tensors["out_head.weight"]
    problems = []
    if n_head is None and n_embd % 64:
        problems.append(f"--n-head is needed: n_embd ({n_embd}) is not a multiple of 64")
    elif n_head is not None and (n_head < 1 or n_embd % n_head):
        problems.append(f"--n-head {n_head} does not divide n_embd ({n_embd})")
    settings = {
        "vocab_size": vocab_size,
        "n_positions": n_positions,
        "n_embd": n_embd,
        # The count, not the highest number: without block 1 of 3, block 1 is missing and block 2 unexpected.
        "n_layer": len({match[1] for name in tensors if (match := re.match(r"trf_blocks\.(\d+)\.", name))}) or 1,
        "n_head": 1 if problems else n_head or n_embd // 64,  # no shape depends on it, so the other checks can go on
        "n_inner": size("trf_blocks.0.ff.layers.0.weight", 0),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in tensors,
        "padded_length": min(PADDED_LENGTH, n_positions) if "out_head.weight" in tensors else None,
        # The book pads with the last id of GPT-2's vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), min(50256, vocab_size - 1)),
    }
    return tensors, settings, problems


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Only a zip archive (torch's format since 1.6) can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler can raise nearly anything
        raise ValueError(f"{path} is not a torch.save file that loads without running code.") from error
    if not isinstance(content, dict) or not all(_is_dense(value) for value in content.values()):
        raise ValueError(f"{path} does not hold a state_dict: its content is not a dict of dense tensors.")
    return {str(name): tensor for name, tensor in content.items()}


def _is_dense(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta


def _rename(name: str) -> str:
    """Return the name in `SpamGPTModel`; only the parameters of the book's `LayerNorm` are named differently."""
    return re.sub(r"(norm\d?)\.scale$", r"\1.weight", re.sub(r"(norm\d?)\.shift$", r"\1.bias", name))
