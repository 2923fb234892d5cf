"""Load and check a SpamGPT from a local folder or the Hub, and save one.

A model may also be a LoRA adapter that PEFT saved, which is merged into its base, or a GPT-2, which is converted.

Folders are not trusted: only `config.json`, the tokenizer and safetensors files are read, and no code is run. Names,
shapes and types of all tensors are checked against the configuration before any memory is allocated, and every misfit
is a one-line error.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.tokenization import END_OF_TEXT
from ..files import BUNDLED, HISTORY, MANIFEST, export_folder, is_path, read_manifest
from ..hub_errors import HubError, explain
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import first_line, one_line, short_list
from .adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, merge, read_adapter
from .gpt2 import convert_settings, convert_tensors
from .remote_code import save_without_code

CARD = "README.md"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")  # one of them
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
SMALL_FILES = ["config.json", CARD, HISTORY, *TOKENIZER_FILES, *TOKENIZER_SETTINGS, ADAPTER_CONFIG, ADAPTER_WEIGHTS]
WEIGHTS, SHARDS_INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Settings that would make the library download and run code, or convert the weights.
UNSAFE_SETTINGS = ("attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config")
EXPORTED_SETTINGS = "spam_gpt"  # entry of an ONNX export's config.json that holds a `SpamGPTConfig`
MAX_WEIGHT = 1e9  # trained weights stay far below it; a flipped exponent bit goes far beyond

logger = logging.getLogger(__name__)


def named_model(source: str | os.PathLike) -> str | os.PathLike:
    """Return the folder of the bundled model for "bundled", and any other source unchanged."""
    return BUNDLED if source == "bundled" else source


def load_config(source: str | os.PathLike, *, revision: str | None = None) -> SpamGPTConfig:
    """Load the configuration of a SpamGPT or a GPT-2 from a local folder or the Hub; for an adapter, that of its base.

    Errors are as for `load_classifier`.
    """
    name, settings = repr(os.fspath(source)), read_config(source, revision)
    if isinstance(settings.get(EXPORTED_SETTINGS), dict):
        settings = settings[EXPORTED_SETTINGS]
    config_class = GPT2Config if settings.get("model_type") == GPT2Config.model_type else SpamGPTConfig
    if settings.get("model_type") != config_class.model_type:
        raise ValueError(f"{name} holds a model of type {settings.get('model_type')!r}, not 'spam_gpt'.")
    with errors_as(f"The config.json of {name} is not valid"):
        config = config_class.from_dict({key: value for key, value in settings.items() if key not in UNSAFE_SETTINGS})
    if config_class is SpamGPTConfig:
        return config
    with errors_as(f"The config.json of {name} does not fit SpamGPT"):
        return SpamGPTConfig(**convert_settings(config))


def load_classifier(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    fresh_head: bool | Literal["always"] = False,
    config: SpamGPTConfig | None = None,
    **kwargs: Any,
) -> SpamGPTForSequenceClassification:
    """Load a classifier, or an adapter for one, from a local folder or the Hub; "bundled" is the bundled model.

    With `fresh_head`, a base model without a classification head is accepted and gets a new one; "always" replaces an
    existing head too. `config` takes the place of the one in `source`, and `kwargs` are for `from_pretrained`.

    Raises an `OSError` if there is no model or the Hub cannot be reached, and a `ValueError` if the model is of another
    kind or damaged, or its weights do not fit its configuration.
    """
    name, config = repr(os.fspath(source)), config or load_config(source, revision=revision)
    if adapter := find_adapter(source, revision=revision):
        weights = classifier_tensors(adapter.base, revision=adapter.revision) | adapter.head
        base = build_classifier(name, load_config(source, revision=revision), weights, dtype=torch.float32)
        with errors_as(f"{name} cannot be loaded"):
            weights = merge(base, adapter).state_dict()
    else:
        weights = classifier_tensors(source, revision=revision)
    head = [key for key in weights if key.startswith("out_head.")]
    if head and fresh_head == "always":
        logger.info("%s was trained for other labels: training starts with a new classification head.", name)
        weights = {key: tensor for key, tensor in weights.items() if key not in head}
    elif not head and not fresh_head:
        raise ValueError(f"{name} is a base model without a classification head: fine-tune it first (hf-spam train).")
    model = build_classifier(name, config, weights, fresh_head=bool(fresh_head), **kwargs)
    model.name_or_path = os.fspath(named_model(source))  # PEFT records it as the base of an adapter
    return model


def load_tokenizer(source: str | os.PathLike, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder or the Hub, with a pad token and padding on the right.

    A folder with only GPT-2's `vocab.json` and `merges.txt` is accepted too. An adapter without a tokenizer has that of
    its base. A tokenizer that is unusable, or does not fit the model next to it, raises a `ValueError`.
    """
    name, folder = repr(os.fspath(source)), local_folder(source, revision=revision)
    if not has_tokenizer(folder) and (adapter := find_adapter(source, revision=revision)):
        source, revision = adapter.base, adapter.revision
        name, folder = repr(source), local_folder(source, revision=revision)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        if vocab.is_file() and merges.is_file() and not (folder / "tokenizer_config.json").is_file():
            tokenizer = GPT2Tokenizer(vocab=str(vocab), merges=str(merges))
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:
            raise ValueError("its vocabulary is empty")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a damaged file can raise anything, even a Rust panic
        raise ValueError(
            f"No tokenizer in {name} (tokenizer.json, or vocab.json and merges.txt): save one there, or pass one to "
            f"train or import-weights with --tokenizer. ({first_line(error)})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or END_OF_TEXT
    if tokenizer.pad_token_id is None:
        settings = '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}'
        raise ValueError(f"The tokenizer of {name} has no pad token: name one in its tokenizer_config.json: {settings}")
    tokenizer.padding_side = "right"
    try:
        config = load_config(source, revision=revision)
    except (OSError, ValueError):  # no model next to it, or another kind of model
        return tokenizer
    check_vocabulary(tokenizer, config, name)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer."""
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: SpamGPTConfig, name: str) -> None:
    """Raise a `ValueError` if a tokenizer has ids that the model lacks."""
    if (highest := max(tokenizer.get_vocab().values())) >= config.vocab_size:
        raise ValueError(
            f"The tokenizer does not fit the model {name}: it has id {highest}, but the model's vocabulary has only "
            f"{config.vocab_size} entries. Name the folder or Hub id of the tokenizer that it was trained with."
        )


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Save a model and its tokenizer; whatever cannot be written raises an `OSError`."""
    save_without_code(model, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def local_folder(source: str | os.PathLike, *, revision: str | None = None, files: Sequence[str] = SMALL_FILES) -> Path:
    """Return the local folder of a source, or download files of a Hub repository to the cache and return their folder.

    Without a connection, what is in the cache is used. Raises an `OSError` if there is nothing.
    """
    name, path = repr(os.fspath(source)), os.fspath(named_model(source))
    if os.path.isdir(path):
        return Path(path)
    if os.path.isfile(path) and path.endswith(".onnx"):
        return export_folder(Path(path))
    if os.path.isfile(path):
        raise OSError(f"No model in {name}: it is a file; give a model's folder or a Hub id.")
    if is_path(path):
        raise OSError(f"No model in {name}: there is no such folder.")
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(files)))
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(explain(error, path).replace(": ", ": no such file or folder; ", 1)) from error


def find_file(source: str | os.PathLike, name: str, *, revision: str | None = None) -> Path | None:
    """Return one of `SMALL_FILES` next to a model; `None` without such a file or a connection."""
    try:
        path = local_folder(source, revision=revision) / name
    except OSError:
        return None
    return path if path.is_file() else None


def find_adapter(source: str | os.PathLike, *, revision: str | None = None) -> Adapter | None:
    """Return the adapter at a source, or `None` if it holds a whole model or nothing."""
    with errors_as(f"{os.fspath(source)!r} cannot be loaded", OSError):
        adapter = read_adapter(local_folder(source, revision=revision))
    try:
        if adapter:
            local_folder(adapter.base, revision=adapter.revision)
    except OSError as error:
        raise OSError(
            f"{os.fspath(source)!r} is an adapter, and its base is not found. {error} If the base has moved, change "
            f"base_model_name_or_path in {ADAPTER_CONFIG}."
        ) from error
    return adapter


def find_misfits(config: SpamGPTConfig, weights: Mapping[str, torch.Tensor], *, fresh_head: bool = False) -> list[str]:
    """Compare weights with the classifier that a configuration describes; return one phrase for each misfit."""
    blocks = len({match[1] for name in weights if (match := re.search(r"\btrf_blocks\.(\d+)\.", name))})
    if config.n_layer > max(blocks, 1):  # check before building them: a configuration can claim any number
        return [f"n_layer is {config.n_layer}, but there are weights for {blocks}"]
    with torch.device("meta"):
        expected = SpamGPTForSequenceClassification(config).state_dict()
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
    return f"NaN, infinite or absurdly large weights in {short_list(broken)}" if broken else ""


@contextmanager
def errors_as(message: str, *others: type[Exception]) -> Iterator[None]:
    """Turn any error but `others` into a one-line `ValueError`, since reading an untrusted file can raise anything."""
    try:
        yield
    except others:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        raise ValueError(f"{message}: {one_line(cause or error)}") from error


def classifier_tensors(source: str | os.PathLike, *, revision: str | None = None) -> dict[str, torch.Tensor]:
    """Memory-map the tensors of a SpamGPT or a GPT-2, with or without a head, by their names in a classifier.

    The files of a checkpoint are verified against its manifest. Errors are as for `load_classifier`.
    """
    folder = local_folder(source, revision=revision, files=[WEIGHTS, SHARDS_INDEX, "model-*.safetensors"])
    with errors_as(f"{os.fspath(source)!r} cannot be loaded"):
        if (folder / MANIFEST).exists():
            read_manifest(folder)
        names = {WEIGHTS}
        if not (folder / WEIGHTS).is_file():
            if not (folder / SHARDS_INDEX).is_file():
                raise ValueError(f"there is no {WEIGHTS}, and a pickle (pytorch_model.bin) is not read")
            names = set(json.loads((folder / SHARDS_INDEX).read_bytes())["weight_map"].values())
        files = [safe_open(folder / name, framework="pt") for name in sorted(names)]
        weights = {name: file.get_tensor(name) for file in files for name in file.keys()}  # noqa: SIM118
    if read_config(source, revision)["model_type"] == GPT2Config.model_type:
        weights = {key: tensor.contiguous() for key, tensor in convert_tensors(weights).items()}
    return weights if any(key.startswith("gpt.") for key in weights) else in_classifier(weights)


def in_classifier(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a base model, and those of a head, by their names in a classifier."""
    return {key if key.startswith("out_head.") else f"gpt.{key}": tensor for key, tensor in weights.items()}


def build_classifier(
    name: str, config: SpamGPTConfig, weights: dict[str, torch.Tensor], *, fresh_head: bool = False, **kwargs: Any
) -> SpamGPTForSequenceClassification:
    """Check weights and build a classifier from them. Arguments as for `load_classifier`."""
    with errors_as(f"The weights of {name} do not fit its config.json"):  # sizes may be too large for a tensor
        misfits = find_misfits(config, weights, fresh_head=fresh_head)
    if misfits:
        raise ValueError(f"The weights of {name} do not fit its config.json: {short_list(misfits)}.")
    with errors_as(f"{name} cannot be loaded"):
        # No folder is passed, so the library cannot load anything else from it, such as adapters.
        model = SpamGPTForSequenceClassification.from_pretrained(None, config=config, state_dict=weights, **kwargs)
    if broken := broken_weights(model):
        raise ValueError(f"{name} is damaged: {broken}.")
    return model


def read_config(source: str | os.PathLike, revision: str | None) -> dict[str, Any]:
    """Read the `config.json` of a folder or repository; that of its base if it is an adapter without one."""
    name, folder, labels = repr(os.fspath(source)), local_folder(source, revision=revision), {}
    if not (folder / "config.json").is_file() and (adapter := find_adapter(source, revision=revision)):
        folder = local_folder(adapter.base, revision=adapter.revision)
        labels = {"num_labels": len(bias)} if (bias := adapter.head.get("out_head.bias")) is not None else {}
    try:
        settings, _ = PreTrainedConfig.get_config_dict(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise OSError(f"No model in the folder {name}: {one_line(error)}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise OSError(f"No model in {name}: there is no config.json that names a model_type.")
    return settings | labels
