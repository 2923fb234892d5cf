"""Rows of a file in, window by window, and the same rows with two more columns out.

Values stay as they are: a CSV cell is a string ("007", "", "NA"), a JSON line keeps its very characters, and a Parquet
file its schema. `datasets` reads the Hub's data here, but no files: it drops an empty line of a CSV and fills up a row
that is too short, and of JSON it makes columns, with dates for strings, nulls for absent keys and an error for a number
of more than 19 digits.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from ..hub_errors import explained
from ..text import first_line, short
from .formats import LONGEST_CELL, DataError, json_object

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json")
INPUTS = (*DELIMITERS, *JSON_LINES, ".parquet", ".txt")
OUTPUTS = (*DELIMITERS, *JSON_LINES, ".parquet")
_JSON = json.JSONDecoder(parse_int=float)  # an int may have too many digits for Python

Rows = list[str] | pa.Table  # JSON lines as they stand, or a table


class Source(Protocol):
    """Something that can be read window by window, again and again.

    What `windows` yields is cheap to get and not yet looked into, so that one process of several can pass over what the
    others score; the last window is the only one that may be shorter, or even empty, and there is at least one.
    """

    name: str
    total: int | None  # rows, where that is known without reading them
    has_types: bool  # whether its values are more than strings

    def windows(self, size: int) -> Iterator[Sequence]: ...

    def parse(self, first: int, window: Sequence) -> tuple[list[str], Rows]:
        """The texts and the rows of a window whose first row has this number, from 0.

        Raises:
            DataError: a row has no text, or is not a row.
        """


@dataclass(frozen=True)
class Columns:
    """The column that is read, and the two that are added."""

    text: str
    label: str
    score: str

    def check(self, where: str, found: Iterable[str]) -> None:
        """Compares with the columns that are there.

        Raises:
            DataError: the first is not among them, or stands there twice, or one of the others is there already.
        """
        found = list(found)
        if found.count(self.text) != 1:
            problem = "two columns are called" if self.text in found else "there is no column"
            raise DataError(f"{where}: {problem} {self.text!r} (found: {short(found)}); --text-column names another")
        for new in (self.label, self.score):
            if new in found:
                raise DataError(f"{where}: there is a column {new!r} already; --prefix pred_ would add 'pred_{new}'")


class LinesFile:
    """A text file, one message a line, or JSON lines.

    Args:
        file: its path, or the handle of standard input.
        columns: of plain lines the text's name can be any; of JSON lines it is a key.
        json_lines: whether each line is a JSON object.
    """

    total, has_types = None, False

    def __init__(self, file: Path | int, columns: Columns, *, json_lines: bool):
        self.file, self.columns, self.json_lines = file, columns, json_lines
        self.name = "standard input" if isinstance(file, int) else str(file)
        if not json_lines:
            columns.check(self.name, [columns.text])

    def windows(self, size: int) -> Iterator[list[str]]:
        with open(self.file, "rb", closefd=not isinstance(self.file, int)) as file:
            lines = (line.removesuffix("\n").removesuffix("\r") for line in _decoded(self.name, file))
            if self.json_lines:
                lines = _without_last_blanks(lines)
            yield from _cut(lines, size)

    def parse(self, first: int, window: list[str]) -> tuple[list[str], Rows]:
        if not self.json_lines:
            return window, pa.table({self.columns.text: pa.array(window, pa.string())})
        return [
            self._text(f"{self.name}, line {number}", line) for number, line in enumerate(window, first + 1)
        ], window

    def _text(self, where: str, line: str) -> str:
        values = json_object(where, line, _JSON.decode)
        self.columns.check(where, values)
        text = values[self.columns.text]
        if not isinstance(text, str):
            raise DataError(f"{where}: {self.columns.text!r} is not a string: {short(text)}")
        return text


class DelimitedFile:
    """A CSV or TSV file whose first line names the columns; quotes are as in a CSV."""

    total, has_types = None, False

    def __init__(self, path: Path, columns: Columns, delimiter: str):
        self.path, self.name, self.delimiter = path, str(path), delimiter
        self.header = next(self._records(), [])
        columns.check(f"{self.name}, line 1, which names the columns", self.header)
        self.text_at = self.header.index(columns.text)

    def windows(self, size: int) -> Iterator[list[list[str]]]:
        return _cut(islice(self._records(), 1, None), size)

    def parse(self, first: int, window: list[list[str]]) -> tuple[list[str], Rows]:
        cells = zip(*window, strict=True) if window else [[]] * len(self.header)
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in cells], self.header)
        return [record[self.text_at] for record in window], table

    def _records(self) -> Iterator[list[str]]:
        """All records with the first, which names the columns; each has as many cells as that."""
        csv.field_size_limit(LONGEST_CELL)
        start, expected = 1, None
        with self.path.open("rb") as file:
            reader = csv.reader(_decoded(self.name, file), delimiter=self.delimiter, strict=True)
            try:
                for cells in _without_last_blanks(reader):
                    expected = expected or len(cells)
                    if len(cells) != expected:
                        found = f"{expected} fields expected, {len(cells)} found: {short(self.delimiter.join(cells))}"
                        raise DataError(f"{self.name}, line {start}: {found}")
                    yield cells
                    start = reader.line_num + 1
            except csv.Error as error:
                where = f"{self.name}, line {start}"
                raise DataError(f"{where}: broken quoting, or a line break where none can be ({error})") from None


class TableSource:
    """What holds tables: a Parquet file, or a split of a dataset on the Hub."""

    name: str
    columns: Columns
    has_types = True

    def tables(self, size: int) -> Iterator[pa.Table]:
        """Tables of at most so many rows, at least one."""
        raise NotImplementedError

    def windows(self, size: int) -> Iterator[pa.Table]:
        rest, first = None, True
        for table in self.tables(size):
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= size:
                yield rest.slice(0, size)
                rest, first = rest.slice(size), False
        if first or rest.num_rows:
            yield rest

    def parse(self, first: int, window: pa.Table) -> tuple[list[str], Rows]:
        self.columns.check(self.name, window.column_names)
        column = window[self.columns.text]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise DataError(f"{self.name}: the column {self.columns.text!r} holds {kind}, not strings")
        try:
            window.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: damaged, or not UTF-8 ({first_line(error)})") from None
        texts = column.to_pylist()
        if None in texts:
            raise DataError(f"{self.name}, row {first + texts.index(None) + 1}: {self.columns.text!r} is null")
        return texts, window


class ParquetFile(TableSource):
    """A Parquet file."""

    def __init__(self, path: Path, columns: Columns):
        self.path, self.name, self.columns = path, str(path), columns
        with self._open() as file:
            self.total = file.metadata.num_rows

    def tables(self, size: int) -> Iterator[pa.Table]:
        with self._open() as file:
            yield file.schema_arrow.empty_table()
            try:
                for group in range(file.num_row_groups):  # over their borders, not every nested type can be read
                    for batch in file.iter_batches(size, [group]):
                        yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.name}: broken Parquet file ({first_line(error)})") from error

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: broken Parquet file ({first_line(error)})") from error


class HubSplit(TableSource):
    """A split of a dataset on the Hub, streamed.

    Args:
        repo_id: "owner/name".
        split: which one.
        columns: of the texts, and those to be added.
        revision: the commit, so that all processes, and those that go on later, read the same.
    """

    def __init__(self, repo_id: str, split: str, columns: Columns, revision: str):
        self.repo_id, self.name, self.columns = repo_id, f"{repo_id}, {split}", columns
        with explained(repo_id, "dataset"):
            dataset = load_dataset(repo_id, split=split, streaming=True, revision=revision)
            self.dataset = dataset.with_format("arrow")
        known = (dataset.info.splits or {}).get(split)
        self.total = known.num_examples if known else None

    def tables(self, size: int) -> Iterator[pa.Table]:
        if self.dataset.features is not None:
            yield self.dataset.features.arrow_schema.empty_table()
        with explained(self.repo_id, "dataset"):
            yield from self.dataset.iter(size)


def check_output(name: str, rows: Rows, suffix: str, *, has_types: bool) -> None:
    """Whether rows fit a format.

    Args:
        name: what an error calls them.
        rows: the rows.
        suffix: the format, one of `OUTPUTS`.
        has_types: whether values are more than strings.

    Raises:
        DataError: values would not come out as they went in.
    """
    if not isinstance(rows, pa.Table):
        if suffix not in JSON_LINES:
            raise DataError(f"{name}: the keys of JSON lines may differ, columns do not; write .jsonl")
    elif suffix in DELIMITERS:
        if has_types:
            raise DataError(f"{name}: {suffix} has no types and no nulls; write .parquet or .jsonl")
    else:
        twice = {column for column in rows.column_names if rows.column_names.count(column) > 1}
        if twice:
            raise DataError(f"{name}: {suffix} holds no two columns of one name, {short(twice.pop())}; write .csv")
        if suffix in JSON_LINES and has_types:
            for field in rows.schema:
                if not _has_json_form(field.type):
                    what = f"the column {field.name!r} holds {field.type}"
                    raise DataError(f"{name}: {what}, for which JSON has no form; write .parquet")
            _as_json(name, rows)


def written(
    name: str, rows: Rows, columns: Columns, labels: list[str], scores: np.ndarray, suffix: str, first: bool
) -> bytes:
    """Rows with their labels and scores as a piece of a file; `merge` makes the file of the pieces.

    A score has as many digits in text as tell its float32 from its neighbours.

    Args:
        name: what an error calls the rows.
        rows: the rows.
        columns: the names of the two that are added.
        labels: a label for each row.
        scores: its probability, (N,) in float32.
        suffix: the format, one of `OUTPUTS`.
        first: whether it is the first piece.

    Raises:
        DataError: JSON has no word for a value (NaN, infinity).
    """
    if suffix == ".parquet":
        table = rows.append_column(columns.label, pa.array(labels, pa.string()))
        table = table.append_column(columns.score, pa.array(scores, pa.float32()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()
    digits = [str(score) for score in scores]
    if suffix in DELIMITERS:
        header = [[*rows.column_names, columns.label, columns.score]] if first else []
        records = zip(*(column.to_pylist() for column in rows.columns), labels, digits, strict=True)
        return _csv([*header, *records], DELIMITERS[suffix]).encode()
    if isinstance(rows, pa.Table):
        rows = _as_json(name, rows)
    # The new keys go in before the last brace: what stands before them is not touched.
    label_key, score_key = json.dumps(columns.label), json.dumps(columns.score)
    quoted = {label: json.dumps(label) for label in set(labels)}
    return "".join(
        f"{line.strip()[:-1].rstrip()}, {label_key}: {quoted[label]}, {score_key}: {score}}}\n"
        for line, label, score in zip(rows, labels, digits, strict=True)
    ).encode()


def merge(pieces: Iterable[BinaryIO], suffix: str, path: Path) -> None:
    """Makes a file of the pieces that `written` has made, in their order. Memory holds one piece at a time."""
    with path.open("wb") as file:
        if suffix != ".parquet":
            for piece in pieces:
                shutil.copyfileobj(piece, file)
            return
        writer = None
        try:
            for piece in pieces:
                table = pa.ipc.open_stream(piece).read_all()
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def _as_json(name: str, table: pa.Table) -> list[str]:
    try:
        return [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table.to_pylist()]
    except ValueError:
        raise DataError(f"{name}: a number is infinite or none (NaN), which JSON cannot say; write .parquet") from None


def _csv(records: list[Sequence[str]], delimiter: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(records)
    if "\r" not in text.getvalue():
        return text.getvalue()
    # The writer quotes a cell for the line ends that it writes itself, but "\r" ends a line for every reader.
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(records)
    return text.getvalue()


def _decoded(name: str, file: BinaryIO) -> Iterator[str]:
    """The lines of a file with their ends; only "\n" ends one."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte {line[error.start]:#04x}"
            raise DataError(f"{name}, line {number}: not UTF-8 ({byte}); `iconv -t utf-8` can make it so") from None


def _without_last_blanks(rows: Iterable[Sequence]) -> Iterator[Sequence]:
    """Empty lines at the end hold nothing; elsewhere they are left for an error."""
    blanks = []
    for row in rows:
        if not row:
            blanks.append(row)
            continue
        if blanks:
            yield from blanks
            blanks.clear()
        yield row


def _cut(rows: Iterator, size: int) -> Iterator[list]:
    """Lists of so many rows; the last may be shorter, and the only one empty."""
    window = list(islice(rows, size))
    yield window
    while len(window) == size and (window := list(islice(rows, size))):
        yield window


def _has_json_form(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _has_json_form(kind.value_type)
    if types.is_struct(kind):
        return all(_has_json_form(field.type) for field in kind)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return text or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)
