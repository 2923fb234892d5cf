"""Load classifiers of other packages: any sequence classifier of transformers, SetFit, and scikit-learn pipelines.

As elsewhere, folders are not trusted: no pickle is read, and code of a repository runs only with `trust_remote_code`.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.adapters import ADAPTER_WEIGHTS
from ..conversion.loading import broken_weights, errors_as, local_folder, named_model
from ..data.batching import batch_tokens_for, length_batches, pad_batch
from ..data.tokenization import encode, replace_lone_surrogates
from ..extras import import_extra
from ..modeling.configuration_spam_gpt import class_names
from ..text import short_list

FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "model_head.*"]  # read from a repository
PICKLES = (".pkl", ".pickle", ".joblib")
# Parts of estimators that skops trusts, missing from its list. They hold numbers only.
KNOWN_TYPES = {f"sklearn.calibration.{name}" for name in ("_CalibratedClassifier", "_SigmoidCalibration")}
HEAD_WEIGHT = re.compile(r"\.(score|classifier)(\.out_proj)?\.weight$")  # in an adapter
WINDOW = 4096  # messages that a scikit-learn pipeline gets at a time

Run = Callable[[Sequence[str], bool], tuple[np.ndarray, np.ndarray]]
"""Takes texts and whether to show a progress bar. Returns the probability of each class, (N, num_labels) in float64,
and the class that the model decides for, (N,)."""


@dataclass(frozen=True)
class OtherModel:
    """A classifier of another package."""

    kind: str
    """Name of its class."""
    labels: list[str]
    run: Run
    size: int
    """Size of its weights in bytes, as they are stored."""
    parameters: int | None
    """Number of trained parameters; `None` if unknown."""
    only_ranks: bool = False
    """Whether the "probabilities" only rank the messages."""


def load_folder(
    source: str, folder: Path, settings: dict[str, Any], adapter: dict[str, Any], *, trust_remote_code: bool = False
) -> OtherModel:
    """Load a sequence classifier of transformers, perhaps with an adapter of PEFT, or a SetFit model.

    `folder` has the small files of `source`, a folder or Hub id. `settings` is its `config.json`, or that of an
    adapter's base, and `adapter` the `adapter_config.json`, empty for a whole model.
    """
    files = [*FILES, *["*.py"] * trust_remote_code]
    folder = folder if os.path.isdir(named_model(source)) else local_folder(source, files=files)
    if (folder / "modules.json").is_file() and "SequenceClassification" not in str(settings.get("architectures")):
        return _load_setfit(source, folder, trust_remote_code)
    base = local_folder(adapter["base_model_name_or_path"], files=files) if adapter else folder
    with _errors_of(source):
        model = _load_transformer(base, adapter and folder, adapter, trust_remote_code)
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(
            folder if has_tokenizer else base, trust_remote_code=trust_remote_code
        )
        if broken := broken_weights(model):
            raise ValueError(f"it is damaged: {broken}")
        if getattr(model.config, "problem_type", None) == "multi_label_classification":
            raise ValueError("it is a multi-label model, whose classes do not exclude each other")
    labels = class_names(model.config)
    if len(labels) == 1:  # a single logit: `_run_transformer` adds another class
        labels = [f"not {labels[0]}", *labels]
    return OtherModel(
        kind=type(model).__name__ + (f" ({adapter.get('peft_type')})" if adapter else ""),
        labels=labels,
        run=_run_transformer(model, tokenizer),
        size=stored_size(folder) + (stored_size(base) if adapter else 0),
        parameters=count_parameters(model),
    )


def load_pipeline(source: str, path: Path, embed: Callable[[list[str]], np.ndarray] | None = None) -> OtherModel:
    """Load a scikit-learn pipeline that skops saved. It takes texts, or with `embed` what that makes of them."""
    io = import_extra("skops.io", "skops", source)
    with errors_as(f"{source} cannot be loaded"):
        unknown = {*io.get_untrusted_types(file=path)} - KNOWN_TYPES
        pipeline = None if unknown else io.load(path, trusted=list(KNOWN_TYPES))
    if unknown:
        raise ValueError(f"{source} is not loaded, since it has types that may run code: {short_list(unknown)}.")
    steps = [step for _, step in pipeline.steps] if hasattr(pipeline, "steps") else [pipeline]
    head = steps[-1]
    if not hasattr(head, "predict_proba") and not (hasattr(head, "decision_function") and len(head.classes_) == 2):
        raise ValueError(f"{source}: {type(head).__name__} gives no scores: use a classifier with predict_proba.")
    return wrap_pipeline(make_pipeline(FunctionTransformer(embed), *steps), size=path.stat().st_size)


def wrap_pipeline(pipeline: Pipeline, *, size: int) -> OtherModel:
    """Return a fitted pipeline of scikit-learn as a model."""
    head, transform = pipeline.steps[-1][1], pipeline[:-1].transform  # features for scores and decisions
    classes = head.classes_.tolist()
    ranks = not hasattr(head, "predict_proba")

    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities, predicted = np.empty((len(texts), len(classes))), np.empty(len(texts), dtype=int)
        with tqdm(total=len(texts), desc="Classifying", unit="message", disable=not progress) as bar:
            for start in range(0, len(texts), WINDOW):
                part = slice(start, start + WINDOW)
                features = transform(list(texts[part]))
                predicted[part] = [classes.index(label) for label in head.predict(features).tolist()]
                if ranks:
                    margins = head.decision_function(features)
                    probabilities[part] = expit(np.stack([-margins, margins], axis=1))
                else:
                    probabilities[part] = head.predict_proba(features)
                bar.update(len(predicted[part]))
        return probabilities, predicted

    weights = [getattr(head, name).size for name in ("coef_", "intercept_") if hasattr(head, name)]
    return OtherModel(type(head).__name__, list(map(str, classes)), run, size, sum(weights) or None, ranks)


def count_parameters(model: Any) -> int | None:
    """Return the number of parameters of a PyTorch model; `None` for another one."""
    return sum(tensor.numel() for tensor in model.parameters()) if isinstance(model, nn.Module) else None


def stored_size(folder: Path) -> int:
    """Return the size in bytes of the weights in a folder."""
    kinds = ("*.safetensors", "model_head.skops", "onnx/model.onnx*")
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the largest number of tokens that a model reads; a very large number if it has no limit."""
    limits = [int(tokenizer.model_max_length), getattr(model.config, "max_position_embeddings", None) or 10**9]
    for name, module in model.named_modules():
        # RoBERTa counts positions from the one after the pad's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(*limits, 10**9)


def _load_transformer(base: Path, folder: Path, adapter: dict[str, Any], trust_remote_code: bool) -> PreTrainedModel:
    """Load a classifier of transformers, in `folder` an adapter for it."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": torch.float32, "use_safetensors": True}
    heads = []
    if adapter:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        heads = [len(tensor) for name, tensor in tensors.items() if HEAD_WEIGHT.search(name)]
        options |= {"num_labels": heads[0]} if heads else {}
    model, loading = AutoModelForSequenceClassification.from_pretrained(base, **options, output_loading_info=True)
    missing = [key for key in loading["missing_keys"] if not (heads and key.startswith(("score.", "classifier.")))]
    if missing:
        raise ValueError(f"it is not a finished classifier: it has no weights for {short_list(missing)}")
    if not adapter:
        return model
    adapted = import_extra("peft", "lora", "an adapter").PeftModel.from_pretrained(model, folder)
    return adapted.merge_and_unload() if adapter.get("peft_type") == "LORA" else adapted


def _run_transformer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Run:
    """Return the function that runs a classifier: messages are cut to its limit and batched by length."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.eval().to(device)
    # Models that read the last token find it with this id, so the configuration must have the one that pads a batch.
    ids = (getattr(model.config, "pad_token_id", None), tokenizer.pad_token_id, tokenizer.eos_token_id)
    pad = next((one for one in ids if one is not None), None)
    model.config.pad_token_id = pad
    limit, classes = token_limit(model, tokenizer), model.config.num_labels
    batch_tokens = 1 if pad is None else batch_tokens_for(model.config, device)  # 1: each message alone

    @torch.inference_mode()
    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        ids = [message or [pad or 0] for message in encode(tokenizer, texts, limit)]
        logits = torch.empty(len(texts), classes, dtype=torch.float64)
        with tqdm(total=len(texts), desc="Classifying", unit="message", disable=not progress) as bar:
            for chosen in length_batches(list(map(len, ids)), batch_tokens):
                batch = pad_batch([ids[i] for i in chosen], pad or 0)
                outputs = model(**{name: tensor.to(device) for name, tensor in batch.items()})
                logits[chosen] = outputs.logits.double().cpu()
                bar.update(len(chosen))
        if classes == 1:  # the logit of a sigmoid
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        probabilities = logits.softmax(-1).numpy()
        return probabilities, probabilities.argmax(1)

    return run


def _load_setfit(source: str, folder: Path, trust_remote_code: bool) -> OtherModel:
    """Load a body of sentence-transformers and a scikit-learn classifier of its embeddings."""
    head, pickled = folder / "model_head.skops", folder / "model_head.pkl"
    if pickled.is_file() and not head.is_file():
        code = f"import joblib, skops.io; skops.io.dump(joblib.load('{pickled.name}'), '{head.name}')"
        advice = f'if you trust its author, run in its folder: python -c "{code}"'
        raise ValueError(f"{source}: {pickled.name} is a pickle, which could run any code, and is not read; {advice}")
    if not head.is_file():
        raise ValueError(f"{source} gives embeddings, not classes: train a classifier, and save it as {head.name}.")
    sentence_transformers = import_extra("sentence_transformers", "setfit", source)
    with _errors_of(source):
        options = {"trust_remote_code": trust_remote_code, "model_kwargs": {"use_safetensors": True}}
        body = sentence_transformers.SentenceTransformer(str(folder), **options)

    def embed(texts: list[str]) -> np.ndarray:
        return body.encode(list(map(replace_lone_surrogates, texts)), show_progress_bar=False)

    model = load_pipeline(source, head, embed)
    parameters = count_parameters(body) + (model.parameters or 0)
    return replace(model, kind=f"SentenceTransformer, {model.kind}", size=stored_size(folder), parameters=parameters)


@contextmanager
def _errors_of(source: str) -> Iterator[None]:
    """Turn errors of libraries into one line that says what to do."""
    try:
        with errors_as(f"{source} cannot be loaded"):
            yield
    except ValueError as error:
        if "trust_remote_code" in str(error):
            advice = "read that code, and allow it with --trust-remote-code"
            raise ValueError(f"{source} needs Python code that comes with it, which is not run: {advice}.") from error
        if "no file named model.safetensors" in str(error):
            advice = "if you trust its author, load it with transformers and save it with save_pretrained"
            raise ValueError(f"{source} has no model.safetensors, and a pickle is not read: {advice}.") from error
        raise
