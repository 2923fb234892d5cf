"""The loopback Hub does to the real client what the Hub does: other tests stand on that.

The first lines of each test below are also the facts about the client on which the package's own uploads are built.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from datasets import load_dataset
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

REPO = "alice/model"


@pytest.fixture
def folder(hub, tmp_path) -> Path:
    """A small model's folder; its repository is on the Hub, empty."""
    HfApi().create_repo(REPO)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 800)
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def operations(folder: Path) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]


def test_what_is_uploaded_comes_back(hub, folder, tmp_path):
    """Byte for byte, each way of uploading being the one that is named."""
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    back = Path(snapshot_download(REPO, local_dir=tmp_path / "back"))
    for path in folder.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes() == hub.read(REPO, path.name)
    assert bool(hub.calls("GET", "xet-write-token")) == bool(hub.calls("GET", "xet-read-token")) == hub.xet
    assert bool(hub.calls("PUT", "_storage")) != hub.xet


def test_another_process_takes_the_same_way(hub, folder):
    """`hf-spam push` in a process of its own is what most tests of uploads run."""
    code = f"from huggingface_hub import HfApi; HfApi().upload_folder(repo_id={REPO!r}, folder_path={str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert hub.files(REPO) == [".gitattributes", "config.json", "model.safetensors"]
    assert bool(hub.calls("PUT", "_storage")) != hub.xet


def test_branches_and_history(hub, folder):
    api = HfApi()
    api.create_branch(REPO, branch="runs/1")
    for step in (1, 2):
        (folder / "config.json").write_text(str(step))
        api.create_commit(REPO, operations(folder), commit_message=f"step {step}", revision="runs/1")
    assert [commit.title for commit in api.list_repo_commits(REPO, revision="runs/1")] == hub.titles(REPO, "runs/1")
    assert hub.titles(REPO, "runs/1") == ["step 2", "step 1", "initial commit"]
    assert hub.titles(REPO) == ["initial commit"] and hub.files(REPO) == [".gitattributes"]
    assert {branch.name for branch in api.list_repo_refs(REPO).branches} == {"main", "runs/1"}
    assert sorted(api.list_repo_files(REPO, revision="runs/1")) == hub.files(REPO, "runs/1")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(REPO, operations(folder), commit_message="lost", revision="nowhere")


def test_a_dataset_is_loaded_by_its_name(hub, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nhello,0\nWIN,1\n")
    HfApi().create_repo("alice/data", repo_type="dataset", private=True)
    HfApi().upload_folder(repo_id="alice/data", folder_path=tmp_path, repo_type="dataset")
    assert load_dataset("alice/data")["train"]["text"][:] == ["hello", "WIN"]
    assert hub.files("alice/data", kind="dataset") == [".gitattributes", "train.csv"]


@pytest.mark.parametrize("token", ["hf_read", "hf_other", "hf_bad"])
def test_who_may_not_write(hub, folder, token):
    """`create_repo(exist_ok=True)` is content with a token that can only read; `auth_check` tells the truth."""
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(token=token).auth_check(REPO, write=True)
    assert caught.value.response.status_code == (401 if token == "hf_bad" else 403)
    if token == "hf_read":
        HfApi(token=token).create_repo(REPO, exist_ok=True)
    with pytest.raises(HfHubHTTPError):
        HfApi(token=token).create_commit(REPO, operations(folder), commit_message="no")
    assert hub.titles(REPO) == ["initial commit"]


def test_a_private_repository_looks_missing_to_others(hub):
    HfApi().create_repo("alice/secret", private=True)
    assert HfApi().repo_info("alice/secret").private
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).repo_info("alice/secret")


def test_access_that_ends_in_mid_run(hub, folder):
    api = HfApi()
    api.create_commit(REPO, operations(folder), commit_message="step 1")
    (folder / "config.json").write_text("2")
    hub.tokens["hf_write"].role = "read"
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_commit(REPO, operations(folder), commit_message="step 2")
    del hub.tokens["hf_write"]
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_commit(REPO, operations(folder), commit_message="step 2")
    assert hub.titles(REPO) == ["step 1", "initial commit"]


def test_a_commit_that_is_refused_once_is_retried_by_upload_folder_over_xet_only(hub, folder):
    hub.fail("POST", "/commit/", status=500)
    if hub.xet:
        HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    else:
        with pytest.raises(HfHubHTTPError, match="500"):
            HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert len(hub.calls("POST", "/commit/")) == 1 + hub.xet


@pytest.mark.parametrize("drop", ["before", "during", "after", "half"])
def test_a_connection_that_is_lost(hub, folder, drop):
    """Whenever it was lost: tried again with fresh operations, the commit is in the history once."""
    hub.fail("POST", "/commit/", drop=drop)
    with pytest.raises(httpx2.HTTPError):
        HfApi().create_commit(REPO, operations(folder), commit_message="step 1")
    arrived = drop in ("after", "half")
    assert hub.titles(REPO) == ["step 1"] * arrived + ["initial commit"]
    HfApi().create_commit(REPO, operations(folder), commit_message="step 1")
    assert hub.titles(REPO) == ["step 1", "initial commit"]


def test_somebody_else_was_first(hub, folder):
    tip = HfApi().repo_info(REPO).sha
    HfApi().create_commit(REPO, operations(folder)[:1], commit_message="theirs")
    with pytest.raises(HfHubHTTPError, match="412"):
        HfApi().create_commit(REPO, operations(folder), commit_message="ours", parent_commit=tip)


def test_down_and_up_again(hub, folder):
    """At the same address, with what it held; what hangs is cut."""
    HfApi().create_commit(REPO, operations(folder), commit_message="step 1")
    hub.stop()
    with pytest.raises(httpx2.ConnectError):
        HfApi().auth_check(REPO)
    hub.start()
    assert HfApi().repo_info(REPO).sha == hub.repo(REPO).branches["main"]
    hub.fail("GET", "auth-check", delay=3600)
    began = time.monotonic()
    with pytest.raises(httpx2.TimeoutException):
        httpx2.get(f"{os.environ['HF_ENDPOINT']}/api/models/{REPO}/auth-check", timeout=0.2)
    hub.stop()
    assert time.monotonic() - began < 5


def test_its_own_mistakes_are_kept(hub):
    """The fixture fails the test that met one, which could otherwise pass for a fault that was asked for."""
    HfApi().create_repo(REPO)
    hub.repo(REPO).branches = None
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().repo_info(REPO)
    assert "AttributeError" in hub.bugs.pop()
