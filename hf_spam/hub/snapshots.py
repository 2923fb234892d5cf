"""The upload queue: snapshots of a model's files, frozen on disk until they are pushed."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..files import MANIFEST, read_manifest, write_folder

logger = logging.getLogger(__name__)

QUEUE = "hub-queue"
PUBLISHED = (  # the only files of the folder of a model or an export that are pushed
    *("config.json", "*.safetensors", "*.safetensors.index.json", "onnx/*.onnx", "onnx/*.onnx_data"),
    *("configuration_*.py", "modeling_*.py", "pipeline_*.py"),
    *("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("README.md", "metrics.json", "history.json", "*-plot.png", "*-plot.pdf"),
    *("parity.json", "handler.py", "requirements.txt"),
)
WEIGHTS = (".safetensors", ".onnx", ".onnx_data")
Kind = Literal["checkpoint", "final", "state"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files to push as one commit: a folder with a manifest, and the files in its subfolder `files`."""

    folder: Path
    repo_id: str
    revision: str
    private: bool
    step: int
    """Optimizer step of the weights."""
    kind: Kind
    is_best: bool

    @property
    def title(self) -> str:
        """Title of the commit."""
        what = {"checkpoint": "checkpoint", "final": "final model", "state": "training state"}[self.kind]
        return f"{what}, step {self.step}"

    def files(self) -> dict[str, Path]:
        """Return the files by their names on the Hub, after checking that none has changed since it was frozen."""
        return {name.removeprefix("files/"): self.folder / name for name in read_manifest(self.folder)["files"]}

    def remove(self) -> None:
        """Delete the snapshot. If that fails, it is sent again later, which changes nothing."""
        with contextlib.suppress(OSError):
            (self.folder / MANIFEST).unlink()  # first: without a manifest, a killed process leaves no snapshot
            shutil.rmtree(self.folder)


class Queue:
    """Snapshots in the order they were made."""

    def __init__(self, folder: Path):
        self.folder = folder

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots."""
        found = []
        for folder in self._folders():
            try:
                about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                del about["files"]
                found.append(Snapshot(folder=folder, **about))
            except (OSError, ValueError, KeyError, TypeError):
                logger.warning("Ignoring %s: it has no readable %s.", folder, MANIFEST)
        return found

    def freeze(self, source: Path, names: list[str], **about: Any) -> Snapshot:
        """Make a snapshot of files in a folder.

        Weights are hard-linked, which takes neither time nor space: this package never changes a file in place, and any
        other change is noticed by its hash before sending. The other files are copied, since people edit a card.
        """
        last = max((int(folder.name.partition("-")[0]) for folder in self._folders()), default=0)
        folder = self.folder / f"{last + 1:06d}-{about['kind']}"

        def fill(folder: Path) -> None:
            for name in names:
                target = folder / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    (os.link if name.endswith(WEIGHTS) else shutil.copy)(source / name, target)
                except OSError:
                    shutil.copy(source / name, target)  # to another file system

        write_folder(folder, fill, about)
        return Snapshot(folder=folder, **about)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and delete what a killed one left unfinished; afterwards, remove an empty queue."""
        self.folder.mkdir(exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"Another process is pushing from {self.folder}; wait until it is done.") from None
        try:
            without_manifest = [folder for folder in self._folders() if not (folder / MANIFEST).exists()]
            for folder in [*self.folder.glob(".writing-*"), *without_manifest]:
                shutil.rmtree(folder, ignore_errors=True)
            yield
        finally:
            if not self._folders():
                shutil.rmtree(self.folder, ignore_errors=True)
            lock.release()

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*"))


def published(folder: Path) -> list[str]:
    """Return the names of the files in the folder of a model or an export that are pushed."""
    found = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)
