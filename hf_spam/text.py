"""Make texts safe for tokenizers and tables, and texts and error messages safe to show."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any


def replace_lone_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, with U+FFFD, and join surrogate pairs.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A message must be a string, got {type(text).__name__}: {text!r}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: str) -> str:
    """Replace lone surrogates and control characters, which could drive a terminal, with U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def in_markdown(name: str) -> str:
    """Format the name of a label as code in Markdown; the result can also stand in a table cell."""
    name = printable(name)
    if not re.search("[`|<>]", name):
        return f"`{name}`"
    # Nothing can be escaped between backticks, and these characters would end the code or the cell: use HTML.
    return f"<code>{re.sub('[!-/:-@[-`{-~]', lambda mark: f'&#{ord(mark[0])};', name)}</code>"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 500 characters; it may quote the content of a file."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= 500 else f"{message[:500]}…"


def short(value: Any) -> str:
    """Return the `repr` of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def short_list(names: Iterable[str]) -> str:
    """List names in one phrase: all if there are at most four, else the first three and how many more."""
    names = sorted(names)
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"])
