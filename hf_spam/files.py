"""Files and folders that are whole or are not there, some with a manifest by which damage is found."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_folder(folder: Path, fill: Callable[[Path], None], about: dict[str, Any] | None = None) -> None:
    """Makes `folder`: filled under another name, given its manifest, flushed to the disk, renamed.

    Args:
        folder: the folder; one of that name is replaced.
        fill: writes the files into the folder that it is given.
        about: what else a manifest says, beside which files there are and what is in them. None: there is none, since
            people may change what is in the folder.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    unique = f"{folder.name}-{uuid.uuid4().hex[:8]}"
    temporary, replaced = folder.with_name(f".writing-{unique}"), folder.with_name(f".replaced-{unique}")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        if about is not None:
            files = {name: fingerprint(temporary / name) for name in files_in(temporary)}
            (temporary / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=2) + "\n", encoding="utf-8")
        for name in files_in(temporary):
            flush(temporary / name)
        flush(temporary)
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(temporary, folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, once every file that it names is found to be as it was written.

    Raises:
        ValueError: the folder is not whole; the message says what is wrong with which file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} is not whole: it has no readable {MANIFEST}") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} is not whole: {name} is missing")
        if fingerprint(path) != expected:
            raise ValueError(f"{folder} is damaged: {name} is not as it was written")
    return manifest


def write_file(path: Path, data: bytes) -> None:
    """Makes a file, or replaces one: written under another name, flushed to the disk, renamed.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    temporary = path.with_name(f".writing-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """The size of a file in bytes, and the sha256 of what it holds."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def stamp(path: Path) -> list[int]:
    """What stays as it is when a file is renamed, and changes when it is written."""
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_in(folder: Path) -> list[str]:
    """The files of a folder and of those in it, by path."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def public(value: Any) -> Any:
    """A setting without the path to it on the machine that it was used on, which is nobody else's business."""
    return Path(value).name if is_path(value) else value


def is_path(value: Any) -> bool:
    """Whether a setting names something on this machine, be it there still or not."""
    if not isinstance(value, str):
        return False
    return Path(value).exists() or value.count("/") > 1 or value.startswith((".", "~", "/"))


def versions() -> dict[str, str]:
    """The versions of this package and of those that its numbers depend on."""
    return {name: version(name) for name in ("hf-spam", "torch", "transformers", "accelerate", "tokenizers")}
