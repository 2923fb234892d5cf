"""Disguise messages as senders of spam do: people read them as before, but programs see other characters.

Each function takes a text, the share of characters or words to change, and a function that returns random numbers in
[0, 1); it returns the new text.
"""

import re
from collections.abc import Callable

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


def full_width(text: str, rate: float, draw: Draw) -> str:
    """Replace ASCII characters by their full-width forms."""
    return "".join(c.translate(FULL_WIDTH) if draw() < rate else c for c in text)


def leet(text: str, rate: float, draw: Draw) -> str:
    """Replace the letters a, e, i, o, s and t by digits."""
    return "".join(c.translate(LEET) if draw() < rate else c for c in text)


def swapped_case(text: str, rate: float, draw: Draw) -> str:
    """Change upper to lower case and lower to upper case."""
    return "".join(c.swapcase() if draw() < rate else c for c in text)


def capitals(text: str, rate: float, draw: Draw) -> str:
    """Write words in capitals."""
    return " ".join(word.upper() if draw() < rate else word for word in text.split(" "))
