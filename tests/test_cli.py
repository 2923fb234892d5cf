"""The command line passes flags to the right functions, and prints what a person or a program expects.

Commands run in the test process unless a test needs a separate one.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from types import SimpleNamespace

import click
import pytest
from command_line import hf_spam
from small_data import MESSAGES

from hf_spam import RECIPES
from hf_spam.cli import cli
from hf_spam.evaluation.plots import plot_values
from hf_spam.training.recipes import get_recipe
from hf_spam.training.run import History
from hf_spam.training.settings import RunOptions

# Settings of the Trainer have its names, with dashes or underscores.
SMALL = ["--recipe", "pocket", "--data", MESSAGES, "--max_steps=20", "--n-embd", "16", "--vocab_size", "300"]
SMALL += ["--lr_scheduler_type", "cosine", "--max-grad-norm", "none", "--no-causal"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained from the command line, with real plots, and the printed output."""
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_spam.training.saving.plot_values", plot_values)  # other tests write empty files
        done = hf_spam("train", *SMALL, "--output-dir", out)
    assert done.code == 0, done.err
    return out, done


def test_train_prints_its_progress_and_results(trained):
    out, done = trained
    for words in ("Before training: train acc", "Epoch 1, step 000000: train loss", "Epoch 1: train acc", "val acc"):
        assert words in done.err
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics) == ["train", "validation", "test"]
    recipe = json.loads((out / "history.json").read_text())["recipe"]
    expected = {"max_steps": 20, "vocab_size": 300, "n_embd": 16, "lr_scheduler_type": "cosine"}
    expected |= {"max_grad_norm": None, "causal": False}
    assert recipe == asdict(get_recipe("pocket", data="messages.csv", **expected))
    assert "the baseline is ahead of the model, F1 " in (out / "README.md").read_text()
    assert f"{metrics['test']['f1']:.4f}" in done.out and str(out) in done.out.replace("\n", "")
    for suffix, magic in {"png": b"\x89PNG", "pdf": b"%PDF"}.items():
        for name in ("loss", "accuracy"):
            assert (out / f"{name}-plot.{suffix}").read_bytes().startswith(magic)


@pytest.fixture
def calls(monkeypatch):
    """The recorded calls of `finetune`, which is replaced and trains nothing."""
    found = []
    metrics = {"test": {"f1": 0.5}}
    run = SimpleNamespace(all_metrics=metrics, corrections=[], baseline={}, history=History(seconds=3))

    def finetune(recipe, **settings):
        found.append((recipe, settings))
        return run

    monkeypatch.setattr("hf_spam.training.finetune.finetune", finetune)
    return found


# Flags of the example scripts of transformers; a value keeps its underscores.
SCRIPT = "--model_name_or_path my_gpt2 --tokenizer my_gpt2 --dataset_name my_data.csv --output_dir my_run"
SCRIPT += " --per_device_train_batch_size 4 --learning_rate 2e-5 --num_train_epochs 3"
SCRIPT += " --push_to_hub --hub_model_id my_id"
OURS = {"base": "my_gpt2", "tokenizer": "my_gpt2", "data": "my_data.csv", "output_dir": "my_run"}
OURS |= {"per_device_train_batch_size": 4, "learning_rate": 2e-5, "num_train_epochs": 3}
OURS |= {"push_to_hub": True, "hub_model_id": "my_id"}
CORRECTED = {"base": "bundled", "data": "mine.csv"}


@pytest.mark.parametrize(
    ("flags", "recipe", "settings"),
    [
        ("", "book", {"output_dir": "runs/book"}),
        ("--base bundled --data mine.csv", "corrections", {**CORRECTED, "output_dir": "runs/corrections"}),
        ("--base bundled --data mine.csv --recipe inbox", "inbox", {**CORRECTED, "output_dir": "runs/inbox"}),
        (SCRIPT, "book", OURS),
    ],
    ids=["nothing given", "corrections", "another recipe", "names of scripts"],
)
def test_train_passes_what_is_given(flags, recipe, settings, calls):
    assert hf_spam("train", *flags.split()).code == 0
    assert calls == [(recipe, settings)]


def test_only_the_main_process_prints(calls, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert hf_spam("train") == (0, "", "") and calls


def test_help_of_train_lists_every_setting():
    text = hf_spam("train", "--help").out
    for field in (*fields(RECIPES["book"]), *fields(RunOptions)):
        flag = f"--{field.name.replace('_', '-')}"
        assert field.name in ("name", "summary") or f"{flag} " in text or f"{flag}, " in text, field.name


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, such as ("data", "push")."""
    for name, command in group.commands.items():
        yield from commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_flags_of_every_command_work_with_underscores(command):
    """The help, however, shows dashes only. Parsing stops at the unknown last flag, so that nothing runs."""
    flags = re.findall(r"--[\w-]+", hf_spam(*command, "--help").out.split("Options:")[1])
    assert flags and not any("_" in flag for flag in flags)
    for flag in flags:
        done = hf_spam(*command, flag.replace("-", "_").replace("__", "--", 1), "--no_such=flag", "--no_such=flag")
        assert "No such option '--no-such'" in done.err, flag


def test_other_commands_know_the_names_of_transformers_scripts():
    assert hf_spam("classify", "--model_name_or_path", "bundled", "Win a prize").code == 0
    assert "my_data.csv: not a file" in hf_spam("evaluate", "--dataset_name=my_data.csv").err


def test_classify_with_the_bundled_model():
    done = hf_spam("classify", "Free entry! Txt WIN to 10010", "see you at home", "--json")
    first, second = map(json.loads, done.out.splitlines())
    assert list(first) == ["text", "label", "score"] and first["label"] == "spam" and first["score"] > 0.9
    assert second["text"] == "see you at home" and second["label"] == "not spam" and second["score"] > 0.9
    assert f"not spam  {second['score']:.4f}  see you at home" in hf_spam("classify", "see you at home").out


def test_classify_answers_every_line(trained):
    """Empty lines, emoji, NUL, invalid UTF-8 and a very long line; control characters never reach the terminal."""
    lines = ["", "🙂🙂", "nul \0 inside", "win " * 25_000, "\x1b[31mred\x07"]
    stdin = "\n".join([*lines, "last"]).encode() + b" \xff\xfe"
    answers = [json.loads(line) for line in hf_spam("classify", "--json", stdin=stdin).out.splitlines()]
    assert [answer["text"] for answer in answers[:5]] == lines and len(answers) == 6
    shown = hf_spam("classify", "--model", trained[0], stdin=stdin).out
    assert "[31mred" in shown and not {"\x1b", "\x07", "\0"} & set(shown)


def test_closed_pipe_is_no_error():
    """As with `| head -1`."""
    command = [sys.executable, "-m", "hf_spam", "recipes", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.communicate()[1] == b"" and process.returncode == 1


def test_recipes():
    listed = {recipe["name"]: recipe for recipe in json.loads(hf_spam("recipes", "--json").out)}
    assert list(listed) == list(RECIPES) and listed["book"]["learning_rate"] == 5e-5
    assert listed["xl"]["published"] == {"row": 8, "train": 99.81, "validation": None, "test": 98.33}
    assert listed["pocket"]["published"] is None
    lines = hf_spam("recipes").out.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in RECIPES)
    assert any("2  " in line and "first-token" in line and "78.46 80.54 75.00" in line for line in lines)


@pytest.mark.parametrize("width", ["70", "200"])
def test_recipes_side_by_side(width, monkeypatch):
    """The book's settings come first; other recipes show only what differs. No name is broken."""
    monkeypatch.setenv("COLUMNS", width)
    lines = [line.split() for line in hf_spam("recipes", "accumulation", "book", "head-only").out.splitlines()]
    assert ["book", "accumulation", "head-only"] in lines
    assert ["trainable", "last_block", "·", "head"] in lines and ["padded_length", "longest", "none", "·"] in lines
    shown = {line[0] for line in lines if len(line) == 4}
    assert shown >= {field.name for field in fields(RECIPES["book"])} - {"name", "summary", "base"}


@pytest.mark.parametrize(
    "command",
    [
        "evaluate bundled --data sample --output-dir /proc/out",
        "compare bundled --data sample --output-dir /proc/out",
        "benchmark bundled --output /proc/out/a.json",
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, monkeypatch):
    monkeypatch.setattr("hf_spam.evaluation.models.load_candidate", lambda *_, **__: pytest.fail("the work has begun"))
    done = hf_spam(*command.split())
    assert done.code == 1 and "/proc/out cannot be written (" in done.err and "choose another folder" in done.err
