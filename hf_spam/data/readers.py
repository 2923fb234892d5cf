"""Read messages from CSV, TSV, JSON lines and plain text, in windows of rows.

Training, evaluation and scoring share these readers, which hold one window in memory at a time.
Values are never changed: CSV cells are strings ("007", "", "NA"), JSON lines keep every character, and Parquet files
keep their schema. (`datasets` would drop empty lines of a CSV, pad short rows, and fill in absent JSON keys.)
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from ..text import first_line, replace_lone_surrogates, short
from .dialects import find_dialect, is_table, with_format
from .formats import JSON_LINES, PLAIN_TEXT, DataError, DataFile, check_content
from .reading import TEXT_COLUMNS, MissingColumn, Reading
from .windows import Reader, Strings, Window, check_rest, joined, named_columns, rejoined, rest_of_text


class TextReader(Reader):
    """Read a text file, see `with_format`, one row per line."""

    def __init__(self, file: DataFile, reading: Reading):
        super().__init__(file.name, reading)
        self.file = file

    def note(self) -> str:
        return "" if self.file.encoding == "utf-8-sig" else f"encoding {self.file.encoding}"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield each row with the number of the line on which it starts."""
        number = 0
        with self.file.text() as text:
            try:
                for number, line in enumerate(text, 1):
                    yield number, line.removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise self.bad_byte(error, number + 1) from None

    def windows(self, size: int) -> Iterator[Window]:
        rows = self.rows()
        window = list(islice(rows, size))
        while True:
            yield Window([row for _, row in window], [number for number, _ in window])
            if not (window := list(islice(rows, size))):
                return

    def bad_byte(self, error: UnicodeDecodeError, line: int) -> DataError:
        """Return the error for a block of bytes that starts on `line` and cannot be decoded."""
        line += error.object.count(self.file.line_end.encode(), 0, error.start)
        encoding = "UTF-8" if self.file.encoding == "utf-8-sig" else self.file.encoding
        fault = f"not {encoding} (byte {error.object[error.start]:#04x})"
        others = "latin-1" if encoding == "cp1252" else "cp1252, cp1251 or gb18030"
        return DataError(f"{self.name}, line {line}: {fault}; mend it, or name the encoding with --encoding: {others}")


class DelimitedReader(TextReader):
    """Read a table of cells separated by a delimiter."""

    def __init__(self, file: DataFile, reading: Reading):
        super().__init__(file, reading)
        self.dialect = find_dialect(file, reading)
        names = self.dialect.names
        if not names:
            raise DataError(f"{self.name}: the file is empty")
        header = f"{self.name}, line {1 + self.dialect.has_separator_line} (the header)"
        self.texts_at, self.label_at = self.find_columns(header if self.dialect.has_header else self.name, names)
        self.rest_is_text = bool(rest_of_text(names, self.texts_at, self.label_at))
        # Number of cells that a row must have
        self.width = 1 + max(len(named_columns(names)) - 1, *self.texts_at, self.label_at or 0)

    def note(self) -> str:
        return ", ".join(filter(None, [super().note(), self.dialect.note(self.file.suffix)]))

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        dialect, row = self.dialect, []
        line = first = 1 + dialect.has_separator_line
        with self.file.text() as text:
            # With book quotes, append an empty line: it becomes part of the last row if a quote is still open.
            reader = dialect.rows(chain(text, ["\n"]) if dialect.quotes == "book" else text)
            try:
                if dialect.has_header:
                    next(filter(None, reader), None)  # lines before it are empty
                line = first + reader.line_num
                for row in reader:
                    yield line, row
                    line = first + reader.line_num
            except csv.Error as error:
                fault = f"broken quotes or a stray line break ({first_line(error).split(' - ')[0]})"
                advice = "close every quote, and double the quotes within a quoted text"
                raise DataError(f"{self.name}, line {line}: {fault}; {advice}") from None
            except UnicodeDecodeError as error:
                # The first block of bytes starts on line 1, also with a `sep=;`.
                raise self.bad_byte(error, first + reader.line_num if reader.line_num else 1) from None
        if dialect.quotes == "book" and row:
            raise DataError(f"{self.name}: a quote is never closed; with --protocol full, quotes are part of the text")

    def cells(self, window: Window) -> tuple[list[str | None], list[str], dict[int, str | None]]:
        rows, width = window.rows, len(self.dialect.names)
        faults: dict[int, str | None] = {}
        if set(map(len, rows)) != {width} or self.width != width:
            faults = {i: self._fault(row) for i, row in enumerate(rows) if not self._is_whole(row)}
            rows = [[""] * width if i in faults else row for i, row in enumerate(rows)]
        labels = [] if self.label_at is None else [row[self.label_at] for row in rows]
        if self.rest_is_text:
            at = self.texts_at[0]
            texts = [rejoined(row[at:], self.dialect.delimiter) for row in rows]
            check_rest(self.name, [any(row[at + 1 :]) for row in rows])
        elif len(self.texts_at) > 1:
            texts = [joined([row[at] for at in self.texts_at]) for row in rows]
        else:
            texts = [row[self.texts_at[0]] for row in rows]
        if self.reading.labelled and "" in texts:  # Excel writes empty rows at the end
            faults |= {i: None for i, row in enumerate(window.rows) if not any(map(str.strip, row))}
        if self.dialect.quotes in ("csv", "backslash"):
            for i, text in enumerate(texts):
                if text and self.file.line_end in text and (line := self.dialect.swallowed(text)):
                    lines = text.count(self.file.line_end) + 1
                    found = f"the quoted text of {lines:,} lines seems to hold another row, {short(line)}"
                    faults[i] = f"{found}; a quote may be missing"
        return texts, labels, faults

    def table(self, window: Window) -> Strings:
        names, rows, last = self.dialect.names, window.rows, len(self.dialect.names) - 1
        if set(map(len, rows)) - {len(names)}:
            filled = (row + [""] * (len(names) - len(row)) for row in rows)
            rows = [[*row[:last], rejoined(row[last:], self.dialect.delimiter)] for row in filled]
        return Strings(names, rows)

    def _is_whole(self, row: list[str]) -> bool:
        """Return whether a row has a cell for each named column, and nothing beyond but the rest of a text."""
        return len(row) >= self.width and (self.rest_is_text or not any(row[self.width :]))

    def _fault(self, row: list[str]) -> str | None:
        """Return what is wrong with the number of cells; `None` for an empty line."""
        if not any(map(str.strip, row)) and len(row) < 2:
            return None
        delimiter, cells = self.dialect.delimiter, "cells" if self.width > 1 else "cell"
        found = f"expected {self.width} {cells}, found {len(row)}: {short(delimiter.join(row))}"
        if len(row) < self.width or self.dialect.quotes in ("text", "book"):
            return found
        found += f"; put a text that contains {delimiter!r} in double quotes"
        return found if self.dialect.has_header else f"{found}, or add a line that names the columns"


class JsonReader(TextReader):
    """Read JSON: an object per line, or an array of objects, with columns as keys.

    The columns are those of the first object, but an object without them may have others that `Reading.find` knows.
    """

    def __init__(self, file: DataFile, reading: Reading):
        super().__init__(file, reading)
        self.is_array = file.head_text().lstrip().startswith("[")
        self.unit = "item" if self.is_array else "line"
        for number, line in self.rows():
            if isinstance(values := _decode(line), dict):
                self.find_columns(f"{self.name}, {self.unit} {number}", list(values))
                self.reading = replace(reading, remembered=self.columns)
                break
            if line.lstrip().startswith("{") and line.rstrip().endswith(("{", "[", ",")):
                advice = "write JSON lines, in pandas with to_json(orient='records', lines=True)"
                raise DataError(f"{self.name}, line {number}: an object over several lines; {advice}")

    def rows(self) -> Iterator[tuple[int, str]]:
        if not self.is_array:
            yield from super().rows()
            return
        with self.file.text() as text:
            try:
                values = _decode(text.read())  # an array cannot be read in windows
            except UnicodeDecodeError as error:
                raise self.bad_byte(error, 1) from None
        if values is None:
            raise DataError(f"{self.name}: a broken JSON array; write JSON lines, one object per line")
        for number, value in enumerate(values, 1):
            line = json.dumps(value, ensure_ascii=False)
            yield number, re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", line)

    def cells(self, window: Window) -> tuple[list[Any], list[Any], dict[int, str | None]]:
        texts: list[Any] = [None] * len(window)
        labels: list[Any] = [None] * len(window)
        faults: dict[int, str | None] = {}
        found: dict[tuple[str, ...], tuple[list[str], list[str], str | None]] = {}
        for i, line in enumerate(window.rows):
            values = _decode(line)
            if not isinstance(values, dict):
                fault = f"not a JSON object: {short(line)}; write JSON lines, one object per line"
                faults[i] = fault if line.strip() else None
                continue
            if (names := tuple(values)) not in found:
                found[names] = self._keys(self.place(window, i), names)
            text_keys, rest_keys, label_key = found[names]
            text = joined([values.get(key) for key in text_keys])
            pieces = [text, *(values.get(key) for key in rest_keys)]
            if all(isinstance(piece, str | None) for piece in pieces):
                text = rejoined(pieces)
            texts[i], labels[i] = _valid_unicode(text), _valid_unicode(values.get(label_key))
        return texts, labels if self.reading.labelled else [], faults

    def _keys(self, where: str, names: tuple[str, ...]) -> tuple[list[str], list[str], str | None]:
        """Return the keys of the text, of the rest of the text and of the label in an object with these keys."""
        try:
            texts_at, label_at = self.reading.find(where, names)
        except MissingColumn:
            text, label = self.columns
            return text.split(","), [], label
        rest_at = [at for at in rest_of_text(names, texts_at, label_at) if names[at].strip()]
        label = None if label_at is None else names[label_at]
        return [names[at] for at in texts_at], [names[at] for at in rest_at], label


class LinesReader(TextReader):
    """Read plain text without labels, one message per line."""

    def __init__(self, file: DataFile, reading: Reading):
        super().__init__(file, reading)
        self.find_columns(self.name, [reading.text_column or TEXT_COLUMNS[0]])

    def cells(self, window: Window) -> tuple[list[str], list[Any], dict[int, str | None]]:
        return window.rows, [], {}

    def table(self, window: Window) -> Strings:
        return Strings([self.columns[0]], [[line] for line in window.rows])


def open_file(file: DataFile, reading: Reading) -> Reader:
    """Return a reader for a file."""
    if file.suffix == ".parquet":
        from .tables import ParquetReader  # needs pyarrow, which text files do without

        return ParquetReader(file, reading)
    check_content(file)
    file = with_format(file, reading.encoding)
    if file.suffix in JSON_LINES:
        return JsonReader(file, reading)
    if file.suffix != PLAIN_TEXT or is_table(file, reading):
        return DelimitedReader(file, reading)
    if reading.labelled:
        raise DataError(f"{file.name}: plain text has no labels; write a label, a tab and a text on each line")
    return LinesReader(file, reading)


def _decode(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _valid_unicode(value: Any) -> Any:
    r"""Replace half a surrogate pair in a string with U+FFFD: JSON can hold it (`"\ud83c"`), but Arrow cannot."""
    return replace_lone_surrogates(value) if isinstance(value, str) and not value.isascii() else value
