"""Read the book's format: the `state_dict` of its `GPTModel` (chapters 4 to 6), in the forms in which people save it.

Read are the file of `torch.save(model.state_dict(), ...)`, also from a compiled or distributed model or inside a
checkpoint; the LoRA layers of appendix E; the joint `qkv` layer of the book's faster attention; and safetensors files.
"""

import json
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..text import short_list
from .loading import errors_as, find_misfits, in_classifier

PADDED_LENGTH = 120  # the book pads every message to this many tokens
END_OF_TEXT = 50256  # and with the last id of GPT-2's vocabulary
GPT2_HEADS = "n_embd / 64, as in every GPT-2"
STATE_KEYS = ("model_state_dict", "state_dict", "model")  # where checkpoints keep the weights
WRAPPERS = {"_orig_mod", "module", "model"}  # prefixes of torch.compile, DataParallel and Lightning
IGNORED = r"\.att\.mask$|^n_averaged$"  # buffers of the book's attention, and of torch.optim.swa_utils
RENAMED = {  # names in the book's LayerNorm, in its LoRA layers, and in its faster attention
    r"(norm\d?)\.scale$": r"\1.weight",
    r"(norm\d?)\.shift$": r"\1.bias",
    r"\.linear\.(weight|bias)$": r".\1",
    r"\.att\.proj\.": ".att.out_proj.",
}
HINTS = {"max_length": "padded_length", "n_heads": "n_head", "pad_token_id": "pad_token_id"}  # from the book's words

logger = logging.getLogger(__name__)


def read_book_file(
    path: Path,
    n_head: int | None,
    pad_token_id: int | None,
    lora_alpha: float | None,
    padded_length: int | Literal["auto"] | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[SpamGPTConfig, dict[str, torch.Tensor]]:
    """Memory-map the tensors of a book file, by their names in a classifier, and infer their configuration.

    What no shape reveals is taken from the arguments, which are those of `import_weights`, from the tokenizer or the
    settings in a checkpoint or in a `config.json` next to the file, or else assumed, and logged.
    """
    tensors, hints = _unwrap(_load(path), path)
    with errors_as(f"The LoRA or qkv layers of {path} cannot be converted"):
        _merge_lora(tensors, lora_alpha)
        for name in [name for name in tensors if ".att.qkv." in name]:
            parts = zip(("W_query", "W_key", "W_value"), tensors.pop(name).tensor_split(3), strict=True)
            tensors.update({name.replace("qkv", layer): part for layer, part in parts})

    # Missing tensors are reported later; until then, assume GPT-2's sizes.
    sizes = {name: tensor.shape for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.numel()}
    n_positions, width = sizes.get("pos_emb.weight", (1024, 768))
    vocab_size, n_embd = sizes.get("tok_emb.weight", (50257, width))
    if sizes.get("out_head.weight") == (vocab_size, n_embd):
        logger.info("Dropping the language-model head of %s.", path)
        del tensors["out_head.weight"]
    has_head = "out_head.weight" in tensors

    # What no shape reveals, and why it is assumed. Later sources count first.
    length, pad = min(PADDED_LENGTH, n_positions), min(END_OF_TEXT, vocab_size - 1)
    found: dict[str, tuple[int | None, str | None]] = {
        "padded_length": (length, "the book's data" if length == PADDED_LENGTH else "all positions"),
        "n_head": (n_embd // 64, GPT2_HEADS),
        "pad_token_id": (pad, "as in the book" if pad == END_OF_TEXT else "the last id"),
    }
    found |= {field: (value, "config.json") for field, value in _read_companion(path, n_embd).items()}
    found |= {field: (value, "the checkpoint's settings") for field, value in hints.items()}
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        found["pad_token_id"] = (tokenizer.pad_token_id, "the tokenizer's")
    given = {"n_head": n_head, "pad_token_id": pad_token_id}
    found |= {field: (value, None) for field, value in given.items() if value is not None}
    if padded_length != "auto" or not has_head:  # fine-tuning decides how a base model pads
        found["padded_length"] = (None if padded_length == "auto" else padded_length, None)
    if found["n_head"][1] == GPT2_HEADS and n_embd % 64:
        raise ValueError(f"{path} needs --n-head: n_embd ({n_embd}) is not a multiple of 64.")

    with errors_as(f"{path} cannot be imported"):
        config = SpamGPTConfig(
            vocab_size=vocab_size,
            n_positions=n_positions,
            n_embd=n_embd,
            # The count, not the highest number: without block 1 of 3, block 1 is missing and block 2 unexpected.
            n_layer=len({match[1] for name in tensors if (match := re.match(r"trf_blocks\.(\d+)\.", name))}) or 1,
            n_inner=sizes.get("trf_blocks.0.ff.layers.0.weight", [None])[0],
            qkv_bias="trf_blocks.0.att.W_query.bias" in tensors,
            **{field: value for field, (value, _) in found.items()},
        )
    weights = in_classifier(tensors)
    if misfits := find_misfits(config, weights, fresh_head=not has_head):
        names = short_list(misfit.removeprefix("gpt.") for misfit in misfits)
        raise ValueError(
            f"{path} does not fit SpamGPT: {len(misfits)} of the tensors: {names}. Give a state_dict of the book's "
            'GPTModel, torch.save(model.state_dict(), "model.pth"), or the folder of a GPT-2.'
        )
    if config.padded_length is None:
        del found["pad_token_id"]  # pads are masked
    reasons = [f"--{field.replace('_', '-')} {value} ({why})" for field, (value, why) in found.items() if why]
    if reasons:
        logger.info("Assumed %s.", ", ".join(reasons))
    return config, weights


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        with errors_as(f"{path} cannot be read"):
            return load_file(path)
    try:
        # Only a zip archive (torch's format since 1.6) can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler can raise nearly anything
        raise ValueError(
            f"{path} is not a torch.save file that loads without running code. If it holds more than tensors and you "
            'trust it, save the tensors alone in Python: torch.save(model.state_dict(), "model.pth").'
        ) from error


def _unwrap(loaded: object, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Find the `state_dict` in what `torch.load` returns, and hints among a checkpoint's settings.

    Both get their names in SpamGPT, without the prefixes of wrappers.
    """
    parts = {"": loaded, **loaded} if isinstance(loaded, Mapping) else {}
    states = {key: part for key, part in parts.items() if _is_state_dict(part)}
    keys = [key for key in STATE_KEYS if key in states][:1] or list(states)
    if len(keys) != 1:
        found = f"several state_dicts ({short_list(map(str, states))})" if states else "no state_dict"
        raise ValueError(f'{path} holds {found}. In Python: torch.save(model.state_dict(), "model.pth")')
    tensors, hints = {}, {}
    for part in parts.values():
        hints |= _hints(part)
    for name, tensor in states[keys[0]].items():
        name = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
        for pattern, new in RENAMED.items():
            name = re.sub(pattern, new, name)
        if name in tensors:
            raise ValueError(f"{path} holds the weights of several models: {name} occurs twice.")
        if not re.search(IGNORED, name):
            tensors[name] = tensor
    if keys[0]:
        logger.info("Reading only %r of %s.", keys[0], short_list(map(str, loaded)))
    return tensors, hints


def _hints(settings: object) -> dict[str, int]:
    """Return the settings that no shape reveals, by their names in `SpamGPTConfig`."""
    items = settings.items() if isinstance(settings, Mapping) else ()
    return {HINTS[key]: value for key, value in items if key in HINTS and type(value) is int}


def _read_companion(path: Path, n_embd: int) -> dict[str, int]:
    """Return the hints in a `config.json` next to the file, if it is of a model of this width, in the book's words."""
    try:
        settings = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return _hints(settings) if isinstance(settings, dict) and settings.get("emb_dim") == n_embd else {}


def _is_state_dict(value: object) -> bool:
    tensors = value.values() if isinstance(value, Mapping) else ()
    return len(tensors) > 0 and all(isinstance(tensor, torch.Tensor) for tensor in tensors)


def _merge_lora(tensors: dict[str, torch.Tensor], alpha: float | None) -> None:
    """Merge the LoRA layers of the book's appendix E into their linear layers, in place.

    They compute `linear(x) + alpha * (x @ A @ B)`, with A (in, r) and B (r, out). B is 0 before training.
    """
    layers = [name.removesuffix(".lora.A") for name in tensors if name.endswith(".lora.A")]
    layers = [layer for layer in layers if {f"{layer}.lora.B", f"{layer}.weight"} <= tensors.keys()]
    if not layers and alpha is not None:
        raise ValueError(f"--lora-alpha {alpha:g} has no use: there are no LoRA layers")
    if layers:
        logger.info("Merging %d LoRA layers.", len(layers))
    for layer in layers:
        A, B, weight = (tensors.pop(f"{layer}.{name}").float() for name in ("lora.A", "lora.B", "weight"))
        if alpha is None and B.any():
            raise ValueError(
                "import-weights needs --lora-alpha: the factor of the LoRA layers, which the file lacks (alpha, 16 in "
                f"the book, or alpha / {len(B)} if your code divides it by the rank)"
            )
        tensors[f"{layer}.weight"] = torch.addmm(weight, B.T, A.T, alpha=alpha or 0)
