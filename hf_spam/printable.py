"""Texts of strangers, as they may be shown."""

import re
import unicodedata


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters, which could drive a terminal, and for halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def in_markdown(name: str) -> str:
    """The name of a label as code in Markdown; what would end the code, a cell or a comment becomes "_"."""
    return f"`{re.sub('[`|<>]', '_', printable(name))}`"
