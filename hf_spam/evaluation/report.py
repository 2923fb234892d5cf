"""How good a classifier is on a set of messages, how sure that is, and what it owes to messages that it has seen."""

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import Pipeline

from ..data.duplicates import duplicate_groups, standing_in
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..files import public, versions
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import class_names, decide, spam_index
from .baseline import BASELINE, baseline_answers, fit_baseline
from .eval_data import Evaluated
from .intervals import (
    HOW,
    HOW_OF_SEVERAL,
    Interval,
    bootstrap,
    bootstrap_classes,
    percentiles,
    proportions,
    wilson,
)
from .metrics import BINS, PROBABILISTIC, SpamMetrics, filled_bins, lowest_threshold

TARGETS = (0.01, 0.001, 0.0)  # false-positive rates for which a threshold is looked up
LENGTHS = (40, 80, 120, 160)  # characters; a message of more than 160 does not fit into one SMS
BUNDLED = "the bundled model (trained on the whole SMS Spam Collection)"
ROUNDING = 1e-9  # what is nearer together is the same, summed up in another order
TRAINING = "training"  # what the messages that a model was trained on are called beside the sets

Estimate = dict[str, float | None]
"""`value`, and `low` and `high`, the ends of its interval, None where no interval is known; all None where there is
nothing to measure."""


@dataclass(frozen=True)
class Answers:
    """What a model makes of the messages of a set, and what they are; arrays are (N,).

    Of two classes the positive one, such as spam, is held against the other, and `actual` and `predicted` are bool. Of
    more, they are class indices, and `scores` is (N, K).
    """

    texts: list[str]
    actual: np.ndarray
    """Whether a message is spam."""
    predicted: np.ndarray
    """Whether it is called spam."""
    scores: np.ndarray | None
    """Its probability of spam, in float64; None for a baseline of more than two classes, which has none."""
    names: tuple[str, ...]
    """Of the classes; of two the positive one is the second."""

    @property
    def several(self) -> bool:
        """Whether there are more than two classes."""
        return len(self.names) > 2

    def only(self, chosen: np.ndarray) -> "Answers":
        """Those of some of the messages, of which `chosen`, (N,) bool, tells."""
        texts = [text for text, is_chosen in zip(self.texts, chosen, strict=True) if is_chosen]
        scores = None if self.scores is None else self.scores[chosen]
        return Answers(texts, self.actual[chosen], self.predicted[chosen], scores, self.names)


@dataclass(frozen=True)
class Report:
    """All that was measured (`values`, which JSON can hold), and the answers that the figures are drawn from."""

    values: dict[str, Any]
    model: Answers
    baseline: Answers | None


def make_report(
    classifier: SpamClassifier,
    evaluated: Evaluated,
    *,
    split: str | None = None,
    model: str | os.PathLike | None = None,
    data: str | os.PathLike = "",
    progress: bool = False,
) -> Report:
    """Measures a classifier, and beside it a linear baseline that is trained on the same messages.

    Args:
        classifier: the model. Where the messages are labelled spam and not spam, but the model knows more labels,
            or others, "spam" is held against all others.
        evaluated: the messages.
        split: the set that is scored and looked at closely. None: all are scored, and the closer look is at `test`, or
            the last of them.
        model: what the report calls the model, a folder by its name alone; None: the bundled model.
        data: what it calls the data.
        progress: whether to show a bar.

    Raises:
        DataError: there is no such split, or the messages have other labels than the model.
    """
    sets, train = evaluated.sets, evaluated.train
    theirs = class_names(classifier.model.config)
    known = [theirs, LABEL_NAMES] if "spam" in map(str.lower, theirs) else [theirs]
    for messages in (*sets.values(), *([] if train is None else [train])):
        names = label_names(messages)
        if names not in known or len(names) != len(label_names(next(iter(sets.values())))):
            raise DataError(f"the messages are labelled {', '.join(names)}, but the model knows {', '.join(theirs)}")
    if split is not None and split not in sets:
        raise DataError(f"there is no split {split!r}; there is: {', '.join(sets)}")
    closer = split or ("test" if "test" in sets else list(sets)[-1])
    scored = [closer] if split else list(sets)
    answers = {name: _ask(classifier, sets[name], progress) for name in scored}
    baseline = None if train is None else fit_baseline(train)
    others = [name for name in scored if train is not None and sets[name] is not train]
    baselines = {name: _ask_baseline(baseline, sets[name]) for name in others if baseline is not None}
    seen = {name: standing_in(sets[name]["text"][:], train["text"][:]) for name in others}

    config = classifier.model.config
    threshold = getattr(config, "threshold", None)
    measured = {}
    for name in scored:
        measured[name] = _measure_both(answers[name], baselines.get(name))
        if name in seen:
            exact, near = seen[name]
            measured[name]["without_exact"] = _without(exact, answers[name], baselines.get(name))
            measured[name]["without_near"] = _without(near, answers[name], baselines.get(name))
    values = {
        "model": BUNDLED if model is None else public(os.fspath(model)),
        "data": public(os.fspath(data)),
        "splits": evaluated.splits,
        "trained_on": evaluated.trained_on,
        "training_messages": None if train is None else len(train),
        "remark": f"{evaluated.remark} {evaluated.remedy}".strip(),
        "baseline": None if baseline is None else BASELINE,
        "labels": list(answers[closer].names),
        "intervals": HOW_OF_SEVERAL if answers[closer].several else HOW,
        "temperature": getattr(config, "temperature", 1.0),
        "threshold": threshold,
        "sets": measured,
        "duplicates": _duplicates(sets, train),
        "closer": closer_look(closer, answers[closer], seen.get(closer), threshold),
        "versions": versions(),
    }
    return Report(values, answers[closer], baselines.get(closer))


def closer_look(
    name: str, answers: Answers, seen: tuple[np.ndarray, np.ndarray] | None, threshold: float | None = None
) -> dict[str, Any]:
    """What one set shows beyond its metrics.

    Args:
        name: the set's.
        answers: of the model.
        seen: which of its messages stand in the training messages, word for word and at least nearly. None: not known.
        threshold: the model's own. None: it calls spam what is most likely spam.
    """
    actual, predicted, scores = answers.actual, answers.predicted, answers.scores
    lengths = np.array([len(text) for text in answers.texts])
    edges = [0, *(length + 1 for length in LENGTHS), None]
    by_length = {
        f"{low} to {high - 1}" if high else f"{low} and more": ((lengths >= low) & (lengths < (high or np.inf)))
        for low, high in pairwise(edges)
    }
    by_seen, places = None, np.full(len(lengths), None)
    if seen is not None:
        exact, near = seen
        by_seen = {"word for word": exact, "nearly": near & ~exact, "no": ~near}
        places = np.select([exact, near], ["word for word", "nearly"], "no")
    names = answers.names
    wrong = np.flatnonzero(actual != predicted)
    # How sure a model is of a label that is wrong: of two, by how far the score is from where it should be.
    surety = scores[np.arange(len(lengths)), predicted] if answers.several else np.abs(scores - actual)
    errors = []
    for i in wrong[np.argsort(-surety[wrong], kind="stable")]:
        error = {"text": answers.texts[i], "label": names[int(actual[i])]}
        if answers.several:
            error["called"] = names[int(predicted[i])]
        error["score"] = float(surety[i] if answers.several else scores[i])
        errors.append(error | {"in_training": places[i] if places[i] is None else str(places[i])})
    order = range(len(names)) if answers.several else (1, 0)
    table = confusion_matrix(actual.astype(int), predicted.astype(int), labels=range(len(names)))
    if answers.several:
        closer = {"classes": _classes(answers)}
        if threshold is not None:
            closer["thresholds"] = _thresholds(_against_the_rest(answers), threshold)
    else:
        closer = {"thresholds": _thresholds(answers, threshold), "calibration": _calibration(answers)}
    return {
        "set": name,
        "confusion": {names[label]: {names[called]: int(table[label, called]) for called in order} for label in order},
        **closer,
        "by_length": _by(answers, by_length),
        "by_standing_in_training": None if by_seen is None else _by(answers, by_seen),
        "errors": errors,
    }


def _ask(classifier: SpamClassifier, messages: Dataset, progress: bool) -> Answers:
    texts, names, config = messages["text"][:], label_names(messages), classifier.model.config
    labels = np.array(messages["label"][:])
    probabilities = classifier.probabilities(texts, progress=progress)
    called, scores = decide(config, probabilities).numpy(), probabilities.double().numpy()
    if len(names) > 2:
        return Answers(texts, labels, called, scores, tuple(names))
    spam = spam_index(class_names(config))
    return Answers(texts, labels == spam_index(names), called == spam, scores[:, spam], _two(names))


def _ask_baseline(baseline: Pipeline, messages: Dataset) -> Answers:
    texts, names, answers = messages["text"][:], label_names(messages), baseline_answers(baseline, messages)
    if len(names) > 2:
        return Answers(texts, answers["references"], answers["predictions"], None, tuple(names))
    actual, predicted = (answers[name].astype(bool) for name in ("references", "predictions"))
    return Answers(texts, actual, predicted, answers["scores"], _two(names))


def _two(names: list[str]) -> tuple[str, str]:
    """The names of two classes, that of the positive one last."""
    positive = spam_index(names)
    return names[1 - positive], names[positive]


def _measure_both(model: Answers, baseline: Answers | None) -> dict[str, Any]:
    """The metrics of a set, of the model and of the baseline, and by how much they differ in F1."""
    groups = duplicate_groups(model.texts)
    ours, our_samples = _measure(model, groups)
    theirs = difference = None
    if baseline is not None:
        theirs, their_samples = _measure(baseline, groups)
        theirs |= {name: _estimate(None, None) for name in PROBABILISTIC if name in theirs}
        if ours["f1"]["value"] is not None:
            value = ours["f1"]["value"] - theirs["f1"]["value"]
            difference = _estimate(value, percentiles(our_samples["f1"] - their_samples["f1"]))
    counts = {"messages": len(model.texts)} | ({} if model.several else {"spam": int(model.actual.sum())})
    return {**counts, "model": ours, "baseline": theirs, "f1_difference": difference}


def _measure(answers: Answers, groups: np.ndarray) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
    """Every metric with its interval, and the bootstrapped ones in each sample."""
    actual, predicted, scores = answers.actual, answers.predicted, answers.scores
    values = SpamMetrics(answers.names).compute(
        predictions=predicted.astype(int), references=actual.astype(int), scores=scores
    )
    if answers.several:
        samples = bootstrap_classes(actual, predicted, scores, groups)
        parts = {"accuracy": wilson((actual == predicted).sum(), len(actual))}
    else:
        samples = bootstrap(actual, predicted, scores, groups)
        parts = proportions(actual, predicted)
    intervals = parts | {name: percentiles(sample) for name, sample in samples.items()}
    return {name: _estimate(value, intervals.get(name)) for name, value in values.items()}, samples


def _estimate(value: float | None, interval: Interval | None) -> Estimate:
    """A metric without an interval is one of nothing, such as the recall where nothing is spam.

    Where all bootstrap samples agree, as on a set without a single error, they do not tell how far it may be off.
    """
    if value is None or interval is None:
        return {"value": None, "low": None, "high": None}
    low, high = interval if interval[1] - interval[0] > ROUNDING else (None, None)
    return {"value": float(value), "low": low, "high": high}


def _without(left_out: np.ndarray, model: Answers, baseline: Answers | None) -> dict[str, Any] | None:
    """The metrics without some messages; None where these are none, or all."""
    if not left_out.any() or left_out.all():
        return None
    return _measure_both(model.only(~left_out), None if baseline is None else baseline.only(~left_out))


def _duplicates(sets: DatasetDict, train: Dataset | None) -> dict[str, dict[str, dict[str, int]]]:
    """Of each set, how many messages stand in the training messages, and in the sets before it, exactly and nearly."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    before = {} if train is None else {TRAINING: train["text"][:]}
    for name, messages in sets.items():
        if messages is train:
            continue
        texts = messages["text"][:]
        pairs = {other: standing_in(texts, others) for other, others in before.items()}
        counts[name] = {
            other: {"exact": int(exact.sum()), "near": int(near.sum())} for other, (exact, near) in pairs.items()
        }
        before[name] = texts
    return counts


def _thresholds(answers: Answers, own: float | None) -> list[dict[str, Any]]:
    """What comes of the model's own threshold, and of the lowest that there is for each of `TARGETS`."""
    actual, scores = answers.actual, answers.scores
    rows = [{"false_positive_rate": None, "threshold": own, **_counts(actual, answers.predicted)}]
    if actual.all() or not actual.any():
        return rows
    for target in TARGETS:
        threshold = lowest_threshold(actual, scores, target)
        row = {"false_positive_rate": target, "threshold": threshold}
        rows.append(row | _counts(actual, scores >= (np.inf if threshold is None else threshold)))
    return rows


def _against_the_rest(answers: Answers) -> Answers:
    """Of several classes spam, which a threshold is for, held against all others."""
    spam = spam_index(answers.names)
    names = (f"not {answers.names[spam]}", answers.names[spam])
    return Answers(answers.texts, answers.actual == spam, answers.predicted == spam, answers.scores[:, spam], names)


def _by(answers: Answers, parts: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    counts = _right_and_wrong if answers.several else _counts
    return [
        {"part": name, **counts(answers.actual[chosen], answers.predicted[chosen])}
        for name, chosen in parts.items()
        if chosen.any()
    ]


def _classes(answers: Answers) -> list[dict[str, Any]]:
    """What becomes of each of several classes, of those that occur or are named."""
    labels = range(len(answers.names))
    measured = precision_recall_fscore_support(answers.actual, answers.predicted, labels=labels, zero_division=0)
    rows = []
    for label, precision, recall, f1, messages in zip(labels, *measured, strict=True):
        called = answers.predicted == label
        hits = (called & (answers.actual == label)).sum()
        if messages or called.any():
            rows.append(
                {
                    "label": answers.names[label],
                    "messages": int(messages),
                    "called": int(called.sum()),
                    "precision": _estimate(precision, wilson(hits, called.sum())),
                    "recall": _estimate(recall, wilson(hits, messages)),
                    "f1": float(f1),
                }
            )
    return rows


def _right_and_wrong(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """What becomes of a number of messages of several classes."""
    right = int((actual == predicted).sum())
    accuracy = _estimate(right / len(actual), wilson(right, len(actual)))
    return {"messages": len(actual), "wrong": len(actual) - right, "accuracy": accuracy}


def _counts(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """What becomes of a number of messages."""
    missed, false_alarms = int((actual & ~predicted).sum()), int((~actual & predicted).sum())
    spam, hits = int(actual.sum()), int((actual & predicted).sum())
    parts = proportions(actual, predicted)
    return {
        "messages": len(actual),
        "spam": spam,
        "missed": missed,
        "false_alarms": false_alarms,
        "accuracy": _estimate(1 - (missed + false_alarms) / len(actual), parts["accuracy"]),
        "precision": _estimate(hits / max(1, hits + false_alarms), parts["precision"]),
        "recall": _estimate(hits / max(1, spam), parts["recall"]),
    }


def _calibration(answers: Answers) -> list[dict[str, Any]]:
    """Of each bin of scores that is not empty, the mean score and the part that is spam."""
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "messages": messages,
            "mean_score": mean_score,
            "spam": _estimate(spam / messages, wilson(spam, messages)),
        }
        for number, messages, spam, mean_score in filled_bins(answers.scores, answers.actual)
    ]
