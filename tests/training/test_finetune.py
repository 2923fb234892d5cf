"""`finetune` checks settings and messages before it trains, and reads and tokenizes each message once."""

import shutil
from collections import Counter

import pytest
from datasets import Dataset
from small_runs import SMALL
from transformers import AutoModel

from hf_spam import finetune
from hf_spam.data import tokenization
from hf_spam.evaluation.eval_data import load_eval_data

ONE_STEP = {**SMALL, "max_steps": 1}
OWN = {"text": ["win a prize", "hi mum"] * 16, "label": [1, 0] * 16}


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_sharded_training_is_refused_in_one_line(engine, data, tmp_path, monkeypatch):
    """`accelerate launch` asks for it through the environment; without the check it would fail later, or be ignored."""
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match=rf"^{engine} is not supported: launch with torchrun, .*\.$"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", **ONE_STEP)
    assert not (tmp_path / "out").exists()


def test_each_message_is_tokenized_once_in_a_run(data, base, tmp_path, monkeypatch):
    """This includes checkpoints, frozen blocks, calibration and final evaluation. Only augmentation tokenizes again."""
    counts, replace = Counter(), tokenization.replace_lone_surrogates  # which every text passes before it is encoded
    monkeypatch.setattr(tokenization, "replace_lone_surrogates", lambda text: counts.update([text]) or replace(text))
    settings = {"base": base, "max_steps": 4, "eval_freq": 2, "save_steps": 2, "temperature_scaling": True}
    finetune("book", data=data, output_dir=tmp_path / "out", **settings)
    messages = Counter(text for split in data.values() for text in split["text"])
    assert {text: counts[text] for text in messages} == messages


def test_messages_passed_in_need_no_label_names_and_no_other_split(tmp_path):
    """Integers are labels, other columns are ignored, nothing is split, and the card names no dataset."""
    rows = Dataset.from_dict({**OWN, "id": range(32)})
    run = finetune("pocket", data={"train": rows}, output_dir=tmp_path, **ONE_STEP)
    card = (tmp_path / "README.md").read_text()
    assert run.recipe.data == "a dict" and "messages passed in as a `DatasetDict`" in card
    assert "sms_spam" not in card and "model-index" not in card
    assert run.model.config.id2label == {0: "not spam", 1: "spam"}
    assert list(run.metrics) == list(run.history.final_accs) == ["train"] and run.history.val_losses == []


def test_a_label_with_a_comma_is_named():
    with pytest.raises(ValueError, match="label_map: the label 'a,b' contains a comma: rename it in the data"):
        finetune("pocket", label_map={"a,b": "ham", "c": "spam"})


def test_a_base_trained_on_other_messages_is_reported(data, tmp_path, caplog):
    """A base classifier may have been trained on this run's test split, unless it was trained on the same splits.

    The log, the card and the evaluation say so, even if this is true only of the base of the base.
    """
    data["train"].to_csv(tmp_path / "mine.csv", index=False)
    settings = {**ONE_STEP, "data": tmp_path / "mine.csv"}
    first = finetune("pocket", output_dir=tmp_path / "first", **settings)
    assert not first.history.trained_before
    AutoModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "headless")
    first.tokenizer.save_pretrained(tmp_path / "headless")
    shutil.copytree(tmp_path / "first", tmp_path / "unknown", ignore=shutil.ignore_patterns("history.json"))
    remark = "may have been trained on messages of any split"
    for base, seed, expected in (
        ("first", 123, False),
        ("headless", 5, False),
        ("first", 5, True),
        ("unknown", 123, True),
        ("first-5", 5, True),
    ):
        caplog.clear()
        out = tmp_path / f"{base}-{seed}"
        how = {"data": settings["data"], "base": tmp_path / base, "seed": seed, "max_steps": 1}
        run = finetune("pocket", output_dir=out, **how)
        assert run.history.trained_before == expected
        assert (remark in caplog.text) == (remark in (out / "README.md").read_text()) == expected
        found = load_eval_data(out, tmp_path / "mine.csv")
        assert list(found.sets) == ["train", "validation", "test"] and bool(found.remark) == expected
