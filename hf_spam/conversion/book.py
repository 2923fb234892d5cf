"""Read the book's format: the `state_dict` of its `GPTModel` (chapters 4 to 6), in the forms in which people save it.

Read are the file of `torch.save(model.state_dict(), ...)`, also from a compiled or distributed model or inside a
checkpoint; the LoRA layers of appendix E; the joint `qkv` layer of the book's faster attention; and safetensors files.
"""

import json
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from ..text import short_list
from .loading import errors_as

PADDED_LENGTH = 120  # the book pads every message to this many tokens
END_OF_TEXT = 50256  # and with the last id of GPT-2's vocabulary
STATE_KEYS = ("model_state_dict", "state_dict", "model")  # where checkpoints keep the weights
WRAPPERS = {"_orig_mod", "module", "model"}  # prefixes of torch.compile, DataParallel and Lightning
IGNORED = r"\.att\.mask$|^n_averaged$"  # buffers of the book's attention, and of torch.optim.swa_utils
RENAMED = {  # names in the book's LayerNorm, in its LoRA layers, and in its faster attention
    r"(norm\d?)\.scale$": r"\1.weight",
    r"(norm\d?)\.shift$": r"\1.bias",
    r"\.linear\.(weight|bias)$": r".\1",
    r"\.att\.proj\.": ".att.out_proj.",
}
FIELDS = {  # settings in the book's words
    "emb_dim": "n_embd",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "context_length": "n_positions",
    "max_length": "padded_length",
}
# A tensor that only one kind of model has, the kind, and how to import it.
OTHER_MODELS = {
    r"^gpt\.tok_emb\.weight$": 'a SpamGPT, which needs no import: in Python, model.save_pretrained("folder")',
    r"\.lora_A\.": "PEFT adapters: merge them in Python, "
    'torch.save(model.merge_and_unload().state_dict(), "model.pth")',
    r"(^|\.)h\.0\.attn\.c_attn\.weight$": "a GPT-2 with other names: if it is one of transformers, save it in Python, "
    'model.save_pretrained("gpt2"), and import that folder',
    r"(^|\.)encoder\.layer\.0\.attention\.": "a BERT, which is another network than SpamGPT and cannot be imported",
}

logger = logging.getLogger(__name__)


def read_book_file(
    path: Path,
    *,
    n_head: int | None,
    padded_length: int | Literal["auto"] | None,
    pad_token_id: int | None,
    lora_alpha: float | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Memory-map the tensors of a book file, and infer the configuration from their shapes.

    What no shape reveals is taken from the arguments, which are those of `import_weights`, from settings in the file or
    in a `config.json` next to it, or else assumed, and logged.

    Returns:
        The tensors by their names in `SpamGPTModel`, the fields of a `SpamGPTConfig`, and any problems.
    """
    tensors, hints = _unwrap(_load(path), path)
    for pattern, kind in OTHER_MODELS.items():
        if any(re.search(pattern, name) for name in tensors):
            raise ValueError(f"{path} holds {kind}.")
    with errors_as(f"The LoRA or qkv layers of {path} cannot be converted"):
        problems = _merge_lora(tensors, lora_alpha)
        for name in [name for name in tensors if ".att.qkv." in name]:
            parts = zip(("W_query", "W_key", "W_value"), tensors.pop(name).tensor_split(3), strict=True)
            tensors.update({name.replace("qkv", layer): part for layer, part in parts})

    # Missing tensors are reported later; until then, assume GPT-2's sizes.
    sizes = {name: tensor.shape for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.numel()}
    n_positions, width = sizes.get("pos_emb.weight", (1024, 768))
    vocab_size, n_embd = sizes.get("tok_emb.weight", (50257, width))
    # The count, not the highest number: without block 1 of 3, block 1 is missing and block 2 unexpected.
    n_layer = len({match[1] for name in tensors if (match := re.match(r"trf_blocks\.(\d+)\.", name))}) or 1
    shape = {"vocab_size": vocab_size, "n_positions": n_positions, "n_embd": n_embd, "n_layer": n_layer}
    if sizes.get("out_head.weight") == (vocab_size, n_embd):
        logger.info("Dropping the language-model head of %s.", path)
        del tensors["out_head.weight"]
    options = {"n_head": n_head, "pad_token_id": pad_token_id}
    given = {field: value for field, value in options.items() if value is not None}
    if padded_length != "auto" or "out_head.weight" not in tensors:  # fine-tuning decides how a base model pads
        given["padded_length"] = None if padded_length == "auto" else padded_length
    found = [
        (_numbers({"pad_token_id": getattr(tokenizer, "pad_token_id", None)}), "the tokenizer's"),
        (hints, "the checkpoint's settings"),
        (_read_companion(path, shape), "config.json"),
    ]
    settings, invalid = _choose(shape, given, found)
    settings["n_inner"] = sizes.get("trf_blocks.0.ff.layers.0.weight", [None])[0]
    settings["qkv_bias"] = "trf_blocks.0.att.W_query.bias" in tensors
    return tensors, shape | settings, problems + invalid


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        with errors_as(f"{path} cannot be read"):
            return load_file(path)
    try:
        # Only a zip archive (torch's format since 1.6) can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler can raise nearly anything
        try:
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # not a file of `torch.save` at all, which the error below says
            classes = []
        if not classes:
            raise ValueError(f"{path} is not a torch.save file that loads without running code.") from error
        what, state = f"Python objects ({short_list(classes)})", 'checkpoint["model_state_dict"]'
        if any(name.startswith("torch.nn.modules.") for name in classes):
            what, state = "a whole model", "model.state_dict()"
        variable = re.match(r"\w+", state)[0]
        raise ValueError(
            f"{path} holds {what}, which is not loaded, since that could run code. Save the tensors alone in Python: "
            f'torch.save({state}, "model.pth"), with {variable} = torch.load("{path.name}", weights_only=False) if you '
            "trust the file."
        ) from error


def _unwrap(loaded: object, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Find the `state_dict` in what `torch.load` returns, and the numbers among a checkpoint's settings.

    Both get their names in SpamGPT, without the prefixes of wrappers.
    """
    states = {"": loaded} if _is_state_dict(loaded) else {}
    if not states and isinstance(loaded, Mapping):
        states = {key: value for key, value in loaded.items() if _is_state_dict(value)}
    keys = [key for key in STATE_KEYS if key in states][:1] or list(states)
    if len(keys) != 1:
        found = f"several state_dicts ({short_list(map(str, states))})" if states else "no state_dict of dense tensors"
        raise ValueError(f'{path} holds {found}. In Python: torch.save(model.state_dict(), "model.pth")')
    tensors, prefixes, hints = {}, set(), {}
    for settings in (loaded, *loaded.values()):
        hints |= _numbers(settings)
    for name, tensor in states[keys[0]].items():
        parts = str(name).split(".")
        prefixes.update(WRAPPERS.intersection(parts))
        name = ".".join(part for part in parts if part not in WRAPPERS)
        for pattern, new in RENAMED.items():
            name = re.sub(pattern, new, name)
        if name in tensors:
            raise ValueError(f"{path} holds the weights of several models: {name} occurs twice.")
        if not re.search(IGNORED, name):
            tensors[name] = tensor
    if keys[0]:
        logger.info("Reading only %r of %s.", keys[0], short_list(map(str, loaded)))
    if prefixes:
        logger.info("Reading names without %s.", short_list(prefixes))
    return tensors, hints


def _is_state_dict(value: object) -> bool:
    tensors = value.values() if isinstance(value, Mapping) else ()
    dense = (isinstance(one, torch.Tensor) and one.layout is torch.strided and not one.is_meta for one in tensors)
    return len(tensors) > 0 and all(dense)


def _numbers(settings: object) -> dict[str, int]:
    """Return the whole numbers in a dict of settings, by their names in `SpamGPTConfig`."""
    pairs = settings.items() if isinstance(settings, Mapping) else ()
    return {FIELDS.get(name, name): value for name, value in pairs if isinstance(name, str) and type(value) is int}


def _read_companion(path: Path, shape: dict[str, int]) -> dict[str, int]:
    """Return the numbers in a `config.json` next to the file, if it describes a network of this shape."""
    try:
        config = _numbers(json.loads((path.parent / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    same = all(config.get(name, size) == size for name, size in shape.items())
    return config if same and "n_embd" in config else {}


def _merge_lora(tensors: dict[str, torch.Tensor], alpha: float | None) -> list[str]:
    """Merge the LoRA layers of the book's appendix E into their linear layers, in place; return any problems.

    They compute `linear(x) + alpha * (x @ A @ B)`, with A (in, r) and B (r, out). B is 0 before training.
    """
    layers = [name.removesuffix(".lora.A") for name in tensors if name.endswith(".lora.A")]
    layers = [layer for layer in layers if {f"{layer}.lora.B", f"{layer}.weight"} <= tensors.keys()]
    if not layers:
        return [f"--lora-alpha {alpha:g} has no use: there are no LoRA layers"] if alpha is not None else []
    logger.info("Merging %d LoRA layers.", len(layers))
    ranks = []
    for layer in layers:
        A, B, weight = (tensors.pop(f"{layer}.{name}").float() for name in ("lora.A", "lora.B", "weight"))
        tensors[f"{layer}.weight"] = torch.addmm(weight, B.T, A.T, alpha=alpha or 0)
        ranks += [len(B)] if B.any() else []
    if alpha is not None or not ranks:
        return []
    return [
        "import-weights needs --lora-alpha: the factor of the LoRA layers, which the file lacks (alpha, 16 in the "
        f"book, or alpha / {ranks[0]} if your code divides it by the rank)"
    ]


def _choose(
    shape: dict[str, int], given: dict[str, int | None], found: Sequence[tuple[dict[str, int], str]]
) -> tuple[dict[str, int | None], list[str]]:
    """Choose the settings that no shape reveals: given ones, else the first valid found ones, else the book's.

    Log those that are not given, and where they were found; return the settings, and any problems.
    """
    n_positions, n_embd, vocab_size = shape["n_positions"], shape["n_embd"], shape["vocab_size"]
    length, pad = min(PADDED_LENGTH, n_positions), min(END_OF_TEXT, vocab_size - 1)
    rules = {  # which values are valid, what is said of others, what is assumed, and why
        "padded_length": (
            lambda value: value is None or 1 <= value <= n_positions,
            f"is not in 1..{n_positions}, the positions of the model",
            (length, "the book's data" if length == PADDED_LENGTH else "all positions"),
        ),
        "n_head": (
            lambda value: value >= 1 and n_embd % value == 0,
            f"does not divide n_embd ({n_embd})",
            (n_embd // 64, "n_embd / 64, as in every GPT-2") if n_embd % 64 == 0 else (1, ""),
        ),
        "pad_token_id": (
            lambda value: 0 <= value < vocab_size,
            f"is not in the vocabulary of {vocab_size} ids",
            (pad, "as in the book" if pad == END_OF_TEXT else "the last id"),
        ),
    }
    settings, said, problems = {}, [], []
    for field, (is_valid, complaint, assumed) in rules.items():
        flag = f"--{field.replace('_', '-')}"
        valid = [(values[field], place) for values, place in found if is_valid(values.get(field, -1))]
        settings[field], reason = [*valid, assumed][0]
        if field in given and is_valid(given[field]):
            settings[field] = given[field]
        elif field in given:
            problems.append(f"{flag} {given[field]} {complaint}")
        elif not reason:
            problems.append(f"import-weights needs {flag}: n_embd ({n_embd}) is not a multiple of 64")
        elif field != "pad_token_id" or settings["padded_length"] is not None:  # else pads are masked
            said.append(f"{flag} {settings[field]} ({reason})")
    if said and not problems:
        logger.info("Assumed %s.", ", ".join(said))
    return settings, problems
