"""Evaluate a classifier: metrics with intervals, a baseline, and the effect of duplicates of training messages."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.metrics import confusion_matrix

from ..data.duplicates import duplicate_groups, find_duplicates
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..data.names import Sources, source_name
from ..files import public, versions
from .baseline import BASELINE, fit_baseline, predict_baseline
from .candidates import Candidate
from .eval_data import EvalData
from .intervals import INTERVALS_NOTE, difference, estimate, estimates, measure, wilson
from .metrics import BINS, Predictions, lowest_threshold, score_bins

TARGET_RATES = (0.01, 0.001, 0.0)  # false-positive rates for which a threshold is computed
LENGTHS = (40, 80, 120, 160)  # characters; 160 is what fits into one SMS
LENGTH_NAMES = ("0 to 40", "41 to 80", "81 to 120", "121 to 160", "161 or more")
BUNDLED_NAME = "the bundled model (trained on the SMS Spam Collection, the sample and four public sets)"
EXPLAINED_ERRORS = 50  # each is classified once for every word


@dataclass(frozen=True)
class Report:
    """Results of an evaluation (`values`, ready for JSON), and the predictions to draw figures from."""

    values: dict[str, Any]
    model: Predictions
    baseline: Predictions | None


def make_report(
    candidate: Candidate,
    data: EvalData,
    *,
    split: str | None = None,
    source: Sources = "",
    progress: bool = False,
) -> Report:
    """Evaluate a classifier (see `load_candidate`) alongside a linear baseline trained on the same messages.

    With `split`, only this set is evaluated, otherwise all, with details for "test" or else the last one. `source` is
    where the messages come from.
    """
    sets, train = data.sets, data.train
    _check_labels(candidate, [*sets.values(), *([] if train is None else [train])])
    if split is not None and split not in sets:
        raise DataError(f"there is no split {split!r}; available: {', '.join(sets)}")
    detailed = split or ("test" if "test" in sets else list(sets)[-1])
    fitted = None if train is None else fit_baseline(train)
    measured, duplicates = {}, {}  # by set
    for name in [detailed] if split else sets:
        texts, labels = sets[name]["text"][:], np.array(sets[name]["label"][:])
        given = candidate.predictions(texts, labels, label_names(sets[name]), progress=progress)
        unseen = train is not None and sets[name] is not train
        baseline = predict_baseline(fitted, sets[name]) if unseen and fitted is not None else None
        measured[name] = _measure_both(given, baseline)
        if name == detailed:
            shown, shown_baseline = given, baseline
        if unseen:
            duplicates[name] = find_duplicates(texts, train["text"][:])
            for key, left_out in zip(("without_exact", "without_near"), duplicates[name], strict=True):
                part = None
                if left_out.any() and not left_out.all():
                    part = _measure_both(given.select(~left_out), baseline and baseline.select(~left_out))
                measured[name][key] = part

    values = {
        "model": BUNDLED_NAME if candidate.source == "bundled" else candidate.name,
        "data": public(source_name(source)),
        "splits": data.splits,
        "trained_on": data.trained_on,
        "training_messages": None if train is None else len(train),
        "remark": f"{data.remark} {data.hint}".strip(),
        "baseline": None if fitted is None else BASELINE,
        "labels": list(shown.names),
        "positive_label": None if shown.positive is None else shown.names[shown.positive],
        "intervals": INTERVALS_NOTE,
        "temperature": candidate.temperature,
        "threshold": candidate.threshold,
        "sets": measured,
        "duplicates": {
            name: {"exact": int(exact.sum()), "near": int(near.sum())} for name, (exact, near) in duplicates.items()
        },
        "details": {"set": detailed, **_details(shown, duplicates.get(detailed), candidate)},
        "versions": versions(),
    }
    return Report(values, shown, shown_baseline)


def _check_labels(candidate: Candidate, sets: list[Dataset]) -> None:
    expected = list(candidate.labels)
    allowed = [expected, LABEL_NAMES] if candidate.spam else [expected]
    advice = "" if candidate.spam else f"; if one of them means spam, use --label-map, such as {expected[-1]}=spam"
    for messages in sets:
        names = label_names(messages)
        if names not in allowed or len(names) != len(label_names(sets[0])):
            known = f"the model knows {', '.join(expected)}{advice}"
            raise DataError(f"the messages are labelled {', '.join(names)}, but {known}")


def _measure_both(model: Predictions, baseline: Predictions | None) -> dict[str, Any]:
    """Measure the model and the baseline on a set, and the difference of their F1."""
    groups = duplicate_groups(model.texts)
    ours, theirs = measure(model, groups), baseline and measure(baseline, groups)
    return {
        "messages": len(model.texts),
        **({} if model.positive is None else {"spam": int(model.is_spam.sum())}),
        "model": ours[0],
        "baseline": theirs and theirs[0],
        "f1_difference": theirs and difference(ours, theirs, "f1"),
    }


def _details(given: Predictions, duplicates: Sequence[np.ndarray] | None, candidate: Candidate) -> dict[str, Any]:
    """Return the confusion matrix, errors and results by length of a set, and its thresholds and calibration."""
    names = given.names
    order = sorted(range(len(names)), key=lambda label: label != given.positive)  # the positive class first
    table = confusion_matrix(given.labels, given.predicted, labels=order).tolist()
    names = [names[label] for label in order]
    confusion = {name: dict(zip(names, counts, strict=True)) for name, counts in zip(names, table, strict=True)}
    details: dict[str, Any] = {"confusion": confusion}
    if given.positive is not None:
        details |= {"thresholds": _thresholds(given, candidate.threshold)}
        details |= {} if given.only_ranks else {"calibration": _calibration(given)}
    lengths = np.searchsorted(LENGTHS, [len(text) for text in given.texts])  # (N,) indices of LENGTH_NAMES
    by_length = [{"part": LENGTH_NAMES[i], **_count_errors(given.select(lengths == i))} for i in np.unique(lengths)]
    return details | {"by_length": by_length, "errors": _errors(given, duplicates, candidate)}


def _errors(given: Predictions, duplicates: Sequence[np.ndarray] | None, candidate: Candidate) -> list[dict[str, Any]]:
    """List the misclassified messages, the most confident predictions first.

    If the classifier is ours, the first ones are explained: with the log-odds of spam and the contributions of words.
    """
    in_training = None if duplicates is None else np.select(duplicates, ["exact", "near"], "no").tolist()
    confidence = given.probabilities[np.arange(len(given.labels)), given.predicted]
    scores = confidence if given.positive is None else given.scores
    wrong = np.flatnonzero(given.labels != given.predicted)
    errors = [
        {
            "text": given.texts[i],
            "label": given.names[given.labels[i]],
            "predicted": given.names[given.predicted[i]],
            "score": float(scores[i]),
            "in_training": in_training and in_training[i],
        }
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]
    if candidate.classifier is not None:
        explanations = candidate.classifier.explain([error["text"] for error in errors[:EXPLAINED_ERRORS]], strongest=0)
        for error, explanation in zip(errors, explanations, strict=False):
            error |= {"log_odds": explanation.log_odds, "words": [asdict(word) for word in explanation.words]}
    return errors


def _thresholds(given: Predictions, own: float | None) -> list[dict[str, Any]]:
    """Count the errors at the model's own threshold, and at the lowest one for each of `TARGET_RATES`."""
    rows = [{"false_positive_rate": None, "threshold": own, **_count_errors(given)}]
    if given.is_spam.all() or not given.is_spam.any():
        return rows
    for rate in TARGET_RATES:
        threshold = lowest_threshold(given.is_spam, given.scores, rate)
        called = given.scores >= (np.inf if threshold is None else threshold)
        moved = replace(given, predicted=np.where(called, given.positive, 1 - given.positive))
        rows.append({"false_positive_rate": rate, "threshold": threshold, **_count_errors(moved)})
    return rows


def _count_errors(given: Predictions) -> dict[str, Any]:
    """Count messages and errors; with a positive class also missed spam and false alarms."""
    found, wrong = estimates(given), int((given.labels != given.predicted).sum())
    counts = {"messages": len(given.labels), "wrong": wrong, "accuracy": found["accuracy"]}
    if given.positive is None:
        return counts
    missed = int((given.is_spam & ~given.predicted_spam).sum())
    counts |= {"spam": int(given.is_spam.sum()), "missed": missed, "false_alarms": wrong - missed}
    return counts | {"precision": found["precision"], "recall": found["recall"]}


def _calibration(given: Predictions) -> list[dict[str, Any]]:
    """Compare, in each non-empty bin of scores, the mean score with the fraction of spam."""
    bins, rows = score_bins(given.scores), []  # scikit-learn's `calibration_curve` gives no counts, for the intervals
    for number in np.unique(bins).tolist():
        part = given.select(bins == number)
        spam = estimate(part.is_spam.mean(), wilson(part.is_spam.sum(), len(part.labels)))
        edges = {"from": number / BINS, "to": (number + 1) / BINS}
        rows.append({**edges, "messages": len(part.labels), "mean_score": float(part.scores.mean()), "spam": spam})
    return rows
