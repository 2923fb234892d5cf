"""A report as people read it: tables for the terminal, and the page that holds them and the figures."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..files import write_file
from ..modeling.configuration_spam_gpt import spam_index
from ..text import printable
from .baseline import ahead
from .class_figures import class_figures
from .report import Estimate, Report
from .report_figures import report_figures

TEMPLATE = Path(__file__).with_name("report_template.html")
WIDEST, LONGEST = 10, 100  # labels up to which their confusion is a square; mistakes that are listed beyond
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
    positive = values["labels"][-1]
    tables = [_metrics_table(values), _confusion_table(closer)]
    tables += [_classes_table(closer)] if "classes" in closer else []
    tables += [_thresholds_table(values)] if "thresholds" in closer else []
    tables.append(_duplicates_table(values))
    tables += [_without_table(name, measured, positive) for name, measured in values["sets"].items()]
    if closer["by_standing_in_training"]:
        tables.append(_parts_table("in training", values, closer["by_standing_in_training"]))
    tables.append(_parts_table("characters", values, closer["by_length"]))
    tables.append(_errors_table(values))
    return [table for table in tables if table.rows or table.note]


def check_folder(output_dir: str | os.PathLike) -> Path:
    """The folder of a report, before there is one.

    Raises:
        NotADirectoryError: it is a file.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give another --output-dir.")
    return folder


def write_report(report: Report, output_dir: str | os.PathLike) -> None:
    """Writes `report.html`, which needs no other file, and `report.json` into a folder, each whole or not at all.

    Args:
        report: the report.
        output_dir: the folder, which is made if there is none; of what it holds, these two files alone are replaced.
    """
    folder = check_folder(output_dir)
    page, data = render_page(report), json.dumps(report.values, indent=2, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "report.html", page.encode())
    write_file(folder / "report.json", data.encode())


def render_page(report: Report) -> str:
    """The report as one HTML page without a script, and without anything that would have to be fetched."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report.values,
        headline=headline(report.values),
        tables=report_tables(report.values),
        figures=class_figures(report.model) if report.model.several else report_figures(report.model, report.baseline),
    )


def headline(values: dict[str, Any]) -> list[str]:
    """What a report is of, and what it says about the baseline, in sentences."""
    closer = values["sets"][values["closer"]["set"]]
    lines = [f"Model: {values['model']}. Data: {values['data']}. Splits: {values['splits']}."]
    if values["threshold"] is not None:
        score = f"a score of at least {values['threshold']:.7f}"
        lines.append(f"It calls {_spam(values)} what has {score}, and is measured so.")
    if values["temperature"] != 1:
        lines.append(f"Scores are calibrated: temperature {values['temperature']:.4f}.")
    if values["remark"]:
        lines.append(values["remark"])
    if values["baseline"] is None:
        lines.append("No baseline.")
    elif closer["baseline"] is None:
        lines.append(f"No baseline beside {values['closer']['set']}: it would be trained on these very messages.")
    else:
        trained_on = f"{values['training_messages']:,} messages: {values['trained_on']}"
        lines.append(f"Baseline: {values['baseline']}, trained on {trained_on}.")
        difference = closer["f1_difference"]
        if difference is not None:
            low, high = difference["low"], difference["high"]
            verdict = ahead(closer["model"]["f1"]["value"], closer["baseline"]["f1"]["value"], values["threshold"])
            if low is not None:
                chance = ", which may be chance" if low <= 0 <= high else ""
                verdict += f": a difference of {difference['value']:+.4f} ({low:+.4f} to {high:+.4f}){chance}"
            lines.append(f"On {values['closer']['set']}, {verdict}.")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(estimate: Estimate) -> str:
    return "-" if estimate["low"] is None else f"{estimate['low']:.3f}\u2013{estimate['high']:.3f}"


def _counted(columns: list[dict[str, Any] | None], positive: str) -> list[list[str]]:
    """The last rows of a table of metrics: of how many messages, and of two classes how much spam, each column is."""
    counts = {"messages": "messages", "spam": positive}
    return [
        [name, *("" if column is None else f"{column[count]:,}" for column in columns)]
        for count, name in counts.items()
        if count in next(column for column in columns if column)
    ]


def _spam(values: dict[str, Any]) -> str:
    """What a threshold is for: the positive one of two classes, of more the one that is spam."""
    return values["labels"][spam_index(values["labels"])]


def _ham(values: dict[str, Any]) -> str:
    """What messages of the other of two classes are called, of more those of all others."""
    if len(values["labels"]) > 2:
        return "message of another label"
    return "ham" if values["labels"][0] == "not spam" else values["labels"][0]


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
    rows += _counted([*counts, *[None] * (len(columns) - 1 - len(counts))], values["labels"][-1])
    less = ", ".join(metric for metric in LESS_IS_BETTER if metric in closer["model"])
    return Table("Metrics", columns, rows, f"Of {less}, less is better. {values['intervals']}")


def _confusion_table(closer: dict[str, Any]) -> Table:
    confusion = closer["confusion"]
    title = f"Confusion, {closer['set']}"
    if len(confusion) <= WIDEST:
        rows = [[label, *(f"{count:,}" for count in called.values())] for label, called in confusion.items()]
        return Table(title, ["label", *(f"called {label}" for label in confusion)], rows)
    mistakes = [
        (count, label, other)
        for label, called in confusion.items()
        for other, count in called.items()
        if count and label != other
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    rows = [[label, other, f"{count:,}"] for count, label, other in mistakes[:LONGEST]]
    note = f"The {LONGEST} most frequent mistakes; report.json has all." if len(mistakes) > LONGEST else ""
    return Table(title, ["label", "called", "messages"], rows, note)


def _classes_table(closer: dict[str, Any]) -> Table:
    rows = []
    for row in closer["classes"]:
        cells = [row["label"], f"{row['messages']:,}"]
        for metric in ("precision", "recall"):
            cells += [_number(row[metric]["value"]), _interval(row[metric])]
        rows.append([*cells, _number(row["f1"])])
    columns = ["label", "messages", "precision", "95 %", "recall", "95 %", "f1"]
    return Table(f"Labels, {closer['set']}", columns, rows)


def _thresholds_table(values: dict[str, Any]) -> Table:
    closer, rows = values["closer"], []
    for row in closer["thresholds"]:
        target, threshold = row["false_positive_rate"], row["threshold"]
        asked = "as it classifies" if target is None else f"{target:.1%}"
        cells = [asked, "" if threshold is None else f"{threshold:.7f}", f"{row['false_alarms']:,}"]
        recall = [_number(row["recall"]["value"]), _interval(row["recall"])]
        rows.append([*cells, f"{row['missed']:,}", *recall, _number(row["precision"]["value"])])
    note = (
        f"What is allowed is a false-positive rate; an alarm is a {_ham(values)} that is called {_spam(values)}. "
        "The scores were found on these very messages: others may bring more alarms."
    )
    columns = ["allowed", "score from", "alarms", "missed", "recall", "95 %", "precision"]
    return Table(f"Thresholds, {closer['set']}", columns, rows, note)


def _duplicates_table(values: dict[str, Any]) -> Table:
    rows = [
        [name, other, f"{counts['exact']:,}", f"{counts['near']:,}"]
        for name, others in values["duplicates"].items()
        for other, counts in others.items()
    ]
    note = "Nearly: alike but for case, digits, punctuation and white space; those that are word for word are counted."
    if values["training_messages"] is None:
        note = "Which messages the model has seen is not known (see --train-data)."
    elif not rows:
        note = ""
    return Table("Duplicates", ["messages of", "that stand in", "word for word", "at least nearly"], rows, note)


def _without_table(name: str, measured: dict[str, Any], positive: str) -> Table:
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
    rows += _counted([*columns.values()] * len(kinds), positive)
    titles = [*columns, *(["baseline", *list(columns)[1:]] if len(kinds) == 2 else [])]
    return Table(title, ["metric", *titles], rows)


def _parts_table(by: str, values: dict[str, Any], parts: list[dict[str, Any]]) -> Table:
    title = f"{by.capitalize()}, {values['closer']['set']}"
    if len(values["labels"]) > 2:
        rows = [
            [
                row["part"],
                f"{row['messages']:,}",
                f"{row['wrong']:,}",
                _number(row["accuracy"]["value"]),
                _interval(row["accuracy"]),
            ]
            for row in parts
        ]
        return Table(title, [by, "messages", "wrong", "accuracy", "95 %"], rows)
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
    columns = [by, "messages", values["labels"][1], "missed", "alarms", "accuracy", "95 %", "recall"]
    return Table(title, columns, rows)


def _errors_table(values: dict[str, Any]) -> Table:
    closer, several = values["closer"], len(values["labels"]) > 2
    rows = [
        [
            error["label"],
            *([error["called"]] if several else []),
            f"{error['score']:.4f}",
            error["in_training"] or "",
            error["text"],
        ]
        for error in closer["errors"]
    ]
    of = "what it is called" if several else values["labels"][1]
    note = f"The surest first; the score is that of {of}." if rows else "No errors."
    columns = ["label", *(["called"] if several else []), "score", "in training", "text"]
    return Table(f"Errors, {closer['set']}", columns, rows, note)
