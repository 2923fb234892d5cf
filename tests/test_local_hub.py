"""The loopback Hub behaves towards the real client like the Hub; the upload tests rely on it."""

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from local_hub import both_transports

REPO = "alice/model"
FILES = {"model.safetensors": bytes(range(256)) * 800, "config.json": b"{}"}


def commit() -> None:
    operations = [CommitOperationAdd(name, data) for name, data in FILES.items()]
    HfApi().create_commit(REPO, operations, commit_message="step 1")


@both_transports
@pytest.mark.parametrize("drop", ["before", "during", "after", "half"])
def test_a_lost_connection(hub, drop, tmp_path):
    """The client does not know whether its commit arrived. Repeating it with new operations does not duplicate it.

    Files come back unchanged, by the protocol that the test asked for.
    """
    HfApi().create_repo(REPO)
    hub.fail("POST", "/commit/", drop=drop)
    with pytest.raises(httpx2.HTTPError):
        commit()
    assert hub.titles(REPO) == ["step 1"] * (drop in ("after", "half")) + ["initial commit"]
    commit()
    assert hub.titles(REPO) == ["step 1", "initial commit"]
    for name, data in FILES.items():
        hf_hub_download(REPO, name, local_dir=tmp_path)
        assert (tmp_path / name).read_bytes() == data == hub.read(REPO, name)
    assert bool(hub.calls("GET", "xet-write-token")) == bool(hub.calls("GET", "xet-read-token")) == hub.xet
    assert bool(hub.calls("PUT", "_storage")) != hub.xet


def test_a_bug_of_the_hub_fails_the_test(hub):
    """Otherwise it could be mistaken for an injected fault."""
    HfApi().create_repo(REPO)
    hub.repo(REPO).branches = None
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().repo_info(REPO)
    assert "AttributeError" in hub.bugs.pop()
