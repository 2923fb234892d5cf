"""Windows of rows, as every reader gives them, and the checks on the messages in them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from numbers import Number
from typing import Any, NamedTuple

from ..text import short
from .formats import DataError, DataFile
from .reading import Reading, label_key

SKIP = "--skip-bad-rows leaves such rows out"


class Strings(NamedTuple):
    """A table of strings: text files do without pyarrow, which is in the extra `train`."""

    column_names: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_pylist(self) -> list[dict[str, str]]:
        """Return each row as a dictionary, as `pyarrow.Table.to_pylist` does."""
        return [dict(zip(self.column_names, row, strict=True)) for row in self.rows]


Table = Strings | Any  # or a `pyarrow.Table`


@dataclass(frozen=True)
class Window:
    """Consecutive rows as they were read, not yet checked."""

    rows: list[str] | list[list[str]] | Table
    numbers: Sequence[int]
    """Line on which each row starts, or its row number in a table; both count from 1."""

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass
class Messages:
    """The messages in a window."""

    window: Window
    """The rows that hold them: without empty lines, and without the rows that were left out."""
    texts: list[str | None]
    labels: list[Any]
    """Labels as in the source; empty if labels are not read."""
    left_out: list[str]
    """Place and fault of each row that was left out."""


class Reader:
    """Read the rows of a source in windows, as often as needed.

    Windows are cheap to read, so a process can skip the windows of other processes. All windows but the last have the
    same number of rows. There is always at least one, which may be empty.
    """

    unit = "line"
    file: DataFile | None = None
    """Input file. `None` for a dataset."""
    class_names: list[str] | None = None
    """Class names of the label column, if it is a `ClassLabel`."""
    source = "the data"
    """The source that the user named."""
    split = "all"
    """Split of the source, if it has splits."""
    columns: tuple[str, str | None] = ("", None)
    """Names of the text columns, separated by commas, and of the label column, once they are known."""

    def __init__(self, name: str, reading: Reading):
        self.name, self.reading = name, reading

    def windows(self, size: int) -> Iterator[Window]:
        """Yield all rows, `size` at a time."""
        raise NotImplementedError

    def messages(self, window: Window) -> Messages:
        """Return the messages in a window; a bad row is an error, or left out with `skip_bad_rows`.

        A row is bad if it cannot be read, if its text is not a string or, when labels are read, if its text or label is
        missing.
        """
        texts, labels, faults = self.cells(window)
        labelled = self.reading.labelled
        good = set(map(type, texts)) <= {str} and set(map(type, labels)) <= {str, int, float, bool}
        if labelled and good:
            good = all(map(str.strip, texts)) and all(map(label_key, set(labels)))
        if not good:  # most windows are good, and to look at every row would take far longer
            for i, text in enumerate(texts):
                if i not in faults and (fault := _fault(text, labels[i] if labelled else None, labelled)):
                    faults[i] = fault
        left_out = [f"{self.unit} {window.numbers[i]}: {faults[i]}" for i in sorted(faults) if faults[i]]
        if left_out and not self.reading.skip_bad_rows:
            raise DataError(f"{self.name}, {left_out[0]}; {SKIP}")
        if faults:
            kept, rows = [i not in faults for i in range(len(window))], window.rows
            texts, labels, numbers = (list(compress(column, kept)) for column in (texts, labels, window.numbers))
            window = Window(list(compress(rows, kept)) if isinstance(rows, list) else rows.filter(kept), numbers)
        return Messages(window, texts, labels, left_out)

    def cells(self, window: Window) -> tuple[list[Any], list[Any], dict[int, str | None]]:
        """Return the raw texts and labels of a window, and what is wrong with rows; `None` for an empty line."""
        raise NotImplementedError

    def table(self, window: Window) -> list[str] | Table:
        """Return all columns of a window of `Messages` unchanged, as a table or raw JSON lines."""
        return window.rows

    def annotations(self, window: Window) -> dict[str, list[str]]:
        """Return the columns "category" and "language" of a window of `Messages`; "" where there is none.

        The columns of texts and labels do not count. JSON lines have no such columns.
        """
        found = {name: [""] * len(window) for name in ("category", "language")}
        table = self.table(window)
        for at, name in enumerate([] if isinstance(table, list) else table.column_names):
            key = name.strip().lower()
            if key in found and name not in (*self.columns[0].split(","), self.columns[1]):
                is_strings = isinstance(table, Strings)
                values = [row[at] for row in table.rows] if is_strings else table.column(at).to_pylist()
                found[key] = ["" if value is None else str(value) for value in values]
        return found

    def place(self, window: Window, i: int) -> str:
        """Return the place of the i-th row of a window, for errors."""
        return f"{self.name}, {self.unit} {window.numbers[i]}"

    def note(self) -> str:
        """Describe what a user may not expect of the source, or return ""."""
        return ""

    def find_columns(self, where: str, names: Sequence[str]) -> tuple[list[int], int | None]:
        """Return the positions of the text columns and of the label column, see `Reading.find`; keep their names."""
        texts_at, label_at = self.reading.find(where, names)
        self.columns = (",".join(names[at] for at in texts_at), None if label_at is None else names[label_at])
        return texts_at, label_at


def _fault(text: Any, label: Any, labelled: bool) -> str | None:
    """Return what is wrong with a row, or `None`."""
    if not isinstance(text, str | None):
        return f"the text is not a string: {short(text)}"
    if not labelled:
        return None
    if not (text or "").strip():
        return "the text is missing" if text is None else "the text is empty"
    if not isinstance(label, str | Number | None):
        return f"the label is not a string, a number or a boolean: {short(label)}"
    return None if label_key(label) else "the label is missing"


def rest_of_text(names: Sequence[str], texts_at: list[int], label_at: int | None) -> list[int]:
    """Return the positions of columns that hold the rest of a text.

    Kaggle's copy of the UCI collection splits some texts at commas, into columns after the text that have no name, or
    pandas' "Unnamed: 2". A label there, which the user has named, shows that these are columns of their own.
    """
    rest = list(range(len(named_columns(names)), len(names)))
    return rest if rest and texts_at == [rest[0] - 1] and label_at not in rest else []


def check_rest(name: str, rests: Sequence[Any]) -> None:
    """Raise a `DataError` if nearly all of many rows have something in the columns of `rest_of_text`."""
    if len(rests) >= 20 and sum(map(bool, rests)) > 0.9 * len(rests):  # no texts are all cut at commas
        raise DataError(f"{name}: columns without a name hold values in most rows; name them, or remove them")


def named_columns(names: Sequence[str]) -> Sequence[str]:
    """Return the columns without those at the end that have no name."""
    count = len(names)
    while count and re.fullmatch(r"\s*(Unnamed: \d+)?", names[count - 1]):
        count -= 1
    return names[:count]


def rejoined(pieces: Sequence[str | None], delimiter: str = ",") -> str | None:
    """Rejoin the pieces of a text that was split at a delimiter, without the empty ones at the end."""
    kept = list(pieces)
    while len(kept) > 1 and not kept[-1]:
        kept.pop()
    return kept[0] if len(kept) == 1 else delimiter.join("" if piece is None else str(piece) for piece in kept)


def joined(pieces: Sequence[Any]) -> Any:
    """Return the texts of several columns as one, with line breaks between; `None` if all are missing or empty.

    A single piece is returned as it is, and so is one that is not a string, for the error about it.
    """
    if len(pieces) == 1:
        return pieces[0]
    for piece in pieces:
        if piece is not None and not isinstance(piece, str):
            return piece
    return "\n".join(piece for piece in pieces if piece and not piece.isspace()) or None
