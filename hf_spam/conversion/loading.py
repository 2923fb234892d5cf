"""Loading a SpamGPT from a local folder or the Hub, which may be anybody's: what does not fit is one clear line.

Of a model nothing but `config.json` and safetensors files is read, and these only once the headers are known to hold
what the configuration describes: what either of them claims costs no memory, and nothing that came along is run.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..files import MANIFEST, is_path, read_manifest
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line
from .checksum import verify_checksum

BUNDLED = Path(__file__).parent.parent / "bundled"  # the trained model that comes with the package
HISTORY = "history.json"  # beside a model: how it was trained, and with that how its data were split

logger = logging.getLogger(__name__)

WEIGHT_FILES = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
FLOATING = ("F16", "BF16", "F32", "F64")  # as safetensors names them
# Names of code that the library would fetch and run, or convert the weights with.
CHOICES_OF_CODE = ("attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config")
TOO_LARGE = 1e9  # no training ends there; a weight whose exponent was damaged does, and makes answers that are none
MOST_CLASSES = 10_000  # which a configuration may ask for in a single number


def named_model(source: str | os.PathLike) -> str | os.PathLike:
    """Return the folder of the bundled model for the name "bundled", and any other folder or Hub id as it is."""
    return BUNDLED if source == "bundled" else source


def model_type(source: str | os.PathLike) -> str:
    """The `model_type` that the `config.json` of a folder or a repository names.

    Raises:
        OSError: there is none; the message, one line, says where it was looked for.
    """
    return _settings(source, None)["model_type"]


def load_config(source: str | os.PathLike, *, revision: str | None = None) -> SpamGPTConfig:
    """The configuration of a SpamGPT in a folder or a repository.

    Raises:
        OSError: there is none.
        ValueError: it is that of another model, or describes one that cannot be built.
    """
    name, settings = repr(os.fspath(source)), _settings(source, revision)
    if settings["model_type"] != SpamGPTConfig.model_type:
        raise ValueError(f"{name} holds a {settings['model_type']!r} model, not a SpamGPT classifier.")
    with errors_as(f"{name} has a config.json that describes no SpamGPT"):
        if settings.get("num_labels", 2) > MOST_CLASSES:  # each of them would be given a name
            raise ValueError(f"num_labels is {settings['num_labels']}")
        return SpamGPTConfig.from_dict({key: value for key, value in settings.items() if key not in CHOICES_OF_CODE})


def load_classifier(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    fresh_head: bool | Literal["always"] = False,
    config: SpamGPTConfig | None = None,
    **kwargs: Any,
) -> SpamGPTForSequenceClassification:
    """A classifier from a folder or a repository.

    Args:
        source: a local folder or a Hub id.
        revision: branch, tag or commit on the Hub.
        fresh_head: whether a base without a head is accepted, and given one; "always": also one that has a head.
        config: what is to be loaded. None: the configuration of the source.
        kwargs: as for `from_pretrained`.

    Raises:
        OSError: nothing is there.
        ValueError: what is there is of another kind, damaged, or its weights are not those of its configuration.
    """
    source = named_model(source)
    name, config = repr(os.fspath(source)), config or load_config(source, revision=revision)
    if os.path.isdir(source):
        folder = Path(source)
    else:
        folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=WEIGHT_FILES))
    with errors_as(f"{name} cannot be loaded"):
        if (folder / MANIFEST).exists():  # a checkpoint, which is as it was written, or no checkpoint
            read_manifest(folder)
        entries = open_tensors(folder)
    if entries and not any(key.startswith("gpt.") for key in entries):  # a base model
        entries = {f"gpt.{key}": entry for key, entry in entries.items()}
    if fresh_head == "always" and (theirs := [key for key in entries if key.startswith("out_head.")]):
        logger.info("%s classifies by other labels: its head is not used, training begins with a fresh one.", name)
        for key in theirs:
            del entries[key]
    with errors_as(f"{name} cannot be loaded"):
        missing, misfits = _compare(config, entries, bool(fresh_head))
    if misfits:
        raise ValueError(f"{name} does not fit its config.json: {misfits}.")
    if missing:
        raise ValueError(f"{name} is not a whole classifier, train it first: it lacks {_some(missing)}.")
    with errors_as(f"{name} cannot be loaded"):
        for path in _weight_files(folder):
            verify_checksum(path)
        weights = {key: entry[:] for key, entry in entries.items()}
        # Given no folder, the library looks for nothing else in it, such as adapters.
        model = SpamGPTForSequenceClassification.from_pretrained(None, config=config, state_dict=weights, **kwargs)
    if broken := broken_weights(model):
        raise ValueError(f"{name} has weights that are no numbers, or beyond all measure: {broken}.")
    return model


def broken_weights(model: PreTrainedModel) -> str:
    """The weights that are no numbers, or so large that no training ends there, in words; empty if there are none."""
    return _some([key for key, value in model.named_parameters() if not (value.abs() < TOO_LARGE).all()])


def open_tensors(folder: Path) -> dict[str, Any]:
    """The tensors in a folder's safetensors files by name, of which nothing but the headers is read yet.

    Raises:
        ValueError: there are none in it. A file that is damaged raises what `safetensors` and `json` do.
    """
    files = [safe_open(path, framework="pt") for path in _weight_files(folder)]
    return {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        shards = [single.name]
    elif index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        raise ValueError(f"{folder} has no model.safetensors; a pickle (pytorch_model.bin) is not read.")
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise ValueError(f"{index.name} names files elsewhere: {_some(outside)}")
    return [folder / shard for shard in shards]


def _settings(source: str | os.PathLike, revision: str | None) -> dict[str, Any]:
    source = named_model(source)
    if os.path.isfile(source):  # of which the library would read a configuration, and look for the weights on the Hub
        raise OSError(f"No model in {os.fspath(source)!r}: it is a file; a model's folder or a Hub id is needed.")
    if is_path(os.fspath(source)) and not os.path.isdir(source):
        raise OSError(f"No model in {os.fspath(source)!r}: there is no such folder.")
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError, RecursionError) as error:
        where = "the folder" if os.path.isdir(source) else "a local folder or a Hub repository named"
        raise OSError(f"No model in {where} {os.fspath(source)!r}: {one_line(error)}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise OSError(f"No model in {os.fspath(source)!r}: there is no config.json that names a model_type.")
    return settings


def _compare(config: SpamGPTConfig, entries: dict[str, Any], fresh_head: bool) -> tuple[list[str], str]:
    """The tensors that are missing, and in words what else does not fit, by names and headers alone."""
    blocks = len({match[1] for name in entries if (match := re.match(r"gpt\.trf_blocks\.(\d+)\.", name))})
    if config.n_layer > max(blocks, 1):  # any number can be claimed, and would be built
        return [], f"n_layer is {config.n_layer}, but there are weights of {blocks}"
    with torch.device("meta"):
        model = SpamGPTForSequenceClassification(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(entry.get_shape()) for name, entry in entries.items()}
    missing = sorted(
        name for name in expected.keys() - shapes.keys() if not (fresh_head and name.startswith("out_head."))
    )
    misfits = [f"{name} is unexpected" for name in sorted(shapes.keys() - expected.keys())]
    misfits += [
        f"{name} is of shape {shapes[name]}, expected {expected[name]}"
        for name in expected.keys() & shapes.keys()
        if shapes[name] != expected[name]
    ]
    misfits += [
        f"{name} is of type {entry.get_dtype()}" for name, entry in entries.items() if entry.get_dtype() not in FLOATING
    ]
    return missing, _some(misfits)


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"])


@contextmanager
def errors_as(message: str, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """What others wrote, or send, can go wrong in any way; each becomes one line, and an error of one kind."""
    try:
        yield
    except Exception as error:
        if kind is not ValueError and isinstance(error, kind):  # says what it has to say already
            raise
        raise kind(f"{message}: {one_line(error)}") from error


def history_file(model: str | os.PathLike) -> Path | None:
    """The file that tells how a model, a folder or a Hub id, was trained; None where none is in reach."""
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    found = cached_file(os.fspath(named_model(model)), HISTORY, **dict.fromkeys(quiet, False))
    return None if found is None else Path(found)


def load_tokenizer(*args, **kwargs):
    from ..data.tokenization import load_tokenizer as load

    return load(*args, **kwargs)


def save_classifier(model, tokenizer, folder):
    from .checksum import save_with_checksum

    save_with_checksum(model, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
