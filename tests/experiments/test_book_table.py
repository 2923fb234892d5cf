"""Experiments run once despite interruptions, and published accuracies are shown only for the same experiment."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from command_line import flags_of, hf_spam
from small_data import MESSAGES
from small_runs import at_call, result

from hf_spam import RECIPES, load_sms_spam
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.evaluation.intervals import wilson
from hf_spam.experiments import book_table
from hf_spam.experiments.book_table import PUBLISHED, published_for, reproduce
from hf_spam.signals import RunInterrupted

TINY = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 256, "padded_length": 64, "max_steps": 12}
TINY |= {"eval_freq": 3, "eval_iter": 1, "data": MESSAGES, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(load_sms_spam(MESSAGES)["train"]["text"][:], 300).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def flags(tokenizer):
    return flags_of({**TINY, "tokenizer": tokenizer})


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """A command that has run four experiments, its output folder, and what it printed."""
    out = tmp_path_factory.mktemp("reproduce")
    command = ("reproduce", "--rows", "1, random-weights,12,lora,10", "--output-dir", out, *flags)
    done = hf_spam(*command, "--json")
    assert done.code == 0, done.err
    return command, out, json.loads(done.out)


def test_table_of_results_and_problems(finished, flags, tmp_path):
    """Experiments that cannot run are listed with the reason; a second call runs nothing again."""
    command, out, rows = finished
    book, random, xl, lora = rows
    assert [row["row"] for row in (book, random, xl, lora)] == [1, 10, 12, 11]
    assert lora["problem"] == book["problem"] and "openai-community/gpt2" in book["problem"]
    assert book["obtained"] is None and "gpt2-xl" in xl["problem"]
    metrics = json.loads((out / "random-weights/metrics.json").read_text())
    assert random["obtained"] == {split: round(100 * metrics[split]["accuracy"], 2) for split in metrics}
    size = len(load_sms_spam(MESSAGES, protocol="book")["test"])
    expected = wilson(round(metrics["test"]["accuracy"] * size), size)
    assert random["interval"] == pytest.approx([100 * bound for bound in expected], abs=0.01)
    assert random["problem"] is None and random["published"] is None, "its settings are not the experiment's"
    assert not list((out / "random-weights").glob("checkpoint-*"))

    before = (out / "random-weights/model.safetensors").stat()
    done = hf_spam(*command)
    lines = [line.split() for line in done.out.splitlines()]
    assert done.code == 0 and (out / "random-weights/model.safetensors").stat() == before
    obtained = [f"{random['obtained'][split]:.2f}" for split in ("train", "validation", "test")]
    assert ["10", "random-weights", "-", "-", "-", *obtained] == next(line[:8] for line in lines if line[:1] == ["10"])
    assert any(line[:2] == ["1", "book"] and line[-2:] == ["not", "run"] for line in lines)
    done = hf_spam(*command, "--max-steps", "3")
    assert done.code == 1 and "different settings (max_steps)" in done.err and "--output-dir" in done.err
    done = hf_spam("reproduce", "--rows", "corrections", "--output-dir", tmp_path / "none", *flags, "--json")
    assert "is no experiment: use hf-spam train" in json.loads(done.out)[0]["problem"]
    none = hf_spam("reproduce", "--rows", "2,lora", "--output-dir", tmp_path / "none", *flags)
    assert none.code == 1 and "None of the experiments could be run." in none.err and not (tmp_path / "none").exists()


def test_published_accuracies_are_shown_only_for_the_same_experiment():
    assert list(PUBLISHED) == [name for name in RECIPES if name not in ("pocket", "inbox", "corrections")]
    recipe = RECIPES["random-weights"]
    expected = {"train": 100.0, "validation": 96.64, "test": 93.67}
    assert published_for(recipe) == published_for(replace(recipe, data="mine.csv", text_column="x")) == expected
    for other in ({"base": "gpt2"}, {"tokenizer": "gpt2"}, {"seed": 1}):
        assert published_for(replace(recipe, **other)) is None, other
    assert published_for(recipe, {"test_messages": book_table.BOOK_TEST}) == expected
    assert published_for(recipe, {"test_messages": "others"}) is None


def test_an_interrupted_experiment_resumes(finished, tokenizer, flags, tmp_path, monkeypatch):
    """The result equals that of an uninterrupted run; the error says how to resume."""
    _, out, (_, expected, _, _) = finished
    step, calls = torch.optim.AdamW.step, []
    interrupted = at_call(5, lambda *args, **kwargs: calls.append(1) or step(*args, **kwargs), signal.SIGINT)
    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(RunInterrupted, match="interrupted in random-weights; run the same command again to resume"):
        list(reproduce(["10"], output_dir=tmp_path, tokenizer=tokenizer, **TINY))
    assert not (tmp_path / "random-weights/result.json").exists()
    (row,) = reproduce(["random-weights"], output_dir=tmp_path, tokenizer=tokenizer, **TINY)
    assert len(calls) == TINY["max_steps"] and {**row, "seconds": 0} == {**expected, "seconds": 0}
    assert result(tmp_path / "random-weights") == result(out / "random-weights")
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "random-weights/result.json").write_text(damaged)
        done = hf_spam("reproduce", "--rows", "10", "--output-dir", tmp_path, *flags)
        assert done.code == 1 and "result.json is damaged: delete it" in done.err
