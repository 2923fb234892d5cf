"""Classifiers of any kind behind one interface, so that they can be measured in the same way."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.labels import LABEL_NAMES
from ..data.reading import LABELS, label_key
from ..inference.classifier import SpamClassifier
from .metrics import Predictions, probability_table

Run = Callable[[Sequence[str], bool], tuple[np.ndarray, np.ndarray]]
"""Takes texts and whether to show a progress bar. Returns the probability of each class, (N, num_labels) in float64,
and the class that the model decides for, (N,)."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A classifier of any kind, as `load_candidate` returns it."""

    name: str  # without the folders of this machine
    source: str  # what it was loaded from, as for `load_candidate`
    kind: str  # the name of its class, such as "BertForSequenceClassification"
    labels: tuple[str, ...]  # names of its classes by index
    run: Run
    size: int  # of its weights in bytes, as they are stored
    parameters: int | None  # trained parameters; None if unknown
    spam: tuple[int, ...] = ()  # indices of the classes that mean spam; empty if none is known to
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
