"""A model is packed for the demo page so that it answers like the original. The page itself: test_space.py."""

import base64
import gzip

import numpy as np
import pytest
import torch
from small_data import MESSAGES

from hf_spam import SpamClassifier
from hf_spam.data.sources import read_texts
from hf_spam.hub.packing import pack


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


@pytest.mark.parametrize("source", [MESSAGES, pytest.param("sample", marks=pytest.mark.slow)])
def test_the_packed_model_answers_like_the_original(source):
    """On the sample, with `-s`, prints the numbers in docs/runtimes.md."""
    texts, classifier = read_texts(source), SpamClassifier.from_pretrained()
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
