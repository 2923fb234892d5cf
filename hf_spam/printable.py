"""Texts of strangers, as they may be shown."""

import unicodedata


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters, which could drive a terminal, and for halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
