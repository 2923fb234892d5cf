"""Push models to the Hub in the background during training.

Training never waits for an upload and never fails because of one. Every snapshot is frozen, with the hashes of its
files, before the worker thread sees it: the commit of step N holds the weights of step N even if the checkpoint has
been deleted meanwhile. A commit is made on top of the branch tip that was just read, and names its run and step. If the
answer to a commit is lost, the next attempt finds the commit in the history instead of repeating it.
"""

import functools
import json
import logging
import os
import shlex
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, close_session, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from tenacity import RetryCallState, sleep_using_event, stop_after_delay, stop_when_event_set

from ..files import MANIFEST, files_in, is_path, read_manifest
from ..hub_errors import explain, explained, is_transient
from ..signals import RunInterrupted
from .repository import commit_files, commit_snapshot, prepare_repository, retrying
from .snapshots import MAIN, QUEUE, STATE_BRANCH, Kind, Queue, Snapshot, Strategy, published

logger = logging.getLogger(__name__)

LOG = "upload_log.jsonl"
MAX_WAITING = 3  # models of a run in the queue; beyond that, intermediate checkpoints are skipped
PREFLIGHT_SILENCE_SECONDS, SILENCE_SECONDS = 15.0, 120.0  # a request without an answer for this long has failed


class Uploader:
    """Send snapshots to the Hub from a background thread.

    Use it as a context manager. Entering checks that the repository is writable, and creates it and its branches if
    necessary; if the Hub cannot be reached, the worker thread does that later. Leaving waits for pending uploads.

    Args:
        output_dir: Folder of the run; the queue and the upload log are written to it.
        repo_id, private, revision: As for `prepare_repository`.
        strategy: What to push, see `Strategy`.
        push_state: Also push the training state of the newest checkpoint, to its own branch.
        timeout: Seconds to wait for pending uploads when leaving.

    Attributes:
        left: Snapshots that could not be sent, set when leaving.

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
        self.repo_id = repo_id
        self.strategy = strategy
        self.private = private
        self.revision = revision
        self.pushes_state = push_state or strategy == "checkpoint"
        self.state_branch = STATE_BRANCH if revision == MAIN else f"{revision}-{STATE_BRANCH}"
        self.timeout = timeout
        self.queue = Queue(output_dir / QUEUE)
        self.left: list[Snapshot] = []
        self._api = HfApi()
        self._prepare = functools.cache(functools.partial(prepare_repository, self._api))
        self._waiting: list[Snapshot] = []
        self._sending: Snapshot | None = None
        self._unsendable: list[Snapshot] = []
        self._closing = False
        self._change = threading.Condition()
        self._give_up = threading.Event()
        self._cannot_freeze = False
        self._thread = threading.Thread(target=self._work, name="hub-uploader", daemon=True)
        self._lock = FileLock(output_dir / QUEUE / ".lock")

    def __enter__(self) -> "Uploader":
        asked_for = self.repo_id
        self.queue.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"Another process is pushing from {self.queue.folder}; wait until it is done.") from None
        try:
            client = get_session()
            hooks = client.event_hooks
            client.event_hooks = {**hooks, "request": [*hooks["request"], self._limit_silence]}
            self.queue.tidy()
            self._preflight()
            repo_ids = (asked_for, self.repo_id)  # the first may lack the owner
            self._waiting = [snapshot for snapshot in self.queue.snapshots() if snapshot.repo_id in repo_ids]
        except BaseException:
            self._leave()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        at_once = kind is not None and not issubclass(kind, (Exception, RunInterrupted))
        timeout = 0.0 if at_once else self.timeout
        with self._change:
            self._closing = True
            self._change.notify()
        if timeout and self._thread.is_alive() and (pending := len(self._pending())):
            logger.info("Waiting for %d uploads to %s ...", pending, self.repo_id)
        try:
            self._thread.join(timeout)
        finally:  # also after Ctrl-C
            self._give_up.set()
            self._thread.join(1.0)  # a thread that is still in a request after that ends with the process
            self.left = self._pending()
            self._leave()
            if self.left:
                titles = "; ".join(snapshot.title for snapshot in self.left)
                logger.warning("Not pushed to %s: %s. To push later, run: %s", self.repo_id, titles, self._command())

    def submit(self, folder: Path, run_id: str, step: int | None, kind: Kind, *, is_best: bool) -> None:
        """Freeze a checkpoint or the final model if the strategy includes it, and return at once."""
        about = {"repo_id": self.repo_id, "private": self.private, "run_id": run_id, "step": step, "is_best": is_best}
        if kind == "final" or self.strategy != "end":
            if is_best or self.strategy != "best":
                self._freeze(folder, published, **about, kind=kind, revision=self.revision)
            elif kind == "final":
                logger.info("The final model is not pushed: an earlier checkpoint has a lower validation loss.")
        if kind == "checkpoint" and self.pushes_state:
            self._freeze(folder, files_in, **about, kind="state", revision=self.state_branch)

    def fetch_checkpoint(self) -> Path:
        """Download the training state pushed by an earlier run, as a checkpoint of the output directory."""
        branch = self.state_branch
        with tempfile.TemporaryDirectory(dir=self.output_dir, prefix=".fetching-") as temporary:
            folder = Path(temporary, "checkpoint")
            with explained(self.repo_id):
                self._api.snapshot_download(self.repo_id, revision=branch, local_dir=folder)
            if not (folder / MANIFEST).exists():  # the branch exists before anything is pushed to it
                raise ValueError(
                    f"{self.repo_id} has no training state in branch {branch!r}: push it with --hub-push-state."
                )
            target = self.output_dir / f"checkpoint-{read_manifest(folder)['step']}"
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # written by the client
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
        return target

    # On the training thread

    def _freeze(self, folder: Path, names: Callable[[Path], list[str]], **about: Any) -> None:
        try:
            snapshot = self.queue.freeze(folder, names(folder), **about)
        except OSError as error:
            snapshot = Snapshot(files=folder, **about)
            is_final = snapshot.kind == "final"  # nothing changes it any more, so it can be sent from its folder
            if not self._cannot_freeze:
                result = "It is sent from its folder." if is_final else "It is not pushed; training continues."
                logger.warning("Cannot freeze the %s: %s. %s", snapshot.title, error, result)
            self._log(snapshot, "not frozen", error=str(error))
            self._cannot_freeze = True
            if not is_final:
                return
        with self._change:
            self._waiting.append(snapshot)
            skipped = self._excess(snapshot.run_id)
            self._waiting = [snapshot for snapshot in self._waiting if snapshot not in skipped]
            self._change.notify()
        for snapshot in skipped:
            self.queue.remove(snapshot)
            self._log(snapshot, "skipped")
            logger.info("Skipped: %s. Checkpoints are written faster than they can be sent.", snapshot.title)

    def _excess(self, run_id: str) -> list[Snapshot]:
        """Return the oldest snapshots of a run that exceed the limit, never the best, the last or the final one."""
        own = [snapshot for snapshot in self._waiting if snapshot.run_id == run_id]
        models = [snapshot for snapshot in own if snapshot.kind != "state"]
        best = [snapshot for snapshot in models if snapshot.is_best][-1:]
        spare = [snapshot for snapshot in models[:-1] if snapshot not in best and snapshot.kind != "final"]
        states = [snapshot for snapshot in own if snapshot.kind == "state"]
        return spare[: max(0, len(models) - MAX_WAITING)] + states[:-1]

    # On the worker thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or self._give_up.is_set():
                    return
                self._sending = self._waiting.pop(0)
            try:
                self._deliver(self._sending)
            except Exception as error:  # of any kind: a thread would lose it
                message = explain(error, self._sending.repo_id)
                self._log(self._sending, "kept" if self._give_up.is_set() else "failed", error=message)
                if self._give_up.is_set():
                    return
                logger.warning("Not pushed: %s. %s.", self._sending.title, message)
                if not isinstance(error, ValueError):  # the next snapshot would fail as well
                    return
                self._unsendable.append(self._sending)
            self._sending = None

    def _deliver(self, snapshot: Snapshot) -> None:
        """Send a snapshot, retrying as often as necessary, and remove it from the queue."""
        start = time.monotonic()

        def note(state: RetryCallState) -> None:
            message = explain(state.outcome.exception(), snapshot.repo_id)
            self._log(snapshot, "retried", attempt=state.attempt_number, error=message)
            if state.attempt_number == 1:
                logger.info("Not pushed yet: %s. %s. Trying again ...", snapshot.title, message)

        until_given_up = {"stop": stop_when_event_set(self._give_up), "sleep": sleep_using_event(self._give_up)}
        commit = retrying(note, **until_given_up)(self._send, snapshot)
        size = sum((snapshot.files / name).stat().st_size for name in self.queue.check(snapshot)) / 1e6
        seconds = time.monotonic() - start
        self._log(snapshot, "pushed", commit=commit, seconds=round(seconds, 2), megabytes=round(size, 3))
        text = "Pushed to %s: %s. Commit %s, %.1f MB, %.1f s"
        logger.info(text, snapshot.repo_id, snapshot.title, commit[:8], size, seconds)
        self.queue.remove(snapshot)

    def _send(self, snapshot: Snapshot) -> str:
        repo_id = self._prepare(snapshot.repo_id, snapshot.revision, private=snapshot.private)
        return commit_snapshot(self._api, repo_id, snapshot, self.queue.check(snapshot))

    # On both threads

    def _preflight(self) -> None:
        branches = [self.revision, *([self.state_branch] if self.pushes_state else [])]
        try:
            for branch in branches:
                self.repo_id = self._prepare(self.repo_id, branch, private=self.private)
        except Exception as error:
            message = explain(error, self.repo_id)
            if not (is_transient(error) or isinstance(error, OfflineModeIsEnabled)):
                raise ValueError(f"Cannot push to {message}.") from error
            logger.warning("Cannot push now. %s. Until then, snapshots are kept in %s.", message, self.queue.folder)

    def _limit_silence(self, request: httpx2.Request) -> None:
        """Limit how long the client waits for an answer: without a limit, a hung request never ends."""
        silence = SILENCE_SECONDS if self._thread.is_alive() else PREFLIGHT_SILENCE_SECONDS
        limits = request.extensions["timeout"].items()  # not the client's: some requests turn off their limit
        request.extensions["timeout"] = {what: silence if limit is None else limit for what, limit in limits}

    def _pending(self) -> list[Snapshot]:
        with self._change:
            return [*self._unsendable, *([self._sending] if self._sending else []), *self._waiting]

    def _leave(self) -> None:
        close_session()  # cuts off a hung request; the next session has no `_limit_silence`
        if not self.queue.folders():
            shutil.rmtree(self.queue.folder, ignore_errors=True)
        self._lock.release()

    def _command(self) -> str:
        """Return the command that pushes the rest: from the queue or, if it could not be frozen, from the folder."""
        command = ["hf-spam", "push", str(self.output_dir)]
        if all(map(self.queue.holds, self.left)):
            return shlex.join([*command, "--resume"])
        flags = ["--private"] if self.private else []
        flags += ["--revision", self.revision] if self.revision != MAIN else []
        return shlex.join([*command, self.repo_id, *flags])

    def _log(self, snapshot: Snapshot, event: str, **values: Any) -> None:
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event}
        line |= {key: asdict(snapshot)[key] for key in ("step", "kind", "repo_id", "revision", "run_id")}
        try:
            with (self.output_dir / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **values}) + "\n")
        except OSError as error:
            logger.debug("%s: %s", LOG, error)  # a full disk has already been reported


def push_folder(
    folder: Path,
    repo_id: str | None = None,
    *,
    resume: bool = False,
    private: bool = False,
    revision: str = MAIN,
    timeout: float = 600.0,
) -> None:
    """Push the folder of a model or an export, or the snapshots left in its queue, and wait for the upload.

    Args:
        folder: Folder of a run, of a checkpoint or of an export.
        repo_id, private, revision: As for `prepare_repository`. With `resume`, those of the snapshots are used.
        resume: Send only the queue, for `repo_id` or else for all repositories.
        timeout: Seconds to wait.

    Raises:
        ValueError: There is nothing to push, or pushing can never succeed.
        TimeoutError: Not everything could be sent in time. The rest is kept in the queue.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    if resume:
        return _resume(folder, repo_id, timeout)
    if repo_id is None:
        raise ValueError("Give the repository to push to (owner/name), or --resume to send the queue.")
    names = published(folder)
    if "config.json" not in names or not any(name.endswith((".safetensors", ".onnx")) for name in names):
        weights = "model.safetensors or onnx/model.onnx"
        raise ValueError(f"{folder} is neither a model nor an export: it needs config.json, and {weights}.")
    step = None
    if (folder / MANIFEST).exists():  # a checkpoint
        step = read_manifest(folder).get("step")
    with Uploader(folder, repo_id, private=private, revision=revision, timeout=timeout) as uploader:
        uploader.submit(folder, uuid.uuid4().hex[:12], step, "final", is_best=True)
    if uploader.left:
        raise TimeoutError(f"The upload to {repo_id} did not finish.")


def push_space(
    model: str | os.PathLike, repo_id: str, *, private: bool = False, revision: str = MAIN, timeout: float = 600.0
) -> str:
    """Push the demo page of a model as a static Space, in one commit, and return its URL.

    If nothing has changed, no commit is made. An existing README is merged with the new one, see `merge_card`.

    Args:
        model: Folder or Hub id of a model, or "bundled".
        repo_id, private, revision: As for `prepare_repository`.
        timeout: Seconds during which failed requests are tried again.

    Raises:
        HubError: The Space could not be pushed.
        OSError, ValueError: As for `build_space`.
    """
    from .space import build_space  # loads torch

    def note(state: RetryCallState) -> None:
        message = explain(state.outcome.exception(), repo_id, "space")
        logger.info("Not pushed yet. %s. Trying again ...", message)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "space")
        named = os.fspath(model)
        build_space(model, folder, model_id=None if named == "bundled" or is_path(named) else named)
        files = {name: folder / name for name in files_in(folder)}
        with explained(repo_id, "space"):
            return retrying(note, stop=stop_after_delay(timeout))(_send_space, repo_id, files, private, revision)


def _send_space(repo_id: str, files: dict[str, Path], private: bool, revision: str) -> str:
    api = HfApi()
    repo_id = prepare_repository(api, repo_id, revision, repo_type="space", private=private)
    tip = api.space_info(repo_id, revision=revision).sha
    about = {"title": "Demo", "tip": tip, "repo_type": "space", "revision": revision}
    return str(commit_files(api, repo_id, files, **about).repo_url)


def _resume(folder: Path, repo_id: str | None, timeout: float) -> None:
    """Send the queue of a folder, repository by repository."""
    queue = Queue(folder / QUEUE)
    repositories: dict[str, Snapshot] = {}
    for snapshot in queue.snapshots():
        repositories.setdefault(snapshot.repo_id, snapshot)
    if not repositories:
        raise ValueError(f"There is nothing to push in {queue.folder}.")
    if repo_id not in (None, *repositories):
        raise ValueError(f"The snapshots in {queue.folder} are for {', '.join(repositories)}, not for {repo_id}.")
    problems = []
    for name, first in repositories.items():
        if repo_id in (None, name):
            about = {"private": first.private, "revision": first.revision, "timeout": timeout}
            try:
                with Uploader(folder, name, **about) as uploader:
                    pass  # leaving sends everything
            except ValueError as error:
                problems.append(str(error))
            else:
                problems += [f"{len(uploader.left)} uploads to {name} did not finish."] if uploader.left else []
    if problems:
        raise TimeoutError(" ".join(problems))
