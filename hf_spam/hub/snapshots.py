"""The upload queue: snapshots of a model's files, frozen on disk until they are pushed."""

import contextlib
import json
import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

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
MAIN = "main"  # the default branch
STATE_BRANCH = "training-state"
Kind = Literal["checkpoint", "final", "state"]
Strategy = Literal["end", "checkpoint", "every_save", "best"]
"""Pushes only the final model (end), also every checkpoint (every_save), also the checkpoints' training state
(checkpoint), or each checkpoint with the lowest validation loss so far (best)."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files to push as one commit."""

    files: Path
    repo_id: str
    revision: str
    private: bool
    run_id: str
    step: int | None
    """Optimizer step of the weights. `None` if unknown."""
    kind: Kind
    is_best: bool

    @property
    def title(self) -> str:
        """Title of the commit."""
        what = {"checkpoint": "checkpoint", "final": "final model", "state": "training state"}[self.kind]
        return what if self.step is None else f"{what}, step {self.step}"

    @property
    def signature(self) -> str:
        """Line in the commit's description that identifies it."""
        return f"hf_spam run {self.run_id}, {self.title}"


class Queue:
    """Frozen snapshots in the order they were made, each a folder with its `files` and a manifest."""

    def __init__(self, folder: Path):
        self.folder = folder

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots. Their files are checked when they are sent."""
        keys = [field.name for field in fields(Snapshot) if field.name != "files"]
        found = []
        for folder in self.folders():
            try:
                about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                found.append(Snapshot(files=folder / "files", **{key: about[key] for key in keys}))
            except (OSError, ValueError, KeyError, TypeError):
                logger.warning("Ignoring %s: it has no readable %s.", folder, MANIFEST)
        return found

    def freeze(self, source: Path, names: list[str], **about: Any) -> Snapshot:
        """Make a snapshot of files in a folder.

        The files are hard-linked, which takes neither time nor space: this package never changes a file in place, and
        any other change is noticed by its hash before sending. If linking fails, the files are copied.
        """
        last = max((int(folder.name.partition("-")[0]) for folder in self.folders()), default=0)
        folder = self.folder / f"{last + 1:06d}-{about['kind']}"

        def fill(folder: Path) -> None:
            for name in names:
                target = folder / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source / name, target)
                except OSError:
                    shutil.copy(source / name, target)

        write_folder(folder, fill, about)
        return Snapshot(files=folder / "files", **about)

    def check(self, snapshot: Snapshot) -> list[str]:
        """Return the names of a snapshot's files, after checking that none has changed since it was frozen."""
        if not self.holds(snapshot):
            return published(snapshot.files)
        return [name.removeprefix("files/") for name in read_manifest(snapshot.files.parent)["files"]]

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot, atomically."""
        if self.holds(snapshot):
            deleted = self.folder / f".deleted-{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):  # if it stays, sending it again finds its commit
                os.replace(snapshot.files.parent, deleted)
            shutil.rmtree(deleted, ignore_errors=True)

    def tidy(self) -> None:
        """Delete the partly written and partly deleted snapshots of a killed process."""
        for folder in [*self.folder.glob(".deleted-*"), *self.folder.glob(".writing-*")]:
            shutil.rmtree(folder, ignore_errors=True)

    def holds(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot is frozen in this queue. Otherwise it is sent from its original folder."""
        return snapshot.files.parent.parent == self.folder

    def folders(self) -> list[Path]:
        """Return the folders of all snapshots, readable or not, in order."""
        return sorted(path for path in self.folder.glob("*") if re.fullmatch(r"\d{6}-\w+", path.name))


def published(folder: Path) -> list[str]:
    """Return the names of the files in the folder of a model or an export that are pushed."""
    found = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)
