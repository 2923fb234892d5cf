"""Tables and texts for the terminal."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .entry import is_main_process
from .experiments.book_table import PUBLISHED_IN, Row
from .text import printable
from .training.settings import Recipe

ROWS_SHOWN = 20  # rows of a long table, such as the errors
ACCURACIES = f"Accuracies on train, validation and test in percent. {PUBLISHED_IN}"
EXPERIMENTS_NOTE = (
    f"95 %: Wilson interval of the obtained test accuracy; within: whether it contains the published one. {ACCURACIES}"
)
WEAK, STRONG = 0.1, 0.5  # contributions that are coloured, and those that are bold as well
EXPLAINED_CHARACTERS, CELL_CHARACTERS = 1000, 200  # shown of a message whose words are coloured, and in a table
UNBROKEN_CHARACTERS = 20  # longest single words in a column that are never broken
UNBROKEN_NAME = 30  # the same for the first column


def show(content: Table | Text | str) -> None:
    """Print a table, or lines that the terminal may wrap."""
    Console(highlight=False, markup=False, emoji=False, soft_wrap=not isinstance(content, Table)).print(content)


def finish(as_json: bool, value: Any, *shown: Table | str) -> None:
    """Print the result of a command, on the main process only: as JSON, or as tables and sentences."""
    if not is_main_process():
        return
    if as_json:
        click.echo(json.dumps(value))
        return
    for part in shown:
        show(part)


def make_table(columns: Iterable[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Return a table that breaks texts and headings where it must to fit the terminal, but no numbers or names."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    headings, *cells = [[_start(cell, CELL_CHARACTERS) for cell in row] for row in (columns, *rows)]
    columns = list(zip(headings, *cells, strict=True))
    fits = sum(max(map(len, column)) + 2 for column in columns) < Console().width
    for i, (heading, *column) in enumerate(columns):
        words, limit = heading.split(), UNBROKEN_CHARACTERS if i else UNBROKEN_NAME
        if not fits and all(len(cell) <= limit and " " not in cell for cell in column):
            table.add_column(heading, width=max(map(len, [*words, *column])))
        else:
            table.add_column(heading, min_width=min(limit, max(map(len, words), default=0)), overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def report_parts(headline: Iterable[str], tables: Iterable[Any]) -> Iterator[Table | str]:
    """Yield what a report shows: sentences, and tables (`title`, `columns`, `rows`, `note`) cut at `ROWS_SHOWN`."""
    yield from map(printable, headline)
    for table in tables:
        if table.rows:
            yield make_table(table.columns, table.rows[:ROWS_SHOWN], table.title)
        if len(table.rows) > ROWS_SHOWN:
            yield f"and {len(table.rows) - ROWS_SHOWN:,} more (see --output-dir or --json)"
        if table.note:
            yield printable(table.note)


def metrics_table(metrics: dict[str, dict[str, float | None]]) -> Table:
    """Return a table with a row per metric and a column per split."""
    names, splits = next(iter(metrics.values())), metrics.values()
    return make_table(["metric", *metrics], ([name, *(_metric(split[name]) for split in splits)] for name in names))


def answers_table(texts: Sequence[str], answers: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a row per classified message."""
    rows = [[answer["label"], _metric(answer["score"]), text] for text, answer in zip(texts, answers, strict=True)]
    return make_table(["label", "score", "text"], rows)


def explanation(answer: dict[str, Any]) -> Text:
    """Return an explained answer: label and score, the message with its words in colour, and the strongest words."""
    text, words = answer["text"], answer["words"]
    message = Text(_start(text, EXPLAINED_CHARACTERS))
    for word in words:
        change = word["contribution"]
        if abs(change) >= WEAK:
            style = f"{'bold ' if abs(change) >= STRONG else ''}{'red' if change > 0 else 'blue'}"
            message.stylize(style, word["start"], word["end"])

    def names(chosen: Iterable[dict[str, Any]]) -> str:
        ranked = sorted(chosen, key=lambda word: -abs(word["contribution"]))[:5]
        return ", ".join(f"{_start(text[one['start'] : one['end']], 30)} {one['contribution']:+.2f}" for one in ranked)

    odds = f"log-odds of {printable(answer['explained'])}"
    lines = [f"{printable(answer['label'])} {answer['score']:.4f}, {odds} {answer['log_odds']:+.2f}", message]
    for title, sign in (("For", 1), ("Against", -1)):
        if found := [word for word in words if sign * word["contribution"] >= WEAK]:
            lines.append(f"  {title}: {names(found)}")
    if answer["strongest"]:
        lines.append(f"  {odds} {answer['log_odds_without']:+.2f} without: {names(answer['strongest'])}")
    return Text("\n").join(Text(line) if isinstance(line, str) else line for line in [*lines, ""])


def agreement_parts(certificate: dict[str, Any]) -> Iterator[Table | str]:
    """Yield a table of the runtimes in which an export was compared with its model (see `export_model`), and notes."""
    rows = []
    for one in certificate["runtimes"]:
        differ = f"{one['labels_differ']} of {certificate['messages']:,}", f"{one['largest_score_difference']:.1e}"
        rows.append([one["runtime"], one["version"], one["precision"], *differ])
    yield make_table(["runtime", "version", "precision", "labels that differ", "largest score difference"], rows)
    for one in certificate["runtimes"]:
        for what in ("not_answered", "answered_differently"):
            if one[what]:
                yield f"{one['runtime']} ({one['precision']}), {what.replace('_', ' ')}: {', '.join(one[what])}"
    for runtime, reason in certificate["not_run"].items():
        yield f"{runtime} was not run: it {reason}"


def recipes_table(recipes: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a row per recipe: its summary and published accuracies."""
    rows = []
    for recipe in recipes:
        published = recipe["published"]
        row = str(published["row"]) if published else "-"
        rows.append([recipe["name"], row, recipe["summary"], format_accuracies(published)])
    return make_table(["recipe", "row", "description", "published"], rows)


def settings_table(book: Recipe, others: Sequence[Recipe]) -> Table:
    """Return a table with a row per setting: the book's value, and the values of other recipes that differ."""
    rows = []
    for name, value in asdict(book).items():
        if name not in ("name", "summary"):
            different = ["·" if getattr(other, name) == value else getattr(other, name) for other in others]
            rows.append([name, *("none" if shown is None else str(shown) for shown in (value, *different))])
    return make_table(["", book.name, *(recipe.name for recipe in others)], rows)


def crossval_table(results: dict[str, Any]) -> Table:
    """Return a table with a row per metric: mean and pooled values of a recipe and its baseline (`cross_validate`)."""
    columns = [(kind, column) for kind in ("model", "baseline") for column in ("mean", "pooled")]
    metrics = results["mean"]["model"]
    rows = [[metric, *(format_metric(results, metric, *which) for which in columns)] for metric in metrics]
    return make_table(["metric", results["recipe"]["name"], "pooled", results["baseline"], "pooled"], rows)


def experiments_table(rows: Sequence[Row]) -> Table:
    """Return a table with a row per experiment: published and obtained accuracies (see `reproduce`)."""
    shown = []
    for row in rows:
        interval = within = ""
        if row["interval"]:
            low, high = row["interval"]
            interval = f"{low:.1f}-{high:.1f}"
            if row["published"]:
                within = "yes" if low <= row["published"]["test"] <= high else "no"
        obtained = "not run" if row["problem"] else format_accuracies(row["obtained"])
        published = format_accuracies(row["published"])
        shown.append([str(row["row"] or "-"), row["recipe"], published, obtained, interval, within])
    return make_table(["row", "recipe", "published", "obtained", "95 %", "within"], shown)


def format_accuracies(accuracies: dict[str, float | None] | None) -> str:
    """Return the accuracies on train, validation and test in percent, "-" for a missing one."""
    values = [(accuracies or {}).get(split) for split in ("train", "validation", "test")]
    return " ".join("-" if value is None else f"{value:.2f}" for value in values)


def format_metric(summary: dict[str, Any], metric: str, kind: str, column: str = "mean") -> str:
    """Return a metric of the "model" or the "baseline": the "mean" with its spread, or the "pooled" value."""
    value, spread = ((summary[key][kind] or {}).get(metric) for key in (column, "spread"))
    return _metric(value) if column != "mean" or None in (value, spread) else f"{value:.4f} ± {spread:.4f}"


def _start(text: str, length: int) -> str:
    """Return the start of a text, without control characters, which could drive the terminal."""
    return printable(text if len(text) <= length else text[:length] + "…")


def _metric(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
