"""What is asked of a repository before anything is put into it, a model's or a dataset's."""

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from ..hub_errors import HubError
from .snapshots import MAIN


def prepare_repository(
    api: HfApi, repo_id: str, branch: str | None = None, *, repo_type: str = "model", private: bool | None = None
) -> str:
    """Makes repository and branch if they are missing, and makes sure of the right to write.

    Args:
        api: the client.
        repo_id: `owner/name`, or `name` for one of yours.
        branch: the branch; None (the default) for "main".
        repo_type: "model" or "dataset".
        private: whether it is to be private; otherwise it is as it was, or as the account makes new ones.

    Returns:
        The full id.

    Raises:
        HubError: it is to be private, and is public.
        HfHubHTTPError, httpx2.HTTPError: the Hub refuses or does not answer.
    """
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
    # Creating one that exists succeeds without the right to write, and leaves a public one public.
    api.auth_check(repo_id, repo_type=repo_type, write=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise HubError("it is public already; make it private in its settings, or choose another name")
    if branch not in (None, MAIN):
        api.create_branch(repo_id, branch=branch, repo_type=repo_type, exist_ok=True)
    return repo_id


def fetch_card(repo_id: str, revision: str, repo_type: str = "model") -> str | None:
    """The README of a repository as it is now, None if it has none.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: the Hub does not answer. `hf_hub_download` would give an old copy instead.
    """
    url = hf_hub_url(repo_id, "README.md", repo_type=repo_type, revision=revision)
    response = get_session().get(url, headers=build_hf_headers())
    try:
        hf_raise_for_status(response)
    except RemoteEntryNotFoundError:
        return None
    return response.content.decode(errors="replace")
