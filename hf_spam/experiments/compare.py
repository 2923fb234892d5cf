"""Compare classifiers of any kind on the same messages."""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import binomtest
from tqdm.auto import tqdm

from ..data.duplicates import find_duplicates
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..data.names import Sources, source_name
from ..data.reading import for_other_data
from ..data.sources import read_messages
from ..evaluation.candidates import Candidate, split_label_map
from ..evaluation.eval_data import find_training_texts
from ..evaluation.intervals import INTERVALS_NOTE, RESAMPLES, difference, measure
from ..evaluation.metrics import Predictions
from ..evaluation.models import load_candidate
from ..evaluation.page import Table, format_estimate
from ..files import public, versions
from .breakdown import NOTES, breakdown, groups_tables

# The metrics that are compared, with their headings.
METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "recall_at_fpr_0.01": "recall at fpr 1 %",
    "recall_at_fpr_0.001": "recall at fpr 0.1 %",
    "roc_auc": "ROC AUC",
}
DIFFERENCES = ("f1", "roc_auc")  # shown for each pair of models; the values have all metrics
WARM_UP = 64  # messages that are classified before the time is taken

Values = dict[str, Any]

logger = logging.getLogger(__name__)


def compare(
    models: Sequence[str | Candidate],
    data: Sources,
    *,
    train_data: Sequence[str] = (),
    label_map: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
    **reading: Any,
) -> Values:
    """Measure classifiers on the same messages, and test whether they differ; return values that are ready for JSON.

    Each pair is compared by McNemar's exact test, on the messages that only one of them classifies correctly, and by
    the difference of each metric on the same bootstrap samples. p-values are adjusted for the number of pairs (Holm
    1979). Everything is measured again, as `unseen`, without the messages that a model was trained on, exactly or
    nearly, as far as its training messages are at hand. A model that has seen nearly all is left out of that.

    `models` are candidates, or names of them as for `load_candidate`, and `data` is labelled spam and not spam;
    `train_data` names sources of training messages, as "MODEL=SOURCE". The `label_map` is for the data and the models,
    see `split_label_map`.
    """
    names = [model.source if isinstance(model, Candidate) else model for model in models]
    reading["label_map"], maps = split_label_map(label_map, names)
    sources = dict(entry.partition("=")[::2] for entry in train_data)
    for entry in sources.keys() - {*names}:
        raise ValueError(f"--train-data {entry}: write MODEL=SOURCE, with one of the models {', '.join(names)}.")
    if len(sources) < len(train_data):
        raise ValueError("--train-data names a model twice: write MODEL=SOURCE,SOURCE.")
    messages = read_messages(data, allow_single_label=True, **reading)
    if label_names(messages) != LABEL_NAMES:
        raise DataError(f"the messages are labelled {', '.join(label_names(messages))}; see --label-map")
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    how = {"trust_remote_code": trust_remote_code, **for_other_data(reading)}
    loaded = [  # all of them first, so that every mistake is found at once
        with_memory(load_candidate, model, label_map=maps[name], **how)
        for model, name in zip(models, names, strict=True)
    ]
    abouts, answers, trained = [], [], []
    for index, (candidate, memory) in enumerate(loaded):
        logger.info("Classifying with %s", candidate.name)
        given, costs = classify(candidate, texts, labels, progress)
        if costs["memory"] is not None:
            costs["memory"] += memory
        train, known = training_texts(candidate, data, sources.get(candidate.source), **reading)
        exact, near = find_duplicates(texts, train or [])
        seen = {"exact": int(exact.sum()), "near": int(near.sum())} if train else {"exact": None, "near": None}
        namesakes = sum(other.name == candidate.name for other, _ in loaded[:index])
        name = f"{candidate.name} ({namesakes + 1})" if namesakes else candidate.name
        abouts.append({**candidate.about, "name": name, **costs, "training": {"known": known, **seen}})
        answers.append(given)
        trained.append(near)
    groups, everyone = np.array(messages["group"][:]), list(range(len(models)))
    return {
        "data": public(source_name(data)),
        "messages": len(texts),
        "spam": int(labels.sum()),
        "models": abouts,
        "all": _measure_all(answers, everyone, groups, np.ones(len(texts), dtype=bool), progress),
        "unseen": _measure_unseen(answers, trained, groups, progress),
        "groups": _by_group(answers, messages),
        "intervals": INTERVALS_NOTE,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979, *A Simple Sequentially Rejective Multiple Test Procedure*)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted[np.argsort(order)].tolist()


def classify(
    candidate: Candidate, texts: Sequence[str], labels: np.ndarray, progress: bool
) -> tuple[Predictions, Values]:
    """Return a model's predictions, and their costs: `messages_per_second` and `memory`, see `with_memory`."""
    candidate.run(texts[:WARM_UP], False)
    start = time.perf_counter()
    given, memory = with_memory(candidate.predictions, texts, labels, progress=progress)
    return given, {"messages_per_second": len(texts) / (time.perf_counter() - start), "memory": memory}


def training_texts(
    candidate: Candidate, data: Sources, train_data: Sources | None = None, **reading: Any
) -> tuple[Sequence[str] | None, str]:
    """Return the messages that a model was trained on, as far as they are at hand; see `find_training_texts`."""
    if candidate.train is not None:
        return candidate.train, "known"
    return find_training_texts(candidate.source, data, train_data, candidate.labels, **reading)


def with_memory(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, int | None]:
    """Call a function; also return by how many bytes the process grew at its peak (Linux only, otherwise `None`)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return function(*arguments, **options), None
    before = _resident("VmRSS")
    result = function(*arguments, **options)
    return result, max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _measure_all(
    answers: list[Predictions], models: list[int], groups: np.ndarray, chosen: np.ndarray, progress: bool
) -> Values:
    """Measure some models on the chosen messages, and compare each pair of them."""
    given = [answers[model].select(chosen) for model in models]
    _, groups = np.unique(groups[chosen], return_inverse=True)
    measured = [measure(one, groups) for one in tqdm(given, desc="Intervals", unit="model", disable=not progress)]
    right = [one.labels == one.predicted for one in given]
    pairs = []
    for i, j in combinations(range(len(models)), 2):
        only = [int((right[i] & ~right[j]).sum()), int((right[j] & ~right[i]).sum())]
        p = float(binomtest(only[0], sum(only), 0.5).pvalue) if any(only) else 1.0  # McNemar's exact test
        differences = {metric: difference(measured[i], measured[j], metric) for metric in METRICS}
        pair = {"models": [models[i], models[j]], "only_right": only, "p": p, "differences": differences}
        pairs.append(pair)
    for family in (pairs, *([pair["differences"][metric] for pair in pairs] for metric in METRICS)):
        for one, adjusted in zip(family, holm([one["p"] for one in family]), strict=True):
            one["p_holm"] = adjusted
    return {
        "messages": len(groups),
        "spam": int(given[0].is_spam.sum()),
        "models": models,
        "metrics": [metrics for metrics, _ in measured],
        "pairs": pairs,
    }


def _measure_unseen(
    answers: list[Predictions], trained: list[np.ndarray], groups: np.ndarray, progress: bool
) -> Values | None:
    """Measure again without messages in the training data of any model, except models that have seen too much."""
    labels = answers[0].labels
    count = len(np.unique(labels))
    models = [model for model, seen in enumerate(trained) if len(np.unique(labels[~seen])) == count]
    seen = np.any([trained[model] for model in models], axis=0)
    if not models or len(np.unique(labels[~seen])) < count or (len(models) == len(answers) and not seen.any()):
        return None
    return _measure_all(answers, models, groups, ~seen, progress)


def _by_group(answers: list[Predictions], messages: Dataset) -> list[Values]:
    """Return the groups of `breakdown`, with a list of what was measured for each of the `models`."""
    notes = {name: messages[name][:] for name in NOTES}
    found = breakdown({str(number): given for number, given in enumerate(answers)}, notes)
    for group in found:
        group["models"] = [group.pop(str(number)) for number in range(len(answers))]
    return found


def notes(values: Values) -> list[str]:
    """Return what a reader must know about a comparison, in sentences."""
    lines = [f"{values['messages']:,} messages of {values['data']}, {values['spam']:,} of them spam."]
    for about in values["models"]:
        if near := about["training"]["near"]:
            share = f"{near:,} of the {values['messages']:,} messages ({near / values['messages']:.1%})"
            lines.append(f"{about['name']} was trained on {share}, or near-duplicates of them.")
    if len(lines) > 1 and values["unseen"] is None:
        lines.append("No messages are left that no model was trained on.")
    return lines


def compare_tables(values: Values) -> list[Table]:
    """Return the tables of a comparison, for the terminal and the page."""
    names = [about["name"] for about in values["models"]]
    unseen = values["unseen"]
    tables = _part_tables("All messages", values["all"], names, values["intervals"])
    tables.append(_training_table(values["models"]))
    if unseen is not None:
        left_out = [name for model, name in enumerate(names) if model not in unseen["models"]]
        note = f"Not shown: {', '.join(left_out)}, trained on nearly all of the messages." if left_out else ""
        tables += _part_tables("Without messages that a model was trained on", unseen, names, note)
    groups = [{**group, **dict(enumerate(group["models"]))} for group in values["groups"]]
    tables += [*groups_tables(groups, dict(enumerate(names))), _costs_table(values)]
    return [table for table in tables if table.rows]


def _part_tables(title: str, part: Values, names: list[str], note: str) -> list[Table]:
    """Return the tables of some of the messages: metrics of decisions, and of scores; then two on pairs of models."""
    headings = ["model", *METRICS.values()]
    rows = [
        [names[model], *(format_estimate(found[metric], "{:.4f} ({:.3f}\u2013{:.3f})") for metric in METRICS)]
        for model, found in zip(part["models"], part["metrics"], strict=True)
    ]
    right, differences = [], []
    for pair in part["pairs"]:
        name = " / ".join(names[model] for model in pair["models"])
        right.append([name, *(f"{count:,}" for count in pair["only_right"]), _p(pair["p"]), _p(pair["p_holm"])])
        differences.append([name])
        for metric in DIFFERENCES:
            found = pair["differences"][metric]
            differences[-1] += [format_estimate(found, "{:+.4f} ({:+.3f} to {:+.3f})"), _p(found["p_holm"])]
    mcnemar_note = (
        "p: how often two equally good models would differ by as much, by McNemar's exact test, which counts "
        "near-duplicates as different messages. Holm: adjusted for the number of pairs; below 0.05, the difference is "
        "significant."
    )
    bootstrap_note = f"By {RESAMPLES:,} bootstrap samples, which draw near-duplicates together."
    columns = [column for metric in DIFFERENCES for column in (f"{METRICS[metric]}, first - second", "p, Holm")]
    counts, where = f"{part['messages']:,}, {part['spam']:,} spam", title.lower()
    return [
        Table(f"{title}: {counts}", headings[:4], [row[:4] for row in rows], note),
        Table(f"{title}, by score", ["model", *headings[4:]], [[row[0], *row[4:]] for row in rows]),
        Table(f"Right by one model only, {where}", ["pair", "first", "second", "p", "p, Holm"], right, mcnemar_note),
        Table(f"Differences, {where}", ["pair", *columns], differences, bootstrap_note),
    ]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 0 else "<1e-300"


def _training_table(abouts: list[Values]) -> Table:
    rows = []
    for about in abouts:
        known, *counts = about["training"].values()
        rows.append([about["name"], known, *("-" if count is None else f"{count:,}" for count in counts)])
    note = "Messages that are also in a model's training data. Name those of a model with --train-data MODEL=SOURCE."
    return Table("Seen in training", ["model", "training messages", "exact", "exact or near"], rows, note)


def _costs_table(values: Values) -> Table:
    rows = []
    for about in values["models"]:
        parameters = "-" if about["parameters"] is None else f"{about['parameters']:,}"
        memory = "-" if about["memory"] is None else f"{about['memory'] / 1e6:,.1f}"
        threshold = "most likely" if about["threshold"] is None else f"{about['threshold']:.4f}"
        costs = f"{about['size'] / 1e6:,.1f}", f"{about['messages_per_second']:,.0f}", memory
        rows.append([about["name"], about["kind"], parameters, *costs, threshold])
    note = (
        f"Measured once, on this machine, with {values['threads']} threads. Memory: how much the process grew at its "
        "peak, to load the model and to classify. Threshold: the score from which the model says spam."
    )
    columns = ["model", "kind", "parameters", "MB", "messages/s", "memory, MB", "threshold"]
    return Table("Size and speed", columns, rows, note)
