"""A model is packed for the demo page so that it answers like the original, or is refused with the reason."""

import base64
import gzip

import numpy as np
import pytest
import torch
from tokenizers import normalizers, pre_tokenizers

from hf_spam import SpamClassifier
from hf_spam.data.sources import read_texts
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
    assert difference.max() < 1e-3 and others.sum() <= 2 and (margins < 1e-3).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rounded_weights_are_as_near_as_their_bits_allow(bits):
    values = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    values *= np.float32([[1], [1e-6], [30], [0], [2]])
    layout = {"tensors": [{"name": "w", "shape": [5, 64], "type": "rows"}]}
    found = unpack(layout, base64.b64encode(gzip.compress(quantize_rows(values, bits))).decode())["w"].numpy()
    step = 2 * np.abs(values).max(1, keepdims=True) / (2**bits - 2)
    assert (np.abs(found - values) <= 0.51 * step).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": normalizers.Lowercase()}, "normalizes texts in another way"),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, "does not split texts into words"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "does not split texts into words"),
    ],
)
def test_tokenizers_that_the_page_cannot_run_are_refused(changes, reason):
    tokenizer = train_tokenizer(["win a prize now"] * 9, 300)
    for name, value in changes.items():
        setattr(tokenizer.backend_tokenizer, name, value)
    with pytest.raises(ValueError, match=reason):
        read_tokenizer(tokenizer)
