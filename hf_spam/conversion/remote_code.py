"""The code of a SpamGPT, with which `trust_remote_code=True` loads it where this package is not installed.

Repositories on the Hub carry it, local folders do not: it would make `AutoTokenizer` ask whether to run it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..files import write_json
from ..text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CODE = sorted((Path(__file__).parent.parent / "modeling").glob("*_spam_gpt.py"))
CODE_SETTINGS = ("auto_map", "custom_pipelines")  # entries of `config.json` that name the classes in these files


def without_code(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a model without those that name code."""
    return {name: value for name, value in settings.items() if name not in CODE_SETTINGS}


def save_without_code(model: "PreTrainedModel", folder: Path) -> None:
    """Save weights and configuration, without the code that `save_pretrained` adds."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # such as a full disk
        raise OSError(str(error)) from error
    for path in CODE:
        (folder / path.name).unlink(missing_ok=True)
    config = folder / "config.json"
    write_json(config, without_code(json.loads(config.read_bytes())))
    for path in folder.glob("*.safetensors"):  # safetensors creates files that only their owner can read
        path.chmod(config.stat().st_mode)


def with_code(files: dict[str, Path]) -> dict[str, Path | bytes]:
    """Return the files of a model or an export by their names on the Hub; a SpamGPT without code gets ours.

    A `config.json` that is not a JSON object raises a `ValueError`.
    """
    from ..modeling.configuration_spam_gpt import SpamGPTConfig  # loads torch

    path = files["config.json"]
    try:
        settings = {**json.loads(path.read_bytes())}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object: {one_line(error)}.") from None
    if settings.get("model_type") != SpamGPTConfig.model_type or "auto_map" in settings:
        return files
    settings |= {name: value for name, value in SpamGPTConfig().to_dict().items() if name in CODE_SETTINGS}
    config = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    return {**files, **{path.name: path for path in CODE}, "config.json": config.encode()}
