"""Prepare a model or dataset repository on the Hub, fetch its card, and commit a snapshot to it."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from ..hub_errors import HubError
from .card import PLACEHOLDER
from .merging import merge_card
from .snapshots import MAIN, Snapshot


def prepare_repository(
    api: HfApi, repo_id: str, revision: str | None = None, *, repo_type: str = "model", private: bool | None = None
) -> str:
    """Create a repository and branch if they do not exist, and check that they are writable.

    With `private`, the repository must be private. Otherwise an existing one keeps its visibility, and a new one
    follows the settings of the account. Returns the full id, `owner/name`, even if `repo_id` is only a name.
    """
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
    # With `exist_ok`, this succeeds without write access, and leaves a public repository public.
    api.auth_check(repo_id, repo_type=repo_type, write=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise HubError("the repository is public; make it private in its settings, or choose another name")
    if revision not in (None, MAIN):
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    return repo_id


def fetch_card(repo_id: str, revision: str, repo_type: str = "model") -> str | None:
    """Return the current README of a repository, or `None` if it has none."""
    # If the Hub does not answer, this raises an error, where `hf_hub_download` would return a cached copy.
    url = hf_hub_url(repo_id, "README.md", repo_type=repo_type, revision=revision)
    response = get_session().get(url, headers=build_hf_headers())
    try:
        hf_raise_for_status(response)
    except RemoteEntryNotFoundError:
        return None
    return response.content.decode(errors="replace")


def commit_snapshot(api: HfApi, repo_id: str, snapshot: Snapshot, names: list[str]) -> str:
    """Commit files of a snapshot, unless an earlier attempt already has; return the id of the commit."""
    history = api.list_repo_commits(repo_id, revision=snapshot.revision)
    for commit in history:
        if snapshot.signature in commit.message.splitlines():
            return commit.commit_id
    tip = history[0].commit_id
    operations = []  # created for each attempt, because the client marks them as sent
    for name in names:
        content: Path | bytes = snapshot.files / name
        if name == "README.md" and snapshot.kind != "state":
            card = content.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
            content = merge_card(card, fetch_card(repo_id, tip)).encode()
        operations.append(CommitOperationAdd(name, content))
    return api.create_commit(
        repo_id,
        operations,
        commit_message=snapshot.title,
        commit_description=snapshot.signature,
        revision=snapshot.revision,
        parent_commit=tip,  # a commit made in between is never overwritten: the next attempt builds on it
    ).oid
