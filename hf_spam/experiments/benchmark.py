"""Measure one classifier of any kind on a fixed suite of messages, so that its figures can be put beside others'.

The suite is the tenth of the sample that the bundled model was not trained on, as it is and obfuscated.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from ..data import obfuscation
from ..data.duplicates import find_duplicates
from ..data.names import Sources
from ..data.obfuscation import Obfuscation
from ..data.sources import read_messages
from ..data.splits import digest, grouped_folds
from ..evaluation.baseline import fit_baseline, predict_baseline
from ..evaluation.candidates import Candidate
from ..evaluation.intervals import INTERVALS_NOTE, estimate, estimates, measure
from ..evaluation.metrics import Predictions
from ..evaluation.models import load_candidate
from ..evaluation.page import Table, format_estimate
from ..files import versions
from ..training.corrections import divide
from ..training.settings import Recipe
from .breakdown import FEW, PERCENT
from .compare import classify, training_texts
from .crossval import cross_validate, pooled

SUITE = "hf-spam 3"  # raise the number whenever a message of the suite changes
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
FIGURES = ("recall", "false_positive_rate", "recall_at_fpr_0.01", "roc_auc", "f1")  # with intervals
COLUMNS = ["model", "found, %", "false alarms, %", "found at 1 %, %", "ROC AUC", "UCI F1", "worst obfuscation", "size"]
COLUMNS += ["messages/s"]
SCORE = "{:.3f} ({:.3f}-{:.3f})"  # form of a score, for `format_estimate`

Values = dict[str, Any]
Variants = dict[tuple[str, str], tuple[list[str], np.ndarray]]
"""By section and name of a variant: its texts, and the rows of the messages that they were made from."""


def split_sample() -> tuple[Dataset, Dataset]:
    """Return the messages of the sample that may be trained on, and those of the suite."""
    return divide(read_messages("sample"))


def make_variants(messages: Dataset) -> Variants:
    """Make the variants of the suite from its messages."""
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    variants = {}
    for name, (change, rate) in OBFUSCATIONS.items():
        changed = [change(text, rate, random.Random(f"{name} {text}").random) for text in texts]
        variants["obfuscated", f"{name}, {rate:.0%}"] = changed, np.arange(len(texts))
    rows = np.arange(0, len(texts), 4)
    ham = [texts[row] for row in np.flatnonzero(labels == 0)]
    variants["length", VERY_LONG] = [_after(ham, texts[row]) for row in rows], rows
    return variants


def fingerprint(messages: Dataset, variants: Variants) -> str:
    """Return the SHA-256 of all texts and labels of the suite."""
    texts = [texts for texts, _ in variants.values()]
    return hashlib.sha256(json.dumps([digest(messages), texts]).encode()).hexdigest()


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
    """Measure a classifier (see `load_candidate`) on the suite; return values that are ready for JSON.

    With `uci` ("uci", or its file), it is also measured on the SMS Spam Collection: by cross-validation of the `recipe`
    that it was trained with if that is named, or if it is a baseline that was trained on the collection.
    """
    collection = None if uci is None else read_messages(uci)  # before the work, since it may be missing
    candidate, (_, held_out) = load_candidate(model, **loading), split_sample()
    variants = make_variants(held_out)
    texts, labels = held_out["text"][:], np.array(held_out["label"][:])
    trained, _ = training_texts(candidate, ["sample"] if uci is None else ["sample", uci])
    given, costs = classify(candidate, texts, labels, progress)
    return {
        "suite": {
            "name": SUITE,
            "fingerprint": fingerprint(held_out, variants),
            "messages": len(texts),
            "spam": int(given.is_spam.sum()),
            "seen": None if trained is None else int(find_duplicates(texts, trained)[1].sum()),
        },
        "model": {**candidate.about, "messages_per_second": costs["messages_per_second"]},
        "figures": _figures(given, held_out),
        "parts": list(_parts(held_out, variants, given, candidate, progress)),
        "uci": _measure_uci(candidate, uci, collection, recipe, trained, progress),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _figures(given: Predictions, messages: Dataset) -> Values:
    """Return the main figures with intervals; the bootstrap draws near-duplicates together."""
    measured, _ = measure(given, np.unique(messages["group"][:], return_inverse=True)[1])
    return {name: measured[name] for name in FIGURES}


def _parts(
    messages: Dataset, variants: Variants, given: Predictions, candidate: Candidate, progress: bool
) -> Iterator[Values]:
    """Measure each variant, length, language and category."""
    for (section, name), (texts, rows) in variants.items():
        yield _part(section, name, candidate.predictions(texts, given.labels[rows], progress=progress))
    characters = np.array(list(map(len, given.texts)))
    for name, (low, high) in LENGTHS.items():
        yield _part("length", name, given.select((low <= characters) & (characters <= high)))
    for section in ("language", "category"):
        values = np.array(messages[section][:])
        for name in sorted({*values.tolist()} - {""}):
            yield _part(section, name, given.select(values == name))


def _part(section: str, name: str, given: Predictions) -> Values:
    counts, figures = {"messages": len(given.labels), "spam": int(given.is_spam.sum())}, None
    if counts["messages"] >= FEW:
        found = estimates(given)
        figures = {figure: found[figure] for figure in FIGURES[:4]}
    return {"section": section, "name": name, **counts, "figures": figures}


def _measure_uci(
    candidate: Candidate,
    uci: Sources | None,
    messages: Dataset | None,
    recipe: Recipe | str | None,
    trained: Sequence[str] | None,
    progress: bool,
) -> Values:
    if messages is None:
        return {"how": "not measured: give the SMS Spam Collection with --uci", "figures": None}
    texts, labels = messages["text"][:], np.array(messages["label"][:])
    about = {"messages": len(texts), "spam": int((labels == 1).sum()), "fingerprint": digest(messages)}
    if recipe is not None:
        results = cross_validate(recipe, data=uci)
        figures = {name: estimate(results["pooled"]["model"][name]) for name in FIGURES}
        return {"how": "5 folds", **about, "figures": figures, "spread": results["spread"]["model"]["f1"]}
    seen = int(find_duplicates(texts, trained or [])[1].sum())
    if 2 * seen > len(texts) and candidate.train is not None:
        folds = list(grouped_folds(messages))
        given = pooled([predict_baseline(fit_baseline(train), test) for train, test in folds])
        messages, how = concatenate_datasets([test for _, test in folds]), "5 folds"
    else:
        given = candidate.predictions(texts, labels, progress=progress)
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
    f1 = uci["figures"] and format_estimate(uci["figures"]["f1"], SCORE) + how
    return [
        about["name"] + (f" (has seen {seen:,})" if seen else ""),
        *(format_estimate(figures[name], PERCENT, 100) for name in FIGURES[:3]),
        format_estimate(figures["roc_auc"], SCORE),
        f1 or "-",
        f"{worst['figures']['roc_auc']['value']:.3f} ({worst['name'].split(',')[0]})" if worst else "-",
        f"{about['size'] / 1e6:,.1f} MB",
        f"{about['messages_per_second']:,.0f}",
    ]


def benchmark_tables(values: Values) -> list[Table]:
    """Return the tables of a result for the terminal."""
    few = [part for part in values["parts"] if part["figures"] is None]
    left_out = f"Too few: {len(few)} groups of fewer than {FEW} messages. " if few else ""
    held_out = {**values["suite"], "section": "", "name": "held out", "figures": values["figures"]}
    parts = [held_out, *values["parts"]]
    if values["uci"]["figures"]:
        parts.append({"section": "UCI", "name": values["uci"]["how"], **values["uci"]})
    rows = []
    for part in parts:
        if figures := part["figures"]:
            shares = [format_estimate(figures[name], PERCENT, 100) for name in FIGURES[:3]]
            counts = f"{part['messages']:,}", f"{part['spam']:,}"
            name = f"{part['section']} {part['name']}".strip()
            rows.append([name, *counts, *shares, format_estimate(figures["roc_auc"], SCORE)])
    return [Table(SUITE, ["messages", "number", "spam", *COLUMNS[1:5]], rows, left_out + INTERVALS_NOTE)]
