"""Tables and texts as a terminal shows them."""

from rich import box
from rich.console import Console
from rich.table import Table

from .text import printable

WHOLE = 20  # characters up to which a word of a report's tables is not broken


def excerpt(text: str) -> str:
    """A message as a terminal may show it: not too long, and without control characters, which could drive it."""
    return printable(text if len(text) <= 200 else text[:200] + "…")


def make_table(*columns: str) -> Table:
    """A table without rows."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))  # so tight that a report's fit a terminal of 80 columns
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not i)
    return table


def fitted(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table in which, where it is wider than the terminal, texts and headings are broken, but no number."""
    table = make_table()
    table.title = title
    cells = [[excerpt(row[i]) for row in rows] for i in range(len(columns))]
    widths = [max(map(len, [name, *column])) for name, column in zip(columns, cells, strict=True)]
    fits = sum(widths) + 2 * len(columns) < Console().width
    for name, column in zip(map(excerpt, columns), cells, strict=True):
        is_whole = all(len(cell) <= WHOLE and " " not in cell for cell in column)
        is_cut = is_whole and not fits and len(name) > max(map(len, column))
        word = min(WHOLE, max(map(len, name.split())))
        heading = name.replace(" ", "\n") if is_cut else name
        table.add_column(heading, no_wrap=is_whole, min_width=word, overflow="fold")
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def metrics_table(metrics: dict[str, dict[str, float | None]]) -> Table:
    """The metrics, a row each, of some splits, a column each."""
    table = make_table("metric", *metrics)
    for name in next(iter(metrics.values())):
        values = [split[name] for split in metrics.values()]
        table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def show(what: Table | str) -> None:
    """Prints a table, or a line that the terminal itself may break."""
    Console(highlight=False, markup=False, soft_wrap=isinstance(what, str)).print(what)
