"""A model is packed for the demo page so that it answers like the original, or is refused with the reason."""

import base64
import gzip

import numpy as np
import pytest
import torch
from small_data import MESSAGES
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from hf_spam import SpamClassifier
from hf_spam.data.sources import read_messages, read_texts
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.hub.packing import pack, quantize_rows, read_tokenizer


def unpack(layout: dict, packed: str) -> dict[str, torch.Tensor]:
    """Return the weights in a page, as `unpack` in `spam_gpt.js` does."""
    data, tensors, start = gzip.decompress(base64.b64decode(packed)), {}, 0

    def read(kind: str, count: int) -> np.ndarray:
        nonlocal start
        found = np.frombuffer(data, kind, count, start)
        start += found.nbytes
        return found

    for name, shape, kind in (tensor.values() for tensor in layout["tensors"]):
        size = int(np.prod(shape))
        if kind == "rows":
            scales, upper, lower = read("<f4", shape[0]), read("i1", size), read("u1", size)
            values = (upper * np.float32(256) + lower).reshape(shape) * scales[:, None]
        else:
            values = read("<f4" if kind == "float32" else "<i4", size).reshape(shape)
        tensors[name] = torch.from_numpy(values.copy())
    assert start == len(data)
    return tensors


@pytest.mark.slow
def test_the_packed_model_answers_like_the_original():
    """On all messages of the sample; with `-s`, prints the numbers in docs/runtimes.md."""
    texts, classifier = read_texts("sample"), SpamClassifier.from_pretrained()
    expected, labels = classifier.predict_proba(texts), classifier.predict(texts)
    tensors = unpack(*pack(classifier.model, classifier.tokenizer))
    del tensors["merges"]
    classifier.model.load_state_dict(tensors)
    difference = np.abs(classifier.predict_proba(texts) - expected)
    others = np.array(classifier.predict(texts)) != labels
    margins = np.abs(expected[:, 1] - classifier.model.config.threshold)[others]  # how close the decisions were
    print(
        f"\nlargest difference {difference.max():.5f}, mean {difference.mean():.6f}, {others.sum()} labels differ",
        margins,
    )
    assert difference.max() < 1e-3 and others.sum() <= 1 and (margins < 1e-3).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rounded_weights_are_as_near_as_their_bits_allow(bits):
    values = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32) * np.float32(
        [[1], [1e-6], [30], [0], [2]]
    )
    data = quantize_rows(values, bits)
    scales, upper, lower = (
        np.frombuffer(data, "<f4", 5),
        np.frombuffer(data, "i1", 320, 20),
        np.frombuffer(data[340:], "u1"),
    )
    found = (upper.astype(int) * 256 + lower).reshape(5, 64) * scales[:, None].astype(float)
    step = 2 * np.abs(values).max(1, keepdims=True) / (2**bits - 2)
    assert (np.abs(found - values) <= 0.51 * step).all()
    assert not (lower & (2 ** (16 - bits) - 1)).any()


def lowercase(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def split_on_spaces(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def prefix_space(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lowercase, "normalizes texts in another way"),
        (split_on_spaces, "does not split texts into words"),
        (prefix_space, "does not split texts into words"),
    ],
)
def test_tokenizers_that_the_page_cannot_run_are_refused(change, reason):
    tokenizer = train_tokenizer(read_messages(MESSAGES)["text"][:100], 300)
    change(tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match=reason):
        read_tokenizer(tokenizer)
