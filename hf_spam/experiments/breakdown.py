"""Results of a model and the baseline by source, category and language."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.intervals import wilson
from ..evaluation.metrics import Predictions, SpamMetrics

NOTES = ("source", "category", "language")
SHOWN = ("roc_auc", "recall", "false_positive_rate")

Group = dict[str, Any]
"""`by` ("source", "category" or "language"), `name`, the numbers of `spam` and `ham` messages, and for `model` and
`baseline` the metrics in `SHOWN`, each `None` where it is undefined, with Wilson intervals `recall_interval` and
`false_positive_rate_interval`."""


def breakdown(
    names: Sequence[str], answers: Mapping[str, dict[str, np.ndarray] | None], notes: Mapping[str, Sequence[str]]
) -> list[Group]:
    """Measure the answers on the messages of each source, category and language.

    Args:
        names: Names of the classes.
        answers: Arguments of `SpamMetrics` for "model" and "baseline", or `None`, on the same N messages.
        notes: For each of `NOTES`, its value for each message, (N,); "" if it is not known.

    Returns:
        Groups in the order of `NOTES`, then by name. None with more than two classes, or if everything is one group.
    """
    if len(names) != 2:
        return []
    groups = []
    for by in NOTES:
        values = np.array(notes[by], dtype=object)
        found = sorted({*values} - {""})
        for name in found if len(found) > 1 or "" in values else ():
            groups.append({"by": by, "name": name, **_measure(names, answers, values == name)})
    return groups


def _measure(
    names: Sequence[str], answers: Mapping[str, dict[str, np.ndarray] | None], chosen: np.ndarray
) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for kind, answer in answers.items():
        if answer is None:
            measured[kind] = None
            continue
        part = {name: values[chosen] for name, values in answer.items()}
        metrics = SpamMetrics(names).compute(**part)
        given = Predictions(tuple(names), part["references"], part["predictions"], None)
        spam, called = given.is_spam, given.predicted_spam
        measured |= {"spam": int(spam.sum()), "ham": int((~spam).sum())}
        measured[kind] = {name: metrics[name] if name != "recall" or spam.any() else None for name in SHOWN} | {
            "recall_interval": wilson((spam & called).sum(), spam.sum()),
            "false_positive_rate_interval": wilson((~spam & called).sum(), (~spam).sum()),
        }
    return measured
