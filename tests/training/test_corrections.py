"""Corrections change what the base got wrong and little else: before and after are measured on held-out messages."""

import json
import logging
from pathlib import Path

import pytest
import torch
from command_line import flags_of, hf_spam
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from small_data import MESSAGES, delimited
from small_runs import NO_DROPOUT, SMALL, config_of

from hf_spam import SpamClassifier, finetune, load_sms_spam
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.sources import read_messages
from hf_spam.training.corrections import divide, read_corrections
from hf_spam.training.recipes import get_recipe

SMALL_REPLAY = {"replay_messages": 200, "per_device_train_batch_size": 16, "num_train_epochs": 3, "learning_rate": 5e-2}
WRONG = [("spam", "zebra quarry lunch at noon"), ("spam", "violin zebra tomorrow"), ("ham", "quokka prize claim now")]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_bytes(delimited([("label", "text"), *rows]))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small model with a temperature and a threshold, in a folder with the file that it was trained on."""
    folder, messages = tmp_path_factory.mktemp("base"), read_messages(MESSAGES).shuffle(seed=1).select(range(300))
    messages.select_columns(["text", "label"]).to_json(folder / "mine.jsonl")
    size = {"n_embd": 32, "n_head": 2, "vocab_size": 800, "max_steps": 80}
    settings = {**size, **NO_DROPOUT, "learning_rate": 1e-2, "weight_average": 0.0, "adversarial_epsilon": 0.0}
    finetune("pocket", data=folder / "mine.jsonl", output_dir=folder / "model", **settings)
    config = config_of(folder / "model") | {"temperature": 1.25, "threshold": 0.7}
    (folder / "model/config.json").write_text(json.dumps(config))
    return folder / "model"


@pytest.fixture(autouse=True)
def at_hand(base, monkeypatch):
    monkeypatch.chdir(base.parent)


def accuracy(model: Path, messages) -> float:
    answers = SpamClassifier.from_pretrained(model).predict(messages["text"][:])
    names = messages.features["label"].names
    return sum(a == names[i] for a, i in zip(answers, messages["label"][:], strict=True)) / len(messages)


def test_corrections_are_learned_and_measured_before_and_after(base, tmp_path):
    """The figures are those that the two models give on the held-out splits of the base."""
    wrong, out = write(tmp_path / "wrong.csv", WRONG), tmp_path / "out"
    flags = flags_of({"recipe": "corrections", "base": base, "data": wrong, "output_dir": out, **SMALL_REPLAY})
    done = hf_spam("train", *flags, "--max-drop", "0.5", "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert metrics["train, before"]["accuracy"] < 1 == metrics["train"]["accuracy"]
    splits = load_sms_spam("mine.jsonl")
    for split in ("validation", "test"):
        assert metrics[f"{split}, before"]["accuracy"] == pytest.approx(accuracy(base, splits[split]))
        assert metrics[split]["accuracy"] == pytest.approx(accuracy(out, splits[split]))
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    ours, theirs = config_of(out), config_of(base)
    kept = ("temperature", "threshold", "pooling", "padded_length", "causal", "id2label", "vocab_size")
    assert {name: ours[name] for name in kept} == {name: theirs[name] for name in kept} and ours["threshold"]
    card = (out / "README.md").read_text()
    assert "name: mine.jsonl" in card and "n_layer" not in card, "what was measured, and no setting that was not used"
    assert "| validation, before |" in card and "those of the base" in card and "linear SVM" not in card
    history = json.loads((out / "history.json").read_text())
    assert history["kept"] == 1 and history["recipe"]["replay"] == "mine.jsonl"


def test_the_weights_go_back_as_far_as_the_bound_demands(base, tmp_path):
    """At a learning rate that ruins the model, little of the change is kept, and the run says so.

    One class is enough.
    """
    data = write(tmp_path / "spam.csv", WRONG[:2])
    flags = flags_of({"base": base, "data": data, **SMALL_REPLAY, "learning_rate": 30})
    done = hf_spam("train", "--recipe", "corrections", *flags, "--output-dir", tmp_path / "out", "--max-drop", "0")
    assert "of the change was kept" in done.out, done.err
    history = json.loads((tmp_path / "out/history.json").read_text())
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert history["kept"] < 1
    old, new = (round(2 * metrics[name]["accuracy"]) for name in ("train, before", "train"))
    assert f"Of 2 corrections, {new} are classified correctly now, and {old} before." in done.out
    assert "held-out messages (test): accuracy " in done.out and "Few training messages" not in done.err
    before, after = metrics["validation, before"], metrics["validation"]
    assert after["accuracy"] >= before["accuracy"] and after["false_positive_rate"] <= before["false_positive_rate"]
    first, last = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    changed = [name for name, tensor in first.items() if not torch.equal(tensor, last[name])]
    assert changed == ["gpt.tok_emb.weight"] * (history["kept"] > 0)


def test_nothing_that_duplicates_a_correction_is_replayed_or_held_out(base, tmp_path, caplog):
    """Its label there may be the opposite one."""
    splits = load_sms_spam("mine.jsonl")
    rows = [(1 - part[0]["label"], part[0]["text"].upper()) for part in splits.values()]
    recipe = get_recipe("corrections", base=base, data=write(tmp_path / "c.csv", rows), **SMALL_REPLAY)
    with caplog.at_level(logging.INFO, logger="hf_spam"):
        recipe, found, replay = read_corrections(recipe, recipe.data)
    assert found["train"]["text"][:] == [text for _, text in rows] and len(replay) == 200
    keys = {duplicate_key(text) for _, text in rows}
    for part in (replay, found["validation"], found["test"]):
        assert not keys & set(map(duplicate_key, part["text"]))
    assert caplog.text.count("that duplicate a correction") == 3
    assert set(replay["text"]) <= set(splits["train"]["text"])


def test_a_source_without_recorded_splits_is_divided_without_shared_duplicates(base, tmp_path):
    """Here the base was trained on other messages; the source is named by the user."""
    texts = [(i % 2, f"{'win' if i % 2 else 'see'} {chr(97 + i // 2)} {n}") for i in range(40) for n in "12"]
    other = write(tmp_path / "other.csv", texts)
    settings = {"base": base, "data": write(tmp_path / "c.csv", WRONG), "replay": other}
    recipe, found, replay = read_corrections(get_recipe("corrections", **settings), settings["data"])
    groups = [set(map(duplicate_key, part["text"])) for part in (replay, found["validation"])]
    assert (len(replay), len(found["validation"])) == (72, 8) and not groups[0] & groups[1]
    assert recipe.replay == str(other) and list(found) == ["train", "validation"]


def test_corrections_of_a_corrected_model_replay_what_it_has_replayed(base, tmp_path, caplog):
    """Its record names the replayed messages; the corrections, all of which it learned, are no source with splits."""
    other = write(
        tmp_path / "other.csv", [(i % 2, f"{'win' if i % 2 else 'see'} {chr(97 + i)} now") for i in range(26)]
    )
    first = write(
        tmp_path / "first.csv", [(i % 2, f"{'get' if i % 2 else 'at'} {chr(97 + i)} today") for i in range(26)]
    )
    settings = {**SMALL_REPLAY, "per_device_train_batch_size": 8, "num_train_epochs": 1}
    finetune("corrections", base=base, data=first, replay=other, output_dir=tmp_path / "once", **settings)
    monkey = get_recipe("corrections", base=tmp_path / "once", data=write(tmp_path / "c.csv", WRONG), **settings)
    (tmp_path / "other.csv").rename("other.csv")  # where the recorded name finds it
    recipe, _, replay = read_corrections(monkey, monkey.data)
    assert recipe.replay == "other.csv" and {*replay["text"]} <= {*read_messages("other.csv")["text"]}
    assert "replaying the sample" not in caplog.text
    named = get_recipe("corrections", base=tmp_path / "once", data=monkey.data, replay=first, **settings)
    recipe, found, _ = read_corrections(named, named.data)
    assert recipe.replay == str(first) and len(found["validation"])


def test_corrections_in_memory_are_read_like_those_of_a_file(base, caplog):
    """All of one class, and beside a validation split that cannot be used."""
    rows = Dataset.from_dict({"text": [text for _, text in WRONG[:2]], "label": ["spam", "spam"]})
    recipe = get_recipe("corrections", base=base, **SMALL_REPLAY)
    _, found, _ = read_corrections(recipe, DatasetDict(train=rows, validation=rows))
    assert found["train"]["label"][:] == [1, 1] and "The split validation is not used" in caplog.text


def test_messages_to_replay_are_read_with_the_same_options(base, tmp_path):
    words = [(("legit", "junk")[i % 2], f"{'win' if i % 2 else 'see'} {chr(97 + i)} now") for i in range(26)]
    how = {"replay": write(tmp_path / "r.csv", words), "label_map": "legit=ham,junk=spam", **SMALL_REPLAY}
    how["per_device_train_batch_size"] = 8
    recipe = get_recipe("corrections", base=base, data=write(tmp_path / "c.csv", WRONG), **how)
    assert len(read_corrections(recipe, recipe.data)[2]) > 20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": [("maybe", "hi")]}, "unknown label 'maybe'"),
        ({"target_fpr": 0.01}, "replay_messages needs a base, and excludes"),
        ({"target_fpr": 0.0}, "replay_messages needs a base, and excludes"),
        ({"base": "random", "vocab_size": 300}, "replay_messages needs a base, and excludes"),
        ({"base": "three"}, "corrections need a model of two labels, but .* has 3"),
    ],
)
def test_what_cannot_be_corrected_is_refused(settings, words, base, tmp_path):
    if settings.get("base") == "three":
        rows = [(name, f"{name} {i}") for name in ("a", "b", "c") for i in "mnopqrstuvwx"]
        settings = {"base": tmp_path / "three"}
        own = {"data": write(tmp_path / "abc.csv", rows), "label_column": "label", "protocol": "book"}
        finetune("pocket", output_dir=tmp_path / "three", max_steps=1, per_device_train_batch_size=4, **own, **SMALL)
    data = write(tmp_path / "c.csv", settings.get("data", WRONG))
    with pytest.raises(ValueError, match=words):
        finetune("corrections", **{"base": base, **settings, "data": data}, output_dir=tmp_path / "out")


@pytest.mark.slow
def test_ten_corrections_of_the_bundled_model(tmp_path):
    """The command of the guide; its held-out messages are those that the bundled model was not trained on."""
    _, held_out = divide(read_messages("sample"))
    labels = [("ham", "spam")[label] for label in held_out["label"][:]]
    found = SpamClassifier.from_pretrained().predict(held_out["text"][:])
    rows = list(zip(labels, held_out["text"][:], found, strict=True))
    misses = [(label, text) for label, text, answer in rows if label == "spam" != answer]
    false_alarms = [(label, text) for label, text, answer in rows if label == "ham" and answer == "spam"]
    data = write(tmp_path / "corrections.csv", [*misses[:5], *false_alarms[:5]])
    done = hf_spam("train", "--base", "bundled", "--data", data, "--output-dir", tmp_path / "out")
    assert "Of 10 corrections, 10 are classified correctly now" in done.out, done.out + done.err
    corrected = {duplicate_key(text) for _, text in (*misses[:5], *false_alarms[:5])}
    others = sum(duplicate_key(text) not in corrected for text in held_out["text"])
    assert f"{others:,} held-out messages" in done.out
