"""Disguise messages as senders of spam do: people read them as before, but programs see other characters.

Each function takes a text, the share of characters or words to change, and a function that returns random numbers in
[0, 1); it returns the new text.
"""

import re
from collections.abc import Callable
from functools import partial

from .tokenization import LOOK_ALIKES

Draw = Callable[[], float]
Obfuscation = Callable[[str, float, Draw], str]

LEET = str.maketrans("aeiost", "431057")
FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}
ZERO_WIDTH = "\u200b\u200c\u200d\u2060"


def homoglyphs(text: str, rate: float, draw: Draw) -> str:
    """Replace Latin letters by Greek or Cyrillic ones that look alike (`LOOK_ALIKES`), but not the first of a word."""

    def replace(match: re.Match[str]) -> str:
        alike = LOOK_ALIKES.get(match[0])
        return alike[int(draw() * len(alike))] if alike and draw() < rate else match[0]

    return re.sub("(?<=[A-Za-z])[A-Za-z]", replace, text)


def spacing(text: str, rate: float, draw: Draw) -> str:
    """Put spaces between the letters of words of four or more letters."""

    def spread(word: str) -> str:
        return " ".join(word) if len(word) > 3 and word.isalpha() and draw() < rate else word

    return " ".join(map(spread, text.split(" ")))


def zero_width(text: str, rate: float, draw: Draw) -> str:
    """Add an invisible character after characters."""
    return "".join(c + ZERO_WIDTH[int(draw() * len(ZERO_WIDTH))] if draw() < rate else c for c in text)


def by_character(change: Callable[[str], str], text: str, rate: float, draw: Draw) -> str:
    """Change characters on their own."""
    return "".join(change(c) if draw() < rate else c for c in text)


full_width = partial(by_character, lambda c: c.translate(FULL_WIDTH))
leet = partial(by_character, lambda c: c.translate(LEET))  # a, e, i, o, s and t as digits
swapped_case = partial(by_character, str.swapcase)


def capitals(text: str, rate: float, draw: Draw) -> str:
    """Write words in capitals."""
    return " ".join(word.upper() if draw() < rate else word for word in text.split(" "))
