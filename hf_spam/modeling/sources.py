"""What kind of model a local folder or a Hub repository holds."""

import os

from transformers import PreTrainedConfig


def model_type(source: str | os.PathLike, *, revision: str | None = None) -> str:
    """The `model_type` that the `config.json` of a folder or a repository names.

    Raises:
        OSError: there is none; the message, one line, says where it was looked for.
    """
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError) as error:
        where = "the folder" if os.path.isdir(source) else "a local folder or a Hub repository named"
        reason = " ".join(str(error).split())
        raise OSError(f"No model in {where} {os.fspath(source)!r}: {reason}") from error
    return settings.get("model_type", "unknown")
