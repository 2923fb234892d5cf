"""Messages that are others word for word, or nearly: which they are, and how to tell."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd


def standing_in(texts: Sequence[str], others: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which texts, (N,) bool, stand among others: word for word; and at least nearly, see `duplicate_key`."""
    exact, near = set(others), set(map(duplicate_key, others))
    return (
        np.array([text in exact for text in texts], dtype=bool),
        np.array([duplicate_key(text) in near for text in texts], dtype=bool),
    )


def duplicate_groups(texts: Sequence[str]) -> np.ndarray:
    """The number of each text's group, (N,), from 0: those of one `duplicate_key` are in one."""
    groups, _ = pd.factorize(np.array([duplicate_key(text) for text in texts], dtype=object))
    return groups


def duplicate_key(text: str) -> str:
    """Reduce a message to what its near-duplicates share.

    Lower-cased, every run of digits becomes one "0" and every run of punctuation or white space one blank, so that
    "WIN £100 now!!" and "win £5000 now" agree. Without letters nothing would be left to compare ("16" and "?", say):
    such a message is its own key.
    """
    if not any(map(str.isalpha, text)):
        return text
    between_words = r"[\W_]+" if text.isascii() else _between_words()
    return re.sub(between_words, " ", re.sub(r"\d+", "0", text.lower())).strip()


@cache
def _between_words() -> re.Pattern[str]:
    """What is no letter or digit, nor a mark on one: the vowels of Hindi and Thai are marks, and tell words apart."""
    marks = (chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)).startswith("M"))
    selectors = "\ufe00-\ufe0f"  # which ask for another look of an emoji, no more
    return re.compile(rf"(?:[^\w{''.join(marks)}]|[_{selectors}])+")
