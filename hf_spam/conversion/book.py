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
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from .loading import errors_as, shortened

PADDED_LENGTH = 120  # the book pads every message to this many tokens
END_OF_TEXT = 50256  # and with the last id of GPT-2's vocabulary
STATE_KEYS = ("model_state_dict", "state_dict", "model", "model_state", "module")  # where checkpoints keep the weights
WRAPPERS = {"_orig_mod", "module", "model"}  # prefixes of torch.compile, DataParallel and Lightning
FIELDS = {  # settings in the book's words
    "emb_dim": "n_embd",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "context_length": "n_positions",
    "max_length": "padded_length",
}
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer")
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
    n_head: int | None = None,
    padded_length: int | Literal["auto"] | None = "auto",
    pad_token_id: int | None = None,
    lora_alpha: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Memory-map the tensors of a book file, and infer the configuration from their shapes.

    What no shape reveals is taken from the arguments, from settings in the file or in a `config.json` next to it, or
    else assumed, and logged.

    Args:
        path: The file.
        n_head, padded_length, pad_token_id, lora_alpha, tokenizer: As for `import_weights`.

    Returns:
        The tensors by their names in `SpamGPTModel`, the fields of a `SpamGPTConfig`, and any problems.

    Raises:
        ValueError: The file holds no `state_dict`, or that of another kind of model.
    """
    tensors, hints = unwrap(_load(path), path)
    for pattern, kind in OTHER_MODELS.items():
        if any(re.search(pattern, name) for name in tensors):
            raise ValueError(f"{path} holds {kind}.")
    with errors_as(f"The LoRA layers of {path} cannot be merged"):
        problems = _merge_lora(tensors, lora_alpha)
    _split_qkv(tensors)

    def size(name: str, axis: int) -> int | None:
        shape = tensors[name].shape if name in tensors else ()
        return shape[axis] or None if len(shape) == 2 else None

    # Missing tensors are reported later; until then, assume GPT-2's sizes.
    vocab_size, n_positions = size("tok_emb.weight", 0) or 50257, size("pos_emb.weight", 0) or 1024
    n_embd = size("tok_emb.weight", 1) or size("pos_emb.weight", 1) or 768
    if (size("out_head.weight", 0), size("out_head.weight", 1)) == (vocab_size, n_embd):
        logger.info("Dropping the language-model head of %s.", path)
        del tensors["out_head.weight"]
    settings = {
        "vocab_size": vocab_size,
        "n_positions": n_positions,
        "n_embd": n_embd,
        # The count, not the highest number: without block 1 of 3, block 1 is missing and block 2 unexpected.
        "n_layer": len({match[1] for name in tensors if (match := re.match(r"trf_blocks\.(\d+)\.", name))}) or 1,
        "n_inner": size("trf_blocks.0.ff.layers.0.weight", 0),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in tensors,
    }
    # Fine-tuning decides how a base model pads.
    given = {} if "out_head.weight" in tensors else {"padded_length": None}
    if padded_length != "auto":
        given["padded_length"] = padded_length
    options = {"n_head": n_head, "pad_token_id": pad_token_id}
    given |= {field: value for field, value in options.items() if value is not None}
    found = {field: (value, "config.json") for field, value in _read_companion(path, settings).items()}
    found |= {field: (value, "the checkpoint's settings") for field, value in hints.items()}
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        found["pad_token_id"] = tokenizer.pad_token_id, "the tokenizer's"
    choices, invalid = _choose(settings, given, found)
    settings |= choices | dict.fromkeys(("bos_token_id", "eos_token_id"), choices["pad_token_id"])
    return tensors, settings, problems + invalid


def unwrap(loaded: object, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Find the `state_dict` in the content of a file, without the prefixes that wrappers give to its names.

    Args:
        loaded: What `torch.load` returns: a `state_dict`, or a checkpoint that holds one beside other things.
        path: The file, for the messages.

    Returns:
        The tensors, and the numbers among the checkpoint's settings by their names in `SpamGPTConfig`.

    Raises:
        ValueError: There is no `state_dict`.
    """
    state, hints, notes, states = loaded, {}, [], {}
    if isinstance(loaded, Mapping) and not _is_state_dict(loaded):
        states = {key: value for key, value in loaded.items() if _is_state_dict(value)}
        key = next((key for key in STATE_KEYS if key in states), None)
        if key is None and len(states) == 1:
            key = next(iter(states))
        state = states.get(key)
        for settings in (loaded, *loaded.values()):
            hints |= {} if settings is state else _numbers(settings)
        notes = [f"only {key!r} of {shortened(map(str, loaded))}"]
    if not _is_state_dict(state):
        found = f"several state_dicts ({shortened(map(str, states))})" if states else "no state_dict of dense tensors"
        raise ValueError(f'{path} holds {found}. In Python: torch.save(model.state_dict(), "model.pth")')
    tensors, prefixes = {}, set()
    for name, tensor in state.items():
        parts = str(name).split(".")
        prefixes.update(WRAPPERS.intersection(parts))
        name = ".".join(part for part in parts if part not in WRAPPERS)
        if name in tensors:
            raise ValueError(f"{path} holds the weights of several models: {name} occurs twice.")
        # The mask is a buffer of the book's attention, and the counter one of torch.optim.swa_utils.
        if not name.endswith(".att.mask") and name != "n_averaged":
            tensors[_rename(name)] = tensor
    if prefixes:
        notes.append(f"names without {shortened(prefixes)}")
    if notes:
        logger.info("Reading %s: %s.", path, "; ".join(notes))
    return tensors, hints


def _merge_lora(tensors: dict[str, torch.Tensor], alpha: float | None) -> list[str]:
    """Replace the LoRA layers of the book's appendix E by linear layers, in place; return any problems.

    They compute `linear(x) + alpha * (x @ A @ B)`, with A (in, r) and B (r, out). B is 0 before training.
    """
    layers = [name.removesuffix(".lora.A") for name in tensors if name.endswith(".lora.A")]
    layers = [layer for layer in layers if {f"{layer}.lora.B", f"{layer}.linear.weight"} <= tensors.keys()]
    problems = []
    if alpha is not None and not layers:
        problems.append(f"--lora-alpha {alpha:g} has no use: there are no LoRA layers")
    if alpha is None and (trained := [layer for layer in layers if tensors[f"{layer}.lora.B"].any()]):
        rank = tensors[f"{trained[0]}.lora.A"].shape[-1]
        problems.append(
            "import-weights needs --lora-alpha: the factor of the LoRA layers, which the file lacks (alpha, 16 in the "
            f"book, or alpha / {rank} if your code divides it by the rank)"
        )
    for layer in layers:
        A, B, weight = (tensors.pop(f"{layer}.{name}").float() for name in ("lora.A", "lora.B", "linear.weight"))
        tensors[f"{layer}.weight"] = torch.addmm(weight, B.T, A.T, alpha=alpha or 0)
        if f"{layer}.linear.bias" in tensors:
            tensors[f"{layer}.bias"] = tensors.pop(f"{layer}.linear.bias")
    if layers:
        logger.info("Merged %d LoRA layers.", len(layers))
    return problems


def _split_qkv(tensors: dict[str, torch.Tensor]) -> None:
    """Give the projections of the book's faster attention, `qkv` and `proj`, the names of chapter 3, in place."""
    for name in list(tensors):
        match = re.fullmatch(r"(trf_blocks\.\d+\.att)\.(qkv|proj)\.(weight|bias)", name)
        if match and tensors[name].ndim:
            attention, layer, kind = match.groups()
            layers = ("W_query", "W_key", "W_value") if layer == "qkv" else ("out_proj",)
            parts = tensors.pop(name).tensor_split(len(layers))
            tensors.update({f"{attention}.{layer}.{kind}": part for layer, part in zip(layers, parts, strict=True)})


def _choose(
    shape: dict[str, Any], given: dict[str, int | None], found: dict[str, tuple[int, str]]
) -> tuple[dict[str, int | None], list[str]]:
    """Choose the settings that no shape reveals: given ones, else found ones, else the book's; log the last two.

    Args:
        shape: The sizes of the network.
        given: What the user gives, by field.
        found: Values in or next to the file, and where they are.

    Returns:
        The settings, and any problems.
    """
    n_positions, n_embd, vocab_size = shape["n_positions"], shape["n_embd"], shape["vocab_size"]
    length, pad = min(PADDED_LENGTH, n_positions), min(END_OF_TEXT, vocab_size - 1)
    # Which values are valid, what is assumed, and why.
    padded_length = (
        lambda value: value is None or 1 <= value <= n_positions,
        f"is not in 1..{n_positions}, the positions of the model",
        ("padded length {}", length, "the book's data" if length == PADDED_LENGTH else "all positions"),
    )
    n_head = (
        lambda value: value >= 1 and n_embd % value == 0,
        f"does not divide n_embd ({n_embd})",
        ("{} heads", n_embd // 64, "n_embd / 64, as in every GPT-2"),
    )
    pad_token_id = (
        lambda value: 0 <= value < vocab_size,
        f"is not in the vocabulary of {vocab_size} ids",
        ("pad token {}", pad, "as in the book" if pad == END_OF_TEXT else "the last id"),
    )
    rules = {"padded_length": padded_length, "n_head": n_head, "pad_token_id": pad_token_id}
    settings, assumed, flags, problems = {}, [], [], []
    for field, (is_valid, complaint, (phrase, value, reason)) in rules.items():
        flag = f"--{field.replace('_', '-')}"
        if field in given and is_valid(given[field]):
            settings[field] = given[field]
            continue
        if field in given:
            problems.append(f"{flag} {given[field]} {complaint}")
        elif field in found and is_valid(found[field][0]):
            value, reason = found[field]
        elif field == "n_head" and n_embd % 64:
            problems.append(f"import-weights needs --n-head: n_embd ({n_embd}) is not a multiple of 64")
        settings[field] = value if is_valid(value) else 1  # no shape depends on it, so the other checks can go on
        if field != "pad_token_id" or settings["padded_length"] is not None:  # else pads are masked
            assumed.append(f"{phrase.format(value)} ({reason})")
            flags.append(flag)
    if assumed and not problems:
        logger.info("Assumed %s. Options of import-weights: %s.", ", ".join(assumed), ", ".join(flags))
    return settings, problems


def _read_companion(path: Path, shape: dict[str, Any]) -> dict[str, int]:
    """Return the numbers in a `config.json` next to the file, if it describes a network of this shape."""
    try:
        config = _numbers(json.loads((path.parent / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    same = all(config.get(name, shape[name]) == shape[name] for name in SIZES)
    return config if same and "n_embd" in config else {}


def _numbers(settings: object) -> dict[str, int]:
    """Return the whole numbers in a dict of settings, by their names in `SpamGPTConfig`."""
    pairs = settings.items() if isinstance(settings, Mapping) else ()
    return {FIELDS.get(name, name): value for name, value in pairs if isinstance(name, str) and type(value) is int}


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
        except Exception:
            classes = []
        if not classes:
            raise ValueError(f"{path} is not a torch.save file that loads without running code.") from error
        whole = any(name.startswith("torch.nn.modules.") for name in classes)  # it has a layer
        what = "a whole model" if whole else f"Python objects ({shortened(classes)})"
        variable, state = ("model", "model.state_dict()") if whole else ("checkpoint", 'checkpoint["model_state_dict"]')
        raise ValueError(
            f"{path} holds {what}, which is not loaded, since that could run code. Save the tensors alone in Python: "
            f'torch.save({state}, "model.pth"), with {variable} = torch.load("{path.name}", weights_only=False) if you '
            "trust the file."
        ) from error


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(map(_is_dense, value.values()))


def _is_dense(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta


def _rename(name: str) -> str:
    """Return the name in `SpamGPTModel`; only the parameters of the book's `LayerNorm` are named differently."""
    return re.sub(r"(norm\d?)\.scale$", r"\1.weight", re.sub(r"(norm\d?)\.shift$", r"\1.bias", name))
