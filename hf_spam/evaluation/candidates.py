"""Put spam classifiers of all kinds behind one interface, so that they can be measured in the same way."""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..conversion.adapters import ADAPTER_CONFIG
from ..conversion.loading import EXPORTED_SETTINGS, errors_as, local_folder
from ..data.labels import LABEL_NAMES, label_names
from ..data.reading import LABELS, label_key, parse_label_map
from ..data.sources import read_messages
from ..files import public
from ..inference import other_models
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from .baseline import BASELINE, fit_baseline
from .metrics import Predictions, probability_table

BASELINE_PREFIX = "baseline="

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A classifier of any kind, as `load_candidate` returns it."""

    name: str  # without the folders of this machine
    source: str  # what it was loaded from, as for `load_candidate`
    kind: str  # the name of its class, such as "BertForSequenceClassification"
    labels: tuple[str, ...]  # names of its classes by index
    spam: tuple[int, ...]  # indices of the classes that mean spam; empty if none is known to
    run: other_models.Run  # the class is its own decision, with its threshold if it has one
    size: int  # of its weights in bytes, as they are stored
    parameters: int | None  # trained parameters; None if unknown
    threshold: float | None = None  # for the probability of spam; None: it chooses the most likely class
    temperature: float = 1.0
    only_ranks: bool = False  # whether the scores only rank the messages, because the model gives no probabilities
    train: tuple[str, ...] | None = None  # texts that it was trained on while it was loaded (the baseline)
    classifier: SpamClassifier | None = None  # the classifier itself, if it is one of ours

    @property
    def about(self) -> dict[str, Any]:
        """Return what a table says about it, ready for JSON."""
        return {name: getattr(self, name) for name in ("name", "kind", "size", "parameters", "threshold")}

    def predictions(
        self, texts: Sequence[str], labels: np.ndarray, names: Sequence[str] = LABEL_NAMES, *, progress: bool = False
    ) -> Predictions:
        """Classify labelled messages; spam against the rest if the names of their classes are not the model's."""
        probabilities, predicted = self.run(texts, progress)
        if tuple(names) != self.labels:
            probabilities = probability_table(probabilities[:, list(self.spam)].sum(1), positive=1)
            predicted = np.isin(predicted, self.spam).astype(int)
        return Predictions(tuple(names), labels, predicted, probabilities, tuple(texts), self.only_ranks)


def load_candidate(
    name: str | os.PathLike | Candidate | None = None,
    *,
    label_map: str | Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    any_labels: bool = False,
    **reading: Any,
) -> Candidate:
    """Load a classifier of any kind, unless it is loaded already. The `name` is one of

    - a model of ours, or an export of one: a folder, a Hub id, or "bundled" (`None` is the same);
    - a folder or Hub id of any sequence classifier of transformers, or of a PEFT adapter for one, with weights in
      safetensors;
    - a folder or Hub id of a SetFit model whose head is saved as `model_head.skops`;
    - the path of a .skops file: a scikit-learn pipeline that takes texts;
    - "baseline=SOURCE": our linear baseline, trained on this source of messages, which is read as `reading` says (see
      `load_sms_spam`).

    A `label_map`, such as "LABEL_1=spam", says what its labels mean; without one, they are read as those of data are.
    One of them must mean spam, unless `any_labels` is set.
    """
    if isinstance(name, Candidate):
        return name
    source = "bundled" if name is None else os.fspath(name)
    meanings = parse_label_map(label_map)
    if source.startswith(BASELINE_PREFIX):
        candidate = _fit_baseline(source, {**reading, "label_map": label_map})
    elif source.endswith(other_models.PICKLES):
        advice = "if you trust its author, load it and save it with skops.io.dump"
        raise ValueError(f"{source} is a pickle, which could run any code, and is not read: {advice}.")
    elif source.endswith(".skops"):
        candidate = _of_other(other_models.load_pipeline(source, Path(source)), source, meanings)
    else:
        folder = local_folder(source)
        settings, adapter = _read_settings(source, folder)
        if settings.get("model_type") == SpamGPTConfig.model_type or EXPORTED_SETTINGS in settings:
            candidate = as_candidate(SpamClassifier.from_pretrained(source), source, meanings)
        else:
            other = other_models.load_folder(source, folder, settings, adapter, trust_remote_code=trust_remote_code)
            candidate = _of_other(other, source, meanings)
    if not candidate.spam and not any_labels:
        labels = candidate.labels
        found = ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
        advice = f"say which one is with --label-map, such as {labels[-1]}=spam"
        raise ValueError(f"{source}: none of its labels is known to mean spam ({found}): {advice}.")
    return candidate


def as_candidate(classifier: SpamClassifier, source: str = "", meanings: Mapping[str, str] | None = None) -> Candidate:
    """Return one of our classifiers as a candidate; `meanings` is a parsed label map."""
    model, config = classifier.model, classifier.model.config
    labels = tuple(class_names(config))

    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities = classifier.predict_proba(texts, progress=progress)
        return probabilities.astype(np.float64), decide(config, torch.from_numpy(probabilities)).numpy()

    if source.endswith(".onnx"):
        size = sum(path.stat().st_size for path in Path(source).parent.glob(f"{Path(source).name}*"))
    else:
        size = other_models.stored_size(local_folder(source)) if source else 0
    return Candidate(
        name=public(source),
        source=source,
        kind=type(model).__name__,
        labels=labels,
        spam=spam_classes(labels, meanings or {}),
        run=run,
        size=size,
        parameters=other_models.count_parameters(model),
        threshold=getattr(config, "threshold", None),
        temperature=getattr(config, "temperature", 1.0),
        classifier=classifier,
    )


def spam_classes(labels: Sequence[str], meanings: Mapping[str, str]) -> tuple[int, ...]:
    """Return the indices of the classes that mean spam, by a parsed label map or by the words that mean it in data."""
    known = [LABELS.get(meanings.get(label_key(label), label_key(label))) for label in labels]
    if len(labels) == 2 and known.count(0) == 1:  # what is not ham is spam
        return (1 - known.index(0),)
    return tuple(index for index, meaning in enumerate(known) if meaning == 1)


def split_label_map(label_map: str | None, models: Iterable[str]) -> tuple[str | None, dict[str, str | None]]:
    """Return the part of a label map for the data, and the one for each model.

    An entry MODEL:OLD=NEW is for this model only. The others are for the data, and for all models without entries of
    their own. The names that transformers makes up, such as LABEL_1, are not looked for in the data.
    """
    shared: list[str] = []
    own: dict[str, list[str]] = {model: [] for model in models}
    for entry in label_map.split(",") if label_map else []:
        model = next((model for model in own if entry.startswith(f"{model}:")), None)
        (shared if model is None else own[model]).append(entry.removeprefix(f"{model}:"))
    for_data = [entry for entry in shared if not re.match(r"LABEL_\d+=", entry)]
    return ",".join(for_data) or None, {model: ",".join(mine or shared) or None for model, mine in own.items()}


def _of_other(other: other_models.OtherModel, source: str, meanings: Mapping[str, str]) -> Candidate:
    """Return a classifier of another package as a candidate; two classes get the names and order of ours."""
    about = vars(other) | {"labels": tuple(other.labels), "spam": spam_classes(other.labels, meanings)}
    if len(other.labels) == 2 and len(about["spam"]) == 1:
        order = [1 - about["spam"][0], about["spam"][0]]

        def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
            probabilities, predicted = other.run(texts, progress)
            return probabilities[:, order], (predicted == order[1]).astype(int)

        about |= {"labels": tuple(LABEL_NAMES), "spam": (1,), "run": run}
    return Candidate(name=public(source), source=source, **about)


def _fit_baseline(source: str, reading: dict[str, Any]) -> Candidate:
    data = source.removeprefix(BASELINE_PREFIX)
    messages = read_messages(data, **reading)
    logger.info("Training the baseline on %s messages", f"{len(messages):,}")
    pipeline = fit_baseline(messages)
    if pipeline is None:
        raise ValueError(f"{source}: the baseline cannot be trained on these messages.")
    model, names = other_models.wrap_pipeline(pipeline, size=len(pickle.dumps(pipeline))), label_names(messages)
    model = replace(model, kind=BASELINE, labels=[names[int(index)] for index in model.labels])
    candidate = _of_other(model, source, {})
    return replace(candidate, name=f"{BASELINE_PREFIX}{public(data)}", train=tuple(messages["text"][:]))


def _read_settings(source: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `config.json` in a folder, that of the base for an adapter, and its `adapter_config.json`."""

    def read(folder: Path, name: str) -> dict[str, Any]:
        with errors_as(f"{source}: {name} cannot be read"):
            return dict(json.loads((folder / name).read_text(encoding="utf-8"))) if (folder / name).is_file() else {}

    settings, adapter = read(folder, "config.json"), {}
    if not settings and (adapter := read(folder, ADAPTER_CONFIG)):
        with errors_as(f"{source} is an adapter, and its base cannot be found", OSError):
            settings = read(local_folder(adapter["base_model_name_or_path"]), "config.json")
    if not settings:
        raise OSError(f"No model in {source!r}: there is no config.json.")
    return settings, adapter
