"""Pack a model for the page of a demo: settings, tokenizer and weights in the form that `spam_gpt.js` reads."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, spam_index
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification

EXTRA_BYTES = 920_000  # in base64, beyond 8 bits a weight; the rest of a page takes less than 80 kB
# Bits beyond those of the other weights. A message uses few tokens, mostly frequent ones, which have low ids: so many
# get 2 bits more, 1 more and none, as shares of the vocabulary; the others get 1 less. Measured on the bundled model.
TOKEN_SHARES = (0.04, 0.14, 0.49)
MORE_BITS = {"pos_emb": 3, "W_value": 1, "W_query": 1, "W_key": 1, "out_proj": 1}
MAX_PARAMETERS = 200_000_000  # a browser refuses strings of half a gigabyte
UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# Syntax with the same meaning in Oniguruma, which the tokenizers library uses, and in JavaScript.
COMMON_REGEX = re.compile(
    r"(?: \((?!\?) | \(\?(?:[:=!]|<[=!]) | [)|] | \\[^\w\s] | \[\^?(?:[^\[\]\\&^-](?:-[^\[\]\\&^-])?)+\]"
    r"| [^\\\[\]{}()|*+?.^$] | (?<![*+?}])[*+?] | (?<![*+?}])\{\d+(?:,\d*)?\} )+",
    re.VERBOSE,
)


def pack(model: SpamGPTForSequenceClassification, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str]:
    """Pack a model for `unpack` in `spam_gpt.js`: its layout, and its tensors compressed and in base64.

    Raises:
        ValueError: The JavaScript cannot run it; the message is a reason that continues a sentence.
    """
    config = _page_config(model.config)
    if model.num_parameters() > MAX_PARAMETERS:
        raise ValueError(f"it has {model.num_parameters():,} parameters, more than {MAX_PARAMETERS:,}")
    settings, merges = read_tokenizer(tokenizer)
    if len(settings["prefix"]) + len(settings["suffix"]) >= config["max_tokens"]:
        raise ValueError(f"it reads {config['max_tokens']} tokens, too few for those that its tokenizer adds")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = [{"name": "merges", "shape": list(merges.shape), "type": "int32"}]
    tensors += [
        {"name": name, "shape": list(values.shape), "type": "rows" if _is_quantized(name, values) else "float32"}
        for name, values in state.items()
    ]
    layout = {"config": config, "tokenizer": settings, "tensors": tensors}
    return layout, _compress(merges, state)


def quantize_rows(values: np.ndarray, bits: np.ndarray | int) -> bytes:
    """Return a matrix as a scale for each row, in float32, and integers of 16 bits: all upper bytes, then all lower.

    Only the upper `bits` bits of a row are used. The others are 0 and vanish in compression: 8 bits are int8.
    """
    step = 2.0 ** (16 - np.broadcast_to(bits, len(values))[:, None])
    top = 2**15 - step  # a symmetric range
    scales = (np.abs(values).max(1, keepdims=True) / top).astype("<f4")
    scales[scales == 0] = 1
    integers = (values / scales.astype(np.float64) / step).round() * step
    integers = integers.clip(-top, top).astype(np.int32)  # a scale may have been rounded down
    return scales.tobytes() + (integers >> 8).astype(np.int8).tobytes() + (integers & 255).astype(np.uint8).tobytes()


def _is_quantized(name: str, values: np.ndarray) -> bool:
    return values.ndim == 2 and not name.startswith("out_head.")


def _compress(merges: np.ndarray, state: dict[str, np.ndarray]) -> str:
    """Return tensors in base64, with as many bits for each weight as fit: 8 bits and `EXTRA_BYTES` for all together."""
    parameters = sum(values.size for values in state.values())
    for bits in range(16, 7, -1):
        if bits > 8 and parameters * (bits - 9) / 6 > EXTRA_BYTES:
            continue  # cannot fit: compression saves less than a bit
        parts = [merges.astype("<i4").tobytes()]
        for name, values in state.items():
            is_quantized = _is_quantized(name, values)
            parts.append(quantize_rows(values, _bits(name, values, bits)) if is_quantized else values.tobytes())
        # Nothing repeats in weights: a code for the bytes alone is smaller and faster.
        gzip = zlib.compressobj(wbits=31, strategy=zlib.Z_HUFFMAN_ONLY)
        packed = base64.b64encode(gzip.compress(b"".join(parts)) + gzip.flush()).decode()
        if len(packed) <= parameters * 4 / 3 + EXTRA_BYTES:
            break
    return packed


def _bits(name: str, values: np.ndarray, bits: int) -> np.ndarray | int:
    """Return how many bits to keep of each row of a matrix, or of all rows, where `bits` are kept of most weights."""
    if "tok_emb" in name:
        extra = 2 - np.digitize(np.arange(len(values)) / len(values), TOKEN_SHARES)
    else:
        extra = next((more for part, more in MORE_BITS.items() if part in name), 0)
    return np.minimum(bits + extra, 16)


def read_tokenizer(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], np.ndarray]:
    """Return the settings of a byte-level BPE tokenizer for `Tokenizer` in `spam_gpt.js`, and its merges.

    Returns:
        The settings, and for each merge the ids of its left and right token and of both together (n, 3).

    Raises:
        ValueError: The tokenizer is of another kind; the message is a reason that continues a sentence.
    """
    if not tokenizer.is_fast:
        raise ValueError("its tokenizer cannot be saved as tokenizer.json")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, words, normalizer = spec["model"], spec["pre_tokenizer"] or {}, spec["normalizer"]
    odd = ("dropout", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    if model["type"] != "BPE" or any(model.get(name) for name in odd):
        raise ValueError("its tokenizer is not a plain BPE tokenizer like GPT-2's")
    if words.get("type") != "ByteLevel" or words["add_prefix_space"] or not words["use_regex"]:
        raise ValueError("its tokenizer does not split texts into words as GPT-2's does")
    vocab, symbols = model["vocab"], bytes_to_unicode()
    if missing := [symbol for symbol in symbols.values() if symbol not in vocab]:
        raise ValueError(f"{len(missing)} of the 256 bytes are not in the vocabulary of its tokenizer")
    specials = {}
    for token in spec["added_tokens"]:
        if token["single_word"] or token["lstrip"] or token["rstrip"] or (token["normalized"] and normalizer):
            raise ValueError(f"its tokenizer has the added token {token['content']!r}, which depends on its neighbours")
        specials[token["content"]] = token["id"]
    merges, made = [], set(symbols.values())
    for left, right in model["merges"]:
        if not {left, right} <= made or left + right in made:
            raise ValueError("the merges of its tokenizer are not in the order in which tokens arise")
        made.add(left + right)
        merges.append((vocab[left], vocab[right], vocab[left + right]))
    prefix, suffix = _added_ids(spec["post_processor"])
    settings = {
        "specials": list(specials.items()),
        "normalizers": list(_normalizers(normalizer)),
        "byte_ids": [vocab[symbols[byte]] for byte in range(256)],
        "prefix": prefix,
        "suffix": suffix,
    }
    return settings, np.array(merges, dtype=np.int32).reshape(-1, 3)


def _normalizers(spec: dict[str, Any] | None) -> Iterator[dict[str, str]]:
    """Yield the steps of a normalizer: a Unicode form, or a text or regular expression to replace."""
    if spec is None:
        return
    if spec["type"] == "Sequence":
        for step in spec["normalizers"]:
            yield from _normalizers(step)
    elif spec["type"] in UNICODE_FORMS:
        yield {"form": spec["type"]}
    elif spec["type"] == "Replace":
        ((kind, pattern),) = spec["pattern"].items()
        if kind == "Regex" and not COMMON_REGEX.fullmatch(pattern):
            raise ValueError(f"its tokenizer replaces {pattern[:60]!r}, which JavaScript may read differently")
        yield {kind.lower(): pattern, "content": spec["content"]}
    else:
        raise ValueError(f"its tokenizer has a normalizer of type {spec['type']}")


def _added_ids(spec: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    """Return the ids that a post-processor puts before and after every text."""
    kind = spec and spec["type"]
    if kind in (None, "ByteLevel"):  # the latter only changes offsets
        return [], []
    if kind == "Sequence" and len(spec["processors"]) <= 2:
        found = [ids for ids in map(_added_ids, spec["processors"]) if ids != ([], [])]
        if len(found) <= 1:
            return found[0] if found else ([], [])
    if kind == "TemplateProcessing":
        added: tuple[list[int], list[int]] = ([], [])
        texts = 0
        for part in spec["single"]:
            if "Sequence" in part:
                texts += 1
            else:
                added[min(texts, 1)].extend(spec["special_tokens"][part["SpecialToken"]["id"]]["ids"])
        if texts == 1:
            return added
    raise ValueError(f"its tokenizer has a post-processor of type {kind} that the page does not know")


def _page_config(config: SpamGPTConfig) -> dict[str, Any]:
    """Return what `SpamGPT` in `spam_gpt.js` needs to know of a configuration."""
    if not config.causal:
        raise ValueError("its positions see later ones (causal is false)")
    if config.pooling not in ("last", "last_token"):
        raise ValueError(f"it does not read the last position of a message (pooling is {config.pooling!r})")
    labels = class_names(config)
    try:
        positive = spam_index(labels)
    except ValueError:
        positive = None
    return {
        "n_head": config.n_head,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "max_tokens": config.max_tokens,
        # A causal model that reads the last real token never sees the pads after it.
        "padded_length": config.padded_length if config.pooling == "last" else None,
        "pad_token_id": config.pad_token_id,
        "labels": labels,
        "positive": positive,
        "temperature": config.temperature,
        "threshold": config.threshold,
    }
