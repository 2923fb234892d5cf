"""Tables and texts for the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .experiments.book_table import PUBLISHED, Row
from .text import printable
from .training.recipes import Recipe

FEW = 20  # groups of fewer messages are not shown: their intervals say nothing
ROWS_SHOWN = 20  # rows of a long table, such as the errors
UNBROKEN_CHARACTERS = 20  # a column of single words up to this length is never broken


def excerpt(text: str) -> str:
    """Return the first 200 characters of a message without control characters, which could drive the terminal."""
    return printable(text if len(text) <= 200 else text[:200] + "…")


def show(content: Table | str) -> None:
    """Print a table, or a line that the terminal may wrap."""
    Console(highlight=False, markup=False, soft_wrap=isinstance(content, str)).print(content)


def make_table(*columns: str) -> Table:
    """Return an empty table with little padding, so that the tables of a report fit into 80 columns."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not i)
    return table


def fitted(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """Return a table that fits the terminal: long texts and headings are broken, numbers are not."""
    headings, *cells = [[excerpt(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    fits = sum(widths) + 2 * len(widths) < Console().width
    table = make_table()
    table.title = title
    for heading, *column in zip(headings, *cells, strict=True):
        unbroken = all(len(cell) <= UNBROKEN_CHARACTERS and " " not in cell for cell in column)
        if unbroken and not fits and len(heading) > max(map(len, column)):
            heading = heading.replace(" ", "\n")
        longest_word = max(map(len, heading.split()))
        table.add_column(heading, no_wrap=unbroken, min_width=min(UNBROKEN_CHARACTERS, longest_word), overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def show_report(headline: Sequence[str], tables: Sequence[Any]) -> None:
    """Print a report: sentences, and tables (`title`, `columns`, `rows`, `note`), cut after `ROWS_SHOWN` rows."""
    for line in headline:
        show(printable(line))
    for table in tables:
        if table.rows:
            show(fitted(table.title, table.columns, table.rows[:ROWS_SHOWN]))
        if len(table.rows) > ROWS_SHOWN:
            show(f"and {len(table.rows) - ROWS_SHOWN:,} more (see --output-dir or --json)")
        if table.note:
            show(printable(table.note))


def metrics_table(metrics: dict[str, dict[str, float | None]]) -> Table:
    """Return a table with a row per metric and a column per split."""
    table = make_table("metric", *metrics)
    for name in next(iter(metrics.values())):
        values = [split[name] for split in metrics.values()]
        table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def answers_table(texts: Sequence[str], answers: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a row per classified message."""
    table = make_table("label", "score", "text")
    for text, answer in zip(texts, answers, strict=True):
        table.add_row(excerpt(answer["label"]), f"{answer['score']:.4f}", excerpt(text))
    return table


def agreement_table(report: dict[str, Any]) -> Table:
    """Return a table that compares a model with its export (see `export_onnx`)."""
    table = make_table("agreement", report["precision"])
    table.add_row("messages", str(report["messages"]))
    table.add_row("different labels", str(report["labels_differ"]))
    table.add_row("largest score difference", f"{report['largest_score_difference']:.6f}")
    table.add_row("mean score difference", f"{report['mean_score_difference']:.6f}")
    return table


def recipes_table(recipes: Sequence[Recipe]) -> Table:
    """Return a table with a row per recipe: its summary and published accuracies."""
    table = make_table("recipe", "row", "description", "published")
    for recipe in recipes:
        published = PUBLISHED.get(recipe.name)
        row, accuracies = (str(published.row), asdict(published)) if published else ("-", None)
        table.add_row(recipe.name, row, recipe.summary, format_accuracies(accuracies))
    return table


def settings_table(book: Recipe, others: Sequence[Recipe]) -> Table:
    """Return a table with a row per setting: the book's value, and the values of other recipes that differ."""
    table = make_table("", book.name, *(recipe.name for recipe in others))
    columns = [
        {name: "none" if value is None else str(value) for name, value in asdict(recipe).items()}
        for recipe in (book, *others)
    ]
    for name, setting in columns[0].items():
        if name not in ("name", "summary"):
            table.add_row(name, setting, *("·" if other[name] == setting else other[name] for other in columns[1:]))
    return table


def crossval_table(results: dict[str, Any]) -> Table:
    """Return a table with a row per metric: mean and pooled values of a recipe and its baseline (`cross_validate`)."""
    table = make_table("metric", results["recipe"]["name"], "pooled", results["baseline"], "pooled")
    for metric in results["mean"]["model"]:
        columns = ((kind, column) for kind in ("model", "baseline") for column in ("mean", "pooled"))
        table.add_row(metric, *(format_metric(results, metric, *column) for column in columns))
    return table


def groups_table(groups: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a row per source, category and language (see `breakdown`) of at least `FEW` messages."""
    table = make_table("messages", "spam", "found, %", "baseline", "ham", "false alarms, %", "baseline")
    for group in groups:
        if group["spam"] + group["ham"] < FEW:
            continue
        cells = []
        for count, metric in (("spam", "recall"), ("ham", "false_positive_rate")):
            cells.append(f"{group[count]:,}")
            for kind in ("model", "baseline"):
                value, interval = (group[kind] or {}).get(metric), (group[kind] or {}).get(f"{metric}_interval")
                shown = interval and f"{100 * value:.1f} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"
                cells.append(shown or "-")
        table.add_row(f"{group['by']} {printable(Path(group['name']).name)}", *cells)
    return table


def show_groups(groups: Sequence[dict[str, Any]]) -> None:
    """Print `groups_table` with a note."""
    show(groups_table(groups))
    show(f"In brackets: 95 % Wilson intervals. Groups of fewer than {FEW} messages are in --json only.")


def experiments_table(rows: Sequence[Row]) -> Table:
    """Return a table with a row per experiment: published and obtained accuracies (see `reproduce`)."""
    table = make_table("experiment", "published", "obtained", "95 %", "within")
    for row in rows:
        low, high = row["interval"] or (None, None)
        published = row["published"] and row["published"]["test"]
        table.add_row(
            f"{row['row'] or '-':>2} {row['recipe']}",
            format_accuracies(row["published"]),
            "not run" if row["problem"] else format_accuracies(row["obtained"]),
            "" if low is None else f"{low:.1f}-{high:.1f}",
            "" if low is None or published is None else "yes" if low <= published <= high else "no",
        )
    return table


def format_accuracies(accuracies: dict[str, float | None] | None) -> str:
    """Return the accuracies on train, validation and test in percent, "-" for a missing one."""
    values = [(accuracies or {}).get(split) for split in ("train", "validation", "test")]
    return " ".join("-" if value is None else f"{value:.2f}" for value in values)


def format_metric(summary: dict[str, Any], metric: str, kind: str, column: str = "mean") -> str:
    """Return a metric of a `summary` as a table shows it: the mean with its spread, or the pooled value.

    Args:
        summary: As `summary` returns it.
        metric: Name of the metric.
        kind: "model" or "baseline".
        column: "mean" or "pooled".
    """
    value, spread = ((summary[key][kind] or {}).get(metric) for key in (column, "spread"))
    if value is None:
        return "-"
    return f"{value:.4f} ± {spread:.4f}" if column == "mean" and spread is not None else f"{value:.4f}"
