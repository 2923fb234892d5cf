"""Push models to the Hub: in the background during training, or a finished folder.

Training never waits for an upload and never fails because of one. Every snapshot is frozen, with the hashes of its
files, before the worker thread sees it: the commit of step N holds the weights of step N even if the checkpoint has
been deleted meanwhile. A commit is made on top of the branch tip that was just read. If the answer to a commit is lost,
the next attempt finds nothing left to commit.
"""

import logging
import os
import shlex
import shutil
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import OfflineModeIsEnabled
from tenacity import sleep_using_event, stop_when_event_set

from ..conversion.remote_code import with_code
from ..files import MANIFEST, files_in, read_manifest
from ..hub_errors import explain, explained, is_transient
from ..signals import RunInterrupted
from .card import hub_id
from .repository import MAIN, check_timeout, keep_pushing, limited_silence, prepare_repository, push
from .snapshots import QUEUE, Kind, Queue, Snapshot, published

logger = logging.getLogger(__name__)

STATE_BRANCH = "training-state"
MAX_WAITING = 3  # models in the queue; beyond that, intermediate checkpoints are skipped


@dataclass(eq=False)
class Uploader:
    """Send snapshots to the Hub from a background thread; `RunOptions.hub_strategy` says which.

    Use it as a context manager. Entering checks that the repository is writable, and creates it and its branches if
    necessary; if the Hub cannot be reached, the worker thread does that later. Snapshots that an earlier run left in
    the queue are sent first. Leaving waits for pending uploads, at most `timeout` seconds; `left` are then those that
    were not sent. A `ValueError` says that `timeout` is invalid or, when entering, that pushing can never succeed.
    """

    output_dir: Path
    repo_id: str
    _: KW_ONLY
    strategy: str = "end"
    private: bool = False
    revision: str = MAIN
    timeout: float = 600.0

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        self.full_id = self.repo_id  # gets the owner as soon as the Hub can be reached
        self.state_branch = STATE_BRANCH if self.revision == MAIN else f"{self.revision}-{STATE_BRANCH}"
        self.queue = Queue(self.output_dir / QUEUE)
        self.left: list[Snapshot] = []
        self._resume_command = shlex.join(["hf-spam", "push", str(self.output_dir), "--resume"])
        self._waiting: list[Snapshot] = []
        self._closing = False
        self._change = threading.Condition()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hub-uploader", daemon=True)

    def __enter__(self) -> "Uploader":
        with ExitStack() as stack:
            stack.enter_context(self.queue.locked())
            stack.enter_context(limited_silence())
            self._waiting = self.queue.snapshots()
            if others := {snapshot.repo_id for snapshot in self._waiting} - {self.repo_id}:
                held = f"{self.queue.folder} holds uploads to {', '.join(others)}"
                raise ValueError(f"{held}; to push them: {self._resume_command}")
            self._preflight()
            self._thread.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        waits = error is None or isinstance(error, Exception | RunInterrupted)  # a plain Ctrl-C ends it at once
        timeout = self.timeout if waits else 0.0
        with self._change:
            self._closing = True
            self._change.notify()
        if timeout and self._thread.is_alive():
            logger.info("Waiting for uploads to %s ...", self.repo_id)
        try:
            self._thread.join(timeout)
        finally:  # also after Ctrl-C
            self._give_up.set()
            self._thread.join(1.0)  # a thread that is still in a request after that ends with the process
            self.left = self.queue.snapshots()
            self._cleanup.close()
            if self.left:
                titles = "; ".join(snapshot.title for snapshot in self.left)
                kept = f"Not pushed to {self.repo_id}: {titles}"
                logger.warning("%s. To push later, run: %s", kept, self._resume_command)

    def submit(self, folder: Path, step: int, kind: Kind, *, is_best: bool) -> None:
        """Freeze a checkpoint or the final model if the strategy includes it, and return at once."""
        about = {"step": step, "is_best": is_best}
        if kind == "final" or self.strategy != "end":
            if is_best or self.strategy != "best":
                self._freeze(folder, published(folder), kind=kind, revision=self.revision, **about)
            elif kind == "final":
                logger.info("The final model is not pushed: an earlier checkpoint has a lower validation loss.")
        if kind == "checkpoint" and self.strategy == "checkpoint":
            self._freeze(folder, files_in(folder), kind="state", revision=self.state_branch, **about)

    def fetch_checkpoint(self) -> Path:
        """Download the training state pushed by an earlier run, as a checkpoint of the output directory."""
        with tempfile.TemporaryDirectory(dir=self.output_dir, prefix=".fetching-") as temporary:
            folder = Path(temporary, "checkpoint")
            with explained(self.full_id):
                snapshot_download(self.full_id, revision=self.state_branch, local_dir=folder)
            if not (folder / MANIFEST).exists():  # the branch exists before anything is pushed to it
                missing = f"{self.full_id} has no training state in branch {self.state_branch!r}"
                raise ValueError(f"{missing}: push it with --hub-strategy checkpoint.")
            target = self.output_dir / f"checkpoint-{read_manifest(folder)['step']}"
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # written by the client
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
        return target

    # On the training thread

    def _preflight(self) -> None:
        try:
            self.full_id = prepare_repository(self.repo_id, self.revision, private=self.private)
            if self.strategy == "checkpoint":
                prepare_repository(self.repo_id, self.state_branch, private=self.private)
        except Exception as error:
            message = explain(error, self.repo_id)
            if not (is_transient(error) or isinstance(error, OfflineModeIsEnabled)):
                raise ValueError(f"Cannot push to {message}.") from error
            logger.warning("Cannot push now. %s. Until then, snapshots are kept in %s.", message, self.queue.folder)

    def _freeze(self, folder: Path, names: list[str], **about: Any) -> None:
        about |= {"repo_id": self.repo_id, "private": self.private}
        try:
            snapshot = self.queue.freeze(folder, names, **about)
        except OSError as error:
            logger.warning("%s is not pushed, because it cannot be frozen: %s.", folder, error)
            return
        with self._change:
            self._waiting.append(snapshot)
            for skipped in self._excess():
                self._waiting.remove(skipped)
                skipped.remove()
                logger.info("Skipped: %s. Checkpoints are written faster than they can be sent.", skipped.title)
            self._change.notify()

    def _excess(self) -> list[Snapshot]:
        """Return the oldest snapshots that exceed the limit, never the best, the last or the final one."""
        models = [snapshot for snapshot in self._waiting if snapshot.kind != "state"]
        best = [snapshot for snapshot in models if snapshot.is_best][-1:]
        spare = [snapshot for snapshot in models[:-1] if snapshot not in best and snapshot.kind != "final"]
        states = [snapshot for snapshot in self._waiting if snapshot.kind == "state"]
        return spare[: max(0, len(models) - MAX_WAITING)] + states[:-1]

    # On the worker thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or self._give_up.is_set():
                    return
                snapshot = self._waiting.pop(0)
            try:
                self._send(snapshot)
            except Exception as error:  # of any kind: a thread would lose it
                if self._give_up.is_set():
                    return
                is_damaged = isinstance(error, ValueError)
                advice = f" Delete {snapshot.folder} to give it up." if is_damaged else ""
                logger.warning("Not pushed: %s. %s.%s", snapshot.title, explain(error, self.repo_id), advice)
                if not is_damaged:  # the next snapshot would fail as well
                    return

    def _send(self, snapshot: Snapshot) -> None:
        """Push a snapshot, retrying until the run gives up, and remove it from the queue."""
        is_model, files = snapshot.kind != "state", snapshot.files()
        commit = keep_pushing(
            snapshot.repo_id,
            with_code(files) if is_model else files,
            title=snapshot.title,
            private=snapshot.private,
            revision=snapshot.revision,
            merges=is_model,
            stop=stop_when_event_set(self._give_up),
            sleep=sleep_using_event(self._give_up),
        )
        logger.info("Pushed to %s: %s. Commit %s.", snapshot.repo_id, snapshot.title, commit.oid[:8])
        snapshot.remove()


def push_queue(folder: Path, *, timeout: float = 600.0) -> None:
    """Push the snapshots that a run left in the queue in its folder, or raise a `TimeoutError` if some are left."""
    queue = Queue(folder / QUEUE)
    snapshots = queue.snapshots()
    if not snapshots:
        raise ValueError(f"There is nothing to push in {queue.folder}.")
    first = snapshots[0]
    about = {"private": first.private, "revision": first.revision, "timeout": timeout}
    with Uploader(folder, first.repo_id, **about) as uploader:
        pass  # leaving sends everything
    if uploader.left:
        raise TimeoutError(f"{len(uploader.left)} uploads to {first.repo_id} did not finish.")


def push_folder(folder: Path, repo_id: str, **how: Any) -> str:
    """Push the folder of a model, a checkpoint or an export in one commit, and return the URL of the commit.

    If nothing has changed, no commit is made. An existing README is merged with the new one, see `merge_card`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files = {name: folder / name for name in published(folder)}
    if "config.json" not in files or not any(name.endswith((".safetensors", ".onnx")) for name in files):
        weights = "model.safetensors or onnx/model.onnx"
        raise ValueError(f"{folder} is neither a model nor an export: it needs config.json, and {weights}.")
    title = f"Checkpoint, step {read_manifest(folder)['step']}" if (folder / MANIFEST).exists() else "Model"
    return str(push(repo_id, with_code(files), title=title, **how).commit_url)


def push_space(model: str | os.PathLike, repo_id: str, **how: Any) -> str:
    """Push the demo page of a model as a static Space, like `push_folder`, and return the URL of the Space."""
    from .space import space_files  # loads torch

    files = space_files(model, model_id=hub_id(os.fspath(model)))
    return str(push(repo_id, files, title="Demo", repo_type="space", **how).repo_url)
