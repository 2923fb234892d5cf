"""Compare classifiers of any kind on the same messages."""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import binomtest
from tqdm.auto import tqdm

from ..data.duplicates import find_duplicates
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..data.names import Sources, source_name
from ..data.sources import read_messages
from ..evaluation.candidates import Candidate, load_candidate, split_label_map
from ..evaluation.eval_data import find_training_texts
from ..evaluation.intervals import INTERVALS_NOTE, RESAMPLES, percentiles
from ..evaluation.metrics import Predictions, probability_table
from ..evaluation.page import Table, format_interval, format_number
from ..evaluation.report import Estimate, estimate_of, measure
from ..files import public, versions
from .breakdown import NOTES, breakdown

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
FEW = 20  # groups of fewer messages are not shown
WARM_UP = 64  # messages that are classified before the time is taken

Values = dict[str, Any]
T = TypeVar("T")

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
    """Measure classifiers on the same messages, and test whether they differ.

    Each pair is compared by McNemar's exact test, on the messages that only one of them classifies correctly, and by
    the difference of each metric on the same bootstrap samples. p-values are adjusted for the number of pairs (Holm
    1979). Everything is measured again without the messages that a model was trained on, exactly or nearly, as far as
    its training messages are at hand. A model that has seen nearly all is left out of that.

    Args:
        models: Candidates, or names of them as for `load_candidate`.
        data: Source of the messages, labelled spam and not spam, as for `load_sms_spam`.
        train_data: Sources of training messages, as "MODEL=SOURCE".
        label_map: Meaning of labels, of the data and the models, see `split_label_map`.
        trust_remote_code: Whether to run code that comes with a model.
        progress: Whether to show progress bars.
        reading: How to read the data, as for `load_sms_spam`.

    Returns:
        Values that are ready for JSON: `data`, `messages`, `spam`; `models`, each with `name`, `kind`, `size` (bytes),
        `parameters`, `threshold`, `loading_seconds`, `messages_per_second`, `memory` (bytes), and `training`, the
        number of messages that are also in its training messages; `all` and `unseen` (`None` if nothing is left, or
        nothing was seen), each with `messages`, `spam`, `models` (their indices), `metrics` of each and `pairs`;
        `groups`, see `breakdown`; and `versions`.

    Raises:
        DataError: The data cannot be read, or its labels are others.
        OSError, ValueError: A model cannot be loaded; see `load_candidate`.
    """
    names = [model.source if isinstance(model, Candidate) else model for model in models]
    reading["label_map"], maps = split_label_map(label_map, names)
    sources = _by_model(train_data, names)
    messages = read_messages(data, allow_single_label=True, **reading)
    if label_names(messages) != LABEL_NAMES:
        raise DataError(f"the messages are labelled {', '.join(label_names(messages))}; see --label-map")
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    candidates, abouts, answers, trained = [], [], [], []
    for model in models:  # all are loaded first, so that every mistake is found at once
        candidate, about = _load(model, maps, trust_remote_code, reading)
        candidates.append(candidate)
        abouts.append(about)
    for candidate, about in zip(candidates, abouts, strict=True):
        logger.info("Classifying with %s", candidate.name)
        answers.append(_classify(candidate, about, texts, labels, progress))
        train, known = list(candidate.train or []), "known"
        if not train:
            train, known = find_training_texts(candidate.source, data, sources.get(candidate.source), **reading)
        exact, near = find_duplicates(texts, train or [])
        counts = (None, None) if train is None else (int(exact.sum()), int(near.sum()))
        about["training"] = dict(zip(("known", "exact", "near"), (known, *counts), strict=True))
        trained.append(near)
    _name_apart(abouts)
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
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p-value of McNemar's exact test, from the numbers of messages that only one classifies correctly."""
    total = first_only + second_only
    return float(binomtest(first_only, total, 0.5).pvalue) if total else 1.0


def with_memory(function: Callable[[], T]) -> tuple[T, int | None]:
    """Call a function; also return by how many bytes the process grew at its peak (Linux only, otherwise `None`)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return function(), None
    before = _resident("VmRSS")
    result = function()
    return result, max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _by_model(train_data: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    found = {}
    for entry in train_data:
        model = next((model for model in models if entry.startswith(f"{model}=")), None)
        if model is None:
            raise ValueError(f"--train-data {entry}: write MODEL=SOURCE, with one of the models {', '.join(models)}.")
        found[model] = entry.removeprefix(f"{model}=")
    return found


def _load(
    model: str | Candidate, maps: dict[str, str | None], trust_remote_code: bool, reading: Values
) -> tuple[Candidate, Values]:
    """Return a candidate and what is known about it."""

    def load() -> Candidate:
        if isinstance(model, Candidate):
            return model
        how = {"trust_remote_code": trust_remote_code, "skip_bad_rows": reading.get("skip_bad_rows", False)}
        return load_candidate(model, label_map=maps[model], **how)

    start = time.perf_counter()
    candidate, memory = with_memory(load)
    about = {name: getattr(candidate, name) for name in ("name", "kind", "size", "parameters", "threshold")}
    return candidate, about | {"loading_seconds": time.perf_counter() - start, "memory": memory}


def _classify(candidate: Candidate, about: Values, texts: list[str], labels: np.ndarray, progress: bool) -> Predictions:
    """Return a model's answers, and add its speed and memory to what is known about it."""
    candidate.answers(texts[:WARM_UP])
    start = time.perf_counter()
    answers, memory = with_memory(lambda: candidate.answers(texts, progress=progress))
    about["messages_per_second"] = len(texts) / (time.perf_counter() - start)
    about["memory"] = None if memory is None else about["memory"] + memory
    table = probability_table(answers.scores, positive=1)
    called = answers.called.astype(int)
    return Predictions(tuple(LABEL_NAMES), labels, called, table, only_ranks=candidate.only_ranks)


def _name_apart(abouts: list[Values]) -> None:
    """Number models of the same name."""
    for index, about in enumerate(abouts):
        before = sum(other["name"].split(" (")[0] == about["name"] for other in abouts[:index])
        about["name"] += f" ({before + 1})" if before else ""


def _measure_all(
    answers: list[Predictions], models: list[int], groups: np.ndarray, chosen: np.ndarray, progress: bool
) -> Values:
    """Measure some models on the chosen messages, and compare each pair of them."""
    given = [answers[model].select(chosen) for model in models]
    _, groups = np.unique(groups[chosen], return_inverse=True)
    measured = [measure(one, groups) for one in tqdm(given, desc="Intervals", unit="model", disable=not progress)]
    pairs = []
    for (i, (first, first_samples)), (j, (second, second_samples)) in combinations(enumerate(measured), 2):
        right = [one.labels == one.predicted for one in (given[i], given[j])]
        only = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        pair = {"models": [models[i], models[j]], "only_right": list(only), "p": mcnemar(*only), "differences": {}}
        for metric in METRICS:
            samples = first_samples[metric] - second_samples[metric]
            values = first[metric]["value"], second[metric]["value"]
            difference = None if None in values else values[0] - values[1]
            pair["differences"][metric] = {**estimate_of(difference, percentiles(samples)), "p": _bootstrap_p(samples)}
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


def _bootstrap_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a difference of zero; the samples are its bootstrap distribution."""
    differences = differences[np.isfinite(differences)]
    tails = ((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (min(tails) + 1) / (len(differences) + 1))


def _measure_unseen(
    answers: list[Predictions], trained: list[np.ndarray], groups: np.ndarray, progress: bool
) -> Values | None:
    """Measure again without messages in the training data of any model, except models that have seen too much."""
    labels = answers[0].labels

    def has_both(chosen: np.ndarray) -> bool:
        return len(np.unique(labels[chosen])) == 2

    models = [model for model, seen in enumerate(trained) if has_both(~seen)]
    seen = np.any([trained[model] for model in models], axis=0) if models else np.ones(len(labels), dtype=bool)
    if not has_both(~seen) or (len(models) == len(answers) and not seen.any()):
        return None
    return _measure_all(answers, models, groups, ~seen, progress)


def _by_group(answers: list[Predictions], messages: Dataset) -> list[Values]:
    """Return the groups of `breakdown`, with a list of what was measured for each of the `models`."""
    notes = {name: [public(note) for note in messages[name][:]] for name in NOTES}
    found = breakdown({str(number): given for number, given in enumerate(answers)}, notes)
    kept = ("by", "name", "spam", "ham")
    return [
        {**{name: group[name] for name in kept}, "models": [group[str(i)] for i in range(len(answers))]}
        for group in found
    ]


def notes(values: Values) -> list[str]:
    """Return what a reader must know about a comparison, in sentences."""
    lines = [f"{values['messages']:,} messages of {values['data']}, {values['spam']:,} of them spam."]
    unseen = values["unseen"]
    for about in values["models"]:
        if near := about["training"]["near"]:
            share = f"{near:,} of the {values['messages']:,} messages ({near / values['messages']:.1%})"
            lines.append(f"{about['name']} was trained on {share}, or near-duplicates of them.")
    if unseen is None and any(about["training"]["near"] for about in values["models"]):
        lines.append("No messages are left that no model was trained on.")
    return lines


def compare_tables(values: Values) -> list[Table]:
    """Return the tables of a comparison, for the terminal and the page."""
    names = [about["name"] for about in values["models"]]
    unseen = values["unseen"]
    tables = [
        _metrics_table("All messages", values["all"], names, values["intervals"]),
        _pairs_table("Differences", values["all"], names),
        _training_table(values["models"]),
    ]
    if unseen is not None:
        left_out = [name for model, name in enumerate(names) if model not in unseen["models"]]
        note = f"Not shown: {', '.join(left_out)}, trained on nearly all of the messages." if left_out else ""
        title = "Without messages that a model was trained on"
        tables += [
            _metrics_table(title, unseen, names, note),
            _pairs_table(f"Differences, {title.lower()}", unseen, names),
        ]
    tables += [
        _groups_table("Spam found, %", "spam", "recall", values["groups"], names),
        _groups_table("False alarms, %", "ham", "false_positive_rate", values["groups"], names),
        _costs_table(values),
    ]
    return [table for table in tables if table.rows]


def _metrics_table(title: str, part: Values, names: list[str], note: str) -> Table:
    rows = [
        [names[model], *(_with_interval(found[name]) for name in METRICS)]
        for model, found in zip(part["models"], part["metrics"], strict=True)
    ]
    title = f"{title}: {part['messages']:,}, {part['spam']:,} spam"
    return Table(title, ["model", *METRICS.values()], rows, note)


def _with_interval(estimate: Estimate) -> str:
    interval = "" if estimate["low"] is None else f" ({format_interval(estimate)})"
    return format_number(estimate) + interval


def _pairs_table(title: str, part: Values, names: list[str]) -> Table:
    rows = []
    for pair in part["pairs"]:
        first, second = (names[model] for model in pair["models"])
        row = [
            f"{first} / {second}",
            *(f"{count:,}" for count in pair["only_right"]),
            _p(pair["p"]),
            _p(pair["p_holm"]),
        ]
        for metric in DIFFERENCES:
            found = pair["differences"][metric]
            value = "-" if found["value"] is None else f"{found['value']:+.4f}"
            interval = "" if found["low"] is None else f" ({found['low']:+.3f} to {found['high']:+.3f})"
            row += [value + interval, _p(found["p_holm"])]
        rows.append(row)
    columns = ["pair", "only first right", "only second right", "p", "p, Holm"]
    for metric in DIFFERENCES:
        columns += [f"{METRICS[metric]}, first - second", "p, Holm"]
    note = (
        "p: how often two equally good models would differ by as much, by McNemar's exact test on the messages that "
        f"only one of them gets right, and for the metrics by {RESAMPLES:,} bootstrap samples. p, Holm: adjusted for "
        "the number of pairs; below 0.05, the difference is more than chance. McNemar's test counts near-duplicates as "
        "different messages, the bootstrap draws them together."
    )
    return Table(title, columns, rows, note)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 0 else "<1e-300"


def _training_table(abouts: list[Values]) -> Table:
    rows = [
        [
            about["name"],
            *("-" if value is None else value if isinstance(value, str) else f"{value:,}" for value in values),
        ]
        for about, values in ((about, about["training"].values()) for about in abouts)
    ]
    note = "Messages that are also in a model's training data. Name those of a model with --train-data MODEL=SOURCE."
    return Table("Seen in training", ["model", "training messages", "exact", "exact or near"], rows, note)


def _groups_table(title: str, count: str, metric: str, groups: list[Values], names: list[str]) -> Table:
    rows = []
    for group in groups:
        if group[count] < FEW:
            continue
        row = [f"{group['by']} {group['name']}", f"{group[count]:,}"]
        for found in group["models"]:
            value, (low, high) = found[metric], found[f"{metric}_interval"]
            row.append(f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f})")
        rows.append(row)
    note = f"In brackets: 95 % Wilson intervals. Groups of fewer than {FEW} are in the JSON only."
    return Table(title, ["messages", count, *names], rows, note)


def _costs_table(values: Values) -> Table:
    rows = []
    for about in values["models"]:
        megabytes = ["-" if size is None else f"{size / 1e6:,.1f}" for size in (about["size"], about["memory"])]
        parameters = "-" if about["parameters"] is None else f"{about['parameters']:,}"
        threshold = "most likely" if about["threshold"] is None else f"{about['threshold']:.4f}"
        speed = f"{about['messages_per_second']:,.0f}"
        rows.append([about["name"], about["kind"], parameters, megabytes[0], speed, megabytes[1], threshold])
    note = (
        f"Measured once, on this machine, with {values['threads']} threads. Memory: how much the process grew at its "
        "peak, to load the model and to classify. Threshold: the score from which the model says spam."
    )
    columns = ["model", "kind", "parameters", "MB", "messages/s", "memory, MB", "threshold"]
    return Table("Size and speed", columns, rows, note)
