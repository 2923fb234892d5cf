"""Files and folders of parts, on a disk or in an object store, through the file systems of Arrow.

Reading tasks import this module: without torch, they start seconds earlier.
"""

import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from fsspec.utils import glob_translate
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from ..data.formats import DataError, DataFile, is_hub_id, suffix_of
from ..data.readers import JsonReader, open_file
from ..data.reading import Reading
from ..data.rows import check_input
from ..data.windows import Window
from ..files import write_file
from ..text import first_line

PART, SUCCESS = "part-{file:05d}-{number:06d}{suffix}", "_SUCCESS"


def resolve(path: str | os.PathLike) -> tuple[FileSystem, str]:
    """Return the file system of a path or URI, and the path there."""
    name = os.fspath(path)
    if "://" not in name:
        return LocalFileSystem(), os.path.abspath(name)
    if name.startswith(("s3:", "gs:", "file:")):  # the others are not decoded
        name = quote(name, safe="/:@?&=%+,;~$!'()")
    try:
        return FileSystem.from_uri(name)
    except ValueError as error:
        raise DataError(f"{path}: {first_line(error)}") from error


def find_files(source: str | os.PathLike) -> tuple[FileSystem, list[str]]:
    """Return the file system of a file, folder or pattern, and the paths of its data files there, sorted.

    In folders, names that start with "." or "_" are skipped, as Spark and Hive do.
    """
    if is_hub_id(os.fspath(source)):
        raise DataError(f"{source}: no such file; write hf://datasets/{source} for the files of a dataset on the Hub")
    try:
        filesystem, path = resolve(source)
        if filesystem.get_file_info(path).type is FileType.File:
            return filesystem, [path]
        base = path.partition("*")[0].rpartition("/")[0] if "*" in path else path
        found = filesystem.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({first_line(error)})") from error
    files = [info.path for info in found if info.type is FileType.File and suffix_of(info.path)]
    if "*" in path:
        files = list(filter(re.compile(glob_translate(path)).match, files))
    files = [path for path in files if not re.search(r"/[._]", path.removeprefix(base))]
    if not files:
        raise DataError(f"{source}: no such file, or no data files in it")
    return filesystem, sorted(files)


@contextmanager
def local_copy(filesystem: FileSystem, path: str) -> Iterator[DataFile]:
    """Yield a file; a remote one is copied to the local disk while it is in use."""
    if isinstance(filesystem, LocalFileSystem):
        yield DataFile.find(path)
        return
    with tempfile.TemporaryDirectory(prefix="hf-spam-") as folder:
        copy = Path(folder, PurePosixPath(path).name)
        try:
            copy_files(path, str(copy), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
        yield DataFile.find(copy, name=path)


def check_folder(filesystem: FileSystem, folder: str, overwrite: bool) -> list[str]:
    """Return the files of an earlier run in a folder for parts, `SUCCESS` first; an error without `overwrite`."""
    if filesystem.get_file_info(folder).type is FileType.File:
        raise FileExistsError(f"{folder} is a file; name a folder.")
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    if found and not overwrite:
        raise FileExistsError(f"{folder} already exists; use --overwrite to replace it.")
    if any(not re.fullmatch(rf"part-\d+-\d+\.\w+|{SUCCESS}|\.writing-.*", info.base_name) for info in found):
        raise ValueError(f"{folder} holds other files; name another folder, or move them away.")
    if isinstance(filesystem, LocalFileSystem) and not Path(folder).parent.is_dir():
        raise FileNotFoundError(f"{folder}: there is no folder {Path(folder).parent}.")
    return [info.path for info in sorted(found, key=lambda info: info.base_name != SUCCESS)]


def make_folder(filesystem: FileSystem, folder: str, earlier: Iterable[str]) -> None:
    """Make a folder for the parts, without the files of an earlier run."""
    for path in earlier:
        filesystem.delete_file(path)
    if isinstance(filesystem, LocalFileSystem):  # object stores have no folders
        Path(folder).mkdir(exist_ok=True)


def write(filesystem: FileSystem, path: str, data: bytes) -> None:
    if isinstance(filesystem, LocalFileSystem):
        write_file(Path(path), data)
        return
    with filesystem.open_output_stream(path) as file:  # of an object store: nothing is there until it is closed
        file.write(data)


def read_windows(
    row: dict[str, Any], filesystem: FileSystem, reading: Reading, window_size: int, suffix: str
) -> Iterator[dict[str, Any]]:
    """Check a whole file, then yield its windows, each pickled with the reader; last, yield what is wrong with it.

    The row has the `path` of the `file`, a number, for `flat_map` of Ray Data.
    """
    number = 0
    try:
        with local_copy(filesystem, row["path"]) as file:
            reader = open_file(file, reading)
            if isinstance(reader, JsonReader) and suffix == ".parquet":
                reader = JsonTables(reader.file, reader.reading)
            check_input(reader, window_size, suffix)
            for window in reader.windows(window_size):
                if isinstance(window.rows, pa.Table):
                    window = replace(window, rows=_compact(window.rows))
                yield {"file": row["file"], "number": number, "fault": "", "window": pickle.dumps((reader, window))}
                number += 1
            file.check_unchanged()
    except DataError as error:
        yield {"file": row["file"], "number": number, "fault": str(error), "window": b""}


class JsonTables(JsonReader):
    """Read JSON as tables, with the keys of all rows of a window; a key that a row lacks is null there."""

    def table(self, window: Window) -> pa.Table:
        try:
            rows = [json.loads(line) for line in window.rows]
            names = dict.fromkeys(name for row in rows for name in row) or [self.reading.text_column or "text"]
            return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        except (pa.ArrowException, ValueError, OverflowError) as error:
            place = self.place(window, 0) if len(window) else self.name
            raise DataError(f"{place} and after: {first_line(error)}; write .jsonl") from None


def _compact(table: pa.Table) -> pa.Table:
    """Return a table without the rest of the data that it is a slice of, which would be pickled with it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()
