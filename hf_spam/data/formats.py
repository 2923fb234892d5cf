"""Find data files, and say how to read them: columns, meaning of labels, encoding, and what to do with bad rows."""

import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from ..files import stamp
from ..text import first_line, short

# If a file has several of these columns, the first name in the list wins.
TEXT_COLUMNS = ("text", "message", "sms", "v2", "messages", "content", "body", "sentence")
LABEL_COLUMNS = ("label", "category", "class", "v1", "labels", "target", "is_spam", "spam")
HAM_WORDS, SPAM_WORDS = ("ham", "not spam", "not_spam", "0", "false"), ("spam", "1", "true")
LABELS = dict.fromkeys(HAM_WORDS, 0) | dict.fromkeys(SPAM_WORDS, 1)

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}  # that the extension stands for; a file may use another
JSON_LINES = (".jsonl", ".json")
PLAIN_TEXT = ".txt"  # one message per line without labels, unless it is a table
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet", ".zip")
COMPRESSED = ".gz"
UCI_MEMBER = "SMSSpamCollection"  # a TSV without an extension, on its own or in UCI's zip
HEAD_BYTES = 2**16


class DataError(ValueError):
    """Unusable data. The message is one line: the file, the place in it, the value, and what to do."""


class MissingColumn(DataError):
    """There is no text column or no label column."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read a source. The first five settings are those of `load_sms_spam`.

    Args:
        text_column: Text column, or several separated by commas, whose texts are joined.
        label_column: Label column.
        label_map: Meaning of labels.
        encoding: Encoding of text files; `None` to detect it.
        skip_bad_rows: Whether to leave out rows that cannot be read.
        labelled: Whether to read labels. Without labels, texts may be missing or empty.
        added: Names of columns that the caller will add.
        remembered: Text and label columns that a model was trained on: used if they exist and no others are named.
    """

    text_column: str | None = None
    label_column: str | None = None
    label_map: str | Mapping[str, str] | None = None
    encoding: str | None = None
    skip_bad_rows: bool = False
    labelled: bool = True
    added: tuple[str, ...] = ()
    remembered: tuple[str | None, str | None] = (None, None)

    @cached_property
    def meanings(self) -> dict[str, str]:
        """What the labels of `label_map` mean, by label in lower case."""
        return parse_label_map(self.label_map)

    def find(self, where: str, names: Sequence[str]) -> tuple[list[int], int | None]:
        """Return the positions of the text columns, and of the label column (`None` if labels are not read).

        An exact match takes precedence over one that differs in case or surrounding white space.

        Raises:
            DataError: A column is missing or ambiguous, or a name in `added` is taken.
        """
        for name in self.added:
            if name in names:
                raise DataError(
                    f"{where}: column {name!r} already exists; write another one with --prefix, such as new_"
                )
        label = self.find_label(where, names) if self.labelled else None
        text = _named_or_remembered(names, self.text_column, self.remembered[0])
        if text is None or _positions(names, text):
            return [_find(where, names, "text", text, TEXT_COLUMNS)], label
        return [_find(where, names, "text", part, TEXT_COLUMNS) for part in text.split(",")], label

    def find_label(self, where: str, names: Sequence[str]) -> int:
        """Return the position of the label column."""
        label = _named_or_remembered(names, self.label_column, self.remembered[1])
        return _find(where, names, "label", label, LABEL_COLUMNS)

    def is_label(self, cell: str) -> bool:
        """Return whether a cell says ham or spam, by itself or by the label map."""
        return (key := label_key(cell)) in LABELS or key in self.meanings


def label_key(value: object) -> str:
    """Return what labels have in common that differ only in case, white space or ".0"; "" for a missing one."""
    if value is None or value != value:  # NaN does not equal itself
        return ""
    key = " ".join(str(value).split()).casefold()
    key = re.sub(r"^(-?\d+)\.0+$", r"\1", key)  # a column with a missing number has 0.0 and 1.0
    return "" if key in ("nan", "null", "<na>") else key


def parse_label_map(label_map: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return the meaning of each label, by label in lower case: "not spam", "spam", or the name of another class.

    Raises:
        DataError: An entry is not OLD=NEW, or two entries contradict each other.
    """
    if isinstance(label_map, str):
        entries = [entry.rpartition("=") for entry in label_map.split(",")]
        label_map = [(old, new) for old, _, new in entries]
    else:
        label_map = list((label_map or {}).items())
    meanings: dict[str, str] = {}
    for old, new in label_map:
        key, meaning = label_key(old), " ".join(str(new).split())
        if not key or not meaning:
            entry = short(f"{old}={new}" if old else str(new))
            raise DataError(f"label map: {entry} is not OLD=NEW; write, for example, legit=ham,smishing=spam")
        if (known := LABELS.get(meaning.casefold())) is not None:
            meaning = ("not spam", "spam")[known]
        if meanings.setdefault(key, meaning) != meaning:
            raise DataError(f"label map: {short(key)} cannot mean both {meanings[key]!r} and {meaning!r}")
    return meanings


def _named_or_remembered(names: Sequence[str], named: str | None, remembered: str | None) -> str | None:
    if named is None and remembered is not None and all(_positions(names, part) for part in remembered.split(",")):
        return remembered
    return named


def _positions(names: Sequence[str], wanted: str) -> list[int]:
    exact = [i for i, name in enumerate(names) if name == wanted]
    return exact or [i for i, name in enumerate(names) if name.strip().casefold() == wanted.strip().casefold()]


def _find(where: str, names: Sequence[str], kind: str, wanted: str | None, known: Sequence[str]) -> int:
    for name in known if wanted is None else (wanted,):
        found = _positions(names, name)
        if len(found) > 1:
            raise DataError(f"{where}: several columns are called {name!r}; rename all but one of {short(list(names))}")
        if found:
            return found[0]
    looked_for = f"called {', '.join(known)}" if wanted is None else repr(wanted)
    advice = f"name it with --{kind}-column"
    if len(names) == 1:
        advice += "; if that is a message, add a header line"
    raise MissingColumn(f"{where}: there is no {kind} column {looked_for}; found: {short(list(names))}; {advice}")


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
    def find(cls, path: str | os.PathLike, name: str | None = None) -> "DataFile":
        """Return the file at a path, or the data file in a zip; errors call it `name`.

        Raises:
            DataError: There is no such file, its extension is not in `SUFFIXES`, or a zip does not hold one data file.
        """
        name = os.fspath(path) if name is None else name
        file = cls(Path(path), name, suffix_of(os.fspath(path)))
        with file.open() as opened:
            file = replace(file, stamp=stamp(file.path))
            if not file.suffix:
                known = ", ".join(SUFFIXES)
                raise DataError(f"{name}: unknown file extension; save it as CSV, or use one of {known}")
            if file.suffix != ".zip":
                return file
            with zipfile.ZipFile(opened) as archive:
                files = [m for m in archive.namelist() if suffix_of(m) not in ("", ".zip") and "__MACOSX/" not in m]
        members = [m for m in files if PurePosixPath(m).name == UCI_MEMBER]
        members = members or [m for m in files if suffix_of(m) != PLAIN_TEXT] or files  # not a readme.txt beside it
        if len(members) != 1:
            found = f"found {len(members)}: {short(members)}; unpack it and name one of them"
            raise DataError(f"{name}: the zip must hold one data file; {found}")
        return replace(file, name=f"{name}/{members[0]}", suffix=suffix_of(members[0]), member=members[0])

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file in binary mode, decompressed; errors while opening or reading it become a `DataError`."""
        try:
            with ExitStack() as stack:
                file = stack.enter_context(open(self.path, "rb", closefd=isinstance(self.path, Path)))
                if self.member is not None:
                    file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(self.member))
                if str(self.member or self.path).lower().endswith(COMPRESSED):
                    file = stack.enter_context(gzip.open(file))
                yield file
        except (DataError, pa.ArrowException):
            raise
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file, and not a Hub dataset id such as 'owner/name'") from None
        except IsADirectoryError:
            raise DataError(f"{self.name}: is a folder; name a file in it") from None
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

    def check_unchanged(self) -> None:
        """Raise a `DataError` if the file has changed since it was found."""
        if self.stamp is not None and (not self.path.exists() or stamp(self.path) != self.stamp):
            raise DataError(f"{self.name}: the file changed while it was read; run the command again")


def suffix_of(name: str) -> str:
    """Return the extension of a file name, without .gz, if it is one of `SUFFIXES`, else "".

    The UCI file counts as a TSV.
    """
    path = PurePosixPath(name.replace(os.sep, "/"))
    is_compressed = path.suffix.lower() == COMPRESSED
    path = path.with_suffix("") if is_compressed else path
    if path.name == UCI_MEMBER:
        return ".tsv"
    return suffix if (suffix := path.suffix.lower()) in SUFFIXES and not (is_compressed and suffix == ".zip") else ""


def is_hub_id(name: str) -> bool:
    """Return whether a name looks like a Hub dataset id, owner/name, and is not a local file."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not os.path.exists(name)
