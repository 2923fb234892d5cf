"""Distillation (Hinton, Vinyals and Dean 2015): learn from the baseline, which scores spliced messages.

These are pieces of training messages joined at random. With many more texts than there are messages, a small network
learns the many weak cues that the baseline uses.
"""

import logging
import random
import re
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from scipy.special import expit

from ..data.labels import label_names
from ..evaluation.baseline import MAX_MESSAGES, fit_baseline

logger = logging.getLogger(__name__)

SHARPNESS = 3.0  # a message at the margin of the SVM gets a probability of 0.95
MAX_CHARACTERS = 400
WINDOW = 5000  # texts at a time: their character n-grams take much memory


def spliced_messages(train: Dataset, count: int, seed: int) -> tuple[list[str], list[float]]:
    """Return spliced messages and their probability of class 1 by the baseline, fitted to the training messages.

    The baseline is fitted to at most `MAX_MESSAGES` of them, drawn at random.
    """
    sample = train if len(train) <= MAX_MESSAGES else train.shuffle(seed=seed).select(range(MAX_MESSAGES))
    baseline = fit_baseline(sample) if len(label_names(train)) == 2 else None
    if baseline is None:
        raise ValueError("spliced_messages needs training messages of two classes that the baseline can be fitted to.")
    logger.info("Splicing %d messages, to learn from the baseline ...", count)
    texts, rng = train["text"][:], random.Random(seed)
    spliced = [_splice(texts, rng) for _ in range(count)]
    margins = [baseline.decision_function(spliced[start : start + WINDOW]) for start in range(0, count, WINDOW)]
    return spliced, expit(SHARPNESS * np.concatenate(margins)).tolist()


def _splice(texts: Sequence[str], rng: random.Random) -> str:
    """Join pieces of one to three messages, now and then with their words in any order."""
    pieces = " ".join(_piece(rng.choice(texts), rng) for _ in range(rng.choice((1, 2, 2, 2, 3, 3))))
    if rng.random() < 0.2:
        words = pieces.split(" ")
        rng.shuffle(words)
        pieces = " ".join(words)
    return pieces[:MAX_CHARACTERS]


def _piece(text: str, rng: random.Random) -> str:
    """Return some consecutive words of a text."""
    words = re.findall(r"\s*\S+", text)
    if len(words) < 4:
        return text.strip()
    count = rng.randrange(2, len(words))
    start = rng.randrange(len(words) - count + 1)
    return "".join(words[start : start + count]).strip()
