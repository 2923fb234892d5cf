"""Checkpoints reach the Hub, or are kept on disk until they can, whatever goes wrong; training never notices.

The real client talks over real sockets to a Hub on loopback. Most tests submit the checkpoints of one finished run, as
training does; the last ones run training from the command line.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import hf_spam
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, RepoCard
from local_hub import both_transports
from small_data import MESSAGES
from small_runs import result

from hf_spam import files, load_sms_spam
from hf_spam.hub import repository, snapshots
from hf_spam.hub.push import Uploader
from hf_spam.hub.snapshots import QUEUE, Queue

REPO = "alice/spam"
SAVED, LAST = (10, 20), 29  # steps of the checkpoints and of the final model
TITLES = ["final model, step 29", "checkpoint, step 20", "checkpoint, step 10", "initial commit"]
COMPLETE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json"}
COMPLETE |= {"history.json", "modeling_spam_gpt.py", "configuration_spam_gpt.py", "pipeline_spam_gpt.py"}
COMPLETE |= {"loss-plot.png", "accuracy-plot.pdf", "loss-plot.pdf", "accuracy-plot.png", ".gitattributes"}
PATIENCE = 600  # seconds to wait for something that must happen, even on a slow machine


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> list:
    """Return the command of a small run with checkpoints, dropout and averaged weights."""
    data = tmp_path_factory.mktemp("data") / "few.csv"
    load_sms_spam(MESSAGES, protocol="book")["train"].select(range(150)).to_pandas().to_csv(data, index=False)
    flags = {"data": data, "protocol": "book", "max-steps": LAST + 1, "n-embd": 16, "vocab-size": 300, "eval-freq": 10}
    flags |= {"weight-average": 0.9, "save-steps": 10, "license": "mit", "language": "en,no"}
    return ["train", "--recipe", "pocket", *(word for name, value in flags.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory) -> Path:
    """Return the output of that run without a Hub."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert hf_spam(*train, "--output-dir", out).code == 0
    return out


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(repository, "MIN_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(repository, "MAX_WAIT_SECONDS", 0.1)


@pytest.fixture
def out(alone, tmp_path) -> Path:
    """Return a copy of that run's folder."""
    return Path(shutil.copytree(alone, tmp_path / "out"))


def submit(uploader: Uploader, step: int, is_best: bool = True) -> None:
    """Submit the checkpoint or the final model of a step as training does, then delete the checkpoint."""
    if step == LAST:
        return uploader.submit(uploader.output_dir, step, "final", is_best=is_best)
    folder = uploader.output_dir / f"checkpoint-{step}"
    uploader.submit(folder, step, "checkpoint", is_best=is_best)
    shutil.rmtree(folder)


def replay(out: Path, before: dict[int, Callable[[], object]] | None = None, **settings) -> Uploader:
    """Submit everything that a run saved, after doing what `before` says for a step; return the closed uploader."""
    with Uploader(out, REPO, **{"strategy": "every_save", **settings}) as uploader:
        for step in (*SAVED, LAST):
            (before or {}).get(step, int)()
            submit(uploader, step)
    return uploader


def at_step(monkeypatch, step: int, action: Callable[[], object]) -> None:
    """Do something on training's thread, just before the checkpoint or the final model of a step is submitted."""
    original = Uploader.submit

    def submit(self, folder, at, kind, **about):
        if at == step:
            action()
        original(self, folder, at, kind, **about)

    monkeypatch.setattr(Uploader, "submit", submit)


def assert_delivered(hub, alone: Path, titles: list[str] = TITLES) -> None:
    """Check that everything was pushed once, and that every commit has the weights of the step in its title."""
    assert hub.titles(REPO) == titles
    assert set(hub.files(REPO)) == COMPLETE
    for commit in hub.repo(REPO).branches["main"]:
        if "step" in commit.title:
            step = int(commit.title.split()[-1])
            folder = alone if step == LAST else alone / f"checkpoint-{step}"
            for name in ("model.safetensors", "metrics.json"):
                assert hub.content(commit.tree[name]) == (folder / name).read_bytes(), (commit.title, name)
            config = json.loads(hub.content(commit.tree["config.json"]))
            assert config.pop("auto_map") and config.pop("custom_pipelines")
            assert config == json.loads((folder / "config.json").read_bytes()), commit.title


def assert_deliverable(hub, out: Path, alone: Path) -> None:
    """Check that everything is in the queue, and that `push --resume` sends it."""
    assert [snapshot.step for snapshot in Queue(out / QUEUE).snapshots()] == [*SAVED, LAST]
    assert hf_spam("push", out, "--resume").code == 0
    assert_delivered(hub, alone)
    assert not (out / QUEUE).exists()


def hint(out: Path) -> str:
    return f"To push later, run: hf-spam push {out} --resume"


# The network and the Hub

COMMIT = ("POST", "/commit/")
FAULTS = {
    "status 503": (*COMMIT, {"status": 503}),
    "status 429": (*COMMIT, {"status": 429, "headers": {"Retry-After": "0"}}),
    "an odd Retry-After": (*COMMIT, {"status": 503, "headers": {"Retry-After": "soon"}}),
    "a long Retry-After": (*COMMIT, {"status": 503, "headers": {"Retry-After": "86400"}}),
    "reset during the work": (*COMMIT, {"drop": "during"}),
    "answer lost": (*COMMIT, {"drop": "after"}),
    "commit hangs": (*COMMIT, {"hang": True}),
    "branch tip hangs": ("GET", "/revision/", {"hang": True}),
    "preflight hangs": ("POST", "/repos/create", {"hang": True}),
    "storage broken": ("*", "xet-write-token|objects/batch", {"status": 503}),
    "card check broken": ("POST", "/validate-yaml", {"status": 502, "body": "<html>Bad gateway</html>"}),
}


@both_transports
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_request_is_retried_without_duplicates(hub, fault, out, alone, monkeypatch):
    method, path, what = FAULTS[fault]
    if "hang" in what:
        monkeypatch.setattr(repository, "SILENCE_SECONDS", 0.3)  # without an answer, a request is retried
    fault = hub.fail(method, path, times=3, **what)
    assert replay(out).left == [] and fault.hits == 3
    assert_delivered(hub, alone)
    assert not (out / QUEUE).exists()


def test_a_token_that_expires_during_the_run(hub, out, alone, monkeypatch, caplog, capfd):
    """It is reported once, and the rest is kept until a token works. No token is written or shown anywhere."""
    secret = "hf_" + "Secret1" * 5
    token = hub.tokens[secret] = hub.tokens["hf_write"]
    monkeypatch.setenv("HF_TOKEN", secret)
    hub.fail(*COMMIT, status=500, body=f"<html>{secret}</html>")
    hub.fail("POST", "/validate-yaml", status=502, body=f"<html>{secret}</html>")

    def lose() -> None:
        hub.wait_for_title(REPO, TITLES[2])
        hub.tokens.pop(secret)

    assert [snapshot.step for snapshot in replay(out, {20: lose}).left] == [20, LAST]
    assert caplog.text.count("Not pushed: ") == 1 and hint(out) in caplog.text
    captured = capfd.readouterr()
    assert secret not in captured.out + captured.err + caplog.text
    assert all(path.is_dir() or secret.encode() not in path.read_bytes() for path in out.rglob("*"))
    assert all(secret.encode() not in data for data in hub.blobs.values())
    hub.tokens[secret] = token
    assert hf_spam("push", out, "--resume").code == 0
    assert_delivered(hub, alone)


def test_a_commit_by_someone_else_is_built_upon(hub, out, alone, monkeypatch):
    """Ours is refused with 412 and repeated on top of theirs; their words stay in the card."""
    create_commit, theirs = HfApi.create_commit, []

    def overtaken(self, repo_id, operations, **how):
        operations = list(operations)
        if not theirs:
            theirs.append(CommitOperationAdd("README.md", b"# Mine\n\nWords of a person.\n"))
            create_commit(HfApi(), repo_id, theirs, commit_message="theirs")
        return create_commit(self, repo_id, operations, **how)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    assert replay(out).left == []
    assert_delivered(hub, alone, [*TITLES[:-1], "theirs", TITLES[-1]])
    assert [call["status"] for call in hub.calls(*COMMIT)].count(412) == 1
    card = hub.read(REPO, "README.md").decode()
    assert "Words of a person." in card and f'model="{REPO}"' in card


@pytest.mark.parametrize("is_offline", [False, True])
def test_what_cannot_be_sent_is_kept(hub, is_offline, out, alone, caplog, monkeypatch):
    """The Hub hangs at the end, and the run waits no longer than --hub-timeout; or offline mode is on."""
    with monkeypatch.context() as patch:
        if is_offline:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.fail(*COMMIT, times=99, hang=True)
        uploader = replay(out, timeout=0.2)
    assert [snapshot.step for snapshot in uploader.left] == [*SAVED, LAST] and hint(out) in caplog.text
    assert ("unset HF_HUB_OFFLINE" in caplog.text) == is_offline
    hub.end_faults()
    assert_deliverable(hub, out, alone)


# The process and the disk


def test_a_process_that_is_killed_while_the_hub_hangs(hub, out, alone, tmp_path):
    """What is on disk at any moment is all that the next push needs."""
    fault = hub.fail(*COMMIT, times=99, hang=True)
    with Uploader(out, REPO, strategy="every_save", timeout=0) as uploader:
        for step in (*SAVED, LAST):
            submit(uploader, step)
        assert fault.hit.wait(PATIENCE)
        killed = Path(shutil.copytree(out, tmp_path / "killed"))
    hub.end_faults()
    assert_deliverable(hub, killed, alone)


@pytest.mark.parametrize("part", ["checkpoint-", ""])
def test_a_full_disk(hub, part, out, alone, monkeypatch, caplog):
    """What cannot be frozen, because of a file with `part` in its path, is not pushed; training continues."""

    def full(source, target, copy=shutil.copy):
        if part in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(snapshots.os, "link", full)
    monkeypatch.setattr(snapshots.shutil, "copy", full)
    assert replay(out).left == []
    assert caplog.text.count("No space left on device") == (2 if part else 3)
    assert hub.titles(REPO) == ([TITLES[0]] if part else []) + [TITLES[-1]]


def test_a_damaged_queue(hub, out, alone, caplog):
    """Changed and unreadable snapshots are named and kept, partly written and deleted ones deleted, the others sent."""
    hub.stop()
    replay(out, timeout=0)
    hub.start()
    queue = out / QUEUE
    shutil.copytree(queue / "000001-checkpoint", queue / ".writing-000009-final-x")
    weights = Queue(queue).snapshots()[0].files()["model.safetensors"]
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for name, manifest in (("000007-final", None), ("000008-final", "{"), ("000009-final", "{}")):
        (queue / name).mkdir()
        if manifest:
            (queue / name / "manifest.json").write_text(manifest)
    assert hf_spam("push", out, "--resume").code == 1
    assert "is damaged: files/model.safetensors has changed since it was written" in caplog.text
    assert "it has no readable manifest.json" in caplog.text and f"Delete {queue / '000001-checkpoint'}" in caplog.text
    assert sorted(path.name for path in queue.glob("*-*")) == ["000001-checkpoint", "000008-final", "000009-final"]
    assert_delivered(hub, alone, [TITLES[0], TITLES[1], TITLES[-1]])


def test_a_card_may_be_edited_while_it_waits(hub, out, alone):
    """What was frozen is sent; weights are links, which take no space."""
    hub.stop()
    with Uploader(out, REPO, timeout=0) as uploader:
        submit(uploader, LAST)
    (waiting,) = (out / QUEUE).glob("*-final")
    with (out / "README.md").open("a") as card:
        card.write("Mine.")
    assert (waiting / "files" / "model.safetensors").samefile(out / "model.safetensors")
    hub.start()
    assert hf_spam("push", out, "--resume").code == 0
    assert b"Mine." not in hub.read(REPO, "README.md") and hub.titles(REPO)[0] == TITLES[0]


def test_a_queue_is_for_one_process_and_one_repository(hub, out):
    """Otherwise, a repository that cannot be pushed to would block another; the whole queue can be pushed alone."""
    hub.stop()
    with Uploader(out, "bob/old", timeout=0) as uploader:
        submit(uploader, LAST)
        done = hf_spam("push", out, "--resume")
        assert done.code == 1 and f"Another process is pushing from {out / QUEUE}" in done.err
    hub.start()
    message = f"holds uploads to bob/old; to push them: hf-spam push {out} --resume"
    with pytest.raises(ValueError, match=re.escape(message)), Uploader(out, REPO):
        pass
    done = hf_spam("push", out, "--resume")
    assert done.code == 1 and "bob/old: the token has no write access" in done.err
    hub.tokens["hf_write"].user = "bob"
    assert hf_spam("push", out, "--resume").code == 0
    assert hub.titles("bob/old")[0] == TITLES[0] and not (out / QUEUE).exists()


def test_ctrl_c_reports_unsent_snapshots(hub, out, monkeypatch, caplog):
    """The Hub hangs; Ctrl-C comes during the run, and again while it waits for uploads at the end."""
    hub.fail(*COMMIT, times=9, hang=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(out, {20: interrupt})
    assert hint(out) in caplog.text
    caplog.clear()
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", lambda self, limit: join(self, 0) if limit == 1 else interrupt())
    with pytest.raises(KeyboardInterrupt), Uploader(out, REPO) as uploader:
        submit(uploader, LAST)
    assert hint(out) in caplog.text and len(uploader.left) == 2


# What is pushed


def test_the_best_strategy(hub, out):
    """Push every model with the lowest validation loss so far."""
    with Uploader(out, REPO, strategy="best") as uploader:
        for step, is_best in ((10, True), (20, True), (LAST, False)):
            submit(uploader, step, is_best)
    assert hub.titles(REPO) == TITLES[1:]


def test_a_slow_network_skips_checkpoints(hub, alone, out, caplog):
    """The queue is bounded: the oldest checkpoints are skipped, but never the best or the last."""
    caplog.set_level("INFO", "hf_spam")
    hub.stop()
    steps = range(3, LAST, 3)
    with Uploader(out, REPO, strategy="every_save") as uploader:
        for step in steps:
            shutil.copytree(alone / "checkpoint-10", out / f"checkpoint-{step}", dirs_exist_ok=True)
            (out / f"checkpoint-{step}" / "metrics.json").write_text(str(step))
            submit(uploader, step, is_best=step == 6)
        hub.start()
        submit(uploader, LAST, is_best=False)
    pushed = [int(title.split()[-1]) for title in reversed(hub.titles(REPO)[:-1])]
    assert 6 in pushed and pushed[-1] == LAST and len(pushed) <= 6 and pushed == sorted(pushed)
    skipped = {int(step) for step in re.findall(r"Skipped: checkpoint, step (\d+)", caplog.text)}
    assert skipped | set(pushed) == {*steps, LAST} and not skipped & set(pushed)


def test_pushing_a_folder(hub, out):
    """Push a finished run or a checkpoint, with known files only."""
    (out / "my-messages.csv").write_text("private")
    (out / "old.pt").write_bytes(b"a pickle")
    assert hf_spam("push", out, REPO).code == 0
    assert set(hub.files(REPO)) == COMPLETE
    assert hf_spam("push", out / "checkpoint-10", REPO, "--revision", "early").code == 0
    assert (hub.titles(REPO)[0], hub.titles(REPO, "early")[0]) == ("Model", "Checkpoint, step 10")
    assert "training_state/state.json" not in hub.files(REPO, "early")
    for revision in ("main", "early"):
        about = ModelCard(hub.read(REPO, "README.md", revision).decode()).data
        assert (about.license, about.language) == ("mit", ["en", "no"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{}/nowhere", REPO], "is not a folder"),
        (["{}", "--resume"], "There is nothing to push in"),
        (["{}", "alice/there", "--private"], "alice/there: the repository is public; make it private"),
        (["{}", "bob/demo", "--space", "--timeout", "0"], "bob/demo: the token has no write access"),
        (["{}", "alice/de--mo", "--space"], "alice/de--mo: not a valid space name"),
    ],
)
def test_what_cannot_be_pushed_is_refused(hub, arguments, words, out):
    HfApi().create_repo("alice/there")
    done = hf_spam("push", *(argument.format(out) for argument in arguments))
    assert done.code == 1 and words in done.err
    assert set(hub.repos) == {("model", "alice/there")} and hub.titles("alice/there") == ["initial commit"]


def test_a_model_that_has_its_own_code_is_pushed_with_it(hub, out):
    """As `save_pretrained` writes it, and older versions of this package did."""
    config = json.loads((out / "config.json").read_text())
    own = {"config.json": json.dumps({**config, "auto_map": {"AutoModel": "modeling_own.Own"}}), "modeling_own.py": "#"}
    for name, text in own.items():
        (out / name).write_text(text)
    assert hf_spam("push", out, REPO).code == 0
    assert {name: hub.read(REPO, name).decode() for name in own} == own
    assert not any(name.endswith("spam_gpt.py") for name in hub.files(REPO))


@pytest.mark.parametrize("config", ["[1]", "[]", "{", "1"])
def test_a_config_that_is_no_object_is_named(hub, config, out):
    (out / "config.json").write_text(config)
    done = hf_spam("push", out, REPO)
    assert done.code == 1 and done.err.startswith(f"hf-spam: {out / 'config.json'} is not a JSON object"), done.err


@pytest.mark.parametrize("names", [["config.json"], ["model.safetensors"], ["config.json", "model.onnx.data"]])
def test_a_folder_without_a_model_is_refused(hub, names, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    done = hf_spam("push", tmp_path, REPO)
    line = "is neither a model nor an export: it needs config.json, and model.safetensors or onnx/model.onnx."
    assert (done.code, done.err, hub.repos) == (1, f"hf-spam: {tmp_path} {line}\n", {})


def test_the_demo_becomes_a_static_space(hub, out):
    """A lost answer makes no second commit, nor does the same model; what people write stays."""
    assert hf_spam("push", out, REPO).code == 0
    hub.fail(*COMMIT, status=503)
    fault = hub.fail(*COMMIT, drop="after")
    command, titles = ["push", REPO, "alice/demo", "--space"], ["Demo", "initial commit"]
    done = hf_spam(*command)
    assert fault.hits == 1 and done.code == 0 and f"{hub.url}/spaces/alice/demo" in done.out
    assert hub.titles("alice/demo", kind="space") == titles
    assert hub.files("alice/demo", kind="space") == [".gitattributes", "README.md", "index.html"]
    assert f'href="https://huggingface.co/{REPO}"' in hub.read("alice/demo", "index.html", kind="space").decode()
    readme = hub.read("alice/demo", "README.md", kind="space").decode()
    about = RepoCard(readme).data.to_dict()
    assert about.items() >= {"sdk": "static", "pinned": False, "license": "mit", "models": [REPO]}.items()
    assert about["title"] and about["emoji"] and len(about["short_description"]) <= 60
    where = {"repo_id": "alice/demo", "repo_type": "space", "path_in_repo": "README.md"}
    HfApi().upload_file(path_or_fileobj=(readme + "Mine.\n").encode(), commit_message="mine", **where)
    assert hf_spam(*command).code == 0 and hub.titles("alice/demo", kind="space") == ["mine", *titles]
    assert hub.read("alice/demo", "README.md", kind="space").decode().endswith("Mine.\n")


def test_a_timeout_must_be_finite(out):
    line = "must be a finite number of at least 0 seconds, got nan"
    assert line in hf_spam("push", out, REPO, "--timeout", "nan").err
    with pytest.raises(ValueError, match=line):
        Uploader(out, REPO, timeout=float("nan"))


# From the command line of training


def test_training_never_waits_for_an_upload(hub, train, alone, tmp_path, monkeypatch):
    """The first commit hangs until training is over; then everything arrives, and the model is the same.

    From training through the queue to a commit, each file is hashed once.
    """
    made: list = []
    counting = SimpleNamespace(sha256=lambda: made.append(hashlib.sha256()) or made[-1])
    monkeypatch.setattr(files, "hashlib", counting)
    fault, out = hub.fail(*COMMIT, hang=True), tmp_path / "out"
    at_step(monkeypatch, LAST, lambda: (fault.hit.wait(PATIENCE), fault.over.set()))
    flags = ["--push-to-hub", "--hub-model-id", REPO, "--hub-strategy", "every_save", "--save-total-limit", 1]
    assert hf_spam(*train, *flags, "--output-dir", out).code == 0
    assert not (out / "checkpoint-10").exists(), "rotated away while its upload hung"
    assert result(out) == result(alone)
    assert_delivered(hub, alone)
    hashes = [digest.hexdigest() for digest in made]
    pushed = [commit.tree["model.safetensors"].oid for commit in hub.repo(REPO).branches["main"][1:]]
    assert len(pushed) == 3 and all(hashes.count(sha256) == 1 for sha256 in pushed)


def test_training_never_fails_because_of_an_upload(hub, train, alone, tmp_path, caplog):
    """The Hub is down, and the private repository, named after the folder, does not exist yet."""
    hub.stop()
    flags = ["--push-to-hub", "--hub-private-repo", "--hub-revision", "try/1", "--hub-timeout", 0]
    out = tmp_path / "my-spam"
    assert hf_spam(*train, *flags, "--output-dir", out).code == 0
    assert result(out) == result(alone)
    assert "Cannot push now. " in caplog.text and hint(out) in caplog.text
    hub.start()
    assert hf_spam("push", out, "--resume").code == 0
    assert hub.repo("alice/my-spam").private and hub.titles("alice/my-spam") == ["initial commit"]
    assert hub.titles("alice/my-spam", "try/1") == [TITLES[0], "initial commit"]


@pytest.mark.parametrize(
    ("token", "repo", "words"),
    [
        ("hf_read", "alice/there", 'it needs the role "write"'),
        ("hf_write", "alice/no//name", "not a valid model name"),
    ],
)
def test_an_impossible_push_stops_training_at_once(hub, token, repo, words, train, tmp_path, monkeypatch):
    """One line says what to do, before the first step and before anything is written."""
    HfApi().create_repo("alice/there")
    monkeypatch.setenv("HF_TOKEN", token)
    done = hf_spam(*train, "--push-to-hub", "--hub-model-id", repo, "--output-dir", tmp_path / "out")
    assert done.code == 1 and done.err.startswith("hf-spam: ") and words in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_interrupted_run_pushes_its_last_checkpoint(hub, train, alone, tmp_path, monkeypatch):
    flags = ["--push-to-hub", "--hub-model-id", REPO, "--hub-strategy", "every_save", "--output-dir", tmp_path / "out"]
    with monkeypatch.context() as patch:
        at_step(patch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert hf_spam(*train, *flags).code == 143
    assert hub.titles(REPO) == ["checkpoint, step 11", "checkpoint, step 10", "initial commit"]
    assert hf_spam(*train, *flags, "--resume-from-checkpoint", "auto").code == 0
    assert result(tmp_path / "out") == result(alone)
    assert hub.titles(REPO)[:2] == TITLES[:2]


def test_training_resumes_from_the_hub_on_another_machine(hub, train, alone, tmp_path):
    """The state has its own branch, without pickles or private paths; the resumed run gives the same result."""
    command = [*train, "--push-to-hub", "--hub-model-id", REPO, "--hub-strategy", "checkpoint"]
    done = hf_spam(*command, "--resume-from-checkpoint", "hub", "--output-dir", tmp_path / "none")
    assert done.code == 1 and f"{REPO} has no training state" in done.err
    assert hf_spam(*command, "--output-dir", tmp_path / "gone").code == 0
    assert hub.titles(REPO)[0] == TITLES[0] and set(hub.files(REPO)) == COMPLETE
    assert hub.titles(REPO, "training-state")[0] == "training state, step 20"
    assert not any(name.endswith((".pt", ".pkl", ".bin", ".pth")) for name in hub.files(REPO, "training-state"))
    folders = [str(tmp_path), str(Path(train[train.index("--data") + 1]).parent)]
    assert not any(folder.encode() in data for folder in folders for data in hub.blobs.values())

    out = tmp_path / "out"
    assert hf_spam(*command, "--resume-from-checkpoint", "hub", "--output-dir", out).code == 0
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-20"]
    assert result(out) == result(alone)
    assert hub.titles(REPO)[0] == TITLES[0]

    hub.stop()
    done = hf_spam(*command, "--resume-from-checkpoint", "hub", "--output-dir", tmp_path / "late")
    assert done.code == 1 and "cannot reach the Hub" in done.err
