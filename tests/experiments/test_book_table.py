"""Experiments are run once, whatever interrupts them, and nothing that was published is passed off as obtained."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import result

from hf_spam import RECIPES, load_sms_spam
from hf_spam.cli import main
from hf_spam.conversion.loading import model_type
from hf_spam.data.tokenization import load_tokenizer, train_tokenizer
from hf_spam.evaluation.intervals import wilson
from hf_spam.experiments.book_table import reproduce
from hf_spam.signals import RunInterrupted
from hf_spam.training import reproduce as module

TINY = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 256, "padded_length": 64, "max_steps": 12}
TINY |= {"eval_freq": 3, "eval_iter": 1, "data": "sample", "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(load_sms_spam("sample")["train"]["text"][:], 300).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """A finished row 10, and what was yielded."""
    folder = tmp_path_factory.mktemp("whole")
    (row,) = reproduce(["10"], output_dir=folder, tokenizer=tokenizer, **TINY)
    return folder, row


def flags(tokenizer: str, **settings) -> list[str]:
    pairs = {**TINY, "tokenizer": tokenizer, **settings}.items()
    return [part for name, value in pairs for part in (f"--{name.replace('_', '-')}", str(value))]


def test_on_the_command_line(tokenizer, tmp_path, monkeypatch, capsys, caplog):
    """What can be run is, the rest is named; a second time nothing is run again, and the table says it all."""
    out = tmp_path / "out"
    command = [
        "hf-spam",
        "reproduce",
        "--rows",
        "1, random-weights,12,lora",
        "--output-dir",
        str(out),
        *flags(tokenizer),
    ]

    def run(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code, *capsys.readouterr()

    asked = []
    monkeypatch.setattr(module, "load_tokenizer", lambda source: asked.append(source) or load_tokenizer(source))
    monkeypatch.setattr(module, "model_type", lambda source: asked.append(source) or model_type(source))
    code, printed, _ = run("--json")
    book, random, xl, lora = json.loads(printed)
    assert code == 0 and [row["row"] for row in (book, random, xl, lora)] == [1, 10, 12, 11]
    # The second row on GPT-2 124M does not wait for the network to be missing once more.
    assert asked == [tokenizer, "openai-community/gpt2", tokenizer, tokenizer, "openai-community/gpt2-xl"]
    assert lora["problem"] == book["problem"] and f"Not run: book, row 1. {book['problem']}" in caplog.text
    assert book["obtained"] is None and "openai-community/gpt2" in book["problem"] and "gpt2-xl" in xl["problem"]
    metrics = json.loads((out / "random-weights/metrics.json").read_text())
    assert random["obtained"] == {split: round(100 * metrics[split]["accuracy"], 2) for split in metrics}
    size = len(load_sms_spam("sample", protocol="book")["test"])
    expected = wilson(round(metrics["test"]["accuracy"] * size), size)
    assert random["interval"] == pytest.approx([100 * bound for bound in expected], abs=0.01)
    assert random["problem"] is None and random["published"] is None, "its settings are not those of the experiment"
    assert not list((out / "random-weights").glob("checkpoint-*"))

    before = (out / "random-weights/model.safetensors").stat()
    code, printed, _ = run()
    lines = [line.split() for line in printed.splitlines()]
    assert code == 0 and (out / "random-weights/model.safetensors").stat() == before
    obtained = [f"{random['obtained'][split]:.2f}" for split in ("train", "validation", "test")]
    assert ["10", "random-weights", "-", "-", "-", *obtained] == next(line[:8] for line in lines if line[:1] == ["10"])
    assert any(line[:2] == ["1", "book"] and line[-2:] == ["not", "run"] for line in lines)
    assert run("--max-steps", "3")[::2] == (
        1,
        f"hf-spam: {out}/random-weights has a result of another max_steps: give another --output-dir.\n",
    )


def test_published_stands_beside_what_it_was_published_for(tokenizer, sms_collection, tmp_path, monkeypatch):
    """A run of the very recipe on the book's messages is compared; one on others, or of another network, is not."""
    tiny = {**TINY, "tokenizer": tokenizer, "padded_length": "longest", "max_steps": 2, "data": "uci"}
    monkeypatch.setitem(RECIPES, "random-weights", replace(RECIPES["random-weights"], **tiny))
    monkeypatch.setattr(module, "GPT2_VOCABULARY", 300)
    (row,) = reproduce(["10"], output_dir=tmp_path, data=sms_collection)
    assert row["published"] == {"train": 100.0, "validation": 96.64, "test": 93.67}
    assert row["obtained"] != row["published"] and row["interval"][0] < row["obtained"]["test"] < row["interval"][1]
    path = tmp_path / "random-weights/result.json"
    found = json.loads(path.read_text())
    network = {"n_layer": 2, "n_embd": 16, "vocab_size": 300}
    assert found["network"] == network and found["trained_before"] is False
    for other in (
        {"network": network | {"n_layer": 12}},
        {"network": network | {"vocab_size": 400}},
        {"trained_before": True},
        {"test_messages": "others"},
    ):
        path.write_text(json.dumps({**found, **other}))
        (again,) = reproduce(["10"], output_dir=tmp_path, data=sms_collection)
        assert again == {**row, "published": None}
    for damaged in ("{", "{}", "[]"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is damaged: delete it, and its experiment is run again"):
            list(reproduce(["10"], output_dir=tmp_path, data=sms_collection))


def test_what_was_killed_goes_on(whole, tokenizer, tmp_path):
    """SIGKILL after the first checkpoint; the end is that of a run which nothing happened to."""
    folder, expected = whole
    command = [sys.executable, "-m", "hf_spam", "reproduce", "--rows", "10", "--output-dir", str(tmp_path)]
    process = subprocess.Popen(
        [*command, *flags(tokenizer)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "random-weights/checkpoint-3").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not (tmp_path / "random-weights/result.json").exists()
    (row,) = reproduce(["random-weights"], output_dir=tmp_path, tokenizer=tokenizer, **TINY)
    assert {**row, "seconds": 0} == {**expected, "seconds": 0}
    assert result(tmp_path / "random-weights") == result(folder / "random-weights")


def test_ctrl_c_says_how_to_go_on(whole, tokenizer, tmp_path, monkeypatch):
    folder, _ = whole
    step, calls = torch.optim.AdamW.step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(RunInterrupted) as caught:
        list(reproduce(["10"], output_dir=tmp_path, tokenizer=tokenizer, **TINY))
    assert str(caught.value) == "interrupted in random-weights; the same command goes on"
    list(reproduce(["10"], output_dir=tmp_path, tokenizer=tokenizer, **TINY))
    assert len(calls) == TINY["max_steps"] and result(tmp_path / "random-weights") == result(folder / "random-weights")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("20", "There is no row 20; the rows are 1 to 19."),
        ("10,nonesuch", "Unknown recipe 'nonesuch'; known: book, first-token,"),
        ("2,lora", "None of the experiments could be run."),
    ],
)
def test_nothing_to_be_run(rows, message, tokenizer, tmp_path, monkeypatch, capsys):
    """A mistake is known before anything is run; where nothing can be, the exit code says so."""
    command = ["hf-spam", "reproduce", "--rows", rows, "--output-dir", str(tmp_path), *flags(tokenizer)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1 and f"hf-spam: {message}" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_script_is_the_command():
    script = Path(__file__).parents[2] / "scripts/reproduce_book.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Usage: hf-spam reproduce [OPTIONS]")
