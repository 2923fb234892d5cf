"""Results of finished experiments, which a repeated command does not run again. Imports no heavy library."""

import json
from pathlib import Path
from typing import Any


def read_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a finished experiment, or `None` if there is none; raise an error if its settings differ."""
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        differences = [name for name, value in settings.items() if result["settings"].get(name) != value]
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ValueError(f"{path} is damaged: delete it to run the experiment again.") from None
    if differences:
        names = ", ".join(differences)
        raise ValueError(f"{path.parent} holds a result with different settings ({names}): use another --output-dir.")
    return result
