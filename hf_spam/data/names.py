"""Names of sources of messages. Imports no library, so that cards and exports can be made quickly."""

import os
from collections.abc import Sequence

Sources = str | os.PathLike | Sequence[str | os.PathLike]
"""One or more sources of messages, see `load_sms_spam`."""


def sources_of(source: Sources) -> list[str | os.PathLike]:
    """Return the single sources: "uci,sample" and ["uci", "sample"] are both two."""
    if isinstance(source, str):
        return [source] if os.path.lexists(source) else [one.strip() for one in source.split(",")]
    return [source] if isinstance(source, os.PathLike) else list(source)


def source_name(source: Sources) -> str:
    """Return the name of a source, or of several."""
    return ",".join(map(os.fspath, sources_of(source)))
