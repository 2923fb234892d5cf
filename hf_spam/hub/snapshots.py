"""What waits to be pushed: snapshots of a model's files, frozen in a queue on disk."""

import contextlib
import json
import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..files import MANIFEST, read_manifest, write_folder

logger = logging.getLogger(__name__)

QUEUE = "hub-queue"
# What of a model's folder is published; nothing else that lies there is.
PUBLISHED = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "configuration_*.py", "modeling_*.py"),
    "pipeline_*.py",
    *("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("README.md", "metrics.json", "history.json", "*-plot.png", "*-plot.pdf"),
)
MAIN = "main"  # the branch that every repository has
STATE_BRANCH = "training-state"
Kind = Literal["checkpoint", "final", "state"]
Strategy = Literal["end", "checkpoint", "every_save", "best"]
"""What a run pushes: the final model only (end); every checkpoint too (every_save), with its training state
(checkpoint); or each checkpoint with the lowest validation loss so far (best)."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files that are to become one commit."""

    files: Path
    """The folder of the files."""
    repo_id: str
    revision: str
    private: bool
    run_id: str
    step: int | None
    """Optimizer step of the weights. None: not known."""
    kind: Kind
    is_best: bool

    @property
    def title(self) -> str:
        what = {"checkpoint": "checkpoint", "final": "final model", "state": "training state"}[self.kind]
        return what if self.step is None else f"{what}, step {self.step}"

    @property
    def signature(self) -> str:
        """What tells this commit from all others."""
        return f"hf_spam run {self.run_id}, {self.title}"


class Queue:
    """Frozen snapshots in a folder, in the order in which they came: each a folder with `files` and a manifest."""

    def __init__(self, folder: Path):
        self.folder = folder

    def snapshots(self) -> list[Snapshot]:
        """All that wait; whether their files are as they were frozen is seen when they are sent."""
        found = []
        for folder in self.folders():
            try:
                about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                found.append(Snapshot(files=folder / "files", **{key: about[key] for key in _ABOUT}))
            except (OSError, ValueError, KeyError, TypeError):
                logger.warning("%s is passed over: it has no readable %s.", folder, MANIFEST)
        return found

    def freeze(self, source: Path, names: list[str], **about: Any) -> Snapshot:
        """Makes a snapshot of files of a folder.

        They are linked, which takes no time and no room: nothing of ours ever writes into a file that is there, and
        what anybody else does to it shows in the checksum before it is sent. Where there are no links they are copied.

        Raises:
            OSError: there is no room for it; nothing of the snapshot is left.
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
        """The names of a snapshot's files.

        Raises:
            ValueError: they are not as they were frozen.
        """
        if not self.holds(snapshot):
            return published(snapshot.files)
        return [name.removeprefix("files/") for name in read_manifest(snapshot.files.parent)["files"]]

    def remove(self, snapshot: Snapshot) -> None:
        """Takes a snapshot out, at once and for good."""
        if self.holds(snapshot):
            gone = self.folder / f".gone-{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):  # what stays is found in the history when it is sent again
                os.replace(snapshot.files.parent, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def tidy(self) -> None:
        """Deletes what a process that was killed has left half made or half deleted."""
        for left in [*self.folder.glob(".gone-*"), *self.folder.glob(".writing-*")]:
            shutil.rmtree(left, ignore_errors=True)

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether it is frozen; what could not be is sent from the folder that it is in."""
        return snapshot.files.parent.parent == self.folder

    def folders(self) -> list[Path]:
        """Those that are snapshots by name, whole or not, in their order."""
        return sorted(path for path in self.folder.glob("*") if re.fullmatch(r"\d{6}-\w+", path.name))


_ABOUT = [field.name for field in fields(Snapshot) if field.name != "files"]


def published(folder: Path) -> list[str]:
    """The files of a model's folder that are published, by name."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return [name for name in names if any(fnmatch(name, pattern) for pattern in PUBLISHED)]
