"""Texts of strangers and messages of errors, as they may be shown."""

import re
import unicodedata
from typing import Any


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters, which could drive a terminal, and for halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def in_markdown(name: str) -> str:
    """The name of a label as code in Markdown, in a cell of a table too."""
    name = printable(name)
    if not re.search("[`|<>]", name):
        return f"`{name}`"
    # These would end the code, a cell or a comment, and in backticks nothing can be escaped. In HTML's own tag all can.
    return f"<code>{re.sub('[!-/:-@[-`{-~]', lambda mark: f'&#{ord(mark[0])};', name)}</code>"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks, cut to what a person reads: it may quote what a file holds."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= 500 else f"{message[:500]}…"


def short(value: Any) -> str:
    """A value as an error message shows it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
