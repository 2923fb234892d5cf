"""Pack a model for the page of a demo: settings, tokenizer and weights in the form that `spam_gpt.js` reads."""

import base64
import json
import zlib
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..data.tokenization import normalizer
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, spam_index
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification

EXTRA_BYTES = 920_000  # in base64, beyond 8 bits a weight; the rest of a page takes less than 80 kB
# Bits beyond those of the other weights. A message uses few tokens, mostly frequent ones, which have low ids: so many
# get 2 bits more, 1 more and none, as shares of the vocabulary; the others get 1 less. Measured on the bundled model.
TOKEN_SHARES = (0.04, 0.14, 0.49)
MORE_BITS = {"pos_emb": 3, "W_value": 1, "W_query": 1, "W_key": 1, "out_proj": 1}
MAX_PARAMETERS = 200_000_000  # a browser refuses strings of half a gigabyte


def pack(model: SpamGPTForSequenceClassification, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str]:
    """Pack a model for `unpack` in `spam_gpt.js`: its layout, and its tensors compressed and in base64.

    Raises a `ValueError` if the JavaScript cannot run it; the message is a reason that continues a sentence.
    """
    config = _page_config(model.config)
    if model.num_parameters() > MAX_PARAMETERS:
        raise ValueError(f"it has {model.num_parameters():,} parameters, more than {MAX_PARAMETERS:,}")
    settings, merges = read_tokenizer(tokenizer)
    tensors = {"merges": merges, **{name: tensor.numpy() for name, tensor in model.state_dict().items()}}
    about = [{"name": name, "shape": list(v.shape), "type": _type(name, v)} for name, v in tensors.items()]
    layout = {"config": config, "tokenizer": settings, "tensors": about}
    return layout, _compress(tensors, model.num_parameters())


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


def _type(name: str, values: np.ndarray) -> str:
    """Return how `unpack` reads a tensor: as the "rows" of `quantize_rows`, or as it is, in float32 or int32."""
    is_rounded = values.ndim == 2 and values.dtype == np.float32 and not name.startswith("out_head.")
    return "rows" if is_rounded else values.dtype.name


def _compress(tensors: dict[str, np.ndarray], parameters: int) -> str:
    """Return tensors in base64, with as many bits for each weight as fit: 8 bits and `EXTRA_BYTES` for all together."""
    most = min(16, 9 + 6 * EXTRA_BYTES // parameters)  # more cannot fit: compression saves less than a bit
    for bits in range(most, 7, -1):
        parts = [
            quantize_rows(values, _bits(name, values, bits)) if _type(name, values) == "rows" else values.tobytes()
            for name, values in tensors.items()
        ]
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

    For each merge, there are the ids of its left and right token and of both together, (n, 3). Raises a `ValueError` as
    `pack` does.
    """
    if not tokenizer.is_fast:
        raise ValueError("its tokenizer cannot be saved as tokenizer.json")
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    model, words = spec["model"], spec["pre_tokenizer"] or {}
    odd = ("dropout", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    vocab, symbols = model["vocab"], bytes_to_unicode()
    is_plain = model["type"] == "BPE" and not any(model.get(name) for name in odd)
    if not is_plain or any(symbol not in vocab for symbol in symbols.values()):
        raise ValueError("its tokenizer is not a plain BPE tokenizer like GPT-2's")
    if words.get("type") != "ByteLevel" or words["add_prefix_space"] or not words["use_regex"]:
        raise ValueError("its tokenizer does not split texts into words as GPT-2's does")
    # JavaScript may read the regular expressions of others differently.
    ours = [normalizer(lowercase=lowercase).__getstate__() for lowercase in (False, True)]
    if backend.normalizer is not None and backend.normalizer.__getstate__() not in ours:
        raise ValueError("its tokenizer normalizes texts in another way than those of hf_spam")
    normalizers = spec["normalizer"]["normalizers"] if spec["normalizer"] else []
    for token in spec["added_tokens"]:
        if token["single_word"] or token["lstrip"] or token["rstrip"] or (token["normalized"] and normalizers):
            raise ValueError(f"its tokenizer has the added token {token['content']!r}, which depends on its neighbours")
    plain, marked = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    start = marked.index(plain[0])
    settings = {
        "specials": [(token["content"], token["id"]) for token in spec["added_tokens"]],
        "normalizers": [
            {"pattern": next(iter(step["pattern"].values())), "content": step["content"]}
            if step["type"] == "Replace"
            else {"type": step["type"]}
            for step in normalizers
        ],
        "byte_ids": [vocab[symbols[byte]] for byte in range(256)],
        "prefix": marked[:start],
        "suffix": marked[start + len(plain) :],
    }
    merges = [(vocab[left], vocab[right], vocab[left + right]) for left, right in model["merges"]]
    return settings, np.array(merges, dtype=np.int32).reshape(-1, 3)


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
