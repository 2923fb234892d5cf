"""Duplicates and near-duplicates among messages."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np


def find_duplicates(texts: Sequence[str], others: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which texts duplicate one of `others`, (N,) bool: exactly, and also nearly (see `duplicate_key`)."""
    exact, near = set(others), set(map(duplicate_key, others))
    return (
        np.array([text in exact for text in texts], dtype=bool),
        np.array([duplicate_key(text) in near for text in texts], dtype=bool),
    )


def duplicate_groups(texts: Sequence[str]) -> np.ndarray:
    """Return the group number of each text (N,), from 0 by first appearance; near-duplicates share a group."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(duplicate_key(text), len(numbers)) for text in texts], dtype=int)


def duplicate_key(text: str) -> str:
    """Return a key that is the same for near-duplicates.

    Letters are lowercased, every run of digits becomes "0", and every run of punctuation or white space one space:
    "WIN £100 now!!" and "win £5000 now" have the same key. A message without letters ("16", "?") is its own key,
    because nothing distinctive would be left of it.
    """
    if not any(map(str.isalpha, text)):
        return text
    between_words = r"[\W_]+" if text.isascii() else _between_words()
    return re.sub(between_words, " ", re.sub(r"\d+", "0", text.lower())).strip()


@cache
def _between_words() -> re.Pattern[str]:
    """Match runs of characters other than letters, digits and combining marks (vowels in Hindi and Thai)."""
    marks = (chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)).startswith("M"))
    selectors = "\ufe00-\ufe0f"  # marks too, but they only change how an emoji is drawn
    return re.compile(rf"(?:[^\w{''.join(marks)}]|[_{selectors}])+")
