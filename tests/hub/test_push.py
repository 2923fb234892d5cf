"""Checkpoints reach the Hub, or wait on disk until they do, whatever happens on the way; training never notices.

The real client talks over real sockets to a Hub on loopback, over Xet and over LFS. Each training here is the whole
command line, compared with the same run without a Hub.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hf_spam import SpamClassifier, load_sms_spam
from hf_spam.cli import main
from hf_spam.hub import push as uploader
from hf_spam.hub import snapshots
from hf_spam.hub.push import LOG, Uploader
from hf_spam.hub.snapshots import QUEUE, Queue

REPO = "alice/spam"
LAST = 29  # step of the final model
SAVED = (10, 20)
# For what does not depend on how files are uploaded.
one_transport = pytest.mark.parametrize("hub", ["lfs"], indirect=True)
both_transports = pytest.mark.parametrize("hub", ["lfs", "xet"], indirect=True)
COMPLETE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json"}
COMPLETE |= {"history.json", "modeling_spam_gpt.py", "configuration_spam_gpt.py", "pipeline_spam_gpt.py"}
COMPLETE |= {"loss-plot.png", "accuracy-plot.pdf"}


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> list:
    """The arguments of a small run, with checkpoints, dropout and averaged weights."""
    data = tmp_path_factory.mktemp("data") / "few.csv"
    texts = load_sms_spam("sample", protocol="book")["train"].select(range(150)).to_pandas()
    texts.to_csv(data, index=False)
    flags = {"data": data, "protocol": "book", "max-steps": LAST + 1, "n-embd": 16, "vocab-size": 300, "eval-freq": 10}
    flags |= {"weight-average": 0.9, "save-steps": 10}
    return ["train", "--recipe", "pocket", *(word for name, value in flags.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def push(train) -> list:
    return [*train, "--push-to-hub", "--hub-model-id", REPO, "--hub-strategy", "every_save"]


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory) -> Path:
    """The output of that run without the Hub."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert run(*train, "--output-dir", out) == 0
    return out


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(uploader, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(uploader, "LONGEST_WAIT", 0.1)


def run(*arguments) -> int:
    """The exit code of `hf-spam`, in this process."""
    previous, sys.argv = sys.argv, ["hf-spam", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = previous
    return end.value.code


def one_thread() -> dict[str, str]:
    """The environment of a process of its own, whose sums are to be in the same order as in this one."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def at_step(monkeypatch, step: int, action: Callable[[], object]) -> None:
    """Does something just before the checkpoint or the final model of a step is frozen, on the training's thread."""
    submit = Uploader.submit

    def submit_after(self, folder, run_id, at, kind, **about):
        if at == step:
            action()
        submit(self, folder, run_id, at, kind, **about)

    monkeypatch.setattr(Uploader, "submit", submit_after)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def assert_same_result(out: Path, alone: Path) -> None:
    """Training came to the very same end as without a Hub."""
    for name in ("model.safetensors", "config.json", "tokenizer.json", "metrics.json"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "history.json").read_text()) for folder in (out, alone))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def assert_delivered(hub, alone: Path, titles: list[str] | None = None) -> None:
    """The final model is there, whole, once in history; and every commit has the weights of the step that it names."""
    assert set(hub.files(REPO)) >= COMPLETE
    ours = [title for title in hub.titles(REPO) if "step" in title]
    if titles is None:
        titles = [f"final model, step {LAST}", *(f"checkpoint, step {step}" for step in reversed(SAVED))]
    assert ours == titles
    for commit in hub.repo(REPO).history():
        if "step" in commit.title:
            step = int(commit.title.split()[-1])
            folder = alone if step == LAST else alone / f"checkpoint-{step}"
            for name in ("model.safetensors", "metrics.json", "config.json"):
                assert hub.content(commit.tree[name]) == (folder / name).read_bytes(), (commit.title, name)


def assert_deliverable(hub, out: Path, alone: Path, caplog) -> None:
    """What could not be sent is in the queue, the console says how to send it, and that does it."""
    assert Queue(out / QUEUE).snapshots()[-1].step == LAST
    assert f"Send it with: hf-spam push {out} --resume" in caplog.text
    assert run("push", out, "--resume") == 0
    assert_delivered(hub, alone)
    assert not (out / QUEUE).exists()


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


# The network and the Hub


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"drop": "before"},
        {"drop": "during"},
        {"drop": "after"},
        {"drop": "half"},
    ],
    ids=lambda fault: "-".join(map(str, [*fault.values()][:1])),
)
def test_commits_that_fail_are_repeated_and_never_doubled(fault, hub, push, alone, tmp_path):
    """Three errors, or a connection that is reset before, during or after the work, whose answer is then lost."""
    fault = hub.fail("POST", "/commit/", times=3, **fault)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert fault.hits == 3
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)
    assert not (tmp_path / "out" / QUEUE).exists()


def test_an_unreadable_answer_of_validate_yaml_is_no_end(hub, push, alone, tmp_path):
    hub.fail("POST", "/validate-yaml", times=3, status=502, body="<html>Bad gateway</html>")
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


@both_transports
def test_storage_that_fails_is_tried_again(hub, push, alone, tmp_path):
    """What goes before the commit: the way to the storage, over Xet and over LFS."""
    hub.fail("GET", "xet-write-token", times=2, status=500)
    hub.fail("POST", "objects/batch", times=2, status=503)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


@pytest.mark.parametrize("loss", ["expired", "revoked"])
def test_a_token_that_fails_in_mid_run(loss, hub, push, alone, tmp_path, monkeypatch, caplog):
    """Said once; training goes on; all the rest waits for a token that works."""
    token = hub.tokens["hf_write"]
    wait_for_first = lambda: wait_for(lambda: "checkpoint, step 10" in hub.titles(REPO))  # noqa: E731

    def lose():
        wait_for_first()
        if loss == "expired":
            hub.tokens.pop("hf_write")
        else:
            token.role = "read"

    at_step(monkeypatch, 20, lose)
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out) == 0
    assert_same_result(out, alone)
    assert [line["step"] for line in log_of(out) if line["event"] == "failed"] == [20]
    assert len(Queue(out / QUEUE).snapshots()) == 2
    token.role, hub.tokens["hf_write"] = "write", token
    assert_deliverable(hub, out, alone, caplog)


def test_a_hub_that_is_down_at_the_start(hub, push, alone, tmp_path, caplog):
    hub.stop()
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out, "--hub-timeout", "0.2") == 0
    assert_same_result(out, alone)
    hub.start()
    assert_deliverable(hub, out, alone, caplog)


def test_a_hub_that_comes_up_later(hub, push, alone, tmp_path, monkeypatch):
    """Down at the start, up at the end: everything arrives in the order in which it was made."""
    hub.stop()
    at_step(monkeypatch, LAST, hub.start)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


def test_a_hub_that_is_restarted_in_mid_run(hub, push, alone, tmp_path, monkeypatch):
    at_step(monkeypatch, 20, hub.stop)
    at_step(monkeypatch, LAST, hub.start)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


def test_a_hub_that_hangs_is_given_up_and_asked_again(hub, push, alone, tmp_path, monkeypatch):
    """The client itself would wait for ever."""
    monkeypatch.setattr(uploader, "SILENCE", 0.5)
    hub.fail("POST", "/commit/", times=1, delay=3600)
    hub.fail("GET", "/commits/", times=1, delay=3600)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


def test_a_preflight_without_an_answer_does_not_keep_training_from_starting(
    hub, push, alone, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(uploader, "PREFLIGHT_SILENCE", 0.2)
    hub.fail("POST", "/repos/create", times=1, delay=3600)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert "Nothing can be pushed now" in caplog.text
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone)


def test_checkpoints_that_are_rotated_away_during_a_slow_upload(hub, push, alone, tmp_path):
    """What a commit holds was frozen: the weights are those of the step that it names."""
    hub.fail("POST", "/commit/", times=9, delay=0.7)
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out, "--save-total-limit", 1) == 0
    assert not (out / "checkpoint-10").exists()
    assert_same_result(out, alone)
    assert_delivered(hub, alone)


def test_someone_else_pushes_in_between(hub, push, alone, tmp_path, monkeypatch):
    """The commit is refused with 412, made again on top of theirs, and their words stay in the card."""
    create_commit, theirs = HfApi.create_commit, []

    def overtaken(self, repo_id, operations, **how):
        operations = list(operations)
        if not theirs:
            theirs.append(CommitOperationAdd("README.md", b"# Mine\n\nWords of a person.\n"))
            create_commit(HfApi(), repo_id, theirs, commit_message="theirs")
        return create_commit(self, repo_id, operations, **how)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out) == 0
    assert_same_result(out, alone)
    assert_delivered(hub, alone)
    assert [call["status"] for call in hub.calls("POST", "/commit/")].count(412) == 1
    assert "theirs" in hub.titles(REPO)
    assert "Words of a person." in hub.read(REPO, "README.md").decode()


# The process and the disk


def test_killed_with_a_full_queue(hub, push, alone, tmp_path, caplog):
    """kill -9 while everything waits for a Hub that hangs: `push --resume` sends it, each once."""
    fault = hub.fail("POST", "/commit/", times=99, delay=3600)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_spam", *map(str, push), "--output-dir", str(out)], env=one_thread()
    )
    wait_for(lambda: [snapshot.step for snapshot in Queue(out / QUEUE).snapshots()] == [*SAVED, LAST])
    wait_for(lambda: fault.hits)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.stop()  # what hung is gone with the connection
    hub.faults.clear()
    hub.start()
    assert_same_result(out, alone)
    assert run("push", out, "--resume") == 0
    assert_delivered(hub, alone)


@pytest.mark.parametrize("hub", ["lfs", pytest.param("xet", marks=pytest.mark.slow)], indirect=True)
def test_a_hub_that_hangs_to_the_end(hub, push, alone, tmp_path):
    """The process ends in time and well, and says what it leaves."""
    fault = hub.fail("POST", "/commit/", times=99, delay=3600)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hf_spam", *map(str, push), "--output-dir", str(out), "--hub-timeout", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=one_thread())
    assert done.returncode == 0 and fault.hits, done.stderr
    assert f"Send it with: hf-spam push {out} --resume" in done.stderr and "Traceback" not in done.stderr
    hub.stop()
    hub.faults.clear()
    hub.start()
    assert_same_result(out, alone)
    assert run("push", out, "--resume") == 0
    assert_delivered(hub, alone)


def test_a_disk_that_fills_up_while_a_snapshot_is_frozen(hub, push, alone, tmp_path, monkeypatch, caplog):
    """That checkpoint is not pushed, which is said once; training, and all the others, go on."""
    copy, out = shutil.copy, tmp_path / "out"

    def full(source, target):
        if "checkpoint-" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(snapshots.os, "link", full)
    monkeypatch.setattr(snapshots.shutil, "copy", full)
    assert run(*push, "--output-dir", out) == 0
    assert caplog.text.count("No space left on device") == 1
    assert_same_result(out, alone)
    assert_delivered(hub, alone, [f"final model, step {LAST}"])


def test_a_disk_that_is_full_at_the_end(hub, push, alone, tmp_path, monkeypatch, caplog):
    """The final model, which does not change any more, is sent from where it is; so is one whose step nobody knows."""

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshots.os, "link", full)
    monkeypatch.setattr(snapshots.shutil, "copy", full)
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    assert_same_result(tmp_path / "out", alone)
    assert_delivered(hub, alone, [f"final model, step {LAST}"])
    assert "upload_log.jsonl" not in hub.files(REPO)
    caplog.clear()
    assert run("push", tmp_path / "out", "alice/again") == 0
    assert "The final model is sent from where it is: it could not be frozen: [Errno 28] No space left" in caplog.text
    assert set(hub.files("alice/again")) == set(hub.files(REPO))


# What is asked for before the first step


@one_transport
@pytest.mark.parametrize(
    ("token", "repo", "words"),
    [
        ("hf_bad", REPO, "does not accept the token"),
        (
            "hf_read",
            "alice/new",
            "the token has no write access (Forbidden: pass a token with write access to this repo)",
        ),
        ("hf_read", "alice/there", 'it needs the role "write"'),
        ("hf_other", "alice/new", "no write access"),
        ("hf_other", "alice/there", "no write access"),
        ("hf_write", "alice/no//name", "cannot be the name of a model"),
        ("", REPO, "not logged in to the Hub"),
    ],
)
def test_what_can_never_be_pushed_stops_at_once(token, repo, words, hub, push, tmp_path, monkeypatch, capfd):
    """One line that says what to do, before a step is done and before anything is written."""
    HfApi().create_repo("alice/there")
    monkeypatch.setenv("HF_TOKEN", token)
    out = tmp_path / "out"
    arguments = [repo if word == REPO else word for word in push]
    assert run(*arguments, "--output-dir", out) == 1
    error = capfd.readouterr().err
    assert error.startswith("hf-spam: Nothing can be pushed. ") and words in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hub-model-id", REPO], "--hub-model-id needs --push-to-hub"),
        (["--push-to-hub", "--hub-strategy", "best"], "Pushing checkpoints needs save_steps (--save-steps)"),
        (["--push-to-hub", "--hub-push-state"], "Pushing checkpoints needs save_steps (--save-steps)"),
        (["--resume-from-checkpoint", "hub"], "give --push-to-hub and --hub-model-id"),
        (["--push-to-hub", "--hub-timeout", "inf"], "must be seconds, 0 or more, got inf"),
        (["--push-to-hub", "--hub-timeout", "nan"], "must be seconds, 0 or more, got nan"),
        (["--push-to-hub", "--hub-timeout", "-1"], "must be seconds, 0 or more, got -1.0"),
    ],
)
def test_flags_that_do_not_go_together(flags, words, tmp_path, capfd):
    assert run("train", "--recipe", "pocket", "--data", "sample", "--output-dir", tmp_path / "out", *flags) != 0
    assert words in capfd.readouterr().err


@one_transport
def test_a_private_repository_on_a_branch_named_after_the_folder(hub, push, alone, tmp_path):
    at = push.index("--hub-model-id")
    arguments = [*push[:at], *push[at + 2 :], "--hub-private", "--hub-revision", "try/1"]
    assert run(*arguments, "--output-dir", tmp_path / "my-spam") == 0
    repo = hub.repo("alice/my-spam")
    assert repo.private and hub.titles("alice/my-spam") == ["initial commit"]
    assert hub.titles("alice/my-spam", "try/1")[0] == f"final model, step {LAST}"


# What is pushed


@one_transport
def test_strategies(hub, train, alone, tmp_path, monkeypatch):
    """`end`: the final model alone. `best`: each of the lowest validation loss so far, and so in the end the best."""
    arguments = [*train, "--push-to-hub", "--hub-model-id"]
    assert run(*arguments, "alice/end", "--output-dir", tmp_path / "end") == 0
    assert hub.titles("alice/end") == [f"final model, step {LAST}", "initial commit"]

    losses = iter([0.5, 0.4, 0.6])  # of steps 10 and 20, and at the end
    monkeypatch.setattr("hf_spam.training.checkpoints.Progress.compare", _compare_to(losses))
    assert run(*arguments, "alice/best", "--hub-strategy", "best", "--output-dir", tmp_path / "best") == 0
    assert hub.titles("alice/best") == ["checkpoint, step 20", "checkpoint, step 10", "initial commit"]


def _compare_to(losses):
    from hf_spam.training.checkpoints import Progress

    compare = Progress.compare
    return lambda self, loss: compare(self, next(losses))


@one_transport
def test_a_slow_network_skips_what_is_neither_best_nor_last(hub, train, tmp_path, monkeypatch):
    """The queue is bounded. The best checkpoint, here the second, stays; the others make room, the oldest first."""
    losses = iter([0.5, 0.1, *[0.5] * 9])
    monkeypatch.setattr("hf_spam.training.checkpoints.Progress.compare", _compare_to(losses))
    hub.stop()
    at_step(monkeypatch, LAST, hub.start)
    out = tmp_path / "out"
    flags = ["--save-steps", 3, "--push-to-hub", "--hub-model-id", REPO, "--hub-strategy", "every_save"]
    assert run(*train, *flags, "--output-dir", out) == 0
    steps = [int(title.split()[-1]) for title in reversed(hub.titles(REPO)[:-1])]
    assert 6 in steps and steps[-1] == LAST and len(steps) <= 6 and steps == sorted(steps)
    skipped = {line["step"] for line in log_of(out) if line["event"] == "skipped"}
    assert skipped | set(steps) == {3, 6, 9, 12, 15, 18, 21, 24, 27, LAST} and not skipped & set(steps)


@one_transport
def test_the_log_of_uploads(hub, push, tmp_path, caplog):
    """A line for every event, for machines; a line a push for people."""
    hub.fail("POST", "/commit/", status=503)
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out) == 0
    lines = log_of(out)
    assert [(line["event"], line["step"]) for line in lines] == [
        ("retried", 10),
        *(("pushed", step) for step in (*SAVED, LAST)),
    ]
    assert lines[0]["attempt"] == 1 and "status 503" in lines[0]["error"]
    commits = {commit.id for commit in hub.repo(REPO).history()}
    assert {line["commit"] for line in lines[1:]} < commits and lines[1]["megabytes"] > 0
    assert caplog.text.count(f"Pushed to {REPO}: ") == 3


@one_transport
def test_the_words_of_a_person_stay_in_the_card(hub, push, tmp_path):
    """Their text and their metadata, through two runs; the results and the section between the marks are ours."""
    assert run(*push, "--output-dir", tmp_path / "out") == 0
    card = hub.read(REPO, "README.md").decode()
    assert f'model="{REPO}"' in card
    edited = card.replace("---\n", "---\nlicense: mit\n", 1) + "\nMeasured on our own messages: 99 %.\n"
    edited = edited.replace("## Limits", "## No limits")
    HfApi().upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=REPO)
    assert run("push", tmp_path / "out", REPO) == 0
    card = hub.read(REPO, "README.md").decode()
    assert "license: mit" in card and "Measured on our own messages: 99 %." in card
    assert "## Limits" in card and "## No limits" not in card


@both_transports
def test_anyone_can_load_what_arrived(hub, push, tmp_path):
    """Without `hf_spam`, the stock pipeline gives the scores of the model that was trained; so for any revision."""
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out) == 0
    texts = ["WIN a FREE prize now! Call 09061701461", "see you at home", "", "x " * 400]
    script = """if True:
        import json, sys
        sys.modules["hf_spam"] = None  # as on a machine that does not have it
        from transformers import pipeline
        results = {}
        for revision in sys.argv[1].split(","):
            classify = pipeline("text-classification", "alice/spam", revision=revision, trust_remote_code=True)
            results[revision] = classify(json.loads(sys.argv[2]), truncation=True, top_k=None)
        print(json.dumps(results))
    """
    commits = {int(line["step"]): line["commit"] for line in log_of(out) if line["event"] == "pushed"}
    arguments = ["-c", script, ",".join(["main", *commits.values()]), json.dumps(texts[:2] + texts[3:])]
    environment = {**one_thread(), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    folders = {"main": out, commits[LAST]: out, **{commits[step]: out / f"checkpoint-{step}" for step in SAVED}}
    for revision, folder in folders.items():
        probabilities = SpamClassifier.from_pretrained(folder).probabilities(texts[:2] + texts[3:])
        for answer, expected in zip(results[revision], probabilities.tolist(), strict=True):
            scores = {row["label"]: row["score"] for row in answer}
            assert scores == pytest.approx({"not spam": expected[0], "spam": expected[1]}, abs=1e-6)
    assert len({str(result) for result in results.values()}) == 3


@one_transport
def test_no_token_is_written_anywhere(hub, push, tmp_path, monkeypatch, caplog, capfd):
    """Not to the Hub, nor to a file, nor to the console, whatever goes wrong."""
    secret = "hf_" + "Secret1" * 5
    hub.tokens[secret] = hub.tokens["hf_write"]
    monkeypatch.setenv("HF_TOKEN", secret)
    hub.fail("POST", "/commit/", status=500, body=f"<html>{secret}</html>")
    hub.fail("POST", "/validate-yaml", status=502, body=f"<html>{secret}</html>")
    at_step(monkeypatch, 20, lambda: (wait_for(lambda: len(hub.titles(REPO)) > 1), hub.tokens.pop(secret)))
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out) == 0
    assert (out / QUEUE).exists()
    for path in out.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    assert all(secret.encode() not in data for data in hub.blobs.values())
    captured = capfd.readouterr()
    assert secret not in captured.out + captured.err + caplog.text


@one_transport
def test_a_damaged_snapshot_is_not_sent(hub, push, tmp_path, caplog):
    """What is not as it was frozen is named and kept, and does not hold up the rest."""
    hub.stop()
    out = tmp_path / "out"
    assert run(*push, "--output-dir", out, "--hub-timeout", 0) == 0
    hub.start()
    weights = Queue(out / QUEUE).snapshots()[0].files / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run("push", out, "--resume") == 1
    assert "is damaged: files/model.safetensors is not as it was written" in caplog.text
    assert hub.titles(REPO) == [f"final model, step {LAST}", "checkpoint, step 20", "initial commit"]


@one_transport
def test_push_of_a_folder(hub, alone, tmp_path, capfd):
    """`hf-spam push`: a finished run, or a checkpoint, and nothing that only lies there."""
    out = tmp_path / "copy"
    shutil.copytree(alone, out)
    (out / "my-messages.csv").write_text("private")
    (out / "old.pt").write_bytes(b"a pickle")
    assert run("push", out, REPO) == 0
    assert set(hub.files(REPO)) == {*COMPLETE, ".gitattributes", "loss-plot.pdf", "accuracy-plot.png"}
    assert run("push", out / "checkpoint-10", REPO, "--revision", "early") == 0
    assert hub.titles(REPO, "early")[0] == "final model, step 10"
    assert "training_state/state.json" not in hub.files(REPO, "early")
    capfd.readouterr()
    for arguments, words in (
        ([tmp_path / "nowhere", REPO], "is not a folder"),
        ([tmp_path, REPO], "holds no model"),
        ([out], "Name the repository to push to"),
        ([out, "--resume"], "Nothing waits to be pushed"),
    ):
        assert run("push", *arguments) == 1
        assert words in capfd.readouterr().err


def test_the_training_state_goes_on_on_another_machine(hub, train, alone, tmp_path, capfd):
    """A run that is gone is resumed from the Hub, and comes to the same end; its state is not in the model's branch."""
    push = [*train, "--push-to-hub", "--hub-model-id", REPO, "--hub-push-state"]
    assert run(*push, "--resume-from-checkpoint", "hub", "--output-dir", tmp_path / "none") == 1
    assert f"{REPO} holds no training state" in capfd.readouterr().err
    assert run(*push, "--output-dir", tmp_path / "gone") == 0
    assert hub.titles(REPO)[0] == f"final model, step {LAST}"
    assert hub.titles(REPO, "training-state")[0] == "training state, step 20"
    assert not any(name.startswith("training_state") for name in hub.files(REPO))
    assert not any(name.endswith((".pt", ".pkl", ".bin", ".pth")) for name in hub.files(REPO, "training-state"))

    out = tmp_path / "out"
    assert run(*push, "--resume-from-checkpoint", "hub", "--output-dir", out) == 0
    assert "Going on from" in capfd.readouterr().err
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-20"]
    assert_same_result(out, alone)
    assert hub.titles(REPO).count(f"final model, step {LAST}") == 1  # the resumed run is the same run

    hub.stop()
    assert run(*push, "--resume-from-checkpoint", "hub", "--output-dir", tmp_path / "late") == 1
    assert "the Hub cannot be reached" in capfd.readouterr().err


@one_transport
def test_a_public_repository_is_not_taken_for_a_private_one(hub, alone, capfd):
    """The client would say nothing, and publish what was to be private."""
    HfApi().create_repo(REPO)
    assert run("push", alone, REPO, "--private") == 1
    assert f"{REPO}: it is public already; make it private" in capfd.readouterr().err
    assert hub.titles(REPO) == ["initial commit"]


@one_transport
def test_offline_mode_keeps_everything_for_later(hub, push, alone, tmp_path, caplog, monkeypatch):
    """As with a Hub that is down: a setting of the machine that the training runs on is no reason not to train."""
    out = tmp_path / "out"
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert run(*push, "--output-dir", out) == 0
    assert_same_result(out, alone)
    assert "unset HF_HUB_OFFLINE" in caplog.text
    assert_deliverable(hub, out, alone, caplog)


@one_transport
def test_what_waits_for_another_repository_holds_up_nothing(hub, push, alone, tmp_path, caplog, capfd):
    """It stays in the queue until it is asked for, by name or with all the rest."""
    out = tmp_path / "out"
    hub.stop()
    other = ["bob/old" if word == REPO else word for word in push]
    assert run(*other, "--output-dir", out, "--hub-timeout", 0) == 0
    hub.start()
    assert run(*push, "--output-dir", out, "--overwrite-output-dir") == 0
    assert_delivered(hub, alone)
    assert {snapshot.repo_id for snapshot in Queue(out / QUEUE).snapshots()} == {"bob/old"}
    assert run("push", out, "--resume", REPO) == 1 and "is for bob/old, not for" in capfd.readouterr().err
    assert run("push", out, "--resume") == 1 and "bob/old: the token has no write access" in capfd.readouterr().err
    hub.tokens["hf_write"].user = "bob"
    assert run("push", out, "--resume", "bob/old") == 0
    assert hub.titles("bob/old")[0] == f"final model, step {LAST}" and not (out / QUEUE).exists()


@one_transport
def test_a_queue_after_a_kill(hub, push, alone, tmp_path, caplog):
    """What was half frozen, half deleted or lost its manifest is swept up or passed over; all the rest is sent."""
    out = tmp_path / "out"
    hub.stop()
    assert run(*push, "--output-dir", out, "--hub-timeout", 0) == 0
    for name in (".gone-000001-checkpoint", ".writing-000009-final-x"):
        shutil.copytree(out / QUEUE / "000001-checkpoint", out / QUEUE / name)
    for name, manifest in (("000007-final", None), ("000008-final", "{"), ("000009-final", "{}")):
        (out / QUEUE / name).mkdir()
        if manifest:
            (out / QUEUE / name / "manifest.json").write_text(manifest)
    hub.start()
    assert run("push", out, "--resume") == 0
    assert_delivered(hub, alone)
    assert "has no readable manifest.json" in caplog.text
    # Nobody knows what the unreadable ones hold: they are not thrown away.
    assert sorted(path.name for path in (out / QUEUE).glob("*-*")) == ["000007-final", "000008-final", "000009-final"]


@one_transport
def test_one_process_at_a_time_sends(hub, push, tmp_path, monkeypatch, capfd):
    """While a run goes on, its queue is its own."""
    codes, out = [], tmp_path / "out"
    script = [sys.executable, "-m", "hf_spam", "push", str(out), "--resume"]
    at_step(monkeypatch, 20, lambda: codes.append(subprocess.run(script, capture_output=True, text=True)))
    hub.fail("POST", "/commit/", times=1, delay=3600)
    monkeypatch.setattr(uploader, "SILENCE", 20)
    assert run(*push, "--output-dir", out, "--hub-timeout", 0.1) == 0
    assert codes[0].returncode == 1 and "Another process is sending" in codes[0].stderr


@one_transport
def test_ctrl_c_says_what_is_left(hub, push, alone, tmp_path, monkeypatch, caplog):
    """In mid-run, and while the end waits for uploads."""
    hub.fail("POST", "/commit/", times=9, delay=3600)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 20, interrupt)
        assert run(*push, "--output-dir", tmp_path / "mid") == 130
    assert f"Send it with: hf-spam push {tmp_path / 'mid'} --resume" in caplog.text
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", lambda self, limit=None: join(self, 0) if limit == 1 else interrupt())
    assert run(*push, "--output-dir", tmp_path / "end") == 130
    assert f"Send it with: hf-spam push {tmp_path / 'end'} --resume" in caplog.text


@one_transport
def test_no_private_path_is_published(hub, push, alone, tmp_path):
    """Of what lay on the machine only the name goes to the Hub."""
    assert run(*push, "--hub-push-state", "--output-dir", tmp_path / "out") == 0
    folder = str(next(Path(word).parent for word in map(str, push) if word.endswith("few.csv")))
    assert all(folder.encode() not in data and str(tmp_path).encode() not in data for data in hub.blobs.values())


@one_transport
@pytest.mark.parametrize("asked", ["soon", "inf", "nan", "-3", "Sun, 22 Nov 2015 07:28:00 -0000"])
def test_odd_waiting_times_are_no_end(asked, hub, push, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(uploader, "LONGEST_ASKED", 0.1)
    hub.fail("POST", "/commit/", status=503, headers={"Retry-After": asked})
    assert run("push", alone, REPO) == 0
    assert hub.titles(REPO)[0] == "final model"


@one_transport
def test_an_interrupted_run_sends_what_it_can_in_its_time(hub, push, alone, tmp_path, monkeypatch, caplog):
    """The checkpoint of the step that it ended arrives; from a Hub that hangs it turns away after --hub-timeout."""
    with monkeypatch.context() as patch:
        at_step(patch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(*push, "--output-dir", tmp_path / "out") == 143
        assert hub.titles(REPO)[:2] == ["checkpoint, step 11", "checkpoint, step 10"]
    assert run(*push, "--output-dir", tmp_path / "out", "--resume-from-checkpoint", "auto") == 0
    assert_same_result(tmp_path / "out", alone)
    hub.fail("POST", "/commit/", times=9, delay=3600)
    with monkeypatch.context() as patch:
        at_step(patch, 10, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(*push, "--output-dir", tmp_path / "slow", "--hub-timeout", 0.5) == 130
    assert f"Send it with: hf-spam push {tmp_path / 'slow'} --resume" in caplog.text
