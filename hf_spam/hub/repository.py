"""Prepare a repository on the Hub, and commit files to it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, close_session, get_session, hf_hub_url
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from ..hub_errors import HubError, explain, explained, is_transient
from .card import PLACEHOLDER
from .merging import merge_card

logger = logging.getLogger(__name__)

MAIN = "main"  # the default branch
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 60.0  # between two attempts
SILENCE_SECONDS = 120.0  # a request without an answer for this long has failed


def prepare_repository(repo_id: str, revision: str, *, repo_type: str = "model", private: bool = False) -> str:
    """Create a repository and branch if they do not exist, and check that they are writable.

    With `private`, the repository must be private. Otherwise an existing one keeps its visibility, and a new one
    follows the settings of the account. Returns the full id, `owner/name`, even if `repo_id` is only a name.
    """
    api, sdk = HfApi(), "static" if repo_type == "space" else None
    about = {"repo_type": repo_type, "space_sdk": sdk, "private": private or None}
    repo_id = api.create_repo(repo_id, **about, exist_ok=True).repo_id
    # With `exist_ok`, this succeeds without write access, and leaves a public repository public.
    api.auth_check(repo_id, repo_type=repo_type, write=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise HubError("the repository is public; make it private in its settings, or choose another name")
    if revision != MAIN:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return repo_id


def push_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    title: str,
    repo_type: str = "model",
    private: bool = False,
    revision: str = MAIN,
    merges: bool = True,
) -> CommitInfo:
    """Prepare a repository, and commit files to it, and nothing if they are there already.

    With `merges`, the card gets the id of the repository and is merged with the one on the Hub.
    """
    repo_id = prepare_repository(repo_id, revision, repo_type=repo_type, private=private)
    tip = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    operations = []  # created for each attempt, because the client marks them as sent
    for name, content in files.items():
        if name == "README.md" and merges:
            card = content if isinstance(content, bytes) else content.read_bytes()
            ours = card.decode().replace(PLACEHOLDER, repo_id)
            content = merge_card(ours, _fetch_card(repo_id, tip, repo_type)).encode()
        operations.append(CommitOperationAdd(name, content))
    # With `parent_commit`, a commit made in between is never overwritten.
    about = {"repo_type": repo_type, "revision": revision, "parent_commit": tip}
    return HfApi().create_commit(repo_id, operations, commit_message=title, **about)


def push(
    repo_id: str, files: Mapping[str, Path | bytes], *, repo_type: str = "model", timeout: float = 600.0, **how: Any
) -> CommitInfo:
    """Push files, and try again for `timeout` seconds; `how` are arguments of `push_files`."""
    check_timeout(timeout)
    with limited_silence(), explained(repo_id, repo_type):
        return keep_pushing(repo_id, files, repo_type=repo_type, stop=stop_after_delay(timeout), **how)


def check_timeout(seconds: float) -> None:
    """Raise a `ValueError` if this is no number of seconds to wait for uploads."""
    if not 0 <= seconds <= threading.TIMEOUT_MAX:  # also rejects NaN
        raise ValueError(f"The upload timeout must be a finite number of at least 0 seconds, got {seconds}.")


def keep_pushing(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    stop: Callable[[RetryCallState], bool],
    sleep: Callable[[float], None] = time.sleep,
    **how: Any,
) -> CommitInfo:
    """Call `push_files` until it succeeds, fails for good, or tenacity's `stop` says so; `how` are its arguments."""

    def note(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            message = explain(state.outcome.exception(), repo_id, how.get("repo_type", "model"))
            logger.info("Not pushed yet: %s. %s. Trying again ...", how["title"], message)

    backoff = wait_exponential(multiplier=MIN_WAIT_SECONDS, max=MAX_WAIT_SECONDS)
    check = retry_if_exception(is_transient)
    retry = Retrying(stop=stop, sleep=sleep, retry=check, wait=backoff, before_sleep=note, reraise=True)
    return retry(push_files, repo_id, files, **how)


@contextmanager
def limited_silence() -> Iterator[None]:
    """Limit how long the client waits for an answer: without a limit, a hung request never ends."""

    def limit_silence(request: httpx2.Request) -> None:
        limits = request.extensions["timeout"].items()  # not the client's: some requests turn off their limit
        request.extensions["timeout"] = {what: limit or SILENCE_SECONDS for what, limit in limits}

    client = get_session()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], limit_silence]}
    try:
        yield
    finally:
        close_session()  # cuts off a hung request; the next session has no limit


def _fetch_card(repo_id: str, revision: str, repo_type: str) -> str | None:
    """Return the README of a repository, or `None` if it has none."""
    # Unlike `hf_hub_download`, this neither fills the cache nor shows a progress bar.
    url = hf_hub_url(repo_id, "README.md", repo_type=repo_type, revision=revision)
    response = get_session().get(url, headers=build_hf_headers())
    try:
        hf_raise_for_status(response)
    except RemoteEntryNotFoundError:
        return None
    return response.content.decode(errors="replace")
