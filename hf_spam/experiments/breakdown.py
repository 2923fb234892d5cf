"""Results of a model and the baseline by source, category and language."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.intervals import estimate, proportions
from ..evaluation.metrics import Predictions
from ..evaluation.page import Table, format_estimate
from ..files import public

NOTES = ("source", "category", "language")
SHOWN = ("roc_auc", "recall", "false_positive_rate")
FEW = 20  # groups of fewer messages are not shown: their intervals say nothing
PERCENT = "{:.1f} ({:.0f}-{:.0f})"  # form of a share, for `format_estimate`

Group = dict[str, Any]
"""`by` ("source", "category" or "language"), `name`, the numbers of `spam` and `ham` messages, and for `model` and
`baseline` the metrics in `SHOWN`, each `None` where it is undefined, with Wilson intervals `recall_interval` and
`false_positive_rate_interval`."""


def breakdown(answers: Mapping[str, Predictions | None], notes: Mapping[str, Sequence[str]]) -> list[Group]:
    """Measure the predictions of "model" and "baseline" on the messages of each source, category and language.

    `notes` holds the value of each of `NOTES` for each message, (N,); "" if it is not known. Returns groups in the
    order of `NOTES`, then by name: none with more than two classes, or if everything is one group. Sources are named
    without their folders, unless two would get the same name.
    """
    if not notes or next(iter(answers.values())).positive is None:
        return []
    groups = []
    for by in NOTES:
        values = np.array(notes[by], dtype=object)
        if by == "source":
            short = {name: public(name) for name in {*values}}
            if len({*short.values()}) == len(short):
                values = np.array([short[name] for name in values], dtype=object)
        found = sorted({*values} - {""})
        for name in found if len(found) > 1 or "" in values else ():
            parts = {kind: answer and answer.select(values == name) for kind, answer in answers.items()}
            spam = next(iter(parts.values())).is_spam
            counts = {"spam": int(spam.sum()), "ham": int((~spam).sum())}
            measured = {kind: part and _measure(part) for kind, part in parts.items()}
            groups.append({"by": by, "name": name, **counts, **measured})
    return groups


def _measure(given: Predictions) -> dict[str, Any]:
    metrics, intervals = given.metrics(), proportions(given)
    shown = {name: metrics[name] if name != "recall" or given.is_spam.any() else None for name in SHOWN}
    return shown | {f"{name}_interval": intervals[name] for name in ("recall", "false_positive_rate")}


def groups_tables(groups: Sequence[Group], kinds: Mapping[Any, str]) -> list[Table]:
    """Return tables of the spam found and of the false alarms in each group, with a column for each of `kinds`.

    These are the keys of what `breakdown` measured, and their headings.
    """
    note = f"In brackets: 95 % Wilson intervals. Groups of fewer than {FEW} are in the JSON only."
    tables = []
    titles = {"recall": ("Spam found, %", "spam"), "false_positive_rate": ("False alarms, %", "ham")}
    for metric, (title, count) in titles.items():
        rows = []
        for group in groups:
            if group[count] >= FEW:
                found = [group[kind] or {} for kind in kinds]
                shares = [estimate(one.get(metric), one.get(f"{metric}_interval")) for one in found]
                cells = [format_estimate(share, PERCENT, 100) for share in shares]
                rows.append([f"{group['by']} {group['name']}", f"{group[count]:,}", *cells])
        tables.append(Table(title, ["messages", count, *kinds.values()], rows, note))
    return tables
