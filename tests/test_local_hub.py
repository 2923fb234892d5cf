"""The loopback Hub behaves towards the real client like the Hub; the upload tests rely on it."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from local_hub import both_transports

REPO = "alice/model"
pytestmark = both_transports


@pytest.fixture
def folder(hub, tmp_path) -> Path:
    """A small model folder; its repository on the Hub is empty."""
    HfApi().create_repo(REPO)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 800)
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def commit(folder: Path, title: str, **how) -> None:
    operations = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
    HfApi().create_commit(REPO, operations, commit_message=title, **how)


def test_uploads_come_back_unchanged(hub, folder, tmp_path):
    """The protocol is the one that the test asked for."""
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    back = Path(snapshot_download(REPO, local_dir=tmp_path / "back"))
    for path in folder.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes() == hub.read(REPO, path.name)
    assert bool(hub.calls("GET", "xet-write-token")) == bool(hub.calls("GET", "xet-read-token")) == hub.xet
    assert bool(hub.calls("PUT", "_storage")) != hub.xet


@pytest.mark.parametrize("drop", ["before", "during", "after", "half"])
def test_a_lost_connection(hub, folder, drop):
    """The client does not know whether its commit arrived. Repeating it with new operations does not duplicate it."""
    hub.fail("POST", "/commit/", drop=drop)
    with pytest.raises(httpx2.HTTPError):
        commit(folder, "step 1")
    assert hub.titles(REPO) == ["step 1"] * (drop in ("after", "half")) + ["initial commit"]
    commit(folder, "step 1")
    assert hub.titles(REPO) == ["step 1", "initial commit"]


def test_a_bug_of_the_hub_fails_the_test(hub):
    """Otherwise it could be mistaken for an injected fault."""
    HfApi().create_repo(REPO)
    hub.repo(REPO).branches = None
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().repo_info(REPO)
    assert "AttributeError" in hub.bugs.pop()
