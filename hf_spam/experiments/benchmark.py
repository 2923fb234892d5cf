"""Measure one classifier of any kind on a fixed suite of messages, so that its figures can be put beside others'.

The suite is the tenth of the sample that the bundled model was not trained on, as it is and obfuscated.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from ..conversion.loading import BUNDLED, named_model
from ..data import obfuscation
from ..data.duplicates import find_duplicates
from ..data.names import Sources
from ..data.obfuscation import Obfuscation
from ..data.sources import read_messages
from ..data.splits import digest, grouped_folds
from ..evaluation.baseline import fit_baseline, predict_baseline
from ..evaluation.candidates import Candidate, as_candidate, load_candidate
from ..evaluation.eval_data import find_training_texts
from ..evaluation.intervals import INTERVALS_NOTE, Interval, proportions
from ..evaluation.metrics import Predictions, probability_table
from ..evaluation.page import Table
from ..evaluation.report import measure
from ..files import versions
from ..inference.classifier import SpamClassifier
from ..training.calibration import needs_calibration
from ..training.corrections import divide
from ..training.finetune import finetune
from ..training.recipes import RECIPES, Recipe, get_recipe
from .crossval import cross_validate

SUITE = "hf-spam 1"  # raise the number whenever a message of the suite changes
# Each way to obfuscate messages, and the share of their characters or words that it changes.
OBFUSCATIONS: dict[str, tuple[Obfuscation, float]] = {
    "homoglyphs": (obfuscation.homoglyphs, 0.3),
    "zero-width": (obfuscation.zero_width, 0.3),
    "full-width": (obfuscation.full_width, 0.3),
    "spacing": (obfuscation.spacing, 0.3),
    "leet": (obfuscation.leet, 0.3),
    "swapped case": (obfuscation.swapped_case, 0.3),
    "capitals": (obfuscation.capitals, 1.0),
}
LENGTHS = {"up to 40": (0, 40), "41 to 160": (41, 160), "over 160": (161, 10**9)}  # characters
VERY_LONG = "at the end of 2,000"
FILLER = 2000  # characters of genuine messages before a very long one
FEW = 20  # nothing is measured on groups of fewer messages
WARM_UP = 64  # messages that are classified before the time is taken
FIGURES = ("recall", "false_positive_rate", "recall_at_fpr_0.01", "roc_auc", "f1")  # with intervals
COLUMNS = ["model", "found, %", "false alarms, %", "found at 1 %, %", "ROC AUC", "UCI F1", "worst obfuscation", "size"]
COLUMNS += ["messages/s"]

Values = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """The messages of the benchmark: `messages` as they are, and variants as (section, name): (texts, rows)."""

    messages: Dataset
    variants: dict[tuple[str, str], tuple[list[str], np.ndarray]]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all texts and labels."""
        texts = [variant for variant, _ in self.variants.values()]
        return hashlib.sha256(json.dumps([digest(self.messages), texts]).encode()).hexdigest()


def split_sample() -> tuple[Dataset, Dataset]:
    """Return the messages of the sample that may be trained on, and those of the suite."""
    return divide(read_messages("sample"))


def make_suite(messages: Dataset) -> Suite:
    """Make the suite from the held-out messages."""
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    variants = {}
    for name, (change, rate) in OBFUSCATIONS.items():
        changed = [change(text, rate, random.Random(f"{name} {text}").random) for text in texts]
        variants["obfuscated", f"{name}, {rate:.0%}"] = changed, np.arange(len(texts))
    rows = np.arange(0, len(texts), 4)
    ham = [texts[row] for row in np.flatnonzero(labels == 0)]
    variants["length", VERY_LONG] = [_after(ham, texts[row]) for row in rows], rows
    return Suite(messages, variants)


def _after(ham: Sequence[str], text: str) -> str:
    """Put a text after genuine messages of `FILLER` characters, which is more than most models read."""
    lines: list[str] = []
    start = int(random.Random(text).random() * len(ham))
    while sum(map(len, lines)) < FILLER:
        lines.append(ham[(start + len(lines)) % len(ham)])
    return "\n".join([*lines, text])


def benchmark(
    model: str | Candidate,
    *,
    uci: Sources | None = None,
    recipe: Recipe | str | None = None,
    progress: bool = False,
    **loading: Any,
) -> Values:
    """Measure a classifier on the suite.

    Args:
        model: A model, as for `load_candidate`. The name of a recipe trains it: on the rest of the sample for the
            suite, and on four of five folds for the SMS Spam Collection.
        uci: The SMS Spam Collection: "uci", or its file. `None`: leave it out.
        recipe: Recipe of the model, to measure it on the SMS Spam Collection by cross-validation. A baseline that was
            trained on the collection is cross-validated anyway.
        progress: Whether to show progress bars.
        loading: Further arguments of `load_candidate`.

    Returns:
        Values that are ready for JSON: `suite` (`name`, `fingerprint`, `messages`, `spam`, and `seen`, the number of
        messages in the model's training data as far as these are known); `model` (`name`, `kind`, `size` in bytes,
        `parameters`, `threshold`, `messages_per_second`); `figures`, the main ones with intervals; `parts`, each with
        `section`, `name`, `messages`, `spam`, and `figures` (`None` if there are fewer than `FEW` messages); `uci`,
        with `how` it was measured, and `figures` (`None` if it was not).

    Raises:
        DataError, OSError, ValueError: The collection or the model cannot be read.
    """
    train, held_out = split_sample()
    suite = make_suite(held_out)
    if recipe is None and isinstance(model, str) and model in RECIPES:
        recipe = model
    recipe = None if recipe is None else get_recipe(recipe)
    if isinstance(model, Candidate):
        candidate = model
    elif recipe is not None and model == recipe.name:
        candidate = _train(recipe, train)
    else:
        candidate = load_candidate(model, **loading)
    texts, trained = suite.messages["text"][:], _training_texts(candidate, held_out, uci)
    candidate.answers(texts[:WARM_UP])
    start = time.perf_counter()
    given = _predictions(candidate, texts, suite.messages, progress)
    speed = len(texts) / (time.perf_counter() - start)
    about = {name: getattr(candidate, name) for name in ("name", "kind", "size", "parameters", "threshold")}
    return {
        "suite": {
            "name": SUITE,
            "fingerprint": suite.fingerprint,
            "messages": len(texts),
            "spam": int(given.is_spam.sum()),
            "seen": None if trained is None else int(find_duplicates(texts, trained)[1].sum()),
        },
        "model": {**about, "messages_per_second": speed},
        "figures": _figures(given, suite.messages),
        "parts": list(_parts(suite, given, candidate, progress)),
        "uci": _measure_uci(candidate, uci, recipe, trained, progress),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _train(recipe: Recipe, messages: Dataset) -> Candidate:
    """Train a recipe; a tenth of the messages is used for its calibration if it has one."""
    data = DatasetDict(train=messages)
    if needs_calibration(recipe):
        train, validation = next(grouped_folds(messages, 10, seed=recipe.seed))
        data = DatasetDict(train=train, validation=validation)
    run = finetune(recipe, data=data)
    candidate = as_candidate(SpamClassifier(run.model, run.tokenizer))
    return replace(candidate, name=recipe.name, size=4 * candidate.parameters, train=tuple(messages["text"][:]))


def _training_texts(candidate: Candidate, held_out: Dataset, uci: Sources | None) -> Sequence[str] | None:
    """Return the training messages of a model as far as they are in the sample or the SMS Spam Collection."""
    if candidate.train is not None:
        return candidate.train
    texts, _ = find_training_texts(candidate.source, ["sample"] if uci is None else ["sample", uci])
    if texts and named_model(candidate.source) == BUNDLED:  # the record has whole sources
        return list({*texts} - {*held_out["text"][:]})
    return texts


def _predictions(candidate: Candidate, texts: list[str], messages: Dataset, progress: bool = False) -> Predictions:
    """Return a model's answers to the texts that stand for labelled messages."""
    answers, labels = candidate.answers(texts, progress=progress), np.array(messages["label"][:])
    table, names = probability_table(answers.scores, positive=1), tuple(messages.features["label"].names)
    return Predictions(names, labels, answers.called.astype(int), table, only_ranks=candidate.only_ranks)


def _figures(given: Predictions, messages: Dataset) -> Values:
    """Return the main figures with intervals; near-duplicates count as one in the bootstrap."""
    _, groups = np.unique(messages["group"][:], return_inverse=True)
    measured, _ = measure(given, groups)
    return {name: measured[name] for name in FIGURES}


def _parts(suite: Suite, given: Predictions, candidate: Candidate, progress: bool) -> Iterator[Values]:
    """Measure each variant, length, language and category."""
    for (section, name), (texts, rows) in suite.variants.items():
        yield _part(section, name, _predictions(candidate, texts, suite.messages.select(rows), progress))
    characters = np.array(list(map(len, suite.messages["text"][:])))
    for name, (low, high) in LENGTHS.items():
        yield _part("length", name, given.select((low <= characters) & (characters <= high)))
    for section in ("language", "category"):
        values = np.array(suite.messages[section][:])
        for name in sorted({*values.tolist()} - {""}):
            yield _part(section, name, given.select(values == name))


def _part(section: str, name: str, given: Predictions) -> Values:
    counts = {"messages": len(given.labels), "spam": int(given.is_spam.sum())}
    figures = None
    if counts["messages"] >= FEW:
        values, intervals = given.metrics(), proportions(given)
        if not counts["spam"]:
            values["recall"] = None
        figures = {figure: _estimate(values[figure], intervals.get(figure)) for figure in FIGURES[:4]}
    return {"section": section, "name": name, **counts, "figures": figures}


def _estimate(value: float | None, interval: Interval | None = None) -> Values:
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high}


def _measure_uci(
    candidate: Candidate, uci: Sources | None, recipe: Recipe | None, trained: Sequence[str] | None, progress: bool
) -> Values:
    if uci is None:
        return {"how": "not measured: give the SMS Spam Collection with --uci", "figures": None}
    messages = read_messages(uci)
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    about = {"messages": len(texts), "spam": int((labels == 1).sum()), "fingerprint": digest(messages)}
    seen = 0 if trained is None else int(find_duplicates(texts, trained)[1].sum())
    if recipe is not None:
        results = cross_validate(recipe, data=uci)
        figures = {name: _estimate(results["pooled"]["model"][name]) for name in FIGURES}
        return {"how": "5 folds", **about, "figures": figures, "spread": results["spread"]["model"]["f1"]}
    if 2 * seen > len(texts) and candidate.train is not None:
        predicted, scores = labels.copy(), np.empty(len(labels))
        for train, test in grouped_folds(messages.add_column("row", range(len(texts)))):
            answers = predict_baseline(fit_baseline(train), test)
            predicted[test["row"][:]], scores[test["row"][:]] = answers.predicted, answers.scores
        table = probability_table(scores, positive=1)
        given, how = Predictions(answers.names, labels, predicted, table, only_ranks=True), "5 folds"
    else:
        given = _predictions(candidate, texts, messages, progress)
        how = f"seen: {seen:,} of {len(texts):,}" if seen else "not known" if trained is None else "not seen"
    return {"how": how, **about, "figures": _figures(given, messages)}


def markdown(results: Sequence[Values]) -> str:
    """Return a Markdown table with a row for each result of `benchmark`."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(benchmark_row, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def benchmark_row(values: Values) -> list[str]:
    """Return the row of a result, with the `COLUMNS`."""
    about, figures, uci, seen = values["model"], values["figures"], values["uci"], values["suite"]["seen"]
    obfuscated = [part for part in values["parts"] if part["section"] == "obfuscated" and part["figures"]]
    worst = min(obfuscated, key=lambda part: part["figures"]["roc_auc"]["value"], default=None)
    how = f", {uci['how']}" if "seen:" in uci["how"] or "folds" in uci["how"] else ""
    f1 = uci["figures"] and _score(uci["figures"]["f1"]) + how
    return [
        about["name"] + (f" (has seen {seen:,})" if seen else ""),
        *(_percent(figures[name]) for name in FIGURES[:3]),
        _score(figures["roc_auc"]),
        f1 or "-",
        f"{worst['figures']['roc_auc']['value']:.3f} ({worst['name'].split(',')[0]})" if worst else "-",
        f"{about['size'] / 1e6:,.1f} MB",
        f"{about['messages_per_second']:,.0f}",
    ]


def benchmark_tables(values: Values) -> list[Table]:
    """Return the tables of a result for the terminal."""
    few = [part for part in values["parts"] if part["figures"] is None]
    left_out = f"Too few: {len(few)} groups of fewer than {FEW} messages. " if few else ""
    given = {name: values["suite"][name] for name in ("messages", "spam")}
    parts = [{"section": "", "name": "held out", **given, "figures": values["figures"]}, *values["parts"]]
    if values["uci"]["figures"]:
        parts.append({"section": "UCI", "name": values["uci"]["how"], **values["uci"]})
    rows = [
        [
            f"{part['section']} {part['name']}".strip(),
            *(f"{part[count]:,}" for count in ("messages", "spam")),
            *(_percent(part["figures"][name]) for name in FIGURES[:3]),
            _score(part["figures"]["roc_auc"]),
        ]
        for part in parts
        if part["figures"]
    ]
    return [Table(SUITE, ["messages", "number", "spam", *COLUMNS[1:5]], rows, left_out + INTERVALS_NOTE)]


def _percent(estimate: Values) -> str:
    low, high = ("" if estimate[end] is None else f"{100 * estimate[end]:.0f}" for end in ("low", "high"))
    return "-" if estimate["value"] is None else f"{100 * estimate['value']:.1f}" + (f" ({low}-{high})" if low else "")


def _score(estimate: Values) -> str:
    low, high = ("" if estimate[end] is None else f"{estimate[end]:.3f}" for end in ("low", "high"))
    return "-" if estimate["value"] is None else f"{estimate['value']:.3f}" + (f" ({low}-{high})" if low else "")
