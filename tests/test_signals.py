"""Ctrl-C and SIGTERM end the step, save and say how to go on; going on ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from processes import run_processes
from small_runs import first_messages, result

from hf_spam import finetune, load_sms_spam
from hf_spam.signals import RunInterrupted
from hf_spam.training import evaluator, saving
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.evaluator import Evaluator

SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 20, "eval_freq": 4}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def data():
    return first_messages(train=100, validation=20)


def at_call(count: int, function, number: int):
    """The function, which sends this process a signal in the midst of a call."""
    calls = 0

    def called(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return called


@pytest.mark.parametrize(
    ("place", "name", "count", "step", "number"),
    [
        (torch.optim.AdamW, "step", 9, 8, signal.SIGINT),
        (torch.Tensor, "backward", 7, 3, signal.SIGTERM),  # the first batch of two
        (evaluator, "evaluate", 7, 4, signal.SIGTERM),  # of the losses after step 4
        (saving, "write_model", 1, 7, signal.SIGINT),  # of the checkpoint after step 6
    ],
    ids=["step", "accumulation", "evaluation", "saving"],
)
def test_the_step_is_ended_and_saved_and_the_run_goes_on_exactly(
    place, name, count, step, number, data, tmp_path, monkeypatch
):
    """Whatever is interrupted; from Python it is a KeyboardInterrupt, and the handlers are the old ones after it."""
    settings = {**SMALL, "gradient_accumulation_steps": 2 if name == "backward" else 1}
    finetune("pocket", data=data, output_dir=tmp_path / "whole", **settings)
    before = [signal.getsignal(one) for one in SIGNALS]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        patch.setattr(place, name, at_call(count, getattr(place, name), number))
        finetune("pocket", data=data, output_dir=tmp_path / "out", save_steps=6, **settings)
    assert type(caught.value) is RunInterrupted and caught.value.number == number
    way_on = "resume with the same command and --resume-from-checkpoint auto"
    assert str(caught.value) == f"interrupted after step {step}; {way_on}"
    assert Checkpoints(tmp_path / "out").latest() == tmp_path / f"out/checkpoint-{step}"
    assert [signal.getsignal(one) for one in SIGNALS] == before
    finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_after_the_last_step_the_run_is_finished(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "whole", at_call(1, Evaluator.whole, signal.SIGINT))
    finetune("pocket", data=data, output_dir=tmp_path / "out", **SMALL)
    assert (tmp_path / "out/model.safetensors").exists() and not Checkpoints(tmp_path / "out").steps()


def test_before_the_first_step_it_stops_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator, "evaluate", at_call(1, evaluator.evaluate, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        finetune("pocket", data=data, output_dir=tmp_path / "out", **SMALL)
    assert type(caught.value) is KeyboardInterrupt and not (tmp_path / "out").exists()


def test_two_at_a_time_are_one_and_a_later_one_stops_at_once(data, tmp_path, monkeypatch):
    """`timeout` sends each signal twice; a person who presses again wants no more saving."""
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", at_call(3, at_call(3, step, signal.SIGINT), signal.SIGINT))
    with pytest.raises(RunInterrupted):
        finetune("pocket", data=data, output_dir=tmp_path / "one", **SMALL)

    def save(*_):
        monkeypatch.setattr("hf_spam.signals.SAME_SIGNAL_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(torch.optim.AdamW, "step", at_call(3, step, signal.SIGINT))
    monkeypatch.setattr(saving.Saver, "save", save)
    with pytest.raises(KeyboardInterrupt) as caught:
        finetune("pocket", data=data, output_dir=tmp_path / "two", **SMALL)
    assert type(caught.value) is KeyboardInterrupt and not (tmp_path / "two").exists()


def test_what_is_saved_is_what_is_said(data, tmp_path, monkeypatch):
    """Without an output directory nothing, and on a full disk what was saved before."""
    with monkeypatch.context() as patch, pytest.raises(RunInterrupted) as caught:
        patch.setattr(torch.optim.AdamW, "step", at_call(1, torch.optim.AdamW.step, signal.SIGINT))
        finetune("pocket", data=data, **SMALL)
    assert str(caught.value) == "interrupted after step 0; nothing is saved without an output_dir"
    replace = os.replace

    def full(source, target):
        if "checkpoint-5" in str(target):
            raise OSError("No space left on device")
        replace(source, target)

    monkeypatch.setattr("hf_spam.files.os.replace", full)
    for save_steps, words in (
        (None, "no checkpoint could be written"),
        (2, "resume from step 4 with the same command and --resume-from-checkpoint auto"),
    ):
        with monkeypatch.context() as patch, pytest.raises(RunInterrupted) as caught:
            patch.setattr(torch.optim.AdamW, "step", at_call(6, torch.optim.AdamW.step, signal.SIGINT))
            finetune("pocket", data=data, output_dir=tmp_path / f"{save_steps}", save_steps=save_steps, **SMALL)
        assert str(caught.value) == f"interrupted after step 5; {words}"


def test_a_run_in_another_thread_leaves_signals_alone(data):
    before = [signal.getsignal(one) for one in SIGNALS]
    runs = []
    thread = threading.Thread(target=lambda: runs.append(finetune("pocket", data=data, **{**SMALL, "max_steps": 2})))
    thread.start()
    thread.join(60)
    assert len(runs) == 1 and [signal.getsignal(one) for one in SIGNALS] == before


ONE_OF_TWO = """
import json, os, signal, sys
import torch
from datasets import load_from_disk
from hf_spam import finetune

torch.set_num_threads(1)
step, calls = torch.optim.AdamW.step, 0
def interrupted(*args, **kwargs):
    global calls
    calls += 1
    if calls == 6 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return step(*args, **kwargs)
torch.optim.AdamW.step = interrupted
try:
    finetune("pocket", data=load_from_disk(sys.argv[1]), **json.loads(sys.argv[2]))
except KeyboardInterrupt as error:
    sys.stdout.write(f"{os.environ['RANK']} {error.number} {error}\\n")  # at once, or two could mix
"""


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(data, tmp_path):
    """Where only one of them has had the signal; and they go on exactly."""
    data.save_to_disk(tmp_path / "data")
    (tmp_path / "one_of_two.py").write_text(ONE_OF_TWO)
    settings = {**SMALL, "output_dir": str(tmp_path / "out")}
    done = run_processes(2, tmp_path / "one_of_two.py", tmp_path / "data", json.dumps(settings))
    way_on = "15 interrupted after step 5; resume with the same command and --resume-from-checkpoint auto"
    assert sorted(done.stdout.splitlines()) == [f"{rank} {way_on}" for rank in (0, 1)]
    assert Checkpoints(tmp_path / "out").steps() == [5]
    assert len(list((tmp_path / "out/checkpoint-5/training_state").glob("random-*"))) == 2


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A run through the command line that would take a while, on a file of few messages."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    load_sms_spam("sample", protocol="book")["train"].select(range(100)).to_csv(path, index=False)
    flags = {"data": path, "protocol": "book", "n-embd": 16, "vocab-size": 300, "eval-freq": 4, "max-steps": 150}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "hf_spam", "train", "--recipe", "pocket", *words]


def interrupted(command: list[str], number: int, *, after: str | float) -> tuple[int, list[str]]:
    """The exit code and standard error of a process that is sent a signal after a line or a time."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    if isinstance(after, float):
        time.sleep(after)
        process.send_signal(number)
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if isinstance(after, str) and after in line:
            process.send_signal(number)
            after = 0.0
    return process.wait(60), [line for line in lines if line]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_command_says_in_one_line_how_to_go_on(number, code, command, tmp_path):
    """And going on does."""
    command = [*command, "--output-dir", str(tmp_path / "out")]
    returned, lines = interrupted(command, number, after="Epoch ")
    step = Checkpoints(tmp_path / "out").steps()[-1]
    way_on = "resume with the same command and --resume-from-checkpoint auto"
    assert lines[-2:] == [f"Stopping after step {step} ...", f"hf-spam: interrupted after step {step}; {way_on}"]
    assert returned == code
    _, lines = interrupted([*command, "--resume-from-checkpoint", "auto"], number, after="Resuming from")
    assert any(f"Resuming from {tmp_path / 'out' / f'checkpoint-{step}'}." in line for line in lines)
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("seconds", [0.7, 1.5, 2.3, 3.1])
def test_a_command_that_is_still_starting_stops_at_once(seconds, command, tmp_path):
    """In the midst of an import, which would make something else of an exception."""
    number = SIGNALS[int(seconds * 10) % 2]
    code, lines = interrupted([*command, "--output-dir", str(tmp_path / "out")], number, after=seconds)
    assert code == 128 + number and lines[-1].startswith("hf-spam: interrupted") and "Traceback" not in "".join(lines)
