"""Load and check a SpamGPT from a local folder or the Hub, and save one.

Folders are not trusted: only `config.json`, the tokenizer and safetensors files are read, and no code is run. Names,
shapes and types of all tensors are checked against the configuration before any memory is allocated, and every misfit
is a one-line error.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..data.tokenization import END_OF_TEXT
from ..files import MANIFEST, is_path, read_manifest
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import first_line, one_line

HISTORY = "history.json"  # written by training: the recipe (and with it the split of the data) and the losses
BUNDLED = Path(__file__).parent.parent / "bundled"  # the trained model that comes with the package
WEIGHT_FILES = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Settings that would make the library download and run code, or convert the weights.
UNSAFE_SETTINGS = ("attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config")
MAX_CLASSES = 10_000  # `num_labels` is a single number in the file, but every class gets a name in memory
MAX_WEIGHT = 1e9  # trained weights stay far below it; a flipped exponent bit goes far beyond

Config = TypeVar("Config", bound=PreTrainedConfig)

logger = logging.getLogger(__name__)


def named_model(source: str | os.PathLike) -> str | os.PathLike:
    """Return the folder of the bundled model for "bundled", and any other source unchanged."""
    return BUNDLED if source == "bundled" else source


def model_type(source: str | os.PathLike) -> str:
    """Return the `model_type` in the `config.json` of a local folder or a Hub repository.

    Raises:
        OSError: There is no such file.
    """
    return _read_config(source, None)["model_type"]


def load_config(
    source: str | os.PathLike, *, revision: str | None = None, config_class: type[Config] = SpamGPTConfig
) -> Config:
    """Load the configuration of a model from a local folder or the Hub.

    Raises:
        OSError: There is no configuration.
        ValueError: The configuration belongs to another kind of model, or is not valid.
    """
    name, settings = repr(os.fspath(source)), _read_config(source, revision)
    if settings["model_type"] != config_class.model_type:
        raise ValueError(f"{name} holds a model of type {settings['model_type']!r}, not {config_class.model_type!r}.")
    with errors_as(f"The config.json of {name} is not valid"):
        if settings.get("num_labels", 2) > MAX_CLASSES:
            raise ValueError(f"num_labels is {settings['num_labels']}")
        return config_class.from_dict({key: value for key, value in settings.items() if key not in UNSAFE_SETTINGS})


def load_classifier(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    fresh_head: bool | Literal["always"] = False,
    config: SpamGPTConfig | None = None,
    **kwargs: Any,
) -> SpamGPTForSequenceClassification:
    """Load a classifier from a local folder or the Hub.

    Args:
        source: A local folder, a Hub id, or "bundled".
        revision: Branch, tag or commit on the Hub.
        fresh_head: Whether to accept a base model without a classification head and give it a new one; "always"
            replaces an existing head too.
        config: The configuration to load with. `None`: the one in `source`.
        kwargs: Passed on to `from_pretrained`.

    Raises:
        OSError: There is no model at `source`.
        ValueError: The model is of another kind or damaged, or its weights do not fit its configuration.
    """
    name, config = repr(os.fspath(source)), config or load_config(source, revision=revision)
    weights = open_tensors(source, revision=revision)
    if weights and not any(key.startswith("gpt.") for key in weights):  # a base model
        weights = {f"gpt.{key}": tensor for key, tensor in weights.items()}
    head = [key for key in weights if key.startswith("out_head.")]
    if head and fresh_head == "always":
        logger.info("%s was trained for other labels: training starts with a new classification head.", name)
        weights = {key: tensor for key, tensor in weights.items() if key not in head}
    elif not head and not fresh_head:
        raise ValueError(f"{name} is a base model without a classification head: fine-tune it first (hf-spam train).")
    if misfits := find_misfits(SpamGPTForSequenceClassification, config, weights, fresh_head=bool(fresh_head)):
        raise ValueError(f"The weights of {name} do not fit its config.json: {shortened(misfits)}.")
    with errors_as(f"{name} cannot be loaded"):
        # No folder is passed, so the library cannot load anything else from it, such as adapters.
        model = SpamGPTForSequenceClassification.from_pretrained(None, config=config, state_dict=weights, **kwargs)
    if broken := broken_weights(model):
        raise ValueError(f"{name} is damaged: {broken}.")
    return model


def load_tokenizer(source: str | os.PathLike, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder or the Hub, with a pad token and padding on the right.

    A folder with only GPT-2's `vocab.json` and `merges.txt` is accepted too.

    Raises:
        ValueError: There is no usable tokenizer, or it does not fit the vocabulary of the SpamGPT next to it.
    """
    name, folder = repr(os.fspath(source)), Path(named_model(source))
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        if vocab.is_file() and merges.is_file() and not (folder / "tokenizer_config.json").is_file():
            tokenizer = GPT2Tokenizer(vocab=str(vocab), merges=str(merges))
        else:
            tokenizer = AutoTokenizer.from_pretrained(named_model(source), revision=revision, trust_remote_code=False)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:
            raise ValueError("its vocabulary is empty")
    except BaseException as error:  # a damaged file can raise anything, even a Rust panic
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        where = "the folder" if folder.is_dir() else "the local folder or Hub repository"
        raise ValueError(
            f"No tokenizer in {where} {name} (tokenizer.json, or vocab.json and merges.txt): save one there, or pass "
            f"one to train or import-weights with --tokenizer. ({first_line(error)})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or END_OF_TEXT
    tokenizer.padding_side = "right"
    try:
        vocab_size = load_config(source, revision=revision).vocab_size
    except (OSError, ValueError):  # no model next to it, or another kind of model
        return tokenizer
    if (highest := max(tokenizer.get_vocab().values())) >= vocab_size:
        raise ValueError(
            f"The tokenizer in {name} does not fit its model: it has id {highest}, but the model's vocabulary has only "
            f"{vocab_size} entries."
        )
    return tokenizer


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Save a model, with its code for `trust_remote_code`, and its tokenizer.

    Raises:
        OSError: A file cannot be written.
    """
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    for path in folder.glob("*.safetensors"):  # safetensors creates files that only their owner can read
        path.chmod((folder / "config.json").stat().st_mode)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def find_file(source: str | os.PathLike, name: str, *, revision: str | None = None) -> Path | None:
    """Return a file next to a model, downloaded if necessary; `None` without such a file or a connection."""
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    found = cached_file(os.fspath(named_model(source)), name, revision=revision, **dict.fromkeys(quiet, False))
    return None if found is None else Path(found)


def history_file(source: str | os.PathLike) -> Path | None:
    """Return the `history.json` that training wrote next to a model, or `None`."""
    return find_file(source, HISTORY)


def open_tensors(source: str | os.PathLike, *, revision: str | None = None) -> dict[str, torch.Tensor]:
    """Memory-map the tensors in the safetensors files of a folder or repository; only the headers are read.

    The files of a checkpoint are verified against its manifest.

    Raises:
        ValueError: There are no safetensors files, or they are damaged.
    """
    path = named_model(source)
    if not os.path.isdir(path):
        path = snapshot_download(os.fspath(path), revision=revision, allow_patterns=WEIGHT_FILES)
    folder = Path(path)
    with errors_as(f"{os.fspath(source)!r} cannot be loaded"):
        if (folder / MANIFEST).exists():
            read_manifest(folder)
        files = [safe_open(path, framework="pt") for path in _weight_files(folder)]
        return {name: file.get_tensor(name) for file in files for name in file.keys()}  # noqa: SIM118


def find_misfits(
    model_class: type[PreTrainedModel],
    config: SpamGPTConfig,
    weights: Mapping[str, torch.Tensor],
    *,
    fresh_head: bool = False,
) -> list[str]:
    """Compare weights with the network that a configuration describes; return one phrase for each misfit."""
    blocks = len({match[1] for name in weights if (match := re.search(r"\btrf_blocks\.(\d+)\.", name))})
    if config.n_layer > max(blocks, 1):  # check before building them: a configuration can claim any number
        return [f"n_layer is {config.n_layer}, but there are weights for {blocks}"]
    try:
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    except (RuntimeError, TypeError) as error:  # sizes too large for a tensor
        return [f"the network cannot be built: {one_line(error)}"]
    misfits = []
    for name in sorted(expected.keys() | weights.keys()):
        if name not in expected:
            misfits.append(f"{name} is unexpected")
        elif name not in weights:
            if not (fresh_head and name.startswith("out_head.")):
                misfits.append(f"{name} is missing")
        elif weights[name].shape != expected[name].shape:
            misfits.append(f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}")
        elif weights[name].dtype not in WEIGHT_TYPES:
            misfits.append(f"{name} has type {str(weights[name].dtype).removeprefix('torch.')}, expected a float")
    return misfits


def broken_weights(model: PreTrainedModel) -> str:
    """Describe weights that are NaN, infinite or absurdly large; "" if there are none."""
    broken = [key for key, value in model.named_parameters() if not (value.abs() < MAX_WEIGHT).all()]
    return f"NaN, infinite or absurdly large weights in {shortened(broken)}" if broken else ""


@contextmanager
def errors_as(message: str) -> Iterator[None]:
    """Turn any error into a one-line `ValueError`, since reading an untrusted file can raise anything."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message}: {one_line(error)}") from error


def shortened(names: Iterable[str]) -> str:
    """List names in one phrase: all if there are at most four, else the first three and how many more."""
    names = sorted(names)
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"])


def _read_config(source: str | os.PathLike, revision: str | None) -> dict[str, Any]:
    """Read the `config.json` of a folder or repository."""
    name, source = repr(os.fspath(source)), named_model(source)
    if os.path.isfile(source):
        raise OSError(f"No model in {name}: it is a file; give a model's folder or a Hub id.")
    if is_path(os.fspath(source)) and not os.path.isdir(source):
        raise OSError(f"No model in {name}: there is no such folder.")
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError, RecursionError) as error:
        where = "the folder" if os.path.isdir(source) else "the local folder or Hub repository"
        raise OSError(f"No model in {where} {name}: {one_line(error)}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise OSError(f"No model in {name}: there is no config.json that names a model_type.")
    return settings


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder: a single one, or the shards of an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ValueError("there is no model.safetensors, and a pickle (pytorch_model.bin) is not read")
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index.name} names files outside its folder: {shortened(outside)}")
    return [folder / name for name in sorted(names)]
