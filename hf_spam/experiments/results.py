"""Results of finished experiments, which a repeated command does not run again. Imports no heavy library."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import public
from ..training.recipes import Recipe


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe as they may be published."""
    return {name: public(value) for name, value in asdict(recipe).items()}


def read_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a finished experiment, or `None` if there is none.

    Raises:
        ValueError: The result cannot be read, or its `settings` are others.
    """
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
