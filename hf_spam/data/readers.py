"""Read messages from CSV, TSV, JSON lines, Parquet, plain text and datasets, in windows of rows.

Training, evaluation and scoring share these readers, which hold one window in memory at a time.
Values are never changed: CSV cells are strings ("007", "", "NA"), JSON lines keep every character, and Parquet files
keep their schema. (`datasets` would drop empty lines of a CSV, pad short rows, and fill in absent JSON keys.)
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..text import first_line, short
from .formats import (
    DELIMITERS,
    JSON_LINES,
    MAX_CELL_CHARACTERS,
    TEXT_COLUMNS,
    Columns,
    DataError,
    DataFile,
    find_dialect,
    find_encoding,
)


@dataclass(frozen=True)
class Window:
    """Consecutive rows as they were read, not yet checked."""

    rows: list[str] | list[list[str]] | pa.Table
    numbers: Sequence[int]
    """Line on which each row starts, or its row number in a table; both count from 1."""

    def __len__(self) -> int:
        return len(self.numbers)


class Reader:
    """Read the rows of a source in windows, as often as needed.

    Windows are cheap to read, so a process can skip the windows of other processes. All windows but the last have the
    same number of rows. There is always at least one, which may be empty.
    """

    unit = "line"
    has_types = False
    """Whether values may have types other than string."""
    file: DataFile | None = None
    """Input file. `None` for a dataset."""
    total: int | None = None
    """Number of rows, if known in advance."""
    class_names: list[str] | None = None
    """Class names of the label column, if it is a `ClassLabel`."""
    source: str = ""
    """The source that the user named."""

    def __init__(self, name: str, columns: Columns):
        self.name, self.columns = name, columns

    def windows(self, size: int) -> Iterator[Window]:
        """Yield all rows, `size` at a time."""
        raise NotImplementedError

    def messages(self, window: Window) -> tuple[list[str], list[Any]]:
        """Return the texts and raw labels of a window; no labels unless `columns.labelled`.

        Raises:
            DataError: A row is malformed, or its text is missing or not a string.
        """
        texts, labels = self.cells(window)
        for i, text in enumerate(texts):
            if text is None:
                raise DataError(f"{self.place(window, i)}: the text is missing")
            if not isinstance(text, str):
                raise DataError(f"{self.place(window, i)}: the text is not a string: {short(text)}")
        return texts, labels

    def cells(self, window: Window) -> tuple[list[Any], list[Any]]:
        """Return the raw texts and labels of a window, for `messages` to check."""
        raise NotImplementedError

    def table(self, window: Window) -> list[str] | pa.Table:
        """Return all columns of a window unchanged, as a table or raw JSON lines."""
        raise NotImplementedError

    def notes(self, window: Window, column: str) -> list[str]:
        """Return a column that describes the messages of a window, such as "category"; "" where there is none.

        A column that holds the texts or the labels is none, and neither are columns of JSON lines.
        """
        table = self.table(window)
        names = [name.strip().lower() for name in table.column_names] if isinstance(table, pa.Table) else []
        if column not in names or names.index(column) in self.columns.find(self.name, table.column_names):
            return [""] * len(window)
        return ["" if value is None else str(value) for value in table.column(names.index(column)).to_pylist()]

    def place(self, window: Window, i: int) -> str:
        """Return the place of the i-th row of a window, for errors."""
        return f"{self.name}, {self.unit} {window.numbers[i]}"


class TextReader(Reader):
    """Read a text file, by default one row per line, ignoring empty lines at the end."""

    def __init__(self, file: DataFile, columns: Columns):
        super().__init__(file.name, columns)
        self.file, self.encoding = file, find_encoding(file.head())

    def windows(self, size: int) -> Iterator[Window]:
        first, blank = True, None
        for window in self.all_windows(size):
            if blank is not None or not all(window.rows):
                window, blank = self._without_blanks(window, blank)
            if len(window) or first:
                yield window
            first = False

    def all_windows(self, size: int) -> Iterator[Window]:
        """Yield all rows, including empty lines at the end, then an empty window."""
        number, rows = 1, [""]
        with self.file.text(self.encoding) as text:
            try:
                while rows:
                    rows = []
                    rows.extend(islice(text, size))
                    lines = [line.removesuffix("\n").removesuffix("\r") for line in rows]
                    yield Window(lines, range(number, number + len(rows)))
                    number += len(rows)
            except UnicodeDecodeError as error:
                raise self.file.wrong_byte(error, number + len(rows)) from None

    def _without_blanks(self, window: Window, blank: int | None) -> tuple[Window, int | None]:
        """Drop empty lines, and raise an error if a row follows one; `blank` is the first empty line so far."""
        rows = []
        for line, row in zip(window.numbers, window.rows, strict=True):
            if not row:
                blank = blank or line
            elif blank is not None:
                raise DataError(f"{self.name}, line {blank}: the line is empty; remove it")
            else:
                rows.append(row)
        return Window(rows, window.numbers[: len(rows)]), blank


class DelimitedReader(TextReader):
    """Read a CSV or TSV file."""

    def __init__(self, file: DataFile, columns: Columns, book_quotes: bool = False):
        super().__init__(file, columns)
        self.dialect = find_dialect(file, columns, book_quotes)
        self.header = ["label", "text"]
        if self.dialect.header:
            self.header = next(iter(next(self.all_windows(1, skip=0)).rows), [])
            if not self.header:
                raise DataError(f"{self.name}: the file is empty, or its first line is")
        self.text_at, self.label_at = columns.find(f"{self.name}, line 1 (the header)", self.header)
        # Kaggle's copy splits some texts at commas into columns without a name, or with pandas' "Unnamed: 2".
        self.rest_is_text = all(
            re.fullmatch(r"\s*(Unnamed: \d+)?", column) for column in self.header[self.text_at + 1 :]
        )

    def windows(self, size: int) -> Iterator[Window]:
        for window in super().windows(size):
            if {len(row) for row in window.rows} - {len(self.header)}:
                self._raise_width_error(window)
            yield window

    def cells(self, window: Window) -> tuple[list[str], list[str]]:
        labels = [] if self.label_at is None else [row[self.label_at] for row in window.rows]
        if not self.rest_is_text:
            return [row[self.text_at] for row in window.rows], labels
        return [self._joined(row[self.text_at :]) for row in window.rows], labels

    def table(self, window: Window) -> pa.Table:
        columns = zip(*window.rows, strict=True) if len(window) else [[]] * len(self.header)
        return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], self.header)

    def _joined(self, pieces: list[str]) -> str:
        while len(pieces) > 1 and not pieces[-1]:
            pieces.pop()
        return self.dialect.delimiter.join(pieces)

    def _raise_width_error(self, window: Window) -> None:
        expected, delimiter = len(self.header), self.dialect.delimiter
        i, cells = next((i, cells) for i, cells in enumerate(window.rows) if len(cells) != expected)
        found = f"expected {expected} fields, found {len(cells)}: {short(delimiter.join(cells))}"
        if len(cells) > expected and self.dialect.quoting != csv.QUOTE_NONE and self.dialect.strict:
            found += f"; put a text that contains {delimiter!r} in double quotes"
        raise DataError(f"{self.place(window, i)}: {found}")

    def all_windows(self, size: int, skip: int | None = None) -> Iterator[Window]:
        """Yield rows with any number of fields, without the first `skip` rows (`None`: without the header)."""
        skip = int(self.dialect.header) if skip is None else skip
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        dialect, line, rows = self.dialect, 1, [[]]
        options = {"delimiter": dialect.delimiter, "quoting": dialect.quoting, "strict": dialect.strict}
        with self.file.text(self.encoding, dialect.line_end) as text:
            # With book quotes, append an empty line: it becomes part of the last row if a quote is still open.
            reader = csv.reader(text if dialect.strict else chain(text, ["\n"]), **options)
            try:
                for _ in islice(reader, skip):
                    line = reader.line_num + 1
                while rows:
                    last, rows = rows[-1], []
                    rows.extend(islice(reader, size))
                    one_line_each = reader.line_num + 1 - line == len(rows)
                    yield Window(rows, range(line, line + len(rows)) if one_line_each else self._numbers(rows, line))
                    line = reader.line_num + 1
            except csv.Error as error:
                line = self._numbers([*rows, []], line)[-1]  # start of the row after these
                fault = f"broken quotes or a stray line break ({first_line(error).split(' - ')[0]})"
                advice = "close every quote, and double the quotes within a quoted text"
                raise DataError(f"{self.name}, line {line}: {fault}; {advice}") from None
            except UnicodeDecodeError as error:
                raise self.file.wrong_byte(error, reader.line_num + 1) from None
        if last and not dialect.strict:
            raise DataError(f"{self.name}: a quote is never closed; under protocol 'full' quotes are part of the text")

    def _numbers(self, rows: list[list[str]], line: int) -> Sequence[int]:
        """Return the line on which each row starts; the first starts on `line`."""
        lines = (1 + sum(cell.count(self.dialect.line_end) for cell in row) for row in rows)
        return list(accumulate(lines, initial=line))[:-1]


class JsonReader(TextReader):
    """Read JSON lines: one object per line, with columns as keys."""

    def cells(self, window: Window) -> tuple[list[Any], list[Any]]:
        texts, labels, names = [], [], None
        for i, line in enumerate(window.rows):
            try:
                values = _DECODER.decode(line)
            except (ValueError, RecursionError):
                values = None
            if not isinstance(values, dict):
                fault = f"not a JSON object: {short(line)}; write JSON lines, one object per line"
                raise DataError(f"{self.place(window, i)}: {fault}")
            if names != (names := tuple(values)):
                text_at, label_at = self.columns.find(self.place(window, i), names)
            cells = tuple(values.values())
            texts.append(cells[text_at])
            if label_at is not None:
                labels.append(cells[label_at])
        return texts, labels

    def table(self, window: Window) -> list[str]:
        return window.rows


class LinesReader(TextReader):
    """Read plain text without labels, one message per line, which may be empty."""

    def __init__(self, file: DataFile, columns: Columns):
        super().__init__(file, columns)
        self.column = columns.text or TEXT_COLUMNS[0]
        columns.find(self.name, [self.column])

    def windows(self, size: int) -> Iterator[Window]:
        return (window for i, window in enumerate(self.all_windows(size)) if len(window) or i == 0)

    def cells(self, window: Window) -> tuple[list[str], list[str]]:
        return window.rows, []

    def table(self, window: Window) -> pa.Table:
        return pa.table({self.column: pa.array(window.rows, pa.string())})


class TableReader(Reader):
    """Read rows from consecutive tables."""

    unit, has_types = "row", True

    def tables(self, size: int) -> Iterator[pa.Table]:
        """Yield at least one table, each of at most `size` rows."""
        raise NotImplementedError

    def windows(self, size: int) -> Iterator[Window]:
        rest, number = None, 1
        for table in self.tables(size):
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= size:
                yield Window(rest.slice(0, size), range(number, number + size))
                rest, number = rest.slice(size), number + size
        if rest is not None and (number == 1 or rest.num_rows):
            yield Window(rest, range(number, number + rest.num_rows))

    def cells(self, window: Window) -> tuple[list[Any], list[Any]]:
        table = window.rows
        text_at, label_at = self.columns.find(self.name, table.column_names)
        kind = table.schema.types[text_at]
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            column = table.column_names[text_at]
            raise DataError(f"{self.name}: the text column {column!r} holds {kind}, not strings; see --text-column")
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: damaged, or not UTF-8 ({first_line(error)})") from None
        labels = [] if label_at is None else table.column(label_at).to_pylist()
        if self.class_names:
            names = dict(enumerate(self.class_names))
            labels = [names.get(label, label) for label in labels]
        return table.column(text_at).to_pylist(), labels

    def table(self, window: Window) -> pa.Table:
        return window.rows

    def _find_class_names(self, schema: pa.Schema) -> None:
        if not self.columns.labelled or b"huggingface" not in (schema.metadata or {}):
            return
        from datasets import ClassLabel, Features  # slow to import, and needed for labels only

        _, label_at = self.columns.find(self.name, schema.names)
        feature = Features.from_arrow_schema(schema).get(schema.names[label_at])
        self.class_names = feature.names if isinstance(feature, ClassLabel) else None


class ParquetReader(TableReader):
    """Read a Parquet file, one row group at a time."""

    def __init__(self, file: DataFile, columns: Columns):
        super().__init__(file.name, columns)
        self.file = file
        with self._open() as parquet:
            self.total = parquet.metadata.num_rows
            self._find_class_names(parquet.schema_arrow)

    def tables(self, size: int) -> Iterator[pa.Table]:
        with self._open() as parquet:
            yield parquet.schema_arrow.empty_table()
            for group in range(parquet.num_row_groups):  # not every nested type can be read across groups
                for batch in parquet.iter_batches(size, [group]):
                    yield pa.Table.from_batches([batch])

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with self.file.open() as file:
                yield pq.ParquetFile(file)
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise DataError(f"{self.name}: broken Parquet file ({first_line(error)})") from error


class DatasetReader(TableReader):
    """Read a `Dataset` or `IterableDataset` of the `datasets` library."""

    def __init__(self, name: str, dataset: Any, columns: Columns):
        super().__init__(name, columns)
        self.dataset = dataset.with_format("arrow")
        self.schema = None if dataset.features is None else dataset.features.arrow_schema
        split = (dataset.info.splits or {}).get(str(dataset.split))
        self.total = split.num_examples if split else None
        if self.schema is not None:
            self._find_class_names(self.schema)

    def tables(self, size: int) -> Iterator[pa.Table]:
        if self.schema is not None:
            yield self.schema.empty_table()
        yield from self.dataset.iter(size)


def open_file(file: DataFile, columns: Columns, book_quotes: bool = False) -> Reader:
    """Return a reader for a file; see `find_dialect` for `book_quotes`.

    Raises:
        DataError: The file cannot be read, or a column is missing.
    """
    if file.suffix in DELIMITERS:
        return DelimitedReader(file, columns, book_quotes)
    if file.suffix in JSON_LINES:
        return JsonReader(file, columns)
    return (ParquetReader if file.suffix == ".parquet" else LinesReader)(file, columns)


# Python refuses to parse integers of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 4000 else float(digits))
