"""Reports on a few messages, from a stand-in classifier with fixed answers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from hf_spam.data.labels import LABEL_NAMES, features_of
from hf_spam.evaluation.candidates import Candidate, spam_classes
from hf_spam.evaluation.eval_data import EvalData
from hf_spam.evaluation.metrics import Predictions, probability_table
from hf_spam.evaluation.report import Report, make_report
from hf_spam.modeling.configuration_spam_gpt import decide


def scorer(
    table: dict[str, list[float]], names=LABEL_NAMES, threshold: float | None = None, **attributes: Any
) -> Candidate:
    """Return a stand-in for a classifier, with a probability table: text -> probability of each class."""
    config = SimpleNamespace(id2label=dict(enumerate(names)), threshold=threshold)

    def run(texts, progress):
        probabilities = np.array([table[text] for text in texts], dtype=np.float32)
        return probabilities.astype(float), decide(config, torch.from_numpy(probabilities)).numpy()

    about = {"name": "scorer", "source": "scorer", "kind": "Scorer", "size": 0, "parameters": None, **attributes}
    return Candidate(labels=tuple(names), spam=spam_classes(names, {}), run=run, threshold=threshold, **about)


def messages(rows, names=LABEL_NAMES) -> Dataset:
    """Return a dataset of (text, label, ...) rows."""
    texts, labels = [row[0] for row in rows], [int(row[1]) for row in rows]
    return Dataset.from_dict({"text": texts, "label": labels}, features=features_of(names))


def predictions_of(labels: Sequence[int], scores: Sequence[float]) -> Predictions:
    """Return predictions with these scores of spam; scores above 0.5 are called spam."""
    scores = np.array(scores)
    table = probability_table(scores, positive=1)
    return Predictions(tuple(LABEL_NAMES), np.array(labels), (scores > 0.5).astype(int), table)


def report_of(rows, train=None, names=LABEL_NAMES, threshold=None, data=None, source="", **attributes: Any) -> Report:
    """Return the report on (text, label, answer) rows, or on `data` with the answers to these texts.

    An answer is the probability of spam, or one probability for each class. `attributes` are those of the classifier.
    """
    table = {text: [1 - answer, answer] if isinstance(answer, float) else answer for text, _, answer in rows}
    train = None if train is None else messages(train, names)
    data = data or EvalData(DatasetDict(test=messages(rows, names)), "by hand", train, "by hand")
    return make_report(scorer(table, names, threshold, **attributes), data, source=source)


def values_of(measured: dict) -> dict:
    """Return the values of metrics without their intervals."""
    return {name: estimate["value"] for name, estimate in measured.items()}


# Two labels

TRAIN = [("win a prize now", 1), ("win 100 pounds", 1), ("see you at home", 0), ("are you at work", 0)]
ROWS = [
    ("win a prize now", 1, 0.99),  # exact duplicate
    ("WIN 500 pounds!", 1, 0.9),  # near-duplicate
    ("free ringtone " * 12, 1, 0.3),  # missed
    ("see you at home", 0, 0.1),  # exact duplicate
    ("lunch?", 0, 0.7),  # a false alarm
    ("running late", 0, 0.2),
    ("call me", 0, 0.05),
    ("good night", 0, 0.01),
]

# Three labels

NAMES = ["home", "promo", "work"]
HOME, PROMO = [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]
TRAIN_3 = [("kiss mum", 0), ("love mum", 0), ("sale now", 1), ("sale today", 1), ("meeting at nine", 2), ("meeting", 2)]
ROWS_3 = [
    ("kiss mum", 0, HOME),  # exact duplicate
    ("SALE, now!", 1, PROMO),  # near-duplicate
    ("meeting with mum", 2, HOME),
    ("meeting at ten", 2, PROMO),
    ("dad " * 20, 0, HOME),
]
