"""Evaluate a classifier: metrics with intervals, a baseline, and the effect of duplicates of training messages."""

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.metrics import confusion_matrix

from ..data.duplicates import duplicate_groups, find_duplicates
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..data.names import Sources, source_name
from ..files import public, versions
from .baseline import BASELINE, fit_baseline, predict_baseline
from .candidates import Candidate
from .eval_data import EvalData
from .intervals import INTERVALS_NOTE, Interval, bootstrap, percentiles, proportions, wilson
from .metrics import BINS, Predictions, lowest_threshold, probability_table, score_bins

TARGET_RATES = (0.01, 0.001, 0.0)  # false-positive rates for which a threshold is computed
LENGTHS = (40, 80, 120, 160)  # characters; 160 is what fits into one SMS
BUNDLED_NAME = "the bundled model (trained on the SMS Spam Collection, the sample and four public sets)"
ROUNDING = 1e-9  # bootstrap intervals narrower than this are rounding errors

Estimate = dict[str, float | None]
"""A `value` and its interval, `low` to `high`. `None` where the metric is undefined (recall with no spam), or where
there is no interval (all bootstrap samples agree)."""
Duplicates = tuple[np.ndarray, np.ndarray]
"""Which messages are exact duplicates, and which are exact or near-duplicates, (N,) bool each."""


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
    model: str | os.PathLike | None = None,
    source: Sources = "",
    progress: bool = False,
) -> Report:
    """Evaluate a classifier (see `load_candidate`) alongside a linear baseline trained on the same messages.

    If the messages are labelled spam and not spam but the model has other labels, one of them "spam", the model is
    evaluated on spam against the rest.

    With `split`, only this set is evaluated, otherwise all, with details for "test" or else the last one. `model` and
    `source` are names for the report.
    """
    sets, train = data.sets, data.train
    _check_labels(candidate, [*sets.values(), *([] if train is None else [train])])
    if split is not None and split not in sets:
        raise DataError(f"there is no split {split!r}; available: {', '.join(sets)}")
    detailed = split or ("test" if "test" in sets else list(sets)[-1])
    evaluated = [detailed] if split else list(sets)
    unseen = [name for name in evaluated if train is not None and sets[name] is not train]
    predictions = {name: _predict(candidate, sets[name], progress) for name in evaluated}
    fitted = None if train is None else fit_baseline(train)
    baselines = {name: predict_baseline(fitted, sets[name]) for name in unseen if fitted is not None}
    found = _find_duplicates(sets, train)
    duplicates = {name: found[name]["training"] for name in unseen}
    measured = {}
    for name, given in predictions.items():
        measured[name] = _measure_both(given, baselines.get(name))
        for key, left_out in zip(("without_exact", "without_near"), duplicates.get(name, ()), strict=False):
            measured[name][key] = _measure_without(left_out, given, baselines.get(name))

    shown, threshold = predictions[detailed], candidate.threshold
    values = {
        "model": BUNDLED_NAME if model in (None, "bundled") else public(os.fspath(model)),
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
        "threshold": threshold,
        "sets": measured,
        "duplicates": {
            name: {
                other: {"exact": int(exact.sum()), "near": int(near.sum())} for other, (exact, near) in others.items()
            }
            for name, others in found.items()
        },
        "details": {"set": detailed, **_details(shown, duplicates.get(detailed), threshold)},
        "versions": versions(),
    }
    return Report(values, shown, baselines.get(detailed))


def _check_labels(candidate: Candidate, sets: list[Dataset]) -> None:
    expected = list(candidate.labels)
    allowed = [expected, LABEL_NAMES] if candidate.spam else [expected]
    for messages in sets:
        names = label_names(messages)
        if names not in allowed or len(names) != len(label_names(sets[0])):
            advice = (
                "" if candidate.spam else f"; if one of them means spam, use --label-map, such as {expected[-1]}=spam"
            )
            known = f"the model knows {', '.join(expected)}{advice}"
            raise DataError(f"the messages are labelled {', '.join(names)}, but {known}")


def _predict(candidate: Candidate, messages: Dataset, progress: bool) -> Predictions:
    """Classify a set of messages."""
    texts, names = messages["text"][:], tuple(label_names(messages))
    if names == candidate.labels:
        probabilities, predicted = candidate.run(texts, progress)
    else:  # spam against the rest
        answers = candidate.answers(texts, progress=progress)
        probabilities, predicted = probability_table(answers.scores, positive=1), answers.called.astype(int)
    labels = np.array(messages["label"][:])
    return Predictions(names, labels, predicted, probabilities, tuple(texts), candidate.only_ranks)


def _measure_both(model: Predictions, baseline: Predictions | None) -> dict[str, Any]:
    """Measure the model and the baseline on a set, and the difference of their F1."""
    groups = duplicate_groups(model.texts)
    ours, our_samples = measure(model, groups)
    theirs = difference = None
    if baseline is not None:
        theirs, their_samples = measure(baseline, groups)
        if ours["f1"]["value"] is not None:
            value = ours["f1"]["value"] - theirs["f1"]["value"]
            difference = estimate_of(value, percentiles(our_samples["f1"] - their_samples["f1"]))
    counts = {"messages": len(model.texts)} | ({} if model.positive is None else {"spam": int(model.is_spam.sum())})
    return {**counts, "model": ours, "baseline": theirs, "f1_difference": difference}


def measure(given: Predictions, groups: np.ndarray) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
    """Return every metric with its interval, and the values of the bootstrap samples."""
    samples = bootstrap(given, groups)
    intervals = {name: percentiles(sample) for name, sample in samples.items()} | proportions(given)
    return {name: estimate_of(value, intervals.get(name)) for name, value in given.metrics().items()}, samples


def _measure_without(left_out: np.ndarray, model: Predictions, baseline: Predictions | None) -> dict[str, Any] | None:
    """Measure a set without the messages in `left_out`; `None` if these are none or all of them."""
    if not left_out.any() or left_out.all():
        return None
    return _measure_both(model.select(~left_out), None if baseline is None else baseline.select(~left_out))


def estimate_of(value: float | None, interval: Interval | None) -> Estimate:
    if value is None or interval is None:
        return {"value": None, "low": None, "high": None}
    low, high = interval if interval[1] - interval[0] > ROUNDING else (None, None)
    return {"value": float(value), "low": low, "high": high}


def _proportion(count: int, total: int) -> Estimate:
    return estimate_of(count / max(1, total), wilson(count, total))


def _find_duplicates(sets: DatasetDict, train: Dataset | None) -> dict[str, dict[str, Duplicates]]:
    """Find the messages of each set that are duplicates of training messages, or of messages in an earlier set."""
    found: dict[str, dict[str, Duplicates]] = {}
    earlier = {} if train is None else {"training": train["text"][:]}
    for name, messages in sets.items():
        if messages is train:
            continue
        texts = messages["text"][:]
        found[name] = {other: find_duplicates(texts, others) for other, others in earlier.items()}
        earlier[name] = texts
    return found


def _details(given: Predictions, duplicates: Duplicates | None, threshold: float | None) -> dict[str, Any]:
    """Return the confusion matrix, errors and results by length of a set, and its thresholds and calibration."""
    names = given.names
    order = sorted(range(len(names)), key=lambda label: label != given.positive)  # the positive class first
    characters = np.array([len(text) for text in given.texts])
    lengths = {
        f"{low} to {high - 1}" if high else f"{low} or more": (characters >= low) & (characters < (high or np.inf))
        for low, high in pairwise([0, *(length + 1 for length in LENGTHS), None])
    }
    table = confusion_matrix(given.labels, given.predicted, labels=range(len(names)))
    details: dict[str, Any] = {
        "confusion": {names[row]: {names[column]: int(table[row, column]) for column in order} for row in order}
    }
    if given.positive is not None:
        details |= {"thresholds": _thresholds(given, threshold), "calibration": _calibration(given)}
    by_length = [
        {"part": part, **_count_errors(given.select(chosen))} for part, chosen in lengths.items() if chosen.any()
    ]
    return details | {"by_length": by_length, "errors": _errors(given, duplicates)}


def _errors(given: Predictions, duplicates: Duplicates | None) -> list[dict[str, Any]]:
    """List the misclassified messages, the most confident predictions first."""
    in_training = None if duplicates is None else np.select(duplicates, ["exact", "near"], "no")
    everything = np.arange(len(given.labels))
    confidence = given.probabilities[everything, given.predicted]
    scores = confidence if given.positive is None else given.scores
    wrong = np.flatnonzero(given.labels != given.predicted)
    return [
        {
            "text": given.texts[i],
            "label": given.names[given.labels[i]],
            "predicted": given.names[given.predicted[i]],
            "score": float(scores[i]),
            "in_training": None if in_training is None else str(in_training[i]),
        }
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def _thresholds(given: Predictions, own: float | None) -> list[dict[str, Any]]:
    """Count the errors at the model's own threshold, and at the lowest one for each of `TARGET_RATES`."""
    rows = [{"false_positive_rate": None, "threshold": own, **_count_errors(given)}]
    if given.is_spam.all() or not given.is_spam.any():
        return rows
    for rate in TARGET_RATES:
        threshold = lowest_threshold(given.is_spam, given.scores, rate)
        called = given.scores >= (np.inf if threshold is None else threshold)
        moved = Predictions(given.names, given.labels, np.where(called, given.positive, 1 - given.positive), None)
        rows.append({"false_positive_rate": rate, "threshold": threshold, **_count_errors(moved)})
    return rows


def _count_errors(given: Predictions) -> dict[str, Any]:
    """Count messages and errors; with a positive class also missed spam and false alarms."""
    messages, right = len(given.labels), int((given.labels == given.predicted).sum())
    counts = {"messages": messages, "wrong": messages - right, "accuracy": _proportion(right, messages)}
    if given.positive is None:
        return counts
    spam, called = int(given.is_spam.sum()), int(given.predicted_spam.sum())
    hits = int((given.is_spam & given.predicted_spam).sum())
    return counts | {
        "spam": spam,
        "missed": spam - hits,
        "false_alarms": called - hits,
        "precision": _proportion(hits, called),
        "recall": _proportion(hits, spam),
    }


def _calibration(given: Predictions) -> list[dict[str, Any]]:
    """Compare, in each non-empty bin of scores, the mean score with the fraction of spam."""
    # scikit-learn's `calibration_curve` returns no counts, which the intervals need.
    bins = score_bins(given.scores)
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "messages": int(chosen.sum()),
            "mean_score": float(given.scores[chosen].mean()),
            "spam": _proportion(int(given.is_spam[chosen].sum()), int(chosen.sum())),
        }
        for number, chosen in ((int(number), bins == number) for number in np.unique(bins))
    ]
