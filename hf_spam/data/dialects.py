"""Find out how a text file is written: its encoding, and the delimiter, header and quotes of a table.

To read another kind of table, extend `find_dialect`.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

from .formats import DELIMITERS, JSON_LINES, DataError, DataFile
from .reading import LABEL_COLUMNS, TEXT_COLUMNS, Reading, label_key

MAX_CELL_CHARACTERS = 2**24  # an unclosed quote must not read the rest of the file into memory
ROWS = 1024  # rows to look at
LINES = 10_000  # lines with quotes, or with characters beyond ASCII, to look at
# In cp1252, another alphabet gives words of accented letters, and other encodings give capitals or signs within words.
NOT_WESTERN = re.compile("\ufffd|[À-ÖØ-öø-ÿ]{3}|[a-zß-öø-ÿ](?:[À-ÖØ-ÞŠŒŽŸ]|[¹³¾¿±º„”€ˆ†‡•˜][a-zß-öø-ÿ])")
TEXT_NAME = re.compile(r"(\w+[ _-])?(e-?mails?|texts?|messages?|msg|sms|tweets?|comments?|content|body)([ _-]\w+)?")
UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


@dataclass(frozen=True)
class Dialect:
    """Format of a table: delimiter, columns and quotes."""

    delimiter: str
    names: list[str]
    """Names of the columns."""
    has_header: bool = True
    """Whether the first row gives the names."""
    has_separator_line: bool = False
    """Whether the first line is Excel's `sep=;`."""
    skips_spaces: bool = False
    """Whether spaces after a delimiter do not belong to the cell."""
    quotes: Literal["csv", "backslash", "text", "book"] = "csv"
    r"""Convention for quotes: "csv" doubles a quote within a quoted text, "backslash" writes it as `\"`, "text" treats
    quotes as part of the text (as in the UCI collection), and "book" parses them as `pandas.read_csv` does."""
    text_at: int | None = None
    """Position of the first text column, if there is one."""
    label_at: int | None = None
    """Position of the label column, if there is one."""
    labels: frozenset[str] = frozenset()
    """Labels that a row may have, in lower case: those in the first rows, and known ones of the same kind."""
    score: float = 0
    """Fit of the delimiter to the first rows, between 0 and 4. A table scores above 1.5."""

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield the rows of a table, with its header; the iterator's `line_num` counts the lines after `sep=;`."""
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        lines = islice(lines, int(self.has_separator_line), None)
        if self.quotes == "backslash":  # `csv` would drop every backslash
            lines = (re.sub(r"\\(.?)", self._kept, line) for line in lines)
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_NONE if self.quotes == "text" else csv.QUOTE_MINIMAL,
            doublequote=self.quotes != "backslash",
            escapechar="\\" if self.quotes == "backslash" else None,
            skipinitialspace=self.skips_spaces,
            strict=self.quotes != "book",
        )

    def _kept(self, match: re.Match) -> str:
        """Double a backslash that escapes nothing, such as those in `C:\\temp`."""
        return match[0] if match[1] in ("", "\\", '"', self.delimiter) else "\\" + match[0]

    def swallowed(self, text: str) -> str | None:
        """Return a line within a quoted text that looks like another row, which a missing quote may have swallowed."""
        if self.text_at is None or self.label_at is None:
            return None
        before = self.label_at < self.text_at
        at = self.label_at if before else self.label_at - len(self.names)
        lines, least = text.splitlines(), max(2, len(self.names) if before else 1 - at)
        for line in lines[1:] if before else lines[:-1]:
            cells = line.rstrip(f"{self.delimiter} ").split(self.delimiter)
            if len(cells) < least or (label := cells[at].strip('" ').casefold()) not in self.labels:
                continue
            beside = cells[at + 1 if before else at - 1]
            if not (_kind(label) == "number" and beside.strip()[:1].isdigit()):  # 1,500
                return line
        return None

    def note(self, suffix: str) -> str:
        """Describe what a user may not expect of the file, or return ""."""
        name = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "pipe"}.get(self.delimiter, repr(self.delimiter))
        notes = [f"delimiter {name}"] if self.delimiter != DELIMITERS[suffix] else []
        notes += [] if self.has_header else ["no header"]
        notes += {"text": ["quotes are part of the texts"], "backslash": [r"quotes written \""]}.get(self.quotes, [])
        return ", ".join(notes)


def find_dialect(file: DataFile, reading: Reading) -> Dialect:
    """Find out how a table is written, from its first rows and, if it has quotes, from all of it.

    A table without a header has two columns, one of them with labels. Under protocol "book", quotes in such a TSV mean
    what they mean in `pandas.read_csv`; in the UCI collection this merges a few messages.
    """
    dialect = _dialect_of_head(file, reading)
    if reading.protocol == "book" and dialect.delimiter == "\t" and not dialect.has_header:
        return replace(dialect, quotes="book", skips_spaces=False)
    return replace(dialect, quotes=_find_quotes(file, dialect))


def is_table(file: DataFile, reading: Reading) -> bool:
    """Return whether the first lines of a plain text file are the rows of a table with labels."""
    dialect = _dialect_of_head(file, reading)
    lines = file.head_text().split(file.line_end)
    # Such as "Ham, eggs and cheese" or, in a file of a line or two, "1,5 litres".
    few = not dialect.has_header and sum(map(bool, map(str.strip, lines))) < 3
    is_prose = dialect.delimiter != "\t" and (few or f"{dialect.delimiter} " in lines[0])
    is_wide = dialect.score > (2.5 if dialect.has_header else 1.5)
    return dialect.has_separator_line or (is_wide and len(dialect.names) > 1 and not is_prose)


def _dialect_of_head(file: DataFile, reading: Reading) -> Dialect:
    lines = file.head_text().split(file.line_end)
    if separator := re.fullmatch(r'\ufeff?"?sep=(.)"?\s*', lines[0], re.IGNORECASE):
        return replace(_dialect_with(separator[1], lines[1:], reading), has_separator_line=True)
    delimiters = dict.fromkeys([DELIMITERS[file.suffix], *DELIMITERS.values(), ";", "|"])
    found = [_dialect_with(delimiter, lines, reading) for delimiter in delimiters]
    return max(found, key=lambda dialect: (dialect.score, len(dialect.names)))


def _dialect_with(delimiter: str, lines: list[str], reading: Reading) -> Dialect:
    """Return the dialect of a table, if this is its delimiter."""
    clean = [line.rstrip("\r").replace("\r", " ") for line in lines[:ROWS]]
    skips_spaces = any(f'{delimiter} "' in line for line in clean) and not any(
        f'{delimiter}"' in line for line in clean
    )
    rows = [row for row in csv.reader(clean, delimiter=delimiter, skipinitialspace=skips_spaces) if row]
    if not rows:
        return Dialect(delimiter, [])
    first, others = rows[0], rows[1:]
    if (label_at := _label_without_header(first, others, reading)) is not None:
        names = ["label", "text"] if label_at == 0 else ["text", "label"]
        fitting = sum(len(row) == 2 and reading.is_label(row[label_at]) for row in rows) / len(rows)
        columns = {"text_at": 1 - label_at, "label_at": label_at, "labels": reading.known_labels}
        columns |= {"skips_spaces": skips_spaces}
        return Dialect(delimiter, names, has_header=False, score=(len(first) == 2) + fitting, **columns)
    text_at = label_at = None
    with suppress(DataError):
        text_at = reading.find("", first)[0][0]
    with suppress(DataError):
        label_at = reading.find_label("", first)
    as_wide = sum(len(row) >= len(first) for row in others) / max(1, len(others))
    labels = set() if label_at is None else {label_key(row[label_at]) for row in others if len(row) > label_at}
    labels = labels if len(labels) <= max(2, len(others) // 10) else set()
    kinds = set(map(_kind, labels))
    labels |= {label for label in reading.known_labels if not kinds or _kind(label) in kinds}
    score = (label_at is not None) + (0 if text_at is None else 2 + as_wide)
    about = {"text_at": text_at, "label_at": label_at, "labels": frozenset(labels), "score": score}
    return Dialect(delimiter, first, skips_spaces=skips_spaces, **about)


def _label_without_header(first: list[str], others: list[list[str]], reading: Reading) -> int | None:
    """Return the position of the label in the first row if that is a message, and `None` if it is a header."""
    named = {column.strip().casefold() for column in (reading.text_column, reading.label_column) if column}
    keys = {label_key(cell) for cell in first}
    if not (named.isdisjoint(keys) and (keys.isdisjoint(TEXT_COLUMNS) or keys.isdisjoint(LABEL_COLUMNS))):
        return None
    is_counted = first == [str(i) for i in range(len(first))]  # pandas names columns so
    if is_counted or (not keys.isdisjoint(LABEL_COLUMNS) and any(map(TEXT_NAME.fullmatch, keys))):
        return None
    for at in (0, 1):
        if len(first) > at and reading.is_label(first[at]) and (at == 0 or len(first) == 2):
            labels = [row[at] for row in others if len(row) > at and reading.is_label(row[at])]
            same_kind = not labels or any(_kind(label) == _kind(first[at]) for label in labels)
            if same_kind and (at == 0 or 2 * len(labels) > len(others) or not others):
                return at
    return None


def _kind(cell: str) -> str:
    """Return the kind of a label; the labels of a column are of one kind."""
    key = label_key(cell)
    return "number" if re.fullmatch(r"-?\d+(\.\d+)?", key) else "truth" if key in ("true", "false") else "word"


def _find_quotes(file: DataFile, dialect: Dialect) -> str:
    """Return the convention for quotes: the one that gives every row as many cells as there are columns.

    Quotes can be part of the text only if no cell shows that a program quoted it: one with a delimiter or a doubled
    quote.
    """
    end = re.escape(dialect.delimiter) + " *" * dialect.skips_spaces
    start = re.compile(f'(?:^|{end})"')
    whole = re.compile(f'(?:^|{end})"((?:[^"]|"")*)"(?={end}|\\s*$)')
    has_csv = needless = False
    lines = wholes = parts = 0  # all lines, those with a whole cell in quotes, and those with a part of one
    with file.text() as text, suppress(UnicodeDecodeError):  # the reader names the bad byte
        for line in text:
            lines += 1
            if '"' in line and start.search(line):
                cells = whole.findall(line)
                wholes, parts = wholes + bool(cells), parts + (not cells)
                # Excel quotes texts with commas even in a TSV
                needless = needless or any("," not in cell for cell in cells)
                has_csv = any('""' in cell or dialect.delimiter in cell for cell in cells)
            if has_csv or wholes + parts == LINES:
                break
    order = _quote_conventions(file, dialect)
    is_tsv = dialect.delimiter == "\t"
    mostly_unquoted = 2 * wholes < lines if is_tsv else parts > 1 and not wholes
    if len(dialect.names) > 1 and not has_csv and (wholes or parts) and mostly_unquoted:
        order.insert(0 if is_tsv and needless else len(order), "text")
    if len(order) == 1:
        return "csv"
    fits = partial(_fits, file, dialect)
    if not is_tsv and "text" in order and fits("csv", may_swallow=True):
        order.remove("text")  # outside the UCI collection, quotes that can be those of CSV are
    return next(filter(fits, order), "csv")


def _quote_conventions(file: DataFile, dialect: Dialect) -> list[str]:
    r"""Return the conventions for quoted cells that a file may follow, the likeliest first.

    Quotes escaped by a backslash hardly ever fit CSV too, while CSV with backslashes in its texts may fit both. Bytes
    are searched much faster than text.
    """
    encoding = file.encoding.removesuffix("-sig")
    whats = ("", '"', dialect.delimiter)
    slash, *escapes = (f"\\{what}".encode(encoding).removeprefix(codecs.BOM_UTF16) for what in whats)
    with file.open() as lines:
        may_escape = any(slash in line and any(escape in line for escape in escapes) for line in lines)
    return ["csv", "backslash"] if may_escape else ["csv"]


def _fits(file: DataFile, dialect: Dialect, quotes: str, may_swallow: bool = False) -> bool:
    """Return whether every row has as many cells as there are columns, and none seems to have swallowed others."""
    dialect, width = replace(dialect, quotes=quotes), len(dialect.names)
    with file.text() as text:
        try:
            for row in dialect.rows(text):
                if row and (len(row) < width or any(row[width:])):
                    return False
                if not may_swallow and any(file.line_end in cell and dialect.swallowed(cell) for cell in row):
                    return False
        except (csv.Error, UnicodeDecodeError):
            return False
    return True


def with_format(file: DataFile, encoding: str | None) -> DataFile:
    """Return a text file with its line ends and its encoding, see `find_encoding`."""
    file = replace(file, encoding=find_encoding(file, encoding))
    head = file.head_text()
    return replace(file, line_end="\r" if "\r" in head and "\n" not in head else "\n")


def find_encoding(file: DataFile, named: str | None = None) -> str:
    """Return the encoding of a text file: the named one, or one that all of the file can be read with.

    Files that are not UTF-8 or UTF-16 are Windows-1252 if what they hold beyond ASCII looks like Western European text.
    """
    if named is not None:
        try:
            "".encode(named)  # refuses encodings that are not of text
        except LookupError:
            known = "use, for example, utf-8, utf-16, cp1252 or latin-1"
            raise DataError(f"--encoding {named}: unknown; {known}") from None
        name = codecs.lookup(named).name
        return "utf-8-sig" if name == "utf-8" else name
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
    """Return whether all of a file is UTF-8; three times as fast as to read it as text."""
    with file.open() as opened:
        try:
            for _ in codecs.iterdecode(iter(lambda: opened.read(2**20), b""), "utf-8"):
                pass
        except UnicodeDecodeError:
            return False
    return True


def _beyond_ascii(file: DataFile) -> tuple[int, int, bool]:
    """Return the number of UTF-8 sequences and of other bytes, and whether these look Western European in cp1252."""
    unicode, other, is_western = 0, 0, True
    with file.open() as lines:
        for line in islice((line for line in lines if not line.isascii()), LINES):
            rest = UTF8.sub(b"", line)
            unicode, other = unicode + len(UTF8.findall(line)), other + sum(byte > 127 for byte in rest)
            is_western = is_western and not NOT_WESTERN.search(rest.decode("cp1252", errors="replace"))
    return unicode, other, is_western
