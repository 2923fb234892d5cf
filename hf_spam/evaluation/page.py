"""Present results: tables for the terminal, and an HTML page with tables and figures."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..files import write_file
from ..modeling.configuration_spam_gpt import spam_index
from ..text import printable
from .baseline import ahead
from .figures import report_figures
from .report import Estimate, Report

TEMPLATE = Path(__file__).with_name("report_template.html")
MAX_LABELS = 10  # larger confusion matrices are not shown
LOWER_IS_BETTER = ("false_positive_rate", "brier", "log_loss", "ece")


@dataclass(frozen=True)
class Table:
    """Table of a report, with a note to print below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def report_tables(values: dict[str, Any]) -> list[Table]:
    """Return the tables of a report. The list of errors comes last."""
    details = values["details"]
    tables = [
        _metrics_table(values),
        _confusion_table(details),
        _thresholds_table(values),
        _duplicates_table(values),
        *(_without_duplicates_table(*item, values["positive_label"]) for item in values["sets"].items()),
        _length_table(values),
        _errors_table(values),
    ]
    return [table for table in tables if table.rows or table.note]


def check_folder(output_dir: str | os.PathLike) -> Path:
    """Return the folder for results, which need not exist yet, after checking that it is not a file."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: choose another --output-dir.")
    return folder


def write_report(report: Report, output_dir: str | os.PathLike) -> None:
    """Write `report.html`, a self-contained page, and `report.json`, into a folder, created if necessary."""
    write_page(output_dir, "report", report.values, render_report(report))


def write_page(output_dir: str | os.PathLike, name: str, values: dict[str, Any], page: str) -> None:
    """Write a page and its values, as NAME.html and NAME.json, into a folder, created if necessary."""
    folder, data = check_folder(output_dir), json.dumps(values, indent=2, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{name}.html", page.encode())
    write_file(folder / f"{name}.json", data.encode())


def render_report(report: Report) -> str:
    """Return the report as a self-contained HTML page without scripts."""
    values = report.values
    title, figures = f"{values['model']} on {values['data']}", report_figures(report)
    return render_page(title, headline(values), report_tables(values), values["versions"], figures)


def render_page(
    title: str, sentences: Sequence[str], tables: Sequence[Table], versions: dict[str, str], figures: Sequence[Any] = ()
) -> str:
    """Return a self-contained HTML page without scripts; the figures come after the first table."""
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
        if (difference := measured["f1_difference"]) is not None:
            low, high = difference["low"], difference["high"]
            verdict = ahead(measured["model"]["f1"]["value"], measured["baseline"]["f1"]["value"], threshold)
            if low is not None:
                chance = ", which may be chance" if low <= 0 <= high else ""
                verdict += f": a difference of {difference['value']:+.4f} ({low:+.4f} to {high:+.4f}){chance}"
            lines.append(f"On {name}, {verdict}.")
    return lines


def format_number(estimate: Estimate) -> str:
    return "-" if estimate["value"] is None else f"{estimate['value']:.4f}"


def format_interval(estimate: Estimate) -> str:
    return "-" if estimate["low"] is None else f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"


def _counts(sets: list[dict[str, Any]], positive: str | None) -> list[list[str]]:
    """Return the last rows of a metrics table: the number of messages, and of spam, behind each column."""
    names = {"messages": "messages"} | ({"spam": positive} if positive else {})
    return [[name, *(f"{one[count]:,}" for one in sets)] for count, name in names.items()]


def _metrics_table(values: dict[str, Any]) -> Table:
    name = values["details"]["set"]
    measured, baseline = values["sets"][name], values["sets"][name]["baseline"]
    others = {other: sets for other, sets in values["sets"].items() if other != name}
    rows = [
        [
            metric,
            *(format_number(other["model"][metric]) for other in others.values()),
            *(format_number(estimate), format_interval(estimate)),
            *([format_number(baseline[metric])] if baseline else []),
        ]
        for metric, estimate in measured["model"].items()
    ]
    columns = ["metric", *others, name, "95 %", *(["baseline"] if baseline else [])]
    rows += [
        [*row, *[""] * (len(columns) - len(row))]
        for row in _counts([*others.values(), measured], values["positive_label"])
    ]
    note = f"Lower is better for {', '.join(metric for metric in LOWER_IS_BETTER if metric in measured['model'])}. "
    if values["positive_label"] is None:
        note += "Precision, recall and F1 are macro averages over the labels. "
    return Table("Metrics", columns, rows, note + values["intervals"])


def _confusion_table(details: dict[str, Any]) -> Table:
    confusion, title = details["confusion"], f"Confusion matrix, {details['set']}"
    if len(confusion) > MAX_LABELS:
        return Table(title, [], [], f"It has {len(confusion)} labels; see report.json.")
    rows = [[label, *(f"{count:,}" for count in predicted.values())] for label, predicted in confusion.items()]
    return Table(title, ["label", *(f"predicted {label}" for label in confusion)], rows)


def _thresholds_table(values: dict[str, Any]) -> Table:
    title, positive = f"Thresholds, {values['details']['set']}", values["positive_label"]
    if positive is None:
        return Table(title, [], [])
    rows = []
    for row in values["details"]["thresholds"]:
        rate, threshold = row["false_positive_rate"], row["threshold"]
        rows.append(
            [
                "the model's own" if rate is None else f"{rate:.1%}",
                "" if threshold is None else f"{threshold:.7f}",
                f"{row['false_alarms']:,}",
                f"{row['missed']:,}",
                *(format_number(row["recall"]), format_interval(row["recall"])),
                format_number(row["precision"]),
            ]
        )
    (other,) = (label for label in values["labels"] if label != positive)
    note = (
        f"The lowest threshold within the allowed false-positive rate on these messages; others may bring more "
        f"false alarms. A false alarm is a message labelled {other} that is predicted {positive}."
    )
    columns = ["allowed rate", "threshold", "false alarms", "missed", "recall", "95 %", "precision"]
    return Table(title, columns, rows, note)


def _duplicates_table(values: dict[str, Any]) -> Table:
    rows = [
        [name, other, f"{counts['exact']:,}", f"{counts['near']:,}"]
        for name, others in values["duplicates"].items()
        for other, counts in others.items()
    ]
    note = "Near-duplicates differ only in case, digits, punctuation and white space; exact ones are included."
    if values["training_messages"] is None:
        note = "The model's training messages are not known (see --train-data)."
    elif not rows:
        note = ""
    return Table("Duplicates", ["messages of", "also in", "exact", "exact or near"], rows, note)


def _without_duplicates_table(name: str, measured: dict[str, Any], positive: str | None) -> Table:
    """Return the metrics without duplicates of training messages. Empty if there are none."""
    parts = {"all": measured, "no exact": measured.get("without_exact"), "no near": measured.get("without_near")}
    columns = {column: part for column, part in parts.items() if part}
    title = f"Without duplicates of training messages, {name}"
    if len(columns) == 1:
        return Table(title, [], [])
    kinds = ["model", "baseline"] if measured["baseline"] else ["model"]
    rows = [
        [metric, *(format_number(column[kind][metric]) for kind in kinds for column in columns.values())]
        for metric in measured["model"]
    ]
    rows += _counts([*columns.values()] * len(kinds), positive)
    headings = [f"{kind}, {column}" for kind in kinds for column in columns]
    return Table(title, ["metric", *headings], rows)


def _length_table(values: dict[str, Any]) -> Table:
    positive = values["positive_label"]
    counts = {"messages": "messages", "wrong": "wrong"}
    if positive:
        counts = {"messages": "messages", "spam": positive, "missed": "missed", "false_alarms": "false alarms"}
    rows = [
        [
            part["part"],
            *(f"{part[count]:,}" for count in counts),
            *(format_number(part["accuracy"]), format_interval(part["accuracy"])),
            *([format_number(part["recall"])] if positive else []),
        ]
        for part in values["details"]["by_length"]
    ]
    columns = ["characters", *counts.values(), "accuracy", "95 %", *(["recall"] if positive else [])]
    return Table(f"By length, {values['details']['set']}", columns, rows)


def _errors_table(values: dict[str, Any]) -> Table:
    details, positive = values["details"], values["positive_label"]
    rows = [
        [error["label"], error["predicted"], f"{error['score']:.4f}", error["in_training"] or "", error["text"]]
        for error in details["errors"]
    ]
    note = f"Most confident first. The score is the probability of {positive or 'the predicted label'}."
    columns = ["label", "predicted", "score", "in training", "text"]
    return Table(f"Errors, {details['set']}", columns, rows, note if rows else "No errors.")
