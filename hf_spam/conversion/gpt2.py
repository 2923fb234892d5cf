"""Read GPT-2 checkpoints written by `transformers` (names and layout of its `modeling_gpt2.py`)."""

import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import GPT2Config

from .loading import load_config, open_tensors

# GPT-2 module -> SpamGPT modules (three where GPT-2 joins query, key and value in one tensor).
MODULES = {
    "wte": ["tok_emb"],
    "wpe": ["pos_emb"],
    "ln_1": ["norm1"],
    "attn.c_attn": ["att.W_query", "att.W_key", "att.W_value"],
    "attn.c_proj": ["att.out_proj"],
    "ln_2": ["norm2"],
    "mlp.c_fc": ["ff.layers.0"],
    "mlp.c_proj": ["ff.layers.2"],
    "ln_f": ["final_norm"],
    "score": ["out_head"],
}
# Settings that change the network, with the values that SpamGPT implements.
IMPLEMENTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight"  # buffers of old versions, and the language-model head
SAME_SETTINGS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
SAME_SETTINGS += ("layer_norm_epsilon", "initializer_range")


def read_gpt2(
    source: str | os.PathLike, n_head: int | None, *, revision: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Memory-map the tensors of a GPT-2 checkpoint, and convert its configuration.

    Args:
        source: The folder of the checkpoint, or its Hub id.
        n_head: Number of attention heads, if the user gave one.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The tensors by their names in `SpamGPTModel`, the fields of a `SpamGPTConfig`, and any problems.

    Raises:
        OSError: There is no checkpoint.
        ValueError: The checkpoint is damaged or holds another kind of model.
    """
    config = load_config(source, revision=revision, config_class=GPT2Config)
    problems = [
        f"config.json: {name} is {getattr(config, name)!r}, SpamGPT supports {' or '.join(map(repr, values))}"
        for name, values in IMPLEMENTED.items()
        if getattr(config, name) not in values
    ]
    if n_head not in (None, config.n_head):
        problems.append(f"--n-head {n_head} contradicts config.json, where n_head is {config.n_head}")

    def token(*candidates: Any) -> int | None:
        """Return the first candidate in the vocabulary; `None` stands for its last id."""
        return next((i for i in candidates if isinstance(i, int) and 0 <= i < config.vocab_size), None)

    tensors = {}
    for name, tensor in open_tensors(source, revision=revision).items():
        tensors.update(_convert(name.removeprefix("transformer."), tensor))
    settings = {name: getattr(config, name) for name in SAME_SETTINGS} | {
        "bos_token_id": token(config.bos_token_id),
        "eos_token_id": token(config.eos_token_id),
        "pad_token_id": token(config.pad_token_id, config.eos_token_id),
    }
    if "out_head.weight" in tensors:  # GPT-2's head has no bias, and reads the last token that is not padding
        tensors["out_head.bias"] = torch.zeros(config.num_labels)
        settings |= {"pooling": "last_token", "id2label": config.id2label, "label2id": config.label2id}
    return tensors, settings, problems


def _convert(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a GPT-2 tensor as SpamGPT tensors that are views of it; yield an unknown tensor unchanged."""
    if re.fullmatch(IGNORED, name):
        return
    block = re.match(r"h\.(\d+)\.", name)
    prefix = f"trf_blocks.{block[1]}." if block else ""
    module, _, kind = name[block.end() if block else 0 :].rpartition(".")
    if module not in MODULES or tensor.ndim == 0:
        yield name, tensor
        return
    if module.startswith(("attn.", "mlp.")) and tensor.ndim == 2:  # `Conv1D` stores (in, out), `nn.Linear` (out, in)
        tensor = tensor.T
    targets = MODULES[module]
    for target, part in zip(targets, tensor.tensor_split(len(targets)), strict=True):
        yield f"{prefix}{target}.{kind}", part
