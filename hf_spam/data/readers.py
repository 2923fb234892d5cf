"""Read messages from CSV, TSV, JSON lines and plain text, in windows of rows.

Training, evaluation and scoring share these readers, which hold one window in memory at a time.
Values are never changed: CSV cells are strings ("007", "", "NA"), JSON lines keep every character, and Parquet files
keep their schema. (`datasets` would drop empty lines of a CSV, pad short rows, and fill in absent JSON keys.)
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import Any

from ..text import first_line, short
from .dialects import bad_byte, find_dialect, find_encoding, find_line_end, is_table
from .formats import JSON_LINES, PLAIN_TEXT, DataError, DataFile
from .reading import TEXT_COLUMNS, MissingColumn, Reading
from .windows import Reader, Strings, Window, joined, named_columns, rejoined, rest_of_text


class TextReader(Reader):
    """Read a text file, one row per line."""

    def __init__(self, file: DataFile, reading: Reading, encoding: str):
        super().__init__(file.name, reading)
        self.file, self.encoding = file, encoding

    def note(self) -> str:
        return "" if self.encoding == "utf-8-sig" else f"encoding {self.encoding}"

    def windows(self, size: int) -> Iterator[Window]:
        number, line_end = 1, find_line_end(self.file, self.encoding)
        with self.file.text(self.encoding, line_end) as text:
            while True:
                rows: list[str] = []
                try:
                    rows.extend(islice(text, size))
                except UnicodeDecodeError as error:
                    raise bad_byte(self.file, self.encoding, error, number + len(rows)) from None
                if rows or number == 1:
                    lines = [line.removesuffix("\n").removesuffix("\r") for line in rows]
                    yield Window(lines, range(number, number + len(rows)))
                if len(rows) < size:
                    return
                number += len(rows)


class DelimitedReader(TextReader):
    """Read a table of cells separated by a delimiter."""

    def __init__(self, file: DataFile, reading: Reading, encoding: str, book_quotes: bool = False):
        super().__init__(file, reading, encoding)
        self.dialect = find_dialect(file, encoding, reading, book_quotes)
        names, header = self.dialect.layout.names, self.dialect.layout.header
        if not names:
            raise DataError(f"{self.name}: the file is empty")
        where = self.name if not header else f"{self.name}, line {1 + self.dialect.has_separator_line}"
        self.texts_at, self.label_at = reading.find(f"{where} (the header)" if header else where, names)
        self._know_columns(names, self.texts_at, self.label_at)
        self.rest_is_text = bool(rest_of_text(names, self.texts_at))
        self.width = max(len(named_columns(names)), *self.texts_at, self.label_at or 0)

    def note(self) -> str:
        return ", ".join(filter(None, [super().note(), self.dialect.note(self.file.suffix)]))

    def cells(self, window: Window) -> tuple[list[str | None], list[str], dict[int, str | None]]:
        faults: dict[int, str | None] = {}
        rows, width = window.rows, len(self.dialect.layout.names)
        if set(map(len, rows)) - {width} or (self.width < width and not self.rest_is_text):
            for i, row in enumerate(rows):
                if not row or (width > 1 and len(row) == 1 and not row[0].strip()):
                    faults[i] = None
                elif fault := self._width_fault(row):
                    faults[i] = fault
        if faults:
            rows = [[""] * width if i in faults else row for i, row in enumerate(rows)]
        labels = [] if self.label_at is None else [row[self.label_at] for row in rows]
        texts_at = self.texts_at
        if self.rest_is_text:
            texts = [rejoined(row[texts_at[0] :], self.dialect.layout.delimiter) for row in rows]
        elif len(texts_at) > 1:
            texts = [joined([row[at] for at in texts_at]) for row in rows]
        else:
            texts = [row[texts_at[0]] for row in rows]
        if not isinstance(window.numbers, range) and self.dialect.quotes in ("csv", "backslash"):
            end = self.dialect.line_end
            for i in [i for i, text in enumerate(texts) if text and end in text]:
                if line := self.dialect.swallowed(texts[i], self.reading.known_labels):
                    faults[i] = f"the quoted text seems to hold another row, {short(line)}: is a quote missing"
        return texts, labels, faults

    def table(self, window: Window) -> Strings:
        names, rows = self.dialect.layout.names, window.rows
        if set(map(len, rows)) - {len(names)}:
            last = len(names) - 1
            rows = [
                [*row[:last], *([""] * (last - len(row))), rejoined(row[last:] or [""], self.dialect.layout.delimiter)]
                for row in rows
            ]
        return Strings(names, list(zip(*rows, strict=True)) if rows else [()] * len(names))

    def _width_fault(self, row: list[str]) -> str | None:
        """Return what is wrong with the number of cells. Cells without a named column must be empty, or more text."""
        if len(row) >= self.width and (self.rest_is_text or not any(row[self.width :])):
            return None
        layout, cells = self.dialect.layout, "cells" if self.width > 1 else "cell"
        found = f"expected {self.width} {cells}, found {len(row)}: {short(layout.delimiter.join(row))}"
        if len(row) < self.width or self.dialect.quotes in ("text", "book"):
            return found
        found += f"; put a text that contains {layout.delimiter!r} in double quotes"
        return found if layout.header else f"{found}, or add a line that names the columns"

    def windows(self, size: int) -> Iterator[Window]:
        dialect, line = self.dialect, 1
        rows = last = []
        with self.file.text(self.encoding, dialect.line_end) as text:
            # With book quotes, append an empty line: it becomes part of the last row if a quote is still open.
            lines = chain(text, ["\n"]) if dialect.quotes == "book" else text
            for _ in range(dialect.has_separator_line):
                next(lines)
            reader, skipped = dialect.rows(lines), int(dialect.has_separator_line)
            try:
                for row in reader if dialect.layout.header else ():
                    if row:  # the header; lines before it are empty
                        break
                line, first = reader.line_num + 1 + skipped, True
                while True:
                    last, rows = rows[-1] if rows else last, []
                    rows.extend(islice(reader, size))
                    start, line = line, reader.line_num + 1 + skipped
                    if rows or first:
                        one_line_each = line - start == len(rows)
                        yield Window(rows, range(start, line) if one_line_each else self._lines(rows, start))
                    if len(rows) < size:
                        break
                    first = False
            except csv.Error as error:
                line = self._lines([*rows, []], line)[-1]  # start of the row after these
                fault = f"broken quotes or a stray line break ({first_line(error).split(' - ')[0]})"
                advice = "close every quote, and double the quotes within a quoted text"
                raise DataError(f"{self.name}, line {line}: {fault}; {advice}") from None
            except UnicodeDecodeError as error:
                raise bad_byte(self.file, self.encoding, error, reader.line_num + 1 + skipped) from None
        if dialect.quotes == "book" and (rows[-1] if rows else last):
            raise DataError(f"{self.name}: a quote is never closed; under protocol 'full' quotes are part of the text")

    def _lines(self, rows: list[list[str]], first: int) -> "LineNumbers":
        return LineNumbers(rows, first, self.dialect.line_end)


class LineNumbers(Sequence[int]):
    """The line on which each of some rows starts, the first on line `first`; counted only if one is asked for."""

    def __init__(self, rows: list[list[str]], first: int, line_end: str):
        self.rows, self.first, self.line_end = rows, first, line_end

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> int:
        return self._counted[i]

    @cached_property
    def _counted(self) -> list[int]:
        lines = (1 + "".join(row).count(self.line_end) for row in self.rows[:-1])
        return list(accumulate(lines, initial=self.first))


class JsonReader(TextReader):
    """Read JSON: an object per line, or an array of objects, with columns as keys."""

    has_surrogates = True

    def __init__(self, file: DataFile, reading: Reading, encoding: str):
        super().__init__(file, reading, encoding)
        self.is_array = file.head().decode(encoding, errors="replace").lstrip()[:1] == "["
        self.unit = "item" if self.is_array else "line"
        for window in self.windows(1):
            if window.rows and window.rows[0].strip():
                values = _decode(window.rows[0])
                if isinstance(values, dict):  # all objects have the columns of the first one, or none
                    self._know_columns(list(values), *reading.find(self.place(window, 0), list(values)))
                    self.reading = replace(reading, remembered=self.columns)
                break

    def windows(self, size: int) -> Iterator[Window]:
        if not self.is_array:
            yield from super().windows(size)
            return
        try:
            with self.file.text(self.encoding) as text:  # an array cannot be read in windows
                values = _decode(text.read())
        except UnicodeDecodeError as error:
            raise bad_byte(self.file, self.encoding, error, 1) from None
        if values is None:
            raise DataError(f"{self.name}: a broken JSON array; write JSON lines, one object per line")
        lines = [json.dumps(value, ensure_ascii=False) for value in values]
        for first in range(0, max(1, len(lines)), size):
            rows = lines[first : first + size]
            yield Window(rows, range(first + 1, first + 1 + len(rows)))

    def cells(self, window: Window) -> tuple[list[Any], list[Any], dict[int, str | None]]:
        texts: list[Any] = [None] * len(window)
        labels: list[Any] = [None] * len(window)
        faults: dict[int, str | None] = {}
        names, positions = None, None
        for i, line in enumerate(window.rows):
            values = _decode(line)
            if not isinstance(values, dict):
                fault = f"not a JSON object: {short(line)}; write JSON lines, one object per line"
                faults[i] = fault if line.strip() else None
                continue
            if names != (names := tuple(values)):
                try:
                    positions = self.reading.find(self.place(window, i), names)
                except MissingColumn:
                    if not self.columns[0]:
                        raise
                    positions = None
            if positions is None:
                text, label = self.columns
                texts[i], labels[i] = joined([values.get(name) for name in text.split(",")]), values.get(label)
            else:
                cells, (texts_at, label_at) = tuple(values.values()), positions
                texts[i] = cells[texts_at[0]] if len(texts_at) == 1 else joined([cells[at] for at in texts_at])
                pieces = [texts[i], *(cells[at] for at in rest_of_text(names, texts_at) if names[at].strip())]
                if all(isinstance(piece, str | None) for piece in pieces):
                    texts[i] = rejoined(pieces)
                labels[i] = None if label_at is None else cells[label_at]
        return texts, labels if self.reading.labelled else [], faults

    def table(self, window: Window) -> list[str]:
        return window.rows


class LinesReader(TextReader):
    """Read plain text without labels, one message per line."""

    def __init__(self, file: DataFile, reading: Reading, encoding: str):
        super().__init__(file, reading, encoding)
        self.columns = (reading.text_column or TEXT_COLUMNS[0], None)
        reading.find(self.name, [self.columns[0]])

    def cells(self, window: Window) -> tuple[list[str], list[Any], dict[int, str | None]]:
        return window.rows, [], {}

    def table(self, window: Window) -> Strings:
        return Strings([self.columns[0]], [window.rows])


def open_file(file: DataFile, reading: Reading, book_quotes: bool = False) -> Reader:
    """Return a reader for a file; see `find_dialect` for `book_quotes`."""
    if file.suffix == ".parquet":
        from .tables import ParquetReader  # needs pyarrow, which text files do without

        return ParquetReader(file, reading)
    encoding = find_encoding(file, reading.encoding)
    if file.suffix in JSON_LINES:
        return JsonReader(file, reading, encoding)
    if file.suffix != PLAIN_TEXT or is_table(file, encoding, reading):
        return DelimitedReader(file, reading, encoding, book_quotes)
    if reading.labelled:
        raise DataError(f"{file.name}: plain text has no labels; write a label, a tab and a text on each line")
    return LinesReader(file, reading, encoding)


def _decode(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError):
        return None


# Python refuses to parse integers of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 4000 else float(digits))
