"""Errors of the Hub client become one helpful line, and are classified as transient or not.

The real client raises them over real sockets, with both upload protocols; its next version may raise others.
"""

import os
import re
import subprocess
import sys

import httpx2
import pytest
from command_line import hf_spam
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from local_hub import both_transports

from hf_spam.hub_errors import explain, is_transient

REPO = "alice/model"
HTML = "<html><body>We'll be back</body></html>"
BROKE_OFF = "lost the connection to the Hub at ADDRESS; check the network and try again"
NO_JSON = "the answer of the Hub at ADDRESS is not JSON; try again later"
REACH = "cannot reach the Hub at ADDRESS (REASON); check the network, and HF_ENDPOINT if you have set it"
REFUSED = "the Hub refused the request with status 400"
NOT_WORKING = "the Hub is not working, or busy (status STATUS); try again later"
TOKENS = "https://huggingface.co/settings/tokens"
SCOPE = f'"Write access to contents/settings of all repos" for alice ({TOKENS})'
NO_WRITE = f'the token has no write access (REASON); it needs the role "write" or, if fine-grained, {SCOPE}'
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN (it takes precedence)"
ILLEGAL = f"the token contains invalid characters; {LOG_IN}"
NO_LOGIN = f"not logged in to the Hub; {LOG_IN}"
BAD_TOKEN = f"the Hub rejected the token (expired, revoked or mistyped); create one at {TOKENS} and {LOG_IN}"
MISSING = "model not found on the Hub, or not visible to your token; check the name and the token"


def upload(token: str | bool | None = None, repo: str = REPO, revision: str | None = None) -> None:
    files = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "model.safetensors": os.urandom(100)}
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    HfApi(token=token).create_commit(repo, operations, commit_message="step 1", revision=revision)


def check(expected: str, transient: bool, call, *arguments, repo: str = REPO, **keywords) -> None:
    """Check how the error of `call` is explained. ADDRESS, STATUS and (REASON) stand for any."""
    with pytest.raises(Exception) as caught:
        call(*arguments, **keywords)
    line = explain(caught.value, repo)
    pattern = re.escape(f"{repo}: {expected}").replace("ADDRESS", r"127\.0\.0\.1:\d+").replace("STATUS", r"\d{3}")
    assert re.fullmatch(pattern.replace(r"\ \(REASON\)", r"( \([^<>]+\))?"), line), line
    assert line.isprintable() and "hf_write" not in line
    assert is_transient(caught.value) is transient


FAULTS = {
    "500": ({"status": 500, "body": HTML}, NOT_WORKING, True),
    "before": ({"drop": "before"}, BROKE_OFF, True),
    "during": ({"drop": "during"}, BROKE_OFF, True),
    "after": ({"drop": "after"}, BROKE_OFF, True),
    "half": ({"drop": "half"}, BROKE_OFF, True),
    "400": ({"status": 400}, f"{REFUSED} (REASON)", False),
    "401": ({"status": 401}, BAD_TOKEN, False),
    "403": ({"status": 403}, NO_WRITE, False),
    "408": ({"status": 408}, NOT_WORKING, True),
    "409": ({"status": 409}, "someone else is changing the repository right now (REASON); try again", True),
    "412": ({"status": 412}, "someone else is changing the repository right now (REASON); try again", True),
    "429": ({"status": 429}, NOT_WORKING, True),
    "HTML": ({"status": 200, "body": HTML}, NO_JSON, True),  # as from a proxy
}


@both_transports
@pytest.mark.parametrize("place", ["/preupload/", "xet-write-token|objects/batch", "/commit/"])
@pytest.mark.parametrize("case", FAULTS)
def test_a_failed_upload(hub, place, case):
    """hf_xet and the LFS client raise different errors for the same fault; both are explained alike."""
    fault, line, transient = FAULTS[case]
    if case == "HTML" and hub.xet and "xet" in place:
        line = BROKE_OFF
    HfApi().create_repo(REPO)
    hub.fail("*", place, times=99, **fault)
    check(line, transient, upload)


@both_transports
@pytest.mark.parametrize(
    ("status", "body", "line", "transient"),
    [
        (400, {"errors": [{"message": '"license" is odd'}]}, f'{REFUSED} ("license" is odd)', False),
        (503, HTML, NO_JSON, True),  # the client does not look at the status
    ],
)
def test_a_failed_check_of_the_card(hub, status, body, line, transient):
    HfApi().create_repo(REPO)
    hub.fail("POST", "validate-yaml", status=status, body=body)
    check(line, transient, upload)


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 404}, {"status": 500}, {"drop": "during"}])
def test_the_storage_behind_the_hub_fails(hub, fault):
    """Its 403 means that an upload address has expired; the token is fine, and the next attempt gets a new address.

    Only with LFS: here, the storage of Xet is not a server.
    """
    HfApi().create_repo(REPO)
    hub.fail("PUT", "_storage", times=99, **fault)
    check(NOT_WORKING if "status" in fault else BROKE_OFF, True, upload)


@both_transports
def test_a_failed_download(hub, tmp_path):
    HfApi().create_repo(REPO)
    upload()
    hub.fail("*", "/resolve/", times=99, status=500)
    check(NOT_WORKING, True, hf_hub_download, REPO, "config.json", cache_dir=tmp_path)


@both_transports
@pytest.mark.parametrize(
    ("token", "line"),
    [("hf_read", NO_WRITE), ("hf_other", NO_WRITE), ("hf_bad", BAD_TOKEN), (False, NO_LOGIN), ("hf_bäd", ILLEGAL)],
)
def test_token_without_permission(hub, token, line):
    """The line is the same whichever request fails first."""
    HfApi().create_repo(REPO)
    check(line, False, upload, token=token)
    check(line, False, HfApi(token=token).auth_check, REPO, write=True)
    check(line, False, HfApi(token=token).create_repo, "alice/another")


@both_transports
def test_no_token_is_shown(hub, monkeypatch):
    """Not even an invalid one, or one repeated in the Hub's answer."""
    HfApi().create_repo(REPO)
    with pytest.raises(httpx2.LocalProtocolError, match="hf_secret") as caught:  # the client shows it
        HfApi(token="hf_secret\nx").auth_check(REPO)
    assert explain(caught.value, REPO) == f"{REPO}: {ILLEGAL}" and not is_transient(caught.value)
    echo = {"error": "hf_write and hf_0123456789abcdefghijABCDEFGHIJ"}
    hub.fail("POST", "/commit/", status=403, body=echo)
    with pytest.raises(httpx2.HTTPError) as caught:
        upload()
    assert "(hf_… and hf_…)" in explain(caught.value, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "secret" not in explain(ValueError("bad header: Bearer hf_secret"), REPO)


def test_not_logged_in(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    for token in (None, True):
        check(NO_LOGIN, False, HfApi(token=token).create_repo, REPO)


@both_transports
def test_a_missing_repository_or_branch(hub):
    check(MISSING, False, upload)
    HfApi().create_repo(REPO)
    check("branch or commit not found (Invalid rev id: nowhere)", False, upload, revision="nowhere")


@pytest.mark.parametrize("name", ["a b/c", "a/b/c", "alice/x--y", "alice/.x", "alice/x.git", "alice/", "", "a/\x1b"])
def test_an_invalid_name(hub, name):
    with pytest.raises(ValueError) as caught:
        HfApi().create_repo(name)
    line = explain(caught.value, name, "dataset")
    assert "not a valid dataset name; use 'owner/name'" in line and line.isprintable()
    assert not is_transient(caught.value)


@both_transports
def test_the_hub_cannot_be_reached(hub):
    """Training continues without the Hub, so this must be distinguished from errors that need fixing."""

    def silence() -> None:
        raise httpx2.ReadTimeout("timed out")

    HfApi().create_repo(REPO)
    hub.stop()
    check(REACH, True, upload)
    check(REACH, True, HfApi(endpoint="http://nowhere.invalid").auth_check, REPO)
    check(BROKE_OFF, True, silence)


def test_other_errors_keep_their_message():
    """A full disk or a bug is not transient."""
    for error in (OSError(28, "No space left on device"), ValueError("what\nwhere"), KeyError("x")):
        assert not is_transient(error)
    assert explain(OSError(28, "No space left on device"), REPO) == f"{REPO}: [Errno 28] No space left on device"
    assert explain(ValueError("what\nwhere"), REPO) == f"{REPO}: what"
    assert explain(ValueError(), REPO) == f"{REPO}: ValueError"


# Each names something on the Hub.
COMMANDS = [
    "classify hi --model owner/name",
    "evaluate owner/name --data sample",
    "export owner/name out --format onnx",
    "import-weights owner/name out",
    "train --recipe book",
    "crossval --data sample",
    "evaluate --data owner/name",
    "score owner/name out.csv",
    "train --recipe pocket --data sample,owner/name",
]
RUN_ALL = """
import sys
from hf_spam.cli import main
for command in sys.argv[1:]:
    sys.argv = ["hf-spam", *command.split()]
    try:
        main()
    except SystemExit as exit:
        assert exit.code == 1, command
    assert "torch" not in sys.modules, command
"""


def test_a_name_on_an_unreachable_hub_fails_before_torch_is_imported(hub, tmp_path):
    """Otherwise the client would retry for a minute, and name the cause last."""
    hub.stop()
    command = [sys.executable, "-c", RUN_ALL, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and len(lines) == len(COMMANDS), done.stderr
    assert all("no such file or folder; cannot reach the Hub" in line for line in lines), lines
    assert not list(tmp_path.iterdir())


def test_a_missing_model_with_a_comma_in_its_name_is_named_in_full(hub):
    """A model is one name, unlike sources of messages."""
    hub.stop()
    assert hf_spam("classify", "--model", "runs/a,b", "hi").err.startswith("hf-spam: runs/a,b: no such file or folder")
