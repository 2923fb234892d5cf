"""Load models to measure: ours, the baseline, sequence classifiers of transformers, SetFit, scikit-learn pipelines.

As elsewhere, folders are not trusted: no pickle is read, and code of a repository runs only with `trust_remote_code`.
"""

import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from tqdm.auto import tqdm, trange
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..conversion.loading import EXPORTED_SETTINGS, broken_weights, errors_as, find_adapter, local_folder
from ..data.batching import batch_tokens_for, length_batches, pad_batch
from ..data.labels import LABEL_NAMES, label_names
from ..data.reading import parse_label_map
from ..data.sources import read_messages
from ..data.tokenization import encode
from ..extras import import_extra
from ..files import public
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from ..text import replace_lone_surrogates, short_list
from .baseline import BASELINE, fit_baseline
from .candidates import Candidate, Run, spam_classes

BASELINE_PREFIX = "baseline="
FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "model_head.*"]  # read from a repository
PICKLES = (".pkl", ".pickle", ".joblib")
# Parts of estimators that skops trusts, missing from its list. They hold numbers only.
KNOWN_TYPES = {f"sklearn.calibration.{name}" for name in ("_CalibratedClassifier", "_SigmoidCalibration")}
HEAD_WEIGHT = re.compile(r"\.(score|classifier)(\.out_proj)?\.weight$")  # in an adapter
WINDOW = 4096  # messages that a scikit-learn pipeline gets at a time
NO_LIMIT = 10**9  # tokens

logger = logging.getLogger(__name__)


def load_candidate(
    name: str | os.PathLike | Candidate = "bundled",
    *,
    label_map: str | Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    any_labels: bool = False,
    **reading: Any,
) -> Candidate:
    """Load a classifier of any kind, unless it is loaded already. The `name` is one of

    - a folder or Hub id, or "bundled": a model of ours or an export of one, any sequence classifier of transformers, a
      PEFT adapter for one, or a SetFit model. Weights must be in safetensors, heads in skops;
    - the path of a .skops file: a scikit-learn pipeline that takes texts;
    - "baseline=SOURCE": our linear baseline, trained on this source of messages, which is read as `reading` says.

    A `label_map`, such as "LABEL_1=spam", says what its labels mean; without one, they are read as those of data are.
    One of them must mean spam, unless `any_labels` is set.
    """
    if isinstance(name, Candidate):
        return name
    source, meanings = os.fspath(name), parse_label_map(label_map)
    if source.startswith(BASELINE_PREFIX):
        candidate, meanings = _fit_baseline(source, label_map=label_map, **reading), {}
    elif source.endswith(PICKLES):
        advice = "if you trust its author, load it and save it with skops.io.dump"
        raise ValueError(f"{source} is a pickle, which could run any code, and is not read: {advice}.")
    elif source.endswith(".skops"):
        candidate = _load_pipeline(source, Path(source))
    else:
        candidate = _load_folder(source, trust_remote_code)
    candidate = _find_spam(candidate, meanings)
    if not candidate.spam and not any_labels:
        labels = candidate.labels
        found = ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
        advice = f"say which one is with --label-map, such as {labels[-1]}=spam"
        raise ValueError(f"{source}: none of its labels is known to mean spam ({found}): {advice}.")
    return candidate


def _find_spam(candidate: Candidate, meanings: Mapping[str, str]) -> Candidate:
    """Say which classes mean spam, by a parsed label map; two of another package get the names and order of ours."""
    spam, run = spam_classes(candidate.labels, meanings), candidate.run
    if candidate.classifier is not None or len(candidate.labels) != 2 or len(spam) != 1:
        return replace(candidate, spam=spam)
    order = [1 - spam[0], spam[0]]

    def ordered(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities, predicted = run(texts, progress)
        return probabilities[:, order], (predicted == order[1]).astype(int)

    return replace(candidate, labels=tuple(LABEL_NAMES), spam=(1,), run=ordered)


def _load_folder(source: str, trust_remote_code: bool) -> Candidate:
    """Load a model of ours, a sequence classifier of transformers, perhaps with an adapter of PEFT, or a SetFit model.

    `source` is a folder or Hub id.
    """
    settings, adapter = _read_settings(source)
    if settings.get("model_type") == SpamGPTConfig.model_type or EXPORTED_SETTINGS in settings:
        return _load_ours(source)
    files = [*FILES, *["*.py"] * trust_remote_code]
    folder = local_folder(source, files=files)
    if (folder / "modules.json").is_file() and "SequenceClassification" not in str(settings.get("architectures")):
        return _load_setfit(source, folder, trust_remote_code)
    base = _base_of(adapter, files=files) if adapter else folder
    with _errors_of(source):
        model = _load_transformer(base, folder, adapter, trust_remote_code)
        tokenizer_at = folder if (folder / "tokenizer_config.json").is_file() else base
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_at, trust_remote_code=trust_remote_code)
        if broken := broken_weights(model):
            raise ValueError(f"it is damaged: {broken}")
        if getattr(model.config, "problem_type", None) == "multi_label_classification":
            raise ValueError("it is a multi-label model, whose classes do not exclude each other")
    if settings.get("threshold") is not None:
        logger.warning("%s: its threshold is ignored, as transformers ignores it; hf-spam classify uses it.", source)
    labels = class_names(model.config)
    if len(labels) == 1:  # a single logit: `_run_transformer` adds another class
        labels = [f"not {labels[0]}", *labels]
    return Candidate(
        name=public(source),
        source=source,
        labels=tuple(labels),
        run=_run_transformer(model, tokenizer),
        kind=type(model).__name__ + (f" ({adapter.get('peft_type')})" if adapter else ""),
        size=sum(map(_stored_size, {folder, base})),
        parameters=_count_parameters(model),
    )


def _load_ours(source: str) -> Candidate:
    classifier = SpamClassifier.from_pretrained(source)
    model, config = classifier.model, classifier.model.config
    stored = [Path(source) if Path(source).is_file() else local_folder(source)]
    if adapter := find_adapter(source):
        stored.append(local_folder(adapter.base, revision=adapter.revision))

    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities = classifier.predict_proba(texts, progress=progress)
        return probabilities.astype(np.float64), decide(config, torch.from_numpy(probabilities)).numpy()

    return Candidate(
        name=public(source),
        source=source,
        kind=type(model).__name__,
        labels=tuple(class_names(config)),
        run=run,
        size=sum(map(_stored_size, stored)),
        parameters=_count_parameters(model),
        threshold=config.threshold,
        temperature=config.temperature,
        classifier=classifier,
    )


def _count_parameters(model: Any) -> int | None:
    """Return the number of parameters of a PyTorch model; `None` for another one."""
    return sum(tensor.numel() for tensor in model.parameters()) if isinstance(model, torch.nn.Module) else None


def _stored_size(path: Path) -> int:
    """Return the size in bytes of the weights in a folder, or of an ONNX graph."""
    kinds = ("*.safetensors", "model_head.skops", "onnx/model.onnx*")
    if path.is_file():
        path, kinds = path.parent, (f"{path.name}*",)
    return sum(file.stat().st_size for kind in kinds for file in path.glob(kind))


def _read_settings(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `config.json` of a source, or of the base of an adapter, and its `adapter_config.json`."""

    def read(folder: Path, name: str) -> dict[str, Any]:
        path = folder / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    with errors_as(f"{source}: its settings cannot be read", OSError):
        folder = local_folder(source)
        settings, adapter = read(folder, "config.json"), {}
        if not settings and (adapter := read(folder, ADAPTER_CONFIG)):
            settings = read(_base_of(adapter), "config.json")
    if not settings:
        raise OSError(f"No model in {source!r}: there is no config.json.")
    return settings, adapter


def _base_of(adapter: dict[str, Any], **which: Any) -> Path:
    return local_folder(adapter["base_model_name_or_path"], revision=adapter.get("revision"), **which)


def _load_transformer(base: Path, folder: Path, adapter: dict[str, Any], trust_remote_code: bool) -> PreTrainedModel:
    """Load a classifier of transformers, and the adapter for it in `folder` if there is one."""
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


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the largest number of tokens that a model reads; `NO_LIMIT` if it has no limit."""
    limits = [int(tokenizer.model_max_length), getattr(model.config, "max_position_embeddings", None) or NO_LIMIT]
    for name, module in model.named_modules():
        # RoBERTa counts positions from the one after the pad's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(*limits, NO_LIMIT)


def _load_setfit(source: str, folder: Path, trust_remote_code: bool) -> Candidate:
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

    model = _load_pipeline(source, head, embed)
    parameters = _count_parameters(body) + (model.parameters or 0)
    return replace(model, kind=f"SentenceTransformer, {model.kind}", size=_stored_size(folder), parameters=parameters)


def _load_pipeline(source: str, path: Path, embed: Callable[[list[str]], np.ndarray] | None = None) -> Candidate:
    """Load a scikit-learn pipeline that skops saved. It takes texts, or with `embed` what that makes of them."""
    io = import_extra("skops.io", "skops", source)
    with errors_as(f"{source} cannot be loaded"):
        unknown = {*io.get_untrusted_types(file=path)} - KNOWN_TYPES
        pipeline = None if unknown else io.load(path, trusted=list(KNOWN_TYPES))
    if unknown:
        raise ValueError(f"{source} is not loaded, since it has types that may run code: {short_list(unknown)}.")
    steps = [step for _, step in pipeline.steps] if hasattr(pipeline, "steps") else [pipeline]
    head = steps[-1]
    if not hasattr(head, "classes_"):
        raise ValueError(f"{source}: {type(head).__name__} is not a fitted classifier.")
    if not hasattr(head, "predict_proba") and not (hasattr(head, "decision_function") and len(head.classes_) == 2):
        raise ValueError(f"{source}: {type(head).__name__} gives no scores: use a classifier with predict_proba.")
    pipeline, labels = make_pipeline(FunctionTransformer(embed), *steps), list(map(str, head.classes_))
    return _of_pipeline(pipeline, source, labels, kind=type(head).__name__, size=path.stat().st_size)


def _fit_baseline(source: str, **reading: Any) -> Candidate:
    data = source.removeprefix(BASELINE_PREFIX)
    messages = read_messages(data, **reading)
    logger.info("Training the baseline on %s messages", f"{len(messages):,}")
    pipeline = fit_baseline(messages)
    if pipeline is None:
        raise ValueError(f"{source}: the baseline cannot be trained on these messages.")
    labels = [label_names(messages)[index] for index in pipeline.classes_]
    about = {"name": f"{BASELINE_PREFIX}{public(data)}", "kind": BASELINE, "train": tuple(messages["text"][:])}
    return _of_pipeline(pipeline, source, labels, size=len(pickle.dumps(pipeline)), **about)


def _of_pipeline(pipeline: Pipeline, source: str, labels: list[str], **about: Any) -> Candidate:
    head, transform = pipeline.steps[-1][1], pipeline[:-1].transform  # features for scores and decisions
    ranks = not hasattr(head, "predict_proba")

    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities, predicted = np.empty((len(texts), len(head.classes_))), np.empty(len(texts), dtype=int)
        for start in trange(0, len(texts), WINDOW, desc="Classifying", disable=not progress):
            part = slice(start, start + WINDOW)
            features = transform(list(texts[part]))
            predicted[part] = np.searchsorted(head.classes_, head.predict(features))  # classes are sorted
            if ranks:
                margins = head.decision_function(features)
                probabilities[part] = expit(margins if margins.ndim == 2 else np.stack([-margins, margins], axis=1))
            else:
                probabilities[part] = head.predict_proba(features)
        return probabilities, predicted

    weights = sum(getattr(head, name).size for name in ("coef_", "intercept_") if hasattr(head, name))
    about = {"name": public(source), "parameters": weights or None, "only_ranks": ranks, **about}
    return Candidate(source=source, labels=tuple(labels), run=run, **about)


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
