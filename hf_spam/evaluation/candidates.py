"""Put spam classifiers of all kinds behind one interface, so that they can be measured in the same way."""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..conversion.adapters import ADAPTER_CONFIG
from ..conversion.loading import EXPORTED_SETTINGS, errors_as, local_folder
from ..data.labels import LABEL_NAMES
from ..data.reading import LABELS, label_key, parse_label_map
from ..data.sources import read_messages
from ..files import public
from ..inference.classifier import SpamClassifier
from ..inference.other_models import (
    PICKLES,
    OtherModel,
    Run,
    count_parameters,
    load_folder,
    load_pipeline,
    stored_size,
    wrap_pipeline,
)
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from .baseline import BASELINE, fit_baseline

BASELINE_PREFIX = "baseline="

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """Answers of a classifier: the probability of spam, and whether it calls the message spam, (N,) each."""

    scores: np.ndarray
    called: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A classifier of any kind, as `load_candidate` returns it.

    Attributes:
        name: Its name, without the folders of this machine.
        source: What it was loaded from, as for `load_candidate`.
        kind: The name of its class, such as "BertForSequenceClassification".
        labels: Names of its classes by index.
        spam: Indices of the classes that mean spam; empty if none is known to.
        run: Runs it, see `Run`. The class is its own decision, with its threshold if it has one.
        size: Size of its weights in bytes, as they are stored.
        parameters: Number of trained parameters; `None` if unknown.
        threshold: Its own threshold for the probability of spam; `None`: it chooses the most likely class.
        temperature: Its temperature.
        only_ranks: Whether the scores only rank the messages, because the model gives no probabilities.
        train: Texts that it was trained on while it was loaded (the baseline).
    """

    name: str
    source: str
    kind: str
    labels: tuple[str, ...]
    spam: tuple[int, ...]
    run: Run
    size: int
    parameters: int | None
    threshold: float | None = None
    temperature: float = 1.0
    only_ranks: bool = False
    train: tuple[str, ...] | None = None

    def answers(self, texts: Sequence[str], *, progress: bool = False) -> Answers:
        """Return the score of each message and the model's own decision.

        Raises:
            ValueError: It is not known which of the classes is spam.
        """
        self.check_spam()
        probabilities, predicted = self.run(texts, progress)
        return Answers(probabilities[:, list(self.spam)].sum(1), np.isin(predicted, self.spam))

    def scores(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return the probability of spam of each message, (N,) in float64."""
        return self.answers(texts, progress=progress).scores

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return whether the model calls each message spam, (N,) bool."""
        return self.answers(texts, progress=progress).called

    def check_spam(self) -> None:
        """Raise `ValueError`, with the flag to use, if it is not known which of the classes is spam."""
        if not self.spam:
            found = ", ".join(map(repr, self.labels[:5])) + (", ..." if len(self.labels) > 5 else "")
            advice = f"say which one is with --label-map, such as {self.labels[-1]}=spam"
            raise ValueError(f"{self.source}: none of its labels is known to mean spam ({found}): {advice}.")


def load_candidate(
    name: str | os.PathLike | None = None,
    *,
    label_map: str | Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    any_labels: bool = False,
    **reading: Any,
) -> Candidate:
    """Load a classifier of any kind.

    Args:
        name: One of

            - a model of ours, or an export of one: a folder, a Hub id, or "bundled" (`None` is the same);
            - a folder or Hub id of any sequence classifier of transformers, or of a PEFT adapter for one, with weights
              in safetensors;
            - a folder or Hub id of a SetFit model whose head is saved as `model_head.skops`;
            - the path of a .skops file: a scikit-learn pipeline that takes texts;
            - "baseline=SOURCE": our linear baseline, trained on this source of messages.
        label_map: Meaning of its labels, such as "LABEL_1=spam". `None`: read from the labels, as those of data are.
        trust_remote_code: Whether to run code that comes with the model.
        any_labels: Whether none of the labels needs to mean spam.
        reading: How to read the source of the baseline, as for `load_sms_spam`.

    Raises:
        OSError: There is no such model, or the Hub cannot be reached.
        ValueError: It cannot be used: it is of an unknown kind, damaged or a pickle, or none of its labels means spam.
    """
    source, train = "bundled" if name is None else os.fspath(name), None
    meanings = parse_label_map(label_map)
    if source.startswith(BASELINE_PREFIX):
        other, train = _fit_baseline(source, {**reading, "label_map": label_map})
    elif source.endswith(PICKLES):
        advice = "if you trust its author, load it and save it with skops.io.dump"
        raise ValueError(f"{source} is a pickle, which could run any code, and is not read: {advice}.")
    elif source.endswith(".skops"):
        if not os.path.isfile(source):
            raise OSError(f"No model in {source!r}: there is no such file.")
        other = load_pipeline(source, Path(source))
    else:
        folder = local_folder(source)
        settings, adapter = _read_settings(source, folder)
        if settings.get("model_type") == SpamGPTConfig.model_type or EXPORTED_SETTINGS in settings:
            candidate = as_candidate(SpamClassifier.from_pretrained(source), source, meanings)
            if not any_labels:
                candidate.check_spam()
            return candidate
        other = load_folder(source, folder, settings, adapter, trust_remote_code=trust_remote_code)
    candidate = _of_other(other, source, meanings, train)
    if not any_labels:
        candidate.check_spam()
    return candidate


def as_candidate(classifier: SpamClassifier, source: str = "", meanings: Mapping[str, str] | None = None) -> Candidate:
    """Return one of our classifiers as a candidate; `meanings` is a parsed label map."""
    model, config = classifier.model, classifier.model.config
    labels = tuple(class_names(config))

    def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        probabilities = classifier.predict_proba(texts, progress=progress)
        return probabilities.astype(np.float64), decide(config, torch.from_numpy(probabilities)).numpy()

    graphs = [*Path(source).parent.glob(f"{Path(source).name}*")] if source.endswith(".onnx") else []
    return Candidate(
        name=str(public(source)),
        source=source,
        kind=type(model).__name__,
        labels=labels,
        spam=spam_classes(labels, meanings or {}),
        run=run,
        size=sum(path.stat().st_size for path in graphs) or (stored_size(local_folder(source)) if source else 0),
        parameters=count_parameters(model),
        threshold=getattr(config, "threshold", None),
        temperature=getattr(config, "temperature", 1.0),
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


def _of_other(other: OtherModel, source: str, meanings: Mapping[str, str], train: tuple[str, ...] | None) -> Candidate:
    """Return a classifier of another package as a candidate; two classes get the names and order of ours."""
    labels, run, spam = tuple(other.labels), other.run, spam_classes(other.labels, meanings)
    if len(labels) == 2 and len(spam) == 1:
        order = [1 - spam[0], spam[0]]
        labels, spam = tuple(LABEL_NAMES), (1,)

        def run(texts: Sequence[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
            probabilities, predicted = other.run(texts, progress)
            return probabilities[:, order], (predicted == order[1]).astype(int)

    return Candidate(
        name=f"{BASELINE_PREFIX}{public(source[len(BASELINE_PREFIX) :])}" if train else str(public(source)),
        source=source,
        kind=BASELINE if train else other.kind,
        labels=labels,
        spam=spam,
        run=run,
        size=other.size,
        parameters=other.parameters,
        only_ranks=other.only_ranks,
        train=train,
    )


def _fit_baseline(source: str, reading: dict[str, Any]) -> tuple[OtherModel, tuple[str, ...]]:
    messages = read_messages(source.removeprefix(BASELINE_PREFIX), **reading)
    logger.info("Training the baseline on %s messages", f"{len(messages):,}")
    pipeline = fit_baseline(messages)
    if pipeline is None:
        raise ValueError(f"{source}: the baseline cannot be trained on these messages.")
    other = wrap_pipeline(pipeline, size=len(pickle.dumps(pipeline)))
    names = messages.features["label"].names
    labels = [names[int(index)] for index in other.labels]
    return OtherModel(other.kind, labels, other.run, other.size, other.parameters, True), tuple(messages["text"][:])


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
        found = next((path.name for path in folder.glob("*") if path.suffix in PICKLES), None)
        advice = f"; {found} is a pickle, which is not read: save the model with skops.io.dump" if found else ""
        raise OSError(f"No model in {source!r}: there is no config.json{advice}.")
    return settings, adapter
