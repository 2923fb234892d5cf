"""Detect how to read a data file: format, file in a zip, encoding, delimiter, header and columns.

To support another kind of delimited file, extend `find_dialect`.
"""

import codecs
import csv
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from ..files import stamp
from ..text import first_line, short

# If a file has several of these columns, the first name in the list wins.
TEXT_COLUMNS = ("text", "message", "sms", "v2")
LABEL_COLUMNS = ("label", "category", "class", "v1")
HAM_WORDS, SPAM_WORDS = ("ham", "not spam", "not_spam", "0", "0.0", "false"), ("spam", "1", "1.0", "true")
LABELS = dict.fromkeys(HAM_WORDS, 0) | dict.fromkeys(SPAM_WORDS, 1)

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json")
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet", ".zip")
PLAIN_TEXT = ".txt"  # one message per line, without labels
UCI_MEMBER = "SMSSpamCollection"  # a TSV without an extension, on its own or in UCI's zip
HEAD_BYTES = 2**16
MAX_CELL_CHARACTERS = 2**24  # an unclosed quote must not read the rest of the file into memory


class DataError(ValueError):
    """Unusable data. The message is one line: the file, the place in it, the value, and what to do."""


@dataclass(frozen=True)
class Columns:
    """Columns to read, and column names that must not be taken.

    Args:
        text: Name of the text column; `None` for the first of `TEXT_COLUMNS` found.
        label: Name of the label column; `None` for the first of `LABEL_COLUMNS` found.
        labelled: Whether to read labels.
        added: Names of columns that the caller will add.
    """

    text: str | None = None
    label: str | None = None
    labelled: bool = True
    added: tuple[str, ...] = ()

    def find(self, where: str, names: Sequence[str]) -> tuple[int, int | None]:
        """Return the positions of the text column and of the label column (`None` if labels are not read).

        An exact match takes precedence over one that differs in case or surrounding white space.

        Raises:
            DataError: A column is missing or ambiguous, or a name in `added` is taken.
        """
        label = _find(where, names, "label", self.label, LABEL_COLUMNS) if self.labelled else None
        text = _find(where, names, "text", self.text, TEXT_COLUMNS)
        for name in self.added:
            if name in names:
                raise DataError(f"{where}: column {name!r} already exists; --prefix pred_ writes 'pred_{name}' instead")
        return text, label


def _find(where: str, names: Sequence[str], kind: str, wanted: str | None, known: Sequence[str]) -> int:
    for name in known if wanted is None else (wanted,):
        found = [i for i, there in enumerate(names) if there == name]
        found = found or [i for i, column in enumerate(names) if column.strip().lower() == name.strip().lower()]
        if len(found) > 1:
            raise DataError(f"{where}: several columns are called {name!r}; rename all but one of {short(list(names))}")
        if found:
            return found[0]
    looked_for = ", ".join(known) if wanted is None else repr(wanted)
    found = f"found: {short(list(names))}; name it with --{kind}-column"
    raise DataError(f"{where}: there is no {kind} column ({looked_for}); {found}")


@dataclass(frozen=True)
class DataFile:
    """A file to read: a path, an open file handle such as standard input's, or the one data file in a zip."""

    path: Path | int
    name: str
    """Name in errors."""
    suffix: str
    member: str | None = None
    """Name inside the zip, if it is in one."""
    stamp: list[int] | None = None
    """`files.stamp` of the file when it was found."""

    @classmethod
    def find(cls, path: str | os.PathLike, suffixes: Sequence[str] = SUFFIXES, name: str | None = None) -> "DataFile":
        """Return the file at a path, or the data file in a zip; errors call it `name`.

        Raises:
            DataError: There is no such file, its extension is not in `suffixes`, or a zip does not hold one data file.
        """
        name = os.fspath(path) if name is None else name
        file = cls(Path(path), name, suffix_of(os.fspath(path), suffixes))
        with file.open() as opened:
            file = replace(file, stamp=stamp(file.path))
            if not file.suffix:
                raise DataError(f"{name}: unknown file extension; use one of {', '.join(suffixes)}")
            if file.suffix != ".zip":
                return file
            with zipfile.ZipFile(opened) as archive:
                members = [m for m in archive.namelist() if suffix_of(m) not in ("", ".zip") and "__MACOSX/" not in m]
        members = [m for m in members if PurePosixPath(m).name == UCI_MEMBER] or members
        if len(members) != 1:
            raise DataError(f"{name}: the zip must hold one data file; found {len(members)}: {short(members)}")
        return replace(file, name=f"{name}/{members[0]}", suffix=suffix_of(members[0]), member=members[0])

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file in binary mode; errors while opening or reading it become a `DataError`."""
        try:
            with ExitStack() as stack:
                file = stack.enter_context(open(self.path, "rb", closefd=isinstance(self.path, Path)))
                if self.member is not None:
                    file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(self.member))
                yield file
        except (DataError, pa.ArrowException):
            raise
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file, and not a Hub dataset id such as 'owner/name'") from None
        except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            fault = "broken zip" if self.suffix == ".zip" or self.member else "cannot be read"
            raise DataError(f"{self.name}: {fault} ({first_line(error)})") from error

    def head(self) -> bytes:
        """Return the first bytes, or none of a pipe, which can only be read once."""
        if isinstance(self.path, int):
            return b""
        with self.open() as file:
            return file.read(HEAD_BYTES)

    @contextmanager
    def text(self, encoding: str, line_end: str = "\n") -> Iterator[io.TextIOWrapper]:
        """Open the file as text, keeping line endings."""
        with self.open() as file:
            yield io.TextIOWrapper(file, encoding, newline=line_end)

    def wrong_byte(self, error: UnicodeDecodeError, line: int) -> DataError:
        """Return the error for a block of bytes that starts on `line` and cannot be decoded."""
        line += error.object.count(b"\n", 0, error.start)
        byte = f"byte {error.object[error.start]:#04x}"
        return DataError(f"{self.name}, line {line}: not UTF-8 ({byte}); save the file as UTF-8")

    def check_unchanged(self) -> None:
        """Raise a `DataError` if the file has changed since it was found."""
        if self.stamp is not None and (not self.path.exists() or stamp(self.path) != self.stamp):
            raise DataError(f"{self.name}: the file changed while it was read; run the command again")


@dataclass(frozen=True)
class Dialect:
    """Format of a delimited file."""

    delimiter: str
    line_end: str
    header: bool
    """Whether the first line names the columns; otherwise they are label and text."""
    quoting: int
    """`csv.QUOTE_NONE` if quotes are part of the text, as in the UCI collection."""
    strict: bool
    """Whether text after a closing quote is an error."""


def find_dialect(file: DataFile, columns: Columns, book_quotes: bool = False) -> Dialect:
    """Detect the dialect of a .csv or .tsv file from its first bytes.

    A file that starts with a ham or spam label has no header. (So "ham,text" is the message "text".)

    Args:
        file: The file.
        columns: Columns to read. A first line that contains a column named by the user is a header.
        book_quotes: Whether to interpret quotes in a TSV without a header, as the book does with the defaults of
            `pandas.read_csv`. In the UCI collection this merges a few messages.
    """
    head, delimiter = file.head(), DELIMITERS[file.suffix]
    text = head.decode(find_encoding(head), errors="replace")
    cells = [cell.strip().strip('"').lower() for cell in re.split(r"[\r\n]", text, maxsplit=1)[0].split(delimiter)]
    named = {name.strip().lower() for name in (columns.text, columns.label) if name is not None}
    header = cells[0] not in LABELS or not named.isdisjoint(cells)
    line_end = "\r" if "\r" in text and "\n" not in text else "\n"
    unquoted = delimiter == "\t" and (not header or _quotes_mean_nothing(file, line_end))
    return Dialect(
        delimiter=delimiter,
        line_end=line_end,
        header=header,
        quoting=csv.QUOTE_NONE if unquoted and not book_quotes else csv.QUOTE_MINIMAL,
        strict=not (unquoted and book_quotes),
    )


def _quotes_mean_nothing(file: DataFile, line_end: str) -> bool:
    """Return whether a TSV has quotes that are not CSV's, and each of its lines is a row when they are ignored."""
    encoding = find_encoding(file.head())
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        with file.text(encoding, line_end) as text:
            if not any('\t"' in line for line in text):
                return False
        with file.text(encoding, line_end) as text:
            for _ in csv.reader(text, delimiter="\t", strict=True):
                pass
    except UnicodeDecodeError:
        return False
    except csv.Error:
        with file.text(encoding, line_end) as text:
            return len({line.count("\t") for line in text if line.strip()}) == 1
    return False


def find_encoding(head: bytes) -> str:
    """Detect the encoding of a text file from its first bytes."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Kaggle's copy of the UCI collection is Latin-1. Anything decodes as Latin-1, so no other file is read that way.
    if re.match(rb'"?v1"?,"?v2\b', head):
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def suffix_of(name: str, suffixes: Sequence[str] = SUFFIXES) -> str:
    """Return the extension of a file name if it is one of `suffixes`, else ""; the UCI file counts as a TSV."""
    path = PurePosixPath(name.replace(os.sep, "/"))
    if path.name == UCI_MEMBER:
        return ".tsv"
    return path.suffix.lower() if path.suffix.lower() in suffixes else ""


def is_hub_id(name: str) -> bool:
    """Return whether a name looks like a Hub dataset id, owner/name, and is not a local file."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not os.path.exists(name)
