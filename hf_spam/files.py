"""Atomic writes, manifests and hashes: a file or folder is complete, or it is not there."""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).parent / "bundled"  # the trained model that comes with the package
MANIFEST = "manifest.json"
HISTORY = "history.json"  # written by training: the recipe (and with it the split of the data) and the losses

_hashes: dict[tuple[int, ...], dict[str, Any]] = {}
"""Results of `hash_file` by device, inode, size and modification time."""


def write_folder(folder: Path, fill: Callable[[Path], None], about: dict[str, Any] | None = None) -> None:
    """Write or replace a folder atomically: under a temporary name, flushed to disk, then renamed.

    `fill` writes the files into the folder passed to it. `about` becomes a manifest, with the size and hash of every
    file; without it there is none, for folders whose files may be edited later. An error leaves nothing behind.
    """
    unique = f"{folder.name}-{uuid.uuid4().hex[:8]}"
    temporary, replaced = folder.with_name(f".writing-{unique}"), folder.with_name(f".replaced-{unique}")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        if about is not None:
            hashes = {name: hash_file(temporary / name) for name in files_in(temporary)}
            write_json(temporary / MANIFEST, {**about, "files": hashes})
        for name in files_in(temporary):
            flush(temporary / name)
        flush(temporary)
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(temporary, folder)
        flush(folder.parent)
    finally:
        if replaced.exists() and not folder.exists():
            os.replace(replaced, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raise `FileExistsError` if `folder` exists and is not an empty folder, or is the current one."""
    if folder.exists() and folder.samefile(Path.cwd()):
        raise FileExistsError(f"{folder} is the current folder, which would be replaced; name another one.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already exists and is not an empty folder.")


def check_new(folder: Path) -> None:
    """Raise an `OSError` if a folder exists or cannot be created; nothing is left behind."""
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} already exists; choose another folder.")
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raise an `OSError` if a folder cannot be created or written to; nothing is left behind."""
    try:
        with tempfile.TemporaryDirectory(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, or raise a `ValueError` that names a file that is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} is incomplete: it has no readable {MANIFEST}") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} is incomplete: {name} is missing")
        if hash_file(path) != expected:
            raise ValueError(f"{folder} is damaged: {name} has changed since it was written")
    return manifest


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a file atomically: under a temporary name, flushed to disk, then renamed."""
    temporary = path.with_name(f".writing-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinities, which JSON cannot hold, raise a `ValueError`."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def hash_file(path: Path) -> dict[str, Any]:
    """Return the size of a file in bytes and its sha256.

    A process hashes no file twice, not even after it was moved or linked.
    """
    key = (path.stat().st_dev, *stamp(path))
    if key not in _hashes:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
            _hashes[key] = {"size": file.tell(), "sha256": digest.hexdigest()}
    return dict(_hashes[key])


def stamp(path: Path) -> list[int]:
    """Return inode, size and modification time: they survive renaming a file and change when it is written."""
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def export_folder(graph: Path) -> Path:
    """Return the folder of the export that an ONNX graph belongs to: its own, or the one above if that is `onnx`."""
    folder = graph.absolute().parent
    return folder.parent if folder.name == "onnx" else folder


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_in(folder: Path) -> list[str]:
    """Return the relative paths of all files in a folder and its subfolders."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def public(value: Any) -> Any:
    """Return a setting as it may be published: local paths, which commas may separate, lose their folders."""
    if isinstance(value, str) and "," in value and not Path(value).exists():
        return ",".join(map(public, value.split(",")))
    return Path(value).name if is_path(value) else value


def is_path(value: Any) -> bool:
    """Return whether a setting is a path on this machine, existing or not."""
    if not isinstance(value, str):
        return False
    return Path(value).exists() or value.count("/") > 1 or value.startswith((".", "~", "/"))


def versions() -> dict[str, str]:
    """Return the versions of this package and of the installed libraries that its results depend on."""
    found = {}
    for name in ("hf-spam", "torch", "transformers", "accelerate", "tokenizers"):
        with suppress(PackageNotFoundError):  # the extra `train` may not be installed
            found[name] = version(name)
    return found
