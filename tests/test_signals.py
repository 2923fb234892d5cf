"""After Ctrl-C or SIGTERM a run finishes its step, saves a checkpoint, says how to resume, and resumes exactly."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
import torch
from command_line import Result, flags_of, hf_spam
from processes import finetune_on
from small_runs import SMALL, at_call, first_messages, result

from hf_spam import finetune
from hf_spam.entry import run
from hf_spam.signals import RunInterrupted
from hf_spam.training import checkpoints
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.evaluator import Evaluator

SETTINGS = {**SMALL, "max_steps": 12, "eval_freq": 4}
SIGNALS = [signal.SIGINT, signal.SIGTERM]
RESUME = "resume with the same command and --resume-from-checkpoint auto"


@pytest.fixture(scope="module")
def data():
    return first_messages(train=100, validation=20)


@pytest.fixture(scope="module")
def file(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "few.csv"
    data["train"].to_csv(path, index=False)
    return path


def train(file: Path, output_dir: Path, **settings: object) -> Result:
    """Run the command line, with two batches per step."""
    settings = {**SETTINGS, "gradient_accumulation_steps": 2, "save_steps": 6, **settings}
    flags = flags_of({"data": file, "protocol": "book", "output_dir": output_dir, **settings})
    return hf_spam("train", "--recipe", "pocket", *flags)


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """The results of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert train(file, out).code == 0
    return result(out)


@pytest.mark.parametrize(
    ("place", "name", "count", "step", "number"),
    [
        (torch.optim.AdamW, "step", 9, 8, signal.SIGINT),
        (torch.Tensor, "backward", 7, 3, signal.SIGTERM),  # in the first of the two batches of step 3
        (Evaluator, "evaluate", 11, 4, signal.SIGTERM),  # after step 4
        (checkpoints, "write_model", 1, 7, signal.SIGINT),  # of the checkpoint after step 6
    ],
    ids=["step", "accumulation", "evaluation", "saving"],
)
def test_interrupted_command_saves_and_resumes_exactly(
    place, name, count, step, number, whole, file, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(place, name, at_call(count, getattr(place, name), number))
        stopped = train(file, tmp_path / "out")
    lines = [line for line in stopped.err.splitlines() if line]
    assert lines[-2:] == [f"Stopping after step {step} ...", f"hf-spam: interrupted after step {step}; {RESUME}"]
    assert stopped.code == 128 + number and "Traceback" not in stopped.err
    assert Checkpoints(tmp_path / "out").latest() == tmp_path / f"out/checkpoint-{step}"
    resumed = train(file, tmp_path / "out", resume_from_checkpoint="auto")
    assert resumed.code == 0 and f"Resuming from {tmp_path}/out/checkpoint-{step}." in resumed.err
    assert result(tmp_path / "out") == whole


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_function(number, data, monkeypatch):
    """A KeyboardInterrupt is raised; the previous signal handlers are restored; no output_dir, no checkpoint."""
    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr(torch.optim.AdamW, "step", at_call(6, torch.optim.AdamW.step, number))
    with pytest.raises(RunInterrupted, match=r"^interrupted after step 5; nothing is saved without an output_dir$"):
        finetune("pocket", data=data, **SETTINGS)
    assert issubclass(RunInterrupted, KeyboardInterrupt)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_signal_after_the_last_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "measure", at_call(1, Evaluator.measure, signal.SIGINT))
    finetune("pocket", data=data, output_dir=tmp_path / "out", **SETTINGS)
    assert (tmp_path / "out/model.safetensors").exists() and not Checkpoints(tmp_path / "out").steps()


def test_signal_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "evaluate", at_call(1, Evaluator.evaluate, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        finetune("pocket", data=data, output_dir=tmp_path / "out", **SETTINGS)
    assert type(caught.value) is KeyboardInterrupt and not (tmp_path / "out").exists()


def test_repeated_and_second_signals(data, tmp_path, monkeypatch):
    """`timeout` sends each signal twice; pressing Ctrl-C again means not wanting to wait for the checkpoint."""
    step = torch.optim.AdamW.step
    monkeypatch.setattr("hf_spam.signals.SAME_SIGNAL_SECONDS", 3600.0)
    monkeypatch.setattr(torch.optim.AdamW, "step", at_call(3, at_call(3, step, signal.SIGINT), signal.SIGINT))
    with pytest.raises(RunInterrupted):
        finetune("pocket", data=data, output_dir=tmp_path / "one", **SETTINGS)

    def save(*_):
        monkeypatch.setattr("hf_spam.signals.SAME_SIGNAL_SECONDS", -1.0)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal had no effect")

    monkeypatch.setattr(torch.optim.AdamW, "step", at_call(3, step, signal.SIGINT))
    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt) as caught:
        finetune("pocket", data=data, output_dir=tmp_path / "two", **SETTINGS)
    assert type(caught.value) is KeyboardInterrupt and not (tmp_path / "two").exists()


def test_signals_are_untouched_in_another_thread(data):
    before, runs = [signal.getsignal(one) for one in SIGNALS], []
    settings = {**SETTINGS, "max_steps": 2}
    thread = threading.Thread(target=lambda: runs.append(finetune("pocket", data=data, **settings)))
    thread.start()
    thread.join()
    assert len(runs) == 1 and [signal.getsignal(one) for one in SIGNALS] == before


# Imported when Python starts. The process sends itself the signal at the tested moment, so no timing is involved.
SITE_CUSTOMIZE = """
import logging, os, signal

class AtLogRecord(logging.Handler):
    def emit(self, record):
        if "step 000004" in record.getMessage() and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)

logger = logging.getLogger("hf_spam.training.loop")
logger.addHandler(AtLogRecord())
logger.setLevel(logging.INFO)
"""


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(data, tmp_path, monkeypatch):
    """Even if only one of them receives the signal, both save, and the error is the same."""
    data.save_to_disk(tmp_path / "data")
    (tmp_path / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "out", **SETTINGS)
    assert f"RunInterrupted: interrupted after step 4; {RESUME}" in caught.value.stderr
    assert Checkpoints(tmp_path / "out").steps() == [4]
    assert len(list((tmp_path / "out/checkpoint-4/training_state").glob("random-*"))) == 2


@pytest.mark.parametrize(("number", "says"), [(signal.SIGINT, "\na: interrupted\n"), (signal.SIGTERM, "")])
def test_other_commands_stop_at_once_and_clean_up(number, says, monkeypatch, capsys):
    """Temporary files are removed in `finally` blocks."""

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            print("cleaned up")

    monkeypatch.setattr(sys, "argv", ["a"])
    with pytest.raises(SystemExit) as exit:
        run(click.Command("a", callback=work), "a")
    assert (exit.value.code, *capsys.readouterr()) == (128 + number, "cleaned up\n", says)
