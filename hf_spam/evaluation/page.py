"""Present results: tables for the terminal, and an HTML page with tables and figures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2

from ..files import write_file, write_json
from ..modeling.configuration_spam_gpt import spam_index
from ..text import printable
from .baseline import ahead
from .intervals import Estimate

TEMPLATE = Path(__file__).with_name("report_template.html")
MAX_LABELS = 10  # larger confusion matrices are not shown
LOWER_IS_BETTER = ("false_positive_rate", "brier", "log_loss", "ece")


class Message(str):
    """Text of a message in a table. On the page, its `words` are coloured by their contributions."""

    words: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Table:
    """Table of a report, with a note to print below it."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def report_tables(values: dict[str, Any]) -> list[Table]:
    """Return the tables of a report. The list of errors comes last."""
    tables = [
        _metrics_table(values),
        _confusion_table(values["details"]),
        *([_thresholds_table(values)] if values["positive_label"] else []),
        _duplicates_table(values),
        *(_without_duplicates_table(*item, values["positive_label"]) for item in values["sets"].items()),
        _length_table(values),
        _errors_table(values),
    ]
    return [table for table in tables if table.rows or table.note]


def write_page(output_dir: str | os.PathLike, name: str, values: dict[str, Any], page: str) -> None:
    """Write a page and its values, as NAME.html and NAME.json, into a folder, created if necessary."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(output_dir, f"{name}.json"), values)
    write_file(Path(output_dir, f"{name}.html"), page.encode())


def render_page(
    title: str, sentences: Sequence[str], tables: Sequence[Table], versions: dict[str, str], figures: Sequence[Any] = ()
) -> str:
    """Return a self-contained HTML page without scripts; figures, see `report_figures`, come after the first table."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, headline=sentences, tables=tables, versions=versions, figures=figures)


def headline(values: dict[str, Any]) -> list[str]:
    """Summarize in a few sentences what was evaluated and how the model compares with the baseline."""
    name, threshold = values["details"]["set"], values["threshold"]
    measured = values["sets"][name]
    lines = [f"Model: {values['model']}. Data: {values['data']}. Splits: {values['splits']}."]
    if threshold is not None:
        spam = values["labels"][spam_index(values["labels"])]
        lines.append(f"The model labels a message {spam} if its score is at least {threshold:.7f}.")
    if values["temperature"] != 1:
        lines.append(f"Scores are calibrated with temperature {values['temperature']:.4f}.")
    if values["remark"]:
        lines.append(values["remark"])
    if values["baseline"] is None:
        lines.append("No baseline.")
    elif measured["baseline"] is None:
        lines.append(f"No baseline on {name}: it would be trained on these messages.")
    else:
        trained_on = f"{values['training_messages']:,} messages: {values['trained_on']}"
        lines.append(f"Baseline: {values['baseline']}, trained on {trained_on}.")
        difference = measured["f1_difference"]
        if difference["value"] is not None:
            verdict = ahead(measured["model"]["f1"]["value"], measured["baseline"]["f1"]["value"], threshold)
            if difference["low"] is not None:
                chance = ", which may be chance" if difference["low"] <= 0 <= difference["high"] else ""
                verdict += f": a difference of {format_estimate(difference, '{:+.4f} ({:+.4f} to {:+.4f})')}{chance}"
            lines.append(f"On {name}, {verdict}.")
    return lines


def format_estimate(estimate: Estimate, form: str, scale: float = 1) -> str:
    """Format a value and its interval, as in "{:.3f} ({:.3f}-{:.3f})"; "-" if the value is undefined.

    If there is no interval, the form ends before the bracket.
    """
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    if low is None:
        return form.partition(" (")[0].format(scale * value)
    return form.format(scale * value, scale * low, scale * high)


def format_number(estimate: Estimate) -> str:
    return "-" if estimate["value"] is None else f"{estimate['value']:.4f}"


def format_interval(estimate: Estimate) -> str:
    return "-" if estimate["low"] is None else f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"


def _names(measured: dict[str, Any], positive: str | None) -> list[str]:
    """Return the first column of a metrics table."""
    return [*measured["model"], "messages", *([positive] if positive else [])]


def _column(measured: dict[str, Any], kind: str) -> list[str]:
    """Return the metrics of the model or the baseline on a set, and the numbers of messages behind them."""
    counts = [f"{measured[count]:,}" for count in ("messages", "spam") if count in measured]
    return [*map(format_number, measured[kind].values()), *counts]


def _metrics_table(values: dict[str, Any]) -> Table:
    name, positive = values["details"]["set"], values["positive_label"]
    measured, others = values["sets"][name], {other: part for other, part in values["sets"].items() if other != name}
    headings = ["metric", *others, name, "95 %"]
    columns = [_names(measured, positive), *(_column(part, "model") for part in (*others.values(), measured))]
    columns.append([*map(format_interval, measured["model"].values())])
    if measured["baseline"]:
        headings.append("baseline")
        columns.append(_column(measured, "baseline"))
    note = f"Lower is better for {', '.join(metric for metric in LOWER_IS_BETTER if metric in measured['model'])}. "
    if positive is None:
        note += "Precision, recall and F1 are macro averages over the labels. "
    return Table("Metrics", headings, list(zip_longest(*columns, fillvalue="")), note + values["intervals"])


def _confusion_table(details: dict[str, Any]) -> Table:
    confusion, title = details["confusion"], f"Confusion matrix, {details['set']}"
    if len(confusion) > MAX_LABELS:
        return Table(
            title,
            [],
            [],
            f"It has {len(confusion)} labels: too many to show. It is in report.json (--output-dir), and in --json.",
        )
    rows = [[label, *(f"{count:,}" for count in predicted.values())] for label, predicted in confusion.items()]
    return Table(title, ["label", *(f"predicted {label}" for label in confusion)], rows)


def _thresholds_table(values: dict[str, Any]) -> Table:
    positive, rows = values["positive_label"], []
    for row in values["details"]["thresholds"]:
        rate = "the model's own" if row["false_positive_rate"] is None else f"{row['false_positive_rate']:.1%}"
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.7f}"
        rates = [format_number(row["recall"]), format_interval(row["recall"]), format_number(row["precision"])]
        rows.append([rate, threshold, f"{row['false_alarms']:,}", f"{row['missed']:,}", *rates])
    (other,) = (label for label in values["labels"] if label != positive)
    note = (
        f"The lowest threshold within the allowed false-positive rate on these messages; others may bring more "
        f"false alarms. A false alarm is a message labelled {other} that is predicted {positive}."
    )
    columns = ["allowed rate", "threshold", "false alarms", "missed", "recall", "95 %", "precision"]
    return Table(f"Thresholds, {values['details']['set']}", columns, rows, note)


def _duplicates_table(values: dict[str, Any]) -> Table:
    rows = [[name, f"{counts['exact']:,}", f"{counts['near']:,}"] for name, counts in values["duplicates"].items()]
    note = ""
    if values["training_messages"] is None:
        note = "The model's training messages are not known (see --train-data)."
    elif rows:
        note = "Near-duplicates differ only in case, digits, punctuation and white space; exact ones are included."
    return Table("Duplicates of training messages", ["messages of", "exact", "exact or near"], rows, note)


def _without_duplicates_table(name: str, measured: dict[str, Any], positive: str | None) -> Table:
    """Return the metrics without duplicates of training messages. Empty if there are none."""
    parts = {"all": measured, "no exact": measured.get("without_exact"), "no near": measured.get("without_near")}
    parts = {heading: part for heading, part in parts.items() if part}
    kinds = ["model", "baseline"] if measured["baseline"] else ["model"]
    headings = ["metric", *(f"{kind}, {heading}" for kind in kinds for heading in parts)]
    columns = [_names(measured, positive), *(_column(part, kind) for kind in kinds for part in parts.values())]
    rows = list(zip(*columns, strict=True)) if len(parts) > 1 else []
    return Table(f"Without duplicates of training messages, {name}", headings, rows)


def _length_table(values: dict[str, Any]) -> Table:
    positive, rows = values["positive_label"], []
    counts = {"messages": "messages", "wrong": "wrong"}
    if positive:
        counts = {"messages": "messages", "spam": positive, "missed": "missed", "false_alarms": "false alarms"}
    for part in values["details"]["by_length"]:
        rates = [format_number(part["accuracy"]), format_interval(part["accuracy"])]
        rates += [format_number(part["recall"])] if positive else []
        rows.append([part["part"], *(f"{part[count]:,}" for count in counts), *rates])
    columns = ["characters", *counts.values(), "accuracy", "95 %", *(["recall"] if positive else [])]
    return Table(f"By length, {values['details']['set']}", columns, rows)


def _errors_table(values: dict[str, Any]) -> Table:
    details, positive, rows = values["details"], values["positive_label"], []
    for error in details["errors"]:
        text = Message(error["text"])
        text.words = error.get("words", ())
        rows.append([error["label"], error["predicted"], f"{error['score']:.4f}", error["in_training"] or "", text])
    is_probability = positive is None or "calibration" in details
    score = (
        f"is the probability of {positive or 'the predicted label'}" if is_probability else "only ranks the messages"
    )
    note = f"Most confident first. The score {score}."
    if any("words" in error for error in details["errors"]):
        explained = positive or "spam (the predicted label if no class is spam)"
        note += f" In colour on the page: orange words speak for {explained}, blue ones against it."
    columns = ["label", "predicted", "score", "in training", "text"]
    return Table(f"Errors, {details['set']}", columns, rows, note if rows else "No errors.")
