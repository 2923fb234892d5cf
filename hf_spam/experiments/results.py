"""Results of finished experiments, which a repeated command does not run again. Imports no heavy library."""

import json
from pathlib import Path
from typing import Any

from ..data.names import sources_of
from ..files import hash_file, public
from ..training.settings import Recipe


def identity_of(recipe: Recipe, *named: str) -> dict[str, Any]:
    """Return the settings that identify an experiment, and a hash of the local files that the settings `named` name."""
    settings = {name: value for name, value in recipe.public.items() if name != "summary"}
    for name in named:
        for path in map(Path, sources_of(getattr(recipe, name) or ())):
            files = [path] if path.is_file() else sorted(filter(Path.is_file, path.glob("*")))
            if files:
                hashes = {file.name: hash_file(file)["sha256"] for file in files}
                settings[f"files of {name} {public(str(path))}"] = hashes
    return settings


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
