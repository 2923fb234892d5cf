"""Turns weights made elsewhere into a SpamGPT folder: the book's own files, and Hugging Face GPT-2 checkpoints.

What corresponds to what follows from the two sources of the network: Raschka, *Build a Large Language Model (From
Scratch)*, chapters 4 to 6, whose names SpamGPT keeps, and `transformers`' `modeling_gpt2.py`. Every tensor is matched
by name and shape before any is read; all that does not fit is reported at once, and then nothing is written.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel
from .checksum import save_with_checksum
from .loading import FLOATING, WEIGHT_FILES, broken_weights, errors_as, open_tensors

logger = logging.getLogger(__name__)

# The class to build, the fields of its configuration, the tensors (lazy ones, in a GPT-2 checkpoint), and misfits.
_Opened = tuple[type[PreTrainedModel], dict[str, Any], dict[str, Any], list[str]]

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
TOKENIZER_FILES += ["special_tokens_map.json", "added_tokens.json"]
BOOK_LENGTH = 120  # the padded length of every message that the book's classifier was trained on
# Buffers of older versions, and the output embeddings, which SpamGPT has none of.
BOOK_IGNORED = r"trf_blocks\.\d+\.att\.mask"
GPT2_IGNORED = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight"
# SpamGPT module -> GPT-2 module, and which third of it. "Conv1D" modules hold their weights transposed.
GPT2_MODULES = {
    "tok_emb": ("wte", None),
    "pos_emb": ("wpe", None),
    "norm1": ("ln_1", None),
    "att.W_query": ("attn.c_attn", 0),
    "att.W_key": ("attn.c_attn", 1),
    "att.W_value": ("attn.c_attn", 2),
    "att.out_proj": ("attn.c_proj", None),
    "norm2": ("ln_2", None),
    "ff.layers.0": ("mlp.c_fc", None),
    "ff.layers.2": ("mlp.c_proj", None),
    "final_norm": ("ln_f", None),
}
# What of a GPT-2 configuration changes the network, and the values of it that SpamGPT implements.
GPT2_IMPLEMENTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


class ImportWeightsError(ValueError):
    """Weights that cannot be imported, in one line; followed, if they do not fit, by one line for each misfit."""


@dataclass(frozen=True)
class _Source:
    """Where a tensor of SpamGPT is found in the checkpoint: by name, transposed or not, whole or one third of it."""

    name: str
    transposed: bool = False
    third: int | None = None

    def shape(self, target: torch.Size) -> tuple[int, ...]:
        shape = tuple(target)[::-1] if self.transposed else tuple(target)
        return shape if self.third is None else (*shape[:-1], 3 * shape[-1])

    def read(self, entry: Any) -> torch.Tensor:
        width = _shape(entry)[-1] // 3
        tensor = entry[:] if self.third is None else entry[..., self.third * width : (self.third + 1) * width]
        # Always a copy: what was read may be a view of the mapped file.
        return (tensor.T if self.transposed else tensor).to(torch.float32, copy=True).contiguous()


def import_weights(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    n_head: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Imports a checkpoint into `output_dir`, for `from_pretrained` to load, with this package or without.

    One with a classification head becomes a `SpamGPTForSequenceClassification`; any other a `SpamGPTModel`, which,
    loaded as a classifier, starts with a fresh head. Weights are written as float32, whatever they were. Dropout is 0
    in the configuration, whatever it was in pretraining: it is a setting of the fine-tuning.

    Args:
        source: a file: a `state_dict` of the book's `GPTModel`, saved with `torch.save`. Its `out_head` has 2 classes
            (a classifier, which reads the last of 120 padded positions as the book's does), or the vocabulary's width
            (left out). Or a folder: a GPT-2 checkpoint in safetensors files, of `GPT2Model`, of `GPT2LMHeadModel`
            (`lm_head` is left out), or of `GPT2ForSequenceClassification` (a classifier, which reads the last token
            and keeps its labels). Its tokenizer files come along. Or else the Hub id of such a checkpoint.
        output_dir: the folder to write: not there yet, or empty. It appears complete or not at all.
        n_head: the number of heads of the book's model, which no tensor shows. `None`: `n_embd / 64`, as in every
            GPT-2. A GPT-2 checkpoint states its own, and another one given here is an error.
        tokenizer: one to save beside the model, in place of any that comes along. A file of the book's has none.
        revision: the branch, tag or commit of a Hub id.

    Returns:
        The model that was written, in evaluation mode.

    Raises:
        ImportWeightsError: `source` cannot be read or does not fit, or `output_dir` is taken; nothing was written.
        OSError: `output_dir` cannot be written.
    """
    if not os.fspath(source):
        raise ImportWeightsError("The name of what is to be imported is empty.")
    output, path = Path(output_dir).resolve(), Path(source)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ImportWeightsError(f"{output_dir} exists already, and is not an empty folder.")
    folder = None if path.is_file() else path if path.is_dir() else _download(str(source), revision)
    model_class, fields, entries, problems = _open_book(path, n_head) if folder is None else _open_gpt2(folder, n_head)
    # Names and shapes, no memory.
    with errors_as(f"{source} has a shape that cannot be built", ImportWeightsError), torch.device("meta"):
        model = model_class(SpamGPTConfig(**fields))
    prefix = "transformer." if "transformer.wte.weight" in entries else ""
    plan = {name: _book_source(name) if folder is None else _gpt2_source(name, prefix) for name in model.state_dict()}
    problems += _misfits(model, plan, entries)
    if tokenizer is not None and len(tokenizer) > model.config.vocab_size:
        problems.append(f"the tokenizer has {len(tokenizer)} entries, the vocabulary {model.config.vocab_size}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ImportWeightsError(f"{source} does not fit SpamGPT, and nothing was written:{lines}")
    model.load_state_dict({name: part.read(entries[part.name]) for name, part in plan.items()}, assign=True)
    if broken := broken_weights(model):
        raise ImportWeightsError(f"{source} has weights that are no numbers, or beyond all measure: {broken}.")
    _write(model.eval(), output, tokenizer or folder)
    logger.info("Imported %s into %s as a %s.", source, output_dir, type(model).__name__)
    return model


def _misfits(model: PreTrainedModel, plan: dict[str, _Source], entries: dict[str, Any]) -> list[str]:
    """All tensors that are missing, left over, or of the wrong shape or type, by names and headers alone."""
    expected = {plan[name].name: plan[name].shape(target.shape) for name, target in model.state_dict().items()}
    problems = [f"missing: {name}, of shape {shape}" for name, shape in expected.items() if name not in entries]
    for name, entry in entries.items():
        if name not in expected:
            problems.append(f"unexpected: {name}, of shape {_shape(entry)}")
        elif _shape(entry) != expected[name]:
            problems.append(f"wrong shape: {name} is {_shape(entry)}, expected {expected[name]}")
        elif _kind(entry) not in FLOATING:
            problems.append(f"wrong type: {name} is {_kind(entry)}, expected one of {', '.join(FLOATING)}")
    return problems


def _write(model: PreTrainedModel, output: Path, tokenizer: PreTrainedTokenizerBase | Path | None) -> None:
    """Writes the folder, with a tokenizer or the files of one in another folder."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{output} cannot be made: {error}.") from error
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch) / "model"  # not `scratch` itself, which only its owner may read
        try:
            save_with_checksum(model, folder)
        except OSError as error:
            raise OSError(f"The model was not written to {output}: {error}.") from error
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer.save_pretrained(folder)
        elif tokenizer is not None:
            for file in (tokenizer / name for name in TOKENIZER_FILES):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        if (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists():
            # A GPT-2 tokenizer that does not name its class was recognised by the model type, which is now another.
            path = folder / "tokenizer_config.json"
            settings = {"tokenizer_class": "GPT2Tokenizer"} | (_read_json(path) if path.exists() else {})
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()  # fails if something was put there meanwhile
        os.replace(folder, output)


def _open_book(path: Path, n_head: int | None) -> _Opened:
    """A file of the book's: its tensors, and the configuration that their shapes show."""
    try:
        # Only a zip archive, torch's format since 1.6, can be mapped rather than read as a whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever is not such a file makes the unpickler raise nearly anything
        raise ImportWeightsError(f"{path} is not a torch.save file that loads without running code.") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ImportWeightsError(f"{path} holds no state_dict: its content is not a dict of tensors.")
    entries = {str(name): value for name, value in content.items() if not re.fullmatch(BOOK_IGNORED, str(name))}

    def size(name: str, axis: int) -> int | None:
        shape = _shape(entries[name]) if name in entries else ()
        return shape[axis] or None if len(shape) == 2 else None

    # Where a tensor is missing, which is reported later, its size is GPT-2's.
    vocab_size, n_positions = size("tok_emb.weight", 0) or 50257, size("pos_emb.weight", 0) or 1024
    n_embd = size("tok_emb.weight", 1) or size("pos_emb.weight", 1) or 768
    is_classifier = (size("out_head.weight", 0), size("out_head.weight", 1)) != (vocab_size, n_embd)
    if not is_classifier:
        logger.info("%s has a language-model head, which is left out.", path)
        del entries["out_head.weight"]
    problems = []
    if n_head is None and n_embd % 64:
        problems.append(f"--n-head is needed: n_embd, {n_embd}, is not a multiple of 64")
    elif n_head is not None and (n_head < 1 or n_embd % n_head):
        problems.append(f"--n-head {n_head} does not divide n_embd, {n_embd}")
    end_of_text = min(50256, vocab_size - 1)  # the last of GPT-2's vocabulary
    fields = {
        "vocab_size": vocab_size,
        "n_positions": n_positions,
        "n_embd": n_embd,
        # How many numbers there are, not the highest: if one is left out, that one is missing, the last unexpected.
        "n_layer": len({match[1] for name in entries if (match := re.match(r"trf_blocks\.(\d+)\.", name))}) or 1,
        "n_head": 1 if problems else n_head or n_embd // 64,  # shows in no shape: any will do to go on checking
        "n_inner": size("trf_blocks.0.ff.layers.0.weight", 0),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in entries,
        "padded_length": min(BOOK_LENGTH, n_positions) if is_classifier else None,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text),
    }
    return SpamGPTForSequenceClassification if is_classifier else SpamGPTModel, fields, entries, problems


def _open_gpt2(folder: Path, n_head: int | None) -> _Opened:
    """A GPT-2 checkpoint: its configuration, and its tensors, of which nothing but the headers is read yet."""
    raw = _read_json(folder / "config.json")
    if raw.get("model_type") != "gpt2":
        raise ImportWeightsError(f"{folder} holds a model of type {raw.get('model_type')!r}, not 'gpt2'.")
    with errors_as(f"{folder / 'config.json'} is not valid", ImportWeightsError):
        config = GPT2Config.from_dict(raw)
    problems = [
        f"config.json: {name} is {getattr(config, name)!r}, SpamGPT has {' or '.join(map(repr, values))}"
        for name, values in GPT2_IMPLEMENTED.items()
        if getattr(config, name) not in values
    ]
    if n_head not in (None, config.n_head):
        problems.append(f"--n-head {n_head} contradicts config.json, where n_head is {config.n_head}")
    entries = _lazy_tensors(folder)

    def token(*candidates: Any) -> int | None:
        return next((i for i in candidates if isinstance(i, int) and 0 <= i < config.vocab_size), None)

    same = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
    fields = {name: getattr(config, name) for name in (*same, "layer_norm_epsilon", "initializer_range")}
    fields["bos_token_id"], fields["eos_token_id"] = token(config.bos_token_id), token(config.eos_token_id)
    fields["pad_token_id"] = token(config.pad_token_id, config.eos_token_id, config.vocab_size - 1)
    if "score.weight" not in entries:
        return SpamGPTModel, fields, entries, problems
    # GPT-2's head has no bias, and reads the last token that is no pad.
    entries["score.bias"] = torch.zeros(config.num_labels)
    fields |= {"pooling": "last_token", "id2label": config.id2label, "label2id": config.label2id}
    return SpamGPTForSequenceClassification, fields, entries, problems


def _lazy_tensors(folder: Path) -> dict[str, Any]:
    with errors_as(f"the safetensors files of {folder} cannot be read", ImportWeightsError):
        entries = open_tensors(folder)
    return {name: entry for name, entry in entries.items() if not re.fullmatch(GPT2_IGNORED, name)}


def _download(repo_id: str, revision: str | None) -> Path:
    files = ["config.json", *WEIGHT_FILES, *TOKENIZER_FILES]
    with errors_as(f"{repo_id} is no file or folder, and cannot be fetched from the Hub", ImportWeightsError):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))


def _book_source(target: str) -> _Source:
    name = target.removeprefix("gpt.")
    if "norm" in name:
        name = name.replace(".weight", ".scale").replace(".bias", ".shift")
    return _Source(name)


def _gpt2_source(target: str, prefix: str) -> _Source:
    layer, module, kind = re.fullmatch(r"(?:gpt\.)?(?:trf_blocks\.(\d+)\.)?(.+)\.(\w+)", target).groups()
    if module == "out_head":
        return _Source(f"score.{kind}")
    name, third = GPT2_MODULES[module]
    name = f"{prefix}{name}.{kind}" if layer is None else f"{prefix}h.{layer}.{name}.{kind}"
    return _Source(name, transposed=kind == "weight" and module.startswith(("att.", "ff.")), third=third)


def _shape(entry: Any) -> tuple[int, ...]:
    return tuple(entry.shape if isinstance(entry, torch.Tensor) else entry.get_shape())


def _kind(entry: Any) -> str:
    """The type of a tensor's numbers, as safetensors names it, and what else cannot be copied."""
    if not isinstance(entry, torch.Tensor):
        return entry.get_dtype()
    if entry.layout is not torch.strided or entry.is_meta:
        return "sparse" if entry.layout is not torch.strided else "without values"
    named = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
    return named.get(entry.dtype, str(entry.dtype).removeprefix("torch."))


def _read_json(path: Path) -> dict[str, Any]:
    with errors_as(f"{path} cannot be read", ImportWeightsError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
