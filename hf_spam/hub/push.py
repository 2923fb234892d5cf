"""Checkpoints on their way to the Hub: frozen in a queue, sent by one thread, kept until they have arrived.

Training never waits for an upload and never dies of one. What a commit holds was frozen, with its checksums, before
the worker saw it, so the weights in the commit of step N are those of step N whatever happens to the folder that they
came from. A commit is made in one piece, on the tip that was looked at, and names its run and step: an attempt whose
answer was lost is recognised by that, and not repeated.
"""

import contextlib
import email.utils
import json
import logging
import os
import shlex
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import _http
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
)

from ..files import MANIFEST, files_in, read_manifest
from ..hub_errors import explain, explained, is_transient
from ..signals import RunInterrupted
from .card import PLACEHOLDER
from .merging import merge_card
from .repository import fetch_card, prepare_repository
from .snapshots import MAIN, QUEUE, STATE_BRANCH, Kind, Queue, Snapshot, Strategy, published

logger = logging.getLogger(__name__)

LOG = "upload_log.jsonl"
MAX_WAITING = 3  # snapshots in the queue, beyond which intermediate ones are skipped
PREFLIGHT_SILENCE, SILENCE = 15.0, 120.0  # seconds without an answer after which a request has failed
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts
LONGEST_ASKED = 3600.0  # seconds between attempts where the Hub asks for them


class Uploader:
    """Sends snapshots to the Hub while training goes on; a context whose end waits for what is under way.

    Entering looks whether the repository can be written to, and creates it and its branches. Without a network that is
    left to the worker.

    Args:
        output_dir: Folder of the run; holds the queue and the upload log.
        repo_id: Repository, `owner/name` or `name` for one of yours. Created if it does not exist.
        strategy: What to push; see `Strategy`.
        private: Create the repository as a private one.
        revision: Branch. Created if it does not exist.
        push_state: Also push the training state of the newest checkpoint, to a branch of its own.
        timeout: Seconds to wait for uploads at the end.

    Raises:
        ValueError: An argument is invalid; or, on entering, pushing can never succeed and the message says why.
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
        if strategy not in get_args(Strategy):
            raise ValueError(f"hub_strategy must be one of {', '.join(get_args(Strategy))}, got {strategy!r}.")
        if not 0 <= timeout <= threading.TIMEOUT_MAX:  # also False for NaN
            raise ValueError(f"The time to wait for uploads must be seconds, 0 or more, got {timeout}.")
        self.output_dir = output_dir
        self.repo_id = repo_id
        self.strategy = strategy
        self.private = private
        self.revision = revision
        self.pushes_state = push_state or strategy == "checkpoint"
        self.state_branch = STATE_BRANCH if revision == MAIN else f"{revision}-{STATE_BRANCH}"
        self.timeout = timeout
        self._asked_for = repo_id
        self.queue = Queue(output_dir / QUEUE)
        self.left: list[Snapshot] = []
        self._api = HfApi()
        self._prepared: dict[tuple[str, str], str] = {}
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
        self.queue.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"Another process is sending what is in {self.queue.folder}.") from None
        # A user may have set one, of which nothing public tells.
        self._client_factory = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
        set_client_factory(self._client)
        with contextlib.ExitStack() as undo:
            undo.callback(self._leave)
            self.queue.tidy()
            self._preflight()
            names = (self._asked_for, self.repo_id)
            self._waiting = [snapshot for snapshot in self.queue.snapshots() if snapshot.repo_id in names]
            undo.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        at_once = kind is not None and not issubclass(kind, (Exception, RunInterrupted))
        self.close(0.0 if at_once else self.timeout)

    def submit(self, folder: Path, run_id: str, step: int | None, kind: Kind, *, is_best: bool) -> None:
        """Freezes a checkpoint or the final model, if the strategy wants it, and returns at once."""
        about = {"repo_id": self.repo_id, "private": self.private, "run_id": run_id, "step": step}
        about |= {"is_best": is_best}
        if kind == "final" or self.strategy != "end":
            if is_best or self.strategy != "best":
                self._freeze(folder, published, **about, kind=kind, revision=self.revision)
            elif kind == "final":
                logger.info("The final weights are not the best by validation loss, and are not pushed.")
        if kind == "checkpoint" and self.pushes_state:
            self._freeze(folder, files_in, **about, kind="state", revision=self.state_branch)

    def close(self, timeout: float) -> None:
        """Waits until all is sent, at most `timeout` seconds, and says what is `left` and how to send it."""
        with self._change:
            self._closing = True
            self._change.notify()
        if timeout and self._thread.is_alive() and (waiting := len(self._left())):
            logger.info("Waiting for %d uploads to %s ...", waiting, self.repo_id)
        try:
            self._thread.join(timeout)
        finally:  # also where a person has waited long enough
            self._give_up.set()
            self._thread.join(1.0)  # it is in a request, if it still runs then, and ends with the process
            self.left = self._left()
            self._leave()
            if self.left:
                titles = "; ".join(snapshot.title for snapshot in self.left)
                logger.warning("Not pushed to %s, but kept: %s. Send it with: %s", self.repo_id, titles, self._again())

    def fetch_checkpoint(self) -> Path:
        """Downloads the training state that an earlier run pushed, as a checkpoint of the output directory.

        Raises:
            ValueError: there is none, or it is damaged.
            HubError: it cannot be reached.
        """
        branch = self.state_branch
        with tempfile.TemporaryDirectory(dir=self.output_dir, prefix=".fetching-") as temporary:
            folder = Path(temporary, "checkpoint")
            with explained(self.repo_id):
                self._api.snapshot_download(self.repo_id, revision=branch, local_dir=folder)
            if not (folder / MANIFEST).exists():  # the branch is made before anything is in it
                raise ValueError(
                    f"{self.repo_id} holds no training state in branch {branch!r}: it is pushed with --hub-push-state."
                )
            step = read_manifest(folder).get("step")
            if not isinstance(step, int):
                raise ValueError(f"What branch {branch!r} of {self.repo_id} holds is no checkpoint.")
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's
            target = self.output_dir / f"checkpoint-{step}"
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
        return target

    # Freezing, on the thread of the training

    def _freeze(self, folder: Path, names: Callable[[Path], list[str]], **about: Any) -> None:
        try:
            snapshot = self.queue.freeze(folder, names(folder), **about)
        except OSError as error:
            snapshot = Snapshot(files=folder, **about)
            is_final = snapshot.kind == "final"  # nothing changes it any more: it can be sent from where it is
            if not self._cannot_freeze:
                what = "is sent from where it is" if is_final else "is not pushed, training goes on"
                logger.warning("The %s %s: it could not be frozen: %s.", snapshot.title, what, error)
            self._log(about, "not frozen", error=str(error))
            self._cannot_freeze = True
            if not is_final:
                return
        with self._change:
            self._waiting.append(snapshot)
            skipped = list(self._superfluous(snapshot.run_id))
            for snapshot in skipped:
                self._waiting.remove(snapshot)
            self._change.notify()
        for snapshot in skipped:
            self.queue.remove(snapshot)
            self._log(snapshot, "skipped")
            logger.info("Skipped: %s. Checkpoints come faster than they are sent.", snapshot.title)

    def _superfluous(self, run_id: str) -> Iterator[Snapshot]:
        """What of a run has to go from a queue that is too long: the oldest, but never the best or the last."""
        models = [snapshot for snapshot in self._waiting if snapshot.kind != "state" and snapshot.run_id == run_id]
        states = [snapshot for snapshot in self._waiting if snapshot.kind == "state" and snapshot.run_id == run_id]
        best = [snapshot for snapshot in models if snapshot.is_best][-1:]
        spare = [snapshot for snapshot in models[:-1] if snapshot not in best and snapshot.kind != "final"]
        yield from spare[: max(0, len(models) - MAX_WAITING)]
        yield from states[:-1]

    # Sending, on the worker's thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or self._give_up.is_set():
                    return
                self._sending = self._waiting.pop(0)
            try:
                self._deliver(self._sending)
            except Exception as error:  # of any kind: in a thread it would be lost
                message = explain(error, self._sending.repo_id)
                self._log(self._sending, "kept" if self._give_up.is_set() else "failed", error=message)
                if self._give_up.is_set():
                    return
                logger.warning("Not pushed: %s. %s.", self._sending.title, message)
                if not isinstance(error, ValueError):  # the next would fare no better
                    return
                self._unsendable.append(self._sending)
            self._sending = None

    def _deliver(self, snapshot: Snapshot) -> None:
        start = time.monotonic()
        backoff = wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

        def note(state: RetryCallState) -> None:
            message = explain(state.outcome.exception(), snapshot.repo_id)
            self._log(snapshot, "retried", attempt=state.attempt_number, error=message)
            if state.attempt_number == 1:
                logger.info("Not pushed yet: %s. %s. Trying again ...", snapshot.title, message)

        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=lambda state: max(backoff(state), _retry_after(state.outcome.exception())),
            stop=stop_when_event_set(self._give_up),
            sleep=sleep_using_event(self._give_up),
            before_sleep=note,
            reraise=True,
        )
        commit = retrying(self._send, snapshot)
        size = sum((snapshot.files / name).stat().st_size for name in self.queue.check(snapshot)) / 1e6
        seconds = time.monotonic() - start
        self._log(snapshot, "pushed", commit=commit, seconds=round(seconds, 2), megabytes=round(size, 3))
        text = "Pushed to %s: %s. Commit %s, %.1f MB, %.1f s"
        logger.info(text, snapshot.repo_id, snapshot.title, commit[:8], size, seconds)
        self.queue.remove(snapshot)

    def _send(self, snapshot: Snapshot) -> str:
        """One attempt; the commit that holds the snapshot now."""
        branch = snapshot.revision
        repo_id = self._prepare(snapshot.repo_id, branch, snapshot.private)
        history = self._api.list_repo_commits(repo_id, revision=branch)
        for commit in history:
            if snapshot.signature in commit.message.splitlines():
                return commit.commit_id
        tip = history[0].commit_id
        # New at every attempt: the client looks again at what is there, and marks what it has sent.
        operations = [
            CommitOperationAdd(name, snapshot.files / name)
            if name != "README.md" or snapshot.kind == "state"
            else CommitOperationAdd(name, self._card(snapshot, repo_id, tip))
            for name in self.queue.check(snapshot)
        ]
        return self._api.create_commit(
            repo_id,
            operations,
            commit_message=snapshot.title,
            commit_description=snapshot.signature,
            revision=branch,
            parent_commit=tip,  # who pushed in between is not overwritten: the next attempt sees it
        ).oid

    def _card(self, snapshot: Snapshot, repo_id: str, tip: str) -> bytes:
        """The snapshot's card, with the words that people wrote around the one on the Hub."""
        ours = (snapshot.files / "README.md").read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
        return merge_card(ours, fetch_card(repo_id, tip)).encode()

    def _preflight(self) -> None:
        branches = [self.revision, *([self.state_branch] if self.pushes_state else [])]
        try:
            for branch in branches:
                self.repo_id = self._prepare(self.repo_id, branch, self.private)
        except Exception as error:
            if not (is_transient(error) or isinstance(error, OfflineModeIsEnabled)):
                raise ValueError(f"Nothing can be pushed. {explain(error, self.repo_id)}.") from error
            text = "Nothing can be pushed now. %s. Until then it waits in %s."
            logger.warning(text, explain(error, self.repo_id), self.queue.folder)

    def _prepare(self, repo_id: str, branch: str, private: bool) -> str:
        """The full id of a repository that is ready to be written to: asked for once, not for each snapshot."""
        if (repo_id, branch) not in self._prepared:
            full = prepare_repository(self._api, repo_id, branch, private=private)
            self._prepared |= {(repo_id, branch): full, (full, branch): full}
        return self._prepared[repo_id, branch]

    # The rest

    def _client(self) -> httpx2.Client:
        """The client that speaks to the Hub, but one that does not wait for ever for an answer."""

        def limit(request: httpx2.Request) -> None:
            silence = SILENCE if self._thread.is_alive() else PREFLIGHT_SILENCE
            # Not `client.timeout`: some requests ask for none, in so many words.
            limits = request.extensions["timeout"].items()
            request.extensions["timeout"] = {what: silence if limit is None else limit for what, limit in limits}

        client = self._client_factory()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], limit]}
        return client

    def _left(self) -> list[Snapshot]:
        with self._change:
            return [*self._unsendable, *([self._sending] if self._sending else []), *self._waiting]

    def _leave(self) -> None:
        set_client_factory(self._client_factory)  # and a request that hangs is cut off
        if not self.queue.folders():  # what cannot be read is kept as well
            shutil.rmtree(self.queue.folder, ignore_errors=True)
        self._lock.release()

    def _again(self) -> str:
        """The command that sends what is left."""
        if all(map(self.queue.holds, self.left)):
            return shlex.join(["hf-spam", "push", str(self.output_dir), "--resume"])
        flags = ["--private"] if self.private else []
        if self.revision != MAIN:
            flags += ["--revision", self.revision]
        return shlex.join(["hf-spam", "push", str(self.output_dir), self.repo_id, *flags])

    def _log(self, snapshot: Snapshot | dict[str, Any], event: str, **values: Any) -> None:
        about = snapshot if isinstance(snapshot, dict) else asdict(snapshot)
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event}
        line |= {key: about[key] for key in ("step", "kind", "repo_id", "revision", "run_id")}
        try:
            with (self.output_dir / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **values}) + "\n")
        except OSError as error:
            logger.debug("%s: %s", LOG, error)  # a full disk has been reported by then


def _retry_after(error: BaseException) -> float:
    """The seconds that the Hub asked to be left alone for."""
    asked = error.response.headers.get("Retry-After", "0") if isinstance(error, HfHubHTTPError) else "0"
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            seconds = 0.0
    return min(seconds, LONGEST_ASKED) if seconds > 0 else 0.0  # which a nan is not


def push_folder(
    folder: Path,
    repo_id: str | None = None,
    *,
    resume: bool = False,
    private: bool = False,
    revision: str = MAIN,
    timeout: float = 600.0,
) -> None:
    """Pushes a model's folder, or what earlier runs left in its queue, and waits for it.

    Args:
        folder: the folder of a run, or of a checkpoint.
        repo_id: the repository; created if there is none.
        resume: whether only the queue is sent, to the repository that is named or to all that it is for.
        private: whether a repository that is created is private.
        revision: branch; created if there is none. With `resume`, those that the queue names.
        timeout: seconds to wait.

    Raises:
        ValueError: there is nothing to push, or it can never be.
        TimeoutError: it was not sent, or not in time; what is left is in the queue.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    if resume:
        return _resume(folder, repo_id, timeout)
    if repo_id is None:
        raise ValueError("Name the repository to push to, owner/name; or --resume, to send what waits.")
    if not {"config.json", "model.safetensors"} <= set(published(folder)):
        raise ValueError(f"{folder} holds no model: config.json or model.safetensors is missing.")
    step = None
    if (folder / MANIFEST).exists():  # a checkpoint, which has to be as it was written
        step = read_manifest(folder).get("step")
    with Uploader(folder, repo_id, private=private, revision=revision, timeout=timeout) as uploader:
        uploader.submit(folder, uuid.uuid4().hex[:12], step, "final", is_best=True)
    if uploader.left:
        raise TimeoutError(f"{len(uploader.left)} of the uploads to {repo_id} were not made.")


def _resume(folder: Path, repo_id: str | None, timeout: float) -> None:
    """Sends what waits in the queue of a folder, one repository after the other."""
    waiting = Queue(folder / QUEUE).snapshots()
    if not waiting:
        raise ValueError(f"Nothing waits to be pushed in {folder / QUEUE}.")
    first_of = {snapshot.repo_id: snapshot for snapshot in reversed(waiting)}
    if repo_id is not None and repo_id not in first_of:
        raise ValueError(f"What waits in {folder / QUEUE} is for {', '.join(first_of)}, not for {repo_id}.")
    problems = []
    for first in (first_of[name] for name in reversed(first_of) if repo_id in (None, name)):
        about = {"private": first.private, "revision": first.revision, "timeout": timeout}
        try:
            with Uploader(folder, first.repo_id, **about) as uploader:
                pass  # leaving it waits until all is sent
        except ValueError as error:
            problems.append(str(error))
        else:
            if uploader.left:
                problems.append(f"{len(uploader.left)} of the uploads to {first.repo_id} were not made.")
    if problems:
        raise TimeoutError(" ".join(problems))
