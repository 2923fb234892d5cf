"""Names of sources of messages. Imports no library, so that cards and exports can be made quickly."""

import os
from collections.abc import Sequence
from typing import Any

Source = str | os.PathLike | Any
"""A source of messages, see `load_sms_spam`: a name, a path, or a `Dataset`, `DatasetDict` or `DataFrame`."""
IN_MEMORY = "a "
"""Prefix of the names of data in memory."""
Sources = Source | Sequence[Source]


def sources_of(source: Sources) -> list[Source]:
    """Return the single sources: "uci,sample" and ["uci", "sample"] are both two."""
    if isinstance(source, str):
        return [source] if os.path.lexists(source) else [one.strip() for one in source.split(",")]
    return list(source) if isinstance(source, list | tuple) else [source]


def source_name(source: Sources) -> str:
    """Return the name of a source, or of several; data in memory is called by its type, such as "a DataFrame"."""
    return ",".join(
        os.fspath(one) if isinstance(one, str | os.PathLike) else f"{IN_MEMORY}{type(one).__name__}"
        for one in sources_of(source)
    )
