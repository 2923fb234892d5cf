"""Prepare a repository on the Hub, fetch its card, and commit files to it; try again what may succeed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from ..conversion.remote_code import with_code
from ..hub_errors import HubError, is_transient
from .card import PLACEHOLDER
from .merging import merge_card
from .snapshots import MAIN, Snapshot

MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 60.0  # between two attempts
MAX_RETRY_AFTER_SECONDS = 3600.0  # between two attempts if the Hub asks for it


def prepare_repository(
    api: HfApi, repo_id: str, revision: str | None = None, *, repo_type: str = "model", private: bool | None = None
) -> str:
    """Create a repository and branch if they do not exist, and check that they are writable.

    With `private`, the repository must be private. Otherwise an existing one keeps its visibility, and a new one
    follows the settings of the account. Returns the full id, `owner/name`, even if `repo_id` is only a name.
    """
    sdk = "static" if repo_type == "space" else None
    about = {"repo_type": repo_type, "space_sdk": sdk, "private": private or None}
    repo_id = api.create_repo(repo_id, **about, exist_ok=True).repo_id
    # With `exist_ok`, this succeeds without write access, and leaves a public repository public.
    api.auth_check(repo_id, repo_type=repo_type, write=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise HubError("the repository is public; make it private in its settings, or choose another name")
    if revision not in (None, MAIN):
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return repo_id


def fetch_card(repo_id: str, revision: str, repo_type: str | None = None) -> str | None:
    """Return the current README of a repository, or `None` if it has none."""
    # If the Hub does not answer, this raises an error, where `hf_hub_download` would return a cached copy.
    url = hf_hub_url(repo_id, "README.md", repo_type=repo_type, revision=revision)
    response = get_session().get(url, headers=build_hf_headers())
    try:
        hf_raise_for_status(response)
    except RemoteEntryNotFoundError:
        return None
    return response.content.decode(errors="replace")


def commit_files(
    api: HfApi,
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    title: str,
    tip: str,
    merges: bool = True,
    **how: Any,
) -> CommitInfo:
    """Commit files on top of the commit `tip`, and nothing if they are there already.

    With `merges`, the card gets the id of the repository and is merged with the one on the Hub.
    """
    operations = []  # created for each attempt, because the client marks them as sent
    for name, content in files.items():
        if name == "README.md" and merges:
            card = content if isinstance(content, bytes) else content.read_bytes()
            ours, theirs = card.decode().replace(PLACEHOLDER, repo_id), fetch_card(repo_id, tip, how.get("repo_type"))
            content = merge_card(ours, theirs).encode()
        operations.append(CommitOperationAdd(name, content))
    # With `parent_commit`, a commit made in between is never overwritten.
    return api.create_commit(repo_id, operations, commit_message=title, parent_commit=tip, **how)


def commit_snapshot(api: HfApi, repo_id: str, snapshot: Snapshot, names: list[str]) -> str:
    """Commit files of a snapshot, a model with its code, unless an earlier attempt has; return the id of the commit."""
    history = api.list_repo_commits(repo_id, revision=snapshot.revision)
    for commit in history:
        if snapshot.signature in commit.message.splitlines():
            return commit.commit_id
    files, is_state = {name: snapshot.files / name for name in names}, snapshot.kind == "state"
    return commit_files(
        api,
        repo_id,
        files if is_state else with_code(files),
        title=snapshot.title,
        tip=history[0].commit_id,
        merges=not is_state,
        commit_description=snapshot.signature,
        revision=snapshot.revision,
    ).oid


def retrying(note: Callable[[RetryCallState], None], **how: Any) -> Retrying:
    """Return a caller that tries again what may succeed, and calls `note` before it waits."""
    backoff = wait_exponential(multiplier=MIN_WAIT_SECONDS, max=MAX_WAIT_SECONDS)
    return Retrying(
        retry=retry_if_exception(is_transient),
        wait=lambda state: max(backoff(state), _retry_after(state.outcome.exception())),
        before_sleep=note,
        reraise=True,
        **how,
    )


def _retry_after(error: BaseException) -> float:
    """Return the seconds that the Hub asks to wait before the next request, or 0."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked), MAX_RETRY_AFTER_SECONDS) if asked.isdecimal() else 0.0
