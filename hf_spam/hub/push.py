"""Push models to the Hub: in the background during training, or a finished folder.

Training never waits for an upload and never fails because of one. Every snapshot is frozen, with the hashes of its
files, before the worker thread sees it: the commit of step N holds the weights of step N even if the checkpoint has
been deleted meanwhile. A commit is made on top of the branch tip that was just read. If the answer to a commit is lost,
the next attempt finds nothing left to commit.
"""

import functools
import logging
import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import CommitInfo, snapshot_download
from huggingface_hub.errors import OfflineModeIsEnabled
from tenacity import sleep_using_event, stop_after_delay, stop_when_event_set

from ..conversion.remote_code import with_code
from ..files import MANIFEST, files_in, is_path, read_manifest
from ..hub_errors import explain, explained, is_transient
from ..signals import RunInterrupted
from .repository import keep_trying, limited_silence, prepare_repository, push_files
from .snapshots import MAIN, QUEUE, STATE_BRANCH, Kind, Queue, Snapshot, Strategy, published

logger = logging.getLogger(__name__)

MAX_WAITING = 3  # models in the queue; beyond that, intermediate checkpoints are skipped


class Uploader:
    """Send snapshots to the Hub from a background thread.

    Use it as a context manager. Entering checks that the repository is writable, and creates it and its branches if
    necessary; if the Hub cannot be reached, the worker thread does that later. Snapshots that an earlier run left in
    the queue are sent first. Leaving waits for pending uploads, at most `timeout` seconds.

    `push_state` also pushes the training state of the newest checkpoint, to its own branch.

    Raises:
        ValueError: `timeout` is invalid; or, when entering, pushing can never succeed.
    """

    def __init__(
        self,
        output_dir: Path,
        repo_id: str,
        *,
        strategy: Strategy = "end",
        private: bool = False,
        revision: str = MAIN,
        push_state: bool = False,
        timeout: float = 600.0,
    ):
        if not 0 <= timeout <= threading.TIMEOUT_MAX:  # also rejects NaN
            raise ValueError(f"The upload timeout must be a finite number of at least 0 seconds, got {timeout}.")
        self.output_dir = output_dir
        self.repo_id = self.full_id = repo_id  # `full_id` gets the owner as soon as the Hub can be reached
        self.strategy = strategy
        self.private = private
        self.revision = revision
        self.pushes_state = push_state or strategy == "checkpoint"
        self.state_branch = STATE_BRANCH if revision == MAIN else f"{revision}-{STATE_BRANCH}"
        self.timeout = timeout
        self.queue = Queue(output_dir / QUEUE)
        self.left: list[Snapshot] = []  # could not be sent; set when leaving
        self._waiting: list[Snapshot] = []
        self._sending: Snapshot | None = None
        self._damaged: list[Snapshot] = []
        self._closing = False
        self._change = threading.Condition()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hub-uploader", daemon=True)
        self._cleanup = ExitStack()

    def __enter__(self) -> "Uploader":
        with ExitStack() as stack:
            stack.enter_context(self.queue.locked())
            stack.enter_context(limited_silence())
            self._waiting = self.queue.snapshots()
            if others := {snapshot.repo_id for snapshot in self._waiting} - {self.repo_id}:
                command = self._resume_command()
                raise ValueError(f"{self.queue.folder} holds uploads to {', '.join(others)}; to push them: {command}")
            self._preflight()
            self._thread.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        at_once = kind is not None and not issubclass(kind, (Exception, RunInterrupted))
        timeout = 0.0 if at_once else self.timeout
        with self._change:
            self._closing = True
            self._change.notify()
            if timeout and self._thread.is_alive() and (self._waiting or self._sending):
                logger.info("Waiting for uploads to %s ...", self.repo_id)
        try:
            self._thread.join(timeout)
        finally:  # also after Ctrl-C
            self._give_up.set()
            self._thread.join(1.0)  # a thread that is still in a request after that ends with the process
            with self._change:
                self.left = [*self._damaged, *([self._sending] if self._sending else []), *self._waiting]
            self._cleanup.close()
            if self.left:
                titles = "; ".join(snapshot.title for snapshot in self.left)
                command = self._resume_command()
                logger.warning("Not pushed to %s: %s. To push later, run: %s", self.repo_id, titles, command)

    def submit(self, folder: Path, step: int, kind: Kind, *, is_best: bool) -> None:
        """Freeze a checkpoint or the final model if the strategy includes it, and return at once."""
        freeze = functools.partial(self._freeze, folder, step=step, is_best=is_best)
        if kind == "final" or self.strategy != "end":
            if is_best or self.strategy != "best":
                freeze(published(folder), kind=kind, revision=self.revision)
            elif kind == "final":
                logger.info("The final model is not pushed: an earlier checkpoint has a lower validation loss.")
        if kind == "checkpoint" and self.pushes_state:
            freeze(files_in(folder), kind="state", revision=self.state_branch)

    def fetch_checkpoint(self) -> Path:
        """Download the training state pushed by an earlier run, as a checkpoint of the output directory."""
        branch = self.state_branch
        with tempfile.TemporaryDirectory(dir=self.output_dir, prefix=".fetching-") as temporary:
            folder = Path(temporary, "checkpoint")
            with explained(self.full_id):
                snapshot_download(self.full_id, revision=branch, local_dir=folder)
            if not (folder / MANIFEST).exists():  # the branch exists before anything is pushed to it
                raise ValueError(
                    f"{self.full_id} has no training state in branch {branch!r}: push it with --hub-push-state."
                )
            target = self.output_dir / f"checkpoint-{read_manifest(folder)['step']}"
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # written by the client
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
        return target

    # On the training thread

    def _preflight(self) -> None:
        try:
            for branch in [self.revision, *([self.state_branch] if self.pushes_state else [])]:
                self.full_id = prepare_repository(self.repo_id, branch, private=self.private)
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
            skipped = self._excess()
            self._waiting = [snapshot for snapshot in self._waiting if snapshot not in skipped]
            self._change.notify()
        for snapshot in skipped:
            snapshot.remove()
            logger.info("Skipped: %s. Checkpoints are written faster than they can be sent.", snapshot.title)

    def _excess(self) -> list[Snapshot]:
        """Return the oldest snapshots that exceed the limit, never the best, the last or the final one."""
        models = [snapshot for snapshot in self._waiting if snapshot.kind != "state"]
        best = [snapshot for snapshot in models if snapshot.is_best][-1:]
        spare = [snapshot for snapshot in models[:-1] if snapshot not in best and snapshot.kind != "final"]
        states = [snapshot for snapshot in self._waiting if snapshot.kind == "state"]
        return spare[: max(0, len(models) - MAX_WAITING)] + states[:-1]

    def _resume_command(self) -> str:
        return shlex.join(["hf-spam", "push", str(self.output_dir), "--resume"])

    # On the worker thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or self._give_up.is_set():
                    return
                self._sending = self._waiting.pop(0)
            try:
                self._send(self._sending)
            except Exception as error:  # of any kind: a thread would lose it
                if self._give_up.is_set():
                    return
                logger.warning("Not pushed: %s. %s.", self._sending.title, explain(error, self.repo_id))
                if not isinstance(error, ValueError):  # the next snapshot would fail as well
                    return
                self._damaged.append(self._sending)
            self._sending = None

    def _send(self, snapshot: Snapshot) -> None:
        """Push a snapshot, retrying until the run gives up, and remove it from the queue."""
        is_model, files = snapshot.kind != "state", snapshot.files()
        push = functools.partial(
            push_files,
            snapshot.repo_id,
            with_code(files) if is_model else files,
            title=snapshot.title,
            private=snapshot.private,
            revision=snapshot.revision,
            merges=is_model,
        )
        until_given_up = {"stop": stop_when_event_set(self._give_up), "sleep": sleep_using_event(self._give_up)}
        commit = keep_trying(push, snapshot.title, snapshot.repo_id, **until_given_up)
        logger.info("Pushed to %s: %s. Commit %s.", snapshot.repo_id, snapshot.title, commit.oid[:8])
        snapshot.remove()


def push_queue(folder: Path, *, timeout: float = 600.0) -> None:
    """Push the snapshots that a run left in the queue in its folder.

    Raises:
        ValueError: There is nothing to push, or pushing can never succeed.
        TimeoutError: Not everything could be sent in `timeout` seconds. The rest is kept in the queue.
    """
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


def push_folder(
    folder: Path, repo_id: str, *, private: bool = False, revision: str = MAIN, timeout: float = 600.0
) -> str:
    """Push the folder of a model, a checkpoint or an export in one commit, and return the URL of the commit.

    If nothing has changed, no commit is made. An existing README is merged with the new one, see `merge_card`. Failed
    requests are tried again for `timeout` seconds.

    Raises:
        HubError: The folder could not be pushed.
        ValueError: There is no model in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files = {name: folder / name for name in published(folder)}
    if "config.json" not in files or not any(name.endswith((".safetensors", ".onnx")) for name in files):
        weights = "model.safetensors or onnx/model.onnx"
        raise ValueError(f"{folder} is neither a model nor an export: it needs config.json, and {weights}.")
    title = f"Checkpoint, step {read_manifest(folder)['step']}" if (folder / MANIFEST).exists() else "Model"
    about = {"title": title, "private": private, "revision": revision}
    return str(_push(repo_id, with_code(files), timeout, **about).commit_url)


def push_space(
    model: str | os.PathLike, repo_id: str, *, private: bool = False, revision: str = MAIN, timeout: float = 600.0
) -> str:
    """Push the demo page of a model as a static Space, like `push_folder`, and return the URL of the Space."""
    from .space import space_files  # loads torch

    name = os.fspath(model)
    files = space_files(model, model_id=None if name == "bundled" or is_path(name) else name)
    about = {"title": "Demo", "repo_type": "space", "private": private, "revision": revision}
    return str(_push(repo_id, files, timeout, **about).repo_url)


def _push(
    repo_id: str, files: Mapping[str, Path | bytes], timeout: float, *, title: str, repo_type: str = "model", **how: Any
) -> CommitInfo:
    """Push files, and try again for `timeout` seconds. The options are those of `push_files`."""
    push = functools.partial(push_files, repo_id, files, title=title, repo_type=repo_type, **how)
    with limited_silence(), explained(repo_id, repo_type):
        return keep_trying(push, title, repo_id, repo_type, stop=stop_after_delay(timeout))
