"""Find data files and open them: paths, extensions, and what is compressed or in a zip."""

import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..files import stamp
from ..text import first_line, short

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}  # that the extension stands for; a file may use another
JSON_LINES = (".jsonl", ".json")
PLAIN_TEXT = ".txt"  # one message per line without labels, unless it is a table
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet", ".zip")
COMPRESSED = ".gz"
UCI_MEMBER = "SMSSpamCollection"  # a TSV without an extension, on its own or in UCI's zip
HEAD_BYTES = 2**16
NO_TEXT = {  # first bytes of files that are not text
    b"PK\x03\x04": ("an Excel file or a zip", "save it as CSV, or call it .zip"),
    b"\x1f\x8b": ("compressed", "let its name end in .gz"),
    b"PAR1": ("a Parquet file", "call it .parquet"),
    b"<!doctype html": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file itself with git lfs pull"),
}


class DataError(ValueError):
    """Unusable data. The message is one line: the file, the place in it, the value, and what to do."""


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
    encoding: str = "utf-8-sig"
    line_end: str = "\n"
    """Line end of a text file: LF (also if lines end in CRLF) or CR."""

    @classmethod
    def find(cls, path: str | os.PathLike, name: str | None = None) -> "DataFile":
        """Return the file at a path, or the data file in a zip; errors call it `name`."""
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
                every = [m for m in archive.namelist() if not re.search(r"(^|/)(\.[^./]|__MACOSX/)", m)]
        files = [m for m in every if suffix_of(m) not in ("", ".zip")]
        members = [m for m in files if PurePosixPath(m).name == UCI_MEMBER]
        members = members or [m for m in files if suffix_of(m) != PLAIN_TEXT] or files  # not a readme.txt beside it
        if len(members) != 1:
            found = f"found {len(members)}: {short(members)}" if members else f"it holds {short(every)}"
            raise DataError(f"{name}: the zip must hold one data file; {found}; unpack it and name one of them")
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
        except DataError:
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

    def head_text(self) -> str:
        """Return the first bytes as text; those of a character that is cut off at the end become U+FFFD."""
        return self.head().decode(self.encoding, errors="replace")

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        """Open the file as text, keeping line endings."""
        with self.open() as file:
            yield io.TextIOWrapper(file, self.encoding, newline=self.line_end)

    def check_unchanged(self) -> None:
        """Raise a `DataError` if the file has changed since it was found."""
        if self.stamp is not None and (not self.path.exists() or stamp(self.path) != self.stamp):
            raise DataError(f"{self.name}: the file changed while it was read; run the command again")


def check_content(file: DataFile) -> None:
    """Raise a `DataError` if a text file is none, whatever its extension says."""
    head = file.head()[:64].lstrip()
    for start, (kind, advice) in NO_TEXT.items():
        if head.startswith(start) or head.lower().startswith(start):
            raise DataError(f"{file.name}: this is {kind}; {advice}")


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
    """Return whether a name looks like that of a repository on the Hub, owner/name, and is no local or data file's."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not (os.path.exists(name) or suffix_of(name))
