"""From the bytes of a file (TSV, CSV, JSON lines, Parquet, zip), or from a table, to labelled messages."""

import codecs
import csv
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from ..text import first_line, short

# Where several of these names are present, the first one counts.
TEXT_COLUMNS = ("text", "message", "sms", "v2")
LABEL_COLUMNS = ("label", "category", "class", "v1")
HAM, SPAM = ("ham", "not spam", "not_spam", "0", "0.0", "false"), ("spam", "1", "1.0", "true")
LABELS = dict.fromkeys(HAM, 0) | dict.fromkeys(SPAM, 1)
SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".zip")
LONGEST_CELL = 2**24  # characters; a quote that is never closed must not read all that follows into memory
UCI_MEMBER = "SMSSpamCollection"  # the UCI collection's file, in its zip and out of it

_NAMED = "if it names columns, --text-column and --label-column say which are read"
UNNAMED = {",": f"fields end at commas, and {_NAMED}", "\t": f"fields end at tabs, and {_NAMED}"}  # of a first line

Row = tuple[str, Any, Any]  # where it stands, label and text as they stand there


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read. None: those that are known, `TEXT_COLUMNS` and `LABEL_COLUMNS`."""

    text: str | None = None
    label: str | None = None


KNOWN_COLUMNS = Columns()


@dataclass
class Messages:
    """Texts, and their labels as they stand in a file but for blanks around them."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """"" where there is none."""
    places: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Where each label stands first, and the value there."""
    names: list[str] | None = None
    """Those of the label column's ClassLabel, if it is one."""


class DataError(ValueError):
    """Data that cannot be used, in one line that names the file, the place in it and the offending value."""


def parse(name: str, suffix: str, data: bytes, protocol: str, columns: Columns) -> Messages:
    """The messages in the bytes of a file.

    Args:
        name: what errors call the file.
        suffix: its format, one of `SUFFIXES`.
        data: its bytes.
        protocol: "book" reads a header-less TSV with pandas' default quoting; under "full" quotes mean nothing in it.
        columns: those that are read; of a CSV or TSV where one is named, the first line names all.

    Raises:
        DataError: a line or row of it holds no text, there is no such column, or the file is broken.
    """
    if suffix == ".zip":
        member, data = unzip(name, data)
        name, suffix = f"{name}/{member}", suffix_of(member)
    if suffix == ".parquet":
        return table_messages(*_parquet_table(name, data), columns)
    text = _decode(name, suffix, data)
    if suffix in (".jsonl", ".json"):
        return _messages(_json_rows(name, text, columns))
    delimiter = "," if suffix == ".csv" else "\t"
    header = columns != KNOWN_COLUMNS or _has_header(text, delimiter)
    messages = _messages(_delimited_rows(name, text, delimiter, header, columns))
    if messages.texts and protocol == "book" and suffix == ".tsv" and not header:
        book = _messages(_book_rows(name, text))
        book.places |= messages.places  # lines, which a person finds again, rather than rows
        return book
    return messages


def table_messages(name: str, table: pa.Table, features: Features | None, columns: Columns) -> Messages:
    """The messages in a table; its label column's ClassLabel in `features`, if any, says what the integers mean."""
    label_column, text_column = _find_columns(name, table.column_names, columns)
    # By position: a Parquet file may hold a column name twice.
    labels, texts = (table[table.column_names.index(column)].to_pylist() for column in (label_column, text_column))
    feature = (features or {}).get(label_column)
    names = feature.names if isinstance(feature, ClassLabel) else None
    named = dict(enumerate(names or []))
    rows = zip(labels, texts, strict=True)
    return _messages(
        ((f"{name}, row {number}", named.get(label, label), text) for number, (label, text) in enumerate(rows, 1)),
        names,
    )


def suffix_of(name: str) -> str:
    """The known extension of a file name, or "" for none; the UCI file has none and is a TSV."""
    path = PurePosixPath(name.replace(os.sep, "/"))
    if path.name == UCI_MEMBER:
        return ".tsv"
    return path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""


def is_hub_id(name: str) -> bool:
    """Whether a name is like that of a dataset on the Hub, owner/name, and nothing on this machine has it."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not os.path.exists(name)


def unzip(name: str, data: bytes, limit: int = -1) -> tuple[str, bytes]:
    """The name and bytes (at most `limit`) of the one file of a zip that holds messages."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.namelist() if suffix_of(m) not in ("", ".zip") and "__MACOSX/" not in m]
            members = [m for m in members if PurePosixPath(m).name == UCI_MEMBER] or members
            if len(members) == 1:
                with archive.open(members[0]) as file:
                    return members[0], file.read(limit)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{name}: broken zip ({first_line(error)})") from error
    raise DataError(f"{name}: one data file expected in the zip, {len(members)} found: {short(members)}")


def _decode(name: str, suffix: str, data: bytes) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        # Kaggle's copy of the collection is Latin-1. Latin-1 decodes anything, so no other file is read that way.
        if suffix != ".csv" or not re.match(rb'"?v1"?,"?v2\b', data):
            if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{name}: it is UTF-16; save it as UTF-8") from None
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{name}, line {line}: not UTF-8 (byte {data[error.start]:#04x})") from None
        text = data.decode("latin-1")
    return text.rstrip("\r\n")  # empty lines at the end hold nothing; elsewhere they are errors


def _has_header(text: str, delimiter: str) -> bool:
    """Whether the first line names columns; "ham,text" does not, it is a message that reads "text"."""
    cells = [cell.strip().strip('"').lower() for cell in re.split(r"[\r\n]", text, maxsplit=1)[0].split(delimiter)]
    return cells[0] not in LABELS and any(cell in TEXT_COLUMNS + LABEL_COLUMNS for cell in cells)


def _delimited_rows(name: str, text: str, delimiter: str, header: bool, columns: Columns) -> Iterator[Row]:
    """Rows of a CSV or TSV. A header-less TSV is the UCI's: one message a line, quotes mean nothing."""
    quoting = csv.QUOTE_MINIMAL if header or delimiter == "," else csv.QUOTE_NONE
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    names, label_at, text_at, line = ["label", "text"], 0, 1, 1
    try:
        if header:
            names = next(reader, [])
            label_at, text_at = map(names.index, _find_columns(f"{name}, line 1", names, columns))
            line = reader.line_num + 1
        # Kaggle's copy cut some texts at their commas, the pieces went into columns without a name: put them together.
        cut = not any(column.strip() for column in names[text_at + 1 :])
        for cells in reader:
            if len(cells) != len(names):
                value = short(delimiter.join(cells))
                hint = "" if header or line > 1 else f"; {UNNAMED[delimiter]}"
                raise DataError(f"{name}, line {line}: {len(names)} fields expected, {len(cells)} found: {value}{hint}")
            pieces = cells[text_at:] if cut else [cells[text_at]]
            while len(pieces) > 1 and not pieces[-1]:
                pieces.pop()
            yield f"{name}, line {line}", cells[label_at], delimiter.join(pieces)
            line = reader.line_num + 1
    except csv.Error as error:
        value = short(re.split("\r\n|\r|\n", text)[line - 1])
        raise DataError(f"{name}, line {line}: broken quoting or line break ({error}): {value}") from None


def _book_rows(name: str, text: str) -> Iterator[Row]:
    """Rows of a header-less TSV through pandas' quoting, as the book reads them."""
    hint = "protocol 'full' reads quotes as text"
    try:
        # The default would turn messages such as "None" or "007" into something else than their text.
        table = pd.read_csv(io.StringIO(text), sep="\t", header=None, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise DataError(f"{name}: its quotes cannot be read as such ({first_line(error)}); {hint}") from None
    if len(table.columns) != 2:
        raise DataError(f"{name}: its quotes leave one column for label and text; {hint}")
    return ((f"{name}, row {number}", label, text) for number, (label, text) in enumerate(table.to_numpy(), 1))


def _json_rows(name: str, text: str, columns: Columns) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n") if text else [], 1):
        where = f"{name}, line {number}"
        values = json_object(where, line, json.loads)
        label_column, text_column = _find_columns(where, values, columns)
        yield where, values[label_column], values[text_column]


def json_object(where: str, line: str, decode: Callable[[str], Any]) -> dict[str, Any]:
    """The object that a line of JSON is, as `decode` reads it.

    Raises:
        DataError: it is none.
    """
    # Of a file that is one list or object over many lines this is the first one: it is not broken, but read otherwise.
    hint = "; JSON lines are read, one object a line" if line.lstrip().startswith("[") or line.strip() == "{" else ""
    try:
        values = decode(line)
    except (ValueError, RecursionError):
        fault = "not a JSON object" if hint else "broken JSON"
        raise DataError(f"{where}: {fault}: {short(line)}{hint}") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: not a JSON object: {short(line)}{hint}")
    return values


def _parquet_table(name: str, data: bytes) -> tuple[str, pa.Table, Features | None]:
    try:
        table = pq.read_table(io.BytesIO(data))
        table.validate(full=True)
        # Only a file written by datasets knows its ClassLabel names.
        ours = b"huggingface" in (table.schema.metadata or {})
        return name, table, Features.from_arrow_schema(table.schema) if ours else None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: broken Parquet file ({first_line(error)})") from error


def _find_columns(where: str, names: Iterable[str], columns: Columns) -> tuple[str, str]:
    """The names of the label and the text column as they are spelled here."""
    names = list(names)
    spelled = {name.strip().lower(): name for name in reversed(names)}
    found = []
    for kind, named, accepted in (("label", columns.label, LABEL_COLUMNS), ("text", columns.text, TEXT_COLUMNS)):
        if named is not None:
            column, accepted = named if named in names else None, (named,)
        else:
            column = next((spelled[name] for name in accepted if name in spelled), None)
        if column is None:
            raise DataError(f"{where}: no {kind} column ({', '.join(accepted)}); found: {short(names)}")
        found.append(column)
    return found[0], found[1]


def _messages(rows: Iterable[Row], names: list[str] | None = None) -> Messages:
    messages = Messages(names=names)
    for where, value, text in rows:
        if text is None or (isinstance(text, str) and not text.strip()):
            raise DataError(f"{where}: empty or missing text: {short(text)}")
        if not isinstance(text, str):
            raise DataError(f"{where}: the text is not a string: {short(text)}")
        label = "" if value is None or value != value else str(value).strip()  # what is no number is not itself
        for kind, string in (("text", text), ("label", label)):
            try:
                string.encode()  # JSON can hold half a surrogate pair, Arrow cannot
            except UnicodeEncodeError:
                raise DataError(f"{where}: the {kind} is not valid Unicode: {short(string)}") from None
        messages.texts.append(text)
        messages.labels.append(label)
        messages.places.setdefault(label, (where, value))
    return messages
