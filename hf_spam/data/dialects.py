"""Find out how a text file is written: its encoding, and the delimiter, header and quotes of a table.

To read another kind of table, extend `find_dialect`.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple

from .formats import DELIMITERS, JSON_LINES, DataError, DataFile
from .reading import LABEL_COLUMNS, TEXT_COLUMNS, Reading, label_key

MAX_CELL_CHARACTERS = 2**24  # an unclosed quote must not read the rest of the file into memory
ROWS = 1024  # rows to look at, or to check at a time
LINES = 10_000  # lines with quotes, or with characters beyond ASCII, to look at
# In cp1252, another alphabet gives words of accented letters, and other encodings give capitals or signs within words.
NOT_WESTERN = re.compile("\ufffd|[À-ÖØ-öø-ÿ]{3}|[a-zß-öø-ÿ](?:[À-ÖØ-ÞŠŒŽŸ]|[¹³¾¿±º„”€ˆ†‡•˜][a-zß-öø-ÿ])")
UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


class Layout(NamedTuple):
    """The columns of a table, if this is its delimiter."""

    score: float
    """Fit of the delimiter to the first rows, between 0 and 4. A table scores above 1.5."""
    delimiter: str
    header: bool
    """Whether the first row gives the names."""
    names: list[str]
    """Names of the columns."""
    text_at: int | None = None
    """Position of the first text column, if there is one."""
    label_at: int | None = None
    """Position of the label column, if there is one."""
    labels: frozenset[str] = frozenset()
    """Labels in the first rows, in lower case."""


@dataclass(frozen=True)
class Dialect:
    """Format of a table: delimiter, columns, line ends and quotes."""

    layout: Layout
    line_end: str
    has_separator_line: bool
    """Whether the first line is Excel's `sep=;`."""
    quotes: Literal["csv", "backslash", "text", "book"] = "csv"
    r"""Convention for quotes: "csv" doubles a quote within a quoted text, "backslash" writes it as `\"`, "text" treats
    quotes as part of the text (as in the UCI collection), and "book" parses them as `pandas.read_csv` does."""

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield the rows of a table, with its header; the iterator's `line_num` counts lines."""
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        return csv.reader(
            lines,
            delimiter=self.layout.delimiter,
            quoting=csv.QUOTE_NONE if self.quotes == "text" else csv.QUOTE_MINIMAL,
            doublequote=self.quotes != "backslash",
            escapechar="\\" if self.quotes == "backslash" else None,
            strict=self.quotes != "book",
        )

    def swallowed(self, text: str, known: Collection[str]) -> str | None:
        """Return a line within a quoted text that looks like another row, which a missing quote may have swallowed.

        Such a row has one of the `known` labels, or one of those in the first rows.
        """
        _, delimiter, _, names, text_at, label_at, labels = self.layout
        if text_at is None or label_at is None:
            return None
        before = label_at < text_at
        at = label_at if before else label_at - len(names)
        lines, least = text.splitlines(), max(2, len(names) if before else 1 - at)
        for line in lines[1:] if before else lines[:-1]:
            if line.count(delimiter) + 1 < least:  # most lines: much faster than to split them
                continue
            cells = line.rstrip(f"{delimiter} ").split(delimiter)
            if len(cells) < least:
                continue
            label = cells[at].strip('" ').casefold()  # faster than `label_key`
            if label not in labels and (label not in known or (labels and _kind(label) not in map(_kind, labels))):
                continue
            beside = cells[at + 1 if before else at - 1]
            if not (_kind(label) == "number" and beside.strip()[:1].isdigit()):  # 1,500
                return line
        return None

    def note(self, suffix: str) -> str:
        """Describe what a user may not expect of the file, or return ""."""
        delimiter = self.layout.delimiter
        name = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "pipe"}.get(delimiter, repr(delimiter))
        notes = [f"delimiter {name}"] if delimiter != DELIMITERS[suffix] else []
        notes += [] if self.layout.header else ["no header"]
        notes += {"text": ["quotes are part of the texts"], "backslash": [r"quotes written \""]}.get(self.quotes, [])
        return ", ".join(notes)


def find_dialect(file: DataFile, encoding: str, reading: Reading, book_quotes: bool = False) -> Dialect:
    """Find out how a table is written, from its first rows and, if it has quotes, from all of it.

    A table without a header has two columns, one of them with labels. With `book_quotes`, quotes in such a TSV mean
    what they mean in `pandas.read_csv`, as in the book; in the UCI collection this merges a few messages.
    """
    dialect = _dialect_of_head(file, encoding, reading)
    if book_quotes and dialect.layout.delimiter == "\t" and not dialect.layout.header:
        return replace(dialect, quotes="book")
    return replace(dialect, quotes=_find_quotes(file, encoding, dialect, reading))


def is_table(file: DataFile, encoding: str, reading: Reading) -> bool:
    """Return whether the first lines of a plain text file are the rows of a table with labels."""
    dialect = _dialect_of_head(file, encoding, reading)
    layout, first = dialect.layout, file.head().decode(encoding, errors="replace").split(dialect.line_end)[0]
    is_prose = layout.delimiter != "\t" and f"{layout.delimiter} " in first  # such as "Ham, eggs and cheese"
    return dialect.has_separator_line or (layout.score > 1.5 and len(layout.names) > 1 and not is_prose)


def find_line_end(file: DataFile, encoding: str) -> str:
    """Return what ends the lines of a file: CR if there is no LF in its first bytes, else LF."""
    text = file.head().decode(encoding, errors="replace")
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _dialect_of_head(file: DataFile, encoding: str, reading: Reading) -> Dialect:
    line_end = find_line_end(file, encoding)
    lines = file.head().decode(encoding, errors="replace").split(line_end)
    separator = re.fullmatch(r'\ufeff?"?sep=(.)"?\s*', lines[0], re.IGNORECASE)
    if separator:
        return Dialect(_layout(lines[1:], separator[1], reading), line_end, has_separator_line=True)
    delimiters = dict.fromkeys([DELIMITERS[file.suffix], *DELIMITERS.values(), ";", "|"])
    found = [_layout(lines, delimiter, reading) for delimiter in delimiters]
    return Dialect(max(found, key=lambda layout: (layout.score, len(layout.names))), line_end, False)


def _layout(lines: list[str], delimiter: str, reading: Reading) -> Layout:
    """Return the columns of a table, if this is its delimiter."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    clean = [line.rstrip("\r").replace("\r", " ") for line in lines[:ROWS]]
    rows = [row for row in csv.reader(clean, delimiter=delimiter) if row]
    if not rows:
        return Layout(0, delimiter, True, [])
    first, others = rows[0], rows[1:]
    if (label_at := _label_without_header(first, others, reading)) is not None:
        names = ["label", "text"] if label_at == 0 else ["text", "label"]
        fitting = sum(len(row) == 2 and reading.is_label(row[label_at]) for row in rows) / len(rows)
        return Layout((len(first) == 2) + fitting, delimiter, False, names, 1 - label_at, label_at)
    text_at = label_at = None
    with suppress(DataError):
        text_at = reading.find("", first)[0][0]
    with suppress(DataError):
        label_at = reading.find_label("", first)
    as_wide = sum(len(row) >= len(first) for row in others) / max(1, len(others))
    labels = set() if label_at is None else {label_key(row[label_at]) for row in others if len(row) > label_at}
    labels = frozenset(labels if len(labels) <= max(2, len(others) // 10) else ())
    score = (label_at is not None) + (0 if text_at is None else 2 + as_wide)
    return Layout(score, delimiter, True, first, text_at, label_at, labels)


def _label_without_header(first: list[str], others: list[list[str]], reading: Reading) -> int | None:
    """Return the position of the label in the first row if that is a message, and `None` if it is a header."""
    named = {column.strip().casefold() for column in (reading.text_column, reading.label_column) if column}
    keys = {label_key(cell) for cell in first}
    if not (named.isdisjoint(keys) and (keys.isdisjoint(TEXT_COLUMNS) or keys.isdisjoint(LABEL_COLUMNS))):
        return None
    for at in (0, 1):
        if len(first) > at and reading.is_label(first[at]) and (at == 0 or len(first) == 2):
            labels = [row[at] for row in others if len(row) > at and reading.is_label(row[at])]
            same_kind = not labels or any(_kind(label) == _kind(first[at]) for label in labels)
            if same_kind and (at == 0 or 2 * len(labels) > len(others)):
                return at
    return None


def _kind(cell: str) -> str:
    """Return the kind of a label; the labels of a column are of one kind."""
    key = label_key(cell)
    return "number" if re.fullmatch(r"-?\d+(\.\d+)?", key) else "truth" if key in ("true", "false") else "word"


def _find_quotes(file: DataFile, encoding: str, dialect: Dialect, reading: Reading) -> str:
    """Return the convention for quotes: the one that gives every row as many cells as there are columns.

    Quotes can be part of the text only if no cell shows that a program quoted it: one with a delimiter or a doubled
    quote.
    """
    _, delimiter, _, names, *_ = dialect.layout
    end = re.escape(delimiter)
    start = re.compile(f'(?:^|{end})"')
    whole = re.compile(f'(?:^|{end})"((?:[^"]|"")*)"(?={end}|\\s*$)')
    has_csv = needless = False
    lines = wholes = parts = 0  # all lines, those with a whole cell in quotes, and those with a part of one
    with file.text(encoding, dialect.line_end) as text, suppress(UnicodeDecodeError):  # the reader names the bad byte
        for line in text:
            lines += 1
            if '"' in line and start.search(line):
                cells = whole.findall(line)
                wholes, parts = wholes + bool(cells), parts + (not cells)
                # Excel quotes texts with commas even in a TSV
                needless = needless or any("," not in cell for cell in cells)
                has_csv = any('""' in cell or delimiter in cell for cell in cells)
            if has_csv or wholes + parts == LINES:
                break
    order = ["csv", *(["backslash"] if _contains(file, encoding, '\\"') else [])]
    is_tsv = delimiter == "\t"
    if (
        len(names) > 1
        and not has_csv
        and (wholes or parts)
        and (2 * wholes < lines if is_tsv else parts > 1 and not wholes)
    ):
        order.insert(0 if is_tsv and needless else len(order), "text")
    if len(order) == 1:
        return "csv"

    def fits(quotes: str, **how: bool) -> bool:
        return _fits(file, encoding, replace(dialect, quotes=quotes), reading, **how)

    if not is_tsv and "text" in order and fits("csv", may_swallow=True):
        order.remove("text")  # outside the UCI collection, quotes that can be those of CSV are
    return next(filter(fits, order), "csv")


def _contains(file: DataFile, encoding: str, text: str) -> bool:
    """Return whether a file contains a text."""
    wanted, rest = text.encode("utf-8" if encoding == "utf-8-sig" else encoding).removeprefix(codecs.BOM_UTF16), b""
    with file.open() as blocks:
        while block := blocks.read(2**20):
            if wanted in rest + block:
                return True
            rest = block[-len(wanted) :]
    return False


def _fits(file: DataFile, encoding: str, dialect: Dialect, reading: Reading, may_swallow: bool = False) -> bool:
    """Return whether every row has as many cells as there are columns, and none seems to have swallowed others."""
    width, lines = len(dialect.layout.names), 0
    with file.text(encoding, dialect.line_end) as text:
        if dialect.has_separator_line:
            next(text)
        reader = dialect.rows(text)
        try:
            while rows := list(islice(reader, ROWS)):
                wrong = (row for row in rows if len(row) != width) if set(map(len, rows)) - {0, width} else ()
                if any(row and (len(row) < width or any(row[width:])) for row in wrong):
                    return False
                one_line_each, lines = reader.line_num - lines == len(rows) or may_swallow, reader.line_num
                cells = () if one_line_each else (cell for row in rows for cell in row if dialect.line_end in cell)
                if any(dialect.swallowed(cell, reading.known_labels) for cell in cells):
                    return False
        except (csv.Error, UnicodeDecodeError):
            return False
    return True


def find_encoding(file: DataFile, named: str | None = None) -> str:
    """Return the encoding of a text file: the named one, or one that all of the file can be read with.

    Files that are not UTF-8 or UTF-16 are Windows-1252 if what they hold beyond ASCII looks like Western European text.

    Raises:
        DataError: The named encoding does not exist, or the encoding is unknown; the first bad byte is shown.
    """
    if named is not None:
        try:
            io.TextIOWrapper(io.BytesIO(), named)  # refuses encodings that are not of text
        except LookupError:
            known = "use, for example, utf-8, utf-16, cp1252 or latin-1"
            raise DataError(f"--encoding {named}: unknown; {known}") from None
        return "utf-8-sig" if codecs.lookup(named).name == "utf-8" else codecs.lookup(named).name
    if isinstance(file.path, int):  # a pipe, which can only be read once
        return "utf-8-sig"
    head = file.head()
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first, second = head[::2].count(0), head[1::2].count(0)  # half of the bytes are zero in UTF-16, in most languages
    if 4 * abs(first - second) > len(head) > 3 and min(first, second) == 0 and not head.startswith(codecs.BOM_UTF8):
        return "utf-16-le" if second else "utf-16-be"
    if _is_utf8(file):
        return "utf-8-sig"
    if not head.startswith(codecs.BOM_UTF8) and file.suffix not in JSON_LINES:  # JSON is always Unicode
        unicode, other, is_western = _beyond_ascii(file)
        if is_western and other > 10 * unicode:
            return "cp1252"
        if re.match(rb'"?v1"?,"?v2\b', head) and other > unicode:
            return "latin-1"  # as everyone reads Kaggle's copy of the UCI collection
    return "utf-8-sig"  # the reader names the bad byte


def _is_utf8(file: DataFile) -> bool:
    """Return whether all of a file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()  # three times as fast as a text file
    with file.open() as blocks:
        try:
            while block := blocks.read(2**20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _beyond_ascii(file: DataFile) -> tuple[int, int, bool]:
    """Return the number of UTF-8 sequences and of other bytes, and whether these look Western European in cp1252."""
    lines = unicode = other = 0
    is_western = True
    with file.open() as text:
        for line in text:
            if line.isascii():
                continue
            rest = UTF8.sub(b"", line)
            unicode, other = unicode + len(UTF8.findall(line)), other + sum(byte > 127 for byte in rest)
            decoded = rest.decode("cp1252", errors="replace")
            is_western = is_western and not NOT_WESTERN.search(decoded)
            lines += 1
            if lines == LINES:
                break
    return unicode, other, is_western


def bad_byte(file: DataFile, encoding: str, error: UnicodeDecodeError, line: int) -> DataError:
    """Return the error for a block of bytes that starts on `line` and cannot be decoded."""
    line += error.object.count(b"\n", 0, error.start)
    name = "UTF-8" if encoding == "utf-8-sig" else encoding
    byte = f"byte {error.object[error.start]:#04x}"
    return DataError(f"{file.name}, line {line}: not {name} ({byte}); name the encoding, for example --encoding cp1252")
