"""Loading a SpamGPT from a local folder or the Hub, with errors that say in one line what is wrong there."""

import os
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from .configuration_spam_gpt import SpamGPTConfig
from .modeling_spam_gpt import SpamGPTForSequenceClassification


def model_type(source: str | os.PathLike, *, revision: str | None = None) -> str:
    """The `model_type` that the `config.json` of a folder or a repository names.

    Raises:
        OSError: there is none; the message, one line, says where it was looked for.
    """
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError) as error:
        where = "the folder" if os.path.isdir(source) else "a local folder or a Hub repository named"
        raise OSError(f"No model in {where} {os.fspath(source)!r}: {one_line(error)}") from error
    if "model_type" not in settings:
        raise OSError(f"No model in {os.fspath(source)!r}: there is no config.json that names a model_type.")
    return settings["model_type"]


def load_config(source: str | os.PathLike, *, revision: str | None = None) -> SpamGPTConfig:
    """The configuration of a SpamGPT, in a folder or a repository.

    Raises:
        OSError: nothing is there.
        ValueError: what is there is of another kind, or is no shape that can be built.
    """
    name = repr(os.fspath(source))
    kind = model_type(source, revision=revision)
    if kind != SpamGPTConfig.model_type:
        raise ValueError(f"{name} holds a {kind!r} model, not a SpamGPT classifier.")
    try:
        return SpamGPTConfig.from_pretrained(source, revision=revision)
    except StrictDataclassError as error:
        raise ValueError(f"{name} cannot be loaded, its files are damaged or do not fit: {one_line(error)}") from error


def load_classifier(
    source: str | os.PathLike, *, revision: str | None = None, fresh_head: bool = False, **kwargs: Any
) -> SpamGPTForSequenceClassification:
    """A classifier from a folder or a repository.

    Args:
        source: a local folder or a Hub id.
        revision: branch, tag or commit on the Hub.
        fresh_head: whether a base without a head is accepted, and given one.
        kwargs: as for `from_pretrained`.

    Raises:
        OSError: nothing is there.
        ValueError: what is there is of another kind, damaged, or lacks weights.
    """
    load_config(source, revision=revision)
    name = repr(os.fspath(source))
    try:
        model, report = SpamGPTForSequenceClassification.from_pretrained(
            source, revision=revision, output_loading_info=True, **kwargs
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be loaded, its files are damaged or do not fit: {one_line(error)}") from error
    missing = {key for key in report["missing_keys"] if not (fresh_head and key.startswith("out_head."))}
    if missing:
        raise ValueError(f"{name} is not a whole classifier, train it first: it lacks {', '.join(sorted(missing))}.")
    return model


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())
