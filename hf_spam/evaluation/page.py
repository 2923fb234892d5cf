"""A report as people read it: tables for the terminal, and the page that holds them and the figures."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..printable import printable
from .baseline import ahead
from .plots import report_figures
from .report import TRAINING, Estimate, Report

TEMPLATE = Path(__file__).with_name("report_template.html")
LESS_IS_BETTER = ("false_positive_rate", "brier", "log_loss", "ece")


@dataclass(frozen=True)
class Table:
    """A table of a report, with what has to be said about it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def report_tables(values: dict[str, Any]) -> list[Table]:
    """The tables of a report, of which the last lists the errors."""
    closer = values["closer"]
    tables = [_metrics_table(values), _confusion_table(closer), _thresholds_table(closer), _duplicates_table(values)]
    tables += [_without_table(name, measured) for name, measured in values["sets"].items()]
    if closer["by_standing_in_training"]:
        tables.append(_parts_table("in training", closer, closer["by_standing_in_training"]))
    tables.append(_parts_table("characters", closer, closer["by_length"]))
    tables.append(_errors_table(closer))
    return [table for table in tables if table.rows or table.note]


def write_report(report: Report, output_dir: str | os.PathLike) -> None:
    """Writes `report.html`, which needs no other file, and `report.json` into a folder, each whole or not at all.

    Args:
        report: the report.
        output_dir: the folder, which is made if there is none; of what it holds, these two files alone are replaced.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give another --output-dir.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        page, data = Path(temporary, "report.html"), Path(temporary, "report.json")
        page.write_text(render_page(report), encoding="utf-8")
        data.write_text(json.dumps(report.values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in (page, data):
            os.replace(path, folder / path.name)


def render_page(report: Report) -> str:
    """The report as one HTML page without a script, and without anything that would have to be fetched."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report.values,
        headline=headline(report.values),
        tables=report_tables(report.values),
        figures=report_figures(report.model, report.baseline),
    )


def headline(values: dict[str, Any]) -> list[str]:
    """What a report is of, and what it says about the baseline, in sentences."""
    closer = values["sets"][values["closer"]["set"]]
    lines = [f"Model: {values['model']}. Data: {values['data']}. Splits: {values['splits']}."]
    if values["threshold"] is not None:
        lines.append(f"It calls spam what has a score of at least {values['threshold']:.7f}, and is measured so.")
    if values["temperature"] != 1:
        lines.append(f"Scores are calibrated: temperature {values['temperature']:.4f}.")
    if values["baseline"] is None:
        why = "" if values["training_messages"] else ": the messages of the training are not known (see --train-data)"
        lines.append(f"No baseline{why}.")
    else:
        trained_on = f"{values['training_messages']:,} messages: {values['trained_on']}"
        lines.append(f"Baseline: {values['baseline']}, trained on {trained_on}.")
        difference = closer["f1_difference"]
        if difference is not None:
            low, high = difference["low"], difference["high"]
            verdict = ahead(closer["model"]["f1"]["value"], closer["baseline"]["f1"]["value"])
            chance = ", which may be chance" if low <= 0 <= high else ""
            interval = f"a difference of {difference['value']:+.4f} ({low:+.4f} to {high:+.4f}){chance}"
            lines.append(f"On {values['closer']['set']}, {verdict}: {interval}.")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(estimate: Estimate) -> str:
    return "-" if estimate["value"] is None else f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"


def _counted(columns: list[dict[str, Any] | None]) -> list[list[str]]:
    """The last rows of a table of metrics: of how many messages each column is."""
    return [
        [count, *("" if column is None else f"{column[count]:,}" for column in columns)]
        for count in ("messages", "spam")
    ]


def _metrics_table(values: dict[str, Any]) -> Table:
    name = values["closer"]["set"]
    closer = values["sets"][name]
    others = [other for other in values["sets"] if other != name]
    columns = ["metric", *others, name, "95 %"] + ["baseline"] * (closer["baseline"] is not None)
    rows = []
    for metric, estimate in closer["model"].items():
        row = [_number(values["sets"][other]["model"][metric]["value"]) for other in others]
        row += [_number(estimate["value"]), _interval(estimate)]
        if closer["baseline"]:
            row.append(_number(closer["baseline"][metric]["value"]))
        rows.append([metric, *row])
    counts = [values["sets"][other] for other in [*others, name]]
    rows += _counted([*counts, *[None] * (len(columns) - 1 - len(counts))])
    return Table("Metrics", columns, rows, f"Of {', '.join(LESS_IS_BETTER)}, less is better. {values['intervals']}")


def _confusion_table(closer: dict[str, Any]) -> Table:
    rows = [[label, *(f"{count:,}" for count in called.values())] for label, called in closer["confusion"].items()]
    return Table(f"Confusion, {closer['set']}", ["label", "called spam", "called not spam"], rows)


def _thresholds_table(closer: dict[str, Any]) -> Table:
    rows = []
    for row in closer["thresholds"]:
        target, threshold = row["false_positive_rate"], row["threshold"]
        asked = "as it classifies" if target is None else f"{target:.1%}"
        cells = [asked, "" if threshold is None else f"{threshold:.7f}", f"{row['false_alarms']:,}"]
        recall = [_number(row["recall"]["value"]), _interval(row["recall"])]
        rows.append([*cells, f"{row['missed']:,}", *recall, _number(row["precision"]["value"])])
    note = (
        "What is allowed is a false-positive rate; an alarm is a ham that is called spam. The scores were found on "
        "these very messages: others may bring more alarms."
    )
    columns = ["allowed", "score from", "alarms", "missed", "recall", "95 %", "precision"]
    return Table(f"Thresholds, {closer['set']}", columns, rows, note)


def _duplicates_table(values: dict[str, Any]) -> Table:
    rows = [
        [name, other, f"{counts['exact']:,}", f"{counts['near']:,}"]
        for name, others in values["duplicates"].items()
        for other, counts in others.items()
    ]
    known = any(TRAINING in others for others in values["duplicates"].values())
    note = "Nearly: alike but for case, digits, punctuation and white space; those that are word for word are counted."
    if not known:
        note = "Which messages the model has seen is not known (see --train-data)."
    return Table("Duplicates", ["messages of", "that stand in", "word for word", "at least nearly"], rows, note)


def _without_table(name: str, measured: dict[str, Any]) -> Table:
    """Empty where nothing of the set stands in training."""
    columns = {"all": measured, "no exact": measured.get("without_exact"), "no near": measured.get("without_near")}
    columns = {title: column for title, column in columns.items() if column}
    title = f"Without duplicates of training messages, exact or near, {name}"
    if len(columns) == 1:
        return Table(title, [], [])
    kinds = ["model", "baseline"] if measured["baseline"] else ["model"]
    rows = [
        [metric, *(_number(column[kind][metric]["value"]) for kind in kinds for column in columns.values())]
        for metric in measured["model"]
    ]
    rows += _counted([*columns.values()] * len(kinds))
    titles = [*columns, *(["baseline", *list(columns)[1:]] if len(kinds) == 2 else [])]
    return Table(title, ["metric", *titles], rows)


def _parts_table(by: str, closer: dict[str, Any], parts: list[dict[str, Any]]) -> Table:
    rows = [
        [
            row["part"],
            *(f"{row[name]:,}" for name in ("messages", "spam", "missed", "false_alarms")),
            _number(row["accuracy"]["value"]),
            _interval(row["accuracy"]),
            _number(row["recall"]["value"]),
        ]
        for row in parts
    ]
    columns = [by, "messages", "spam", "missed", "alarms", "accuracy", "95 %", "recall"]
    return Table(f"{by.capitalize()}, {closer['set']}", columns, rows)


def _errors_table(closer: dict[str, Any]) -> Table:
    rows = [
        [error["label"], f"{error['score']:.4f}", error["in_training"] or "", error["text"]]
        for error in closer["errors"]
    ]
    note = "The surest first; the score is that of spam." if rows else "No errors."
    return Table(f"Errors, {closer['set']}", ["label", "score", "in training", "text"], rows, note)
