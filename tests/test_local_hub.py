"""The loopback Hub behaves towards the real client like the Hub; the upload tests rely on it."""

from pathlib import Path

import httpx2
import pytest
from datasets import load_dataset
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

REPO = "alice/model"


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


def test_branches_and_history(hub, folder):
    api = HfApi()
    api.create_branch(REPO, branch="runs/1")
    for step in (1, 2):
        (folder / "config.json").write_text(str(step))
        commit(folder, f"step {step}", revision="runs/1")
    assert [commit.title for commit in api.list_repo_commits(REPO, revision="runs/1")] == hub.titles(REPO, "runs/1")
    assert hub.titles(REPO, "runs/1") == ["step 2", "step 1", "initial commit"]
    assert hub.titles(REPO) == ["initial commit"] and hub.files(REPO) == [".gitattributes"]
    assert sorted(api.list_repo_files(REPO, revision="runs/1")) == hub.files(REPO, "runs/1")
    with pytest.raises(RevisionNotFoundError):
        commit(folder, "lost", revision="nowhere")


def test_a_private_dataset_is_loaded_by_its_owner_only(hub, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nhello,0\nWIN,1\n")
    HfApi().create_repo("alice/data", repo_type="dataset", private=True)
    HfApi().upload_folder(repo_id="alice/data", folder_path=tmp_path, repo_type="dataset")
    assert load_dataset("alice/data")["train"]["text"][:] == ["hello", "WIN"]
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).dataset_info("alice/data")


@pytest.mark.parametrize(("token", "status"), [("hf_read", 403), ("hf_other", 403), ("hf_bad", 401)])
def test_write_access(hub, folder, token, status):
    """`create_repo(exist_ok=True)` succeeds with a token that can only read; `auth_check` does not."""
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(token=token).auth_check(REPO, write=True)
    assert caught.value.response.status_code == status
    if token == "hf_read":
        HfApi(token=token).create_repo(REPO, exist_ok=True)


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
