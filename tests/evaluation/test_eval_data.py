"""A model's training messages are recognized, and evaluation claims nothing it cannot know about other messages."""

import json

import pytest
from datasets import DatasetDict
from small_data import MESSAGES
from small_reports import TRAIN, messages, report_of

from hf_spam import load_sms_spam
from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import fingerprints
from hf_spam.evaluation import eval_data
from hf_spam.evaluation.eval_data import EvalData, find_training_texts, load_eval_data, trained_recipe
from hf_spam.evaluation.page import headline, report_tables


def rows_of(data: DatasetDict) -> dict:
    return {name: split.to_list() for name, split in data.items()}


def written(path, rows):
    path.write_text("".join(f"{'spam' if label else 'ham'}\t{text}\n" for text, label in rows))
    return path


def test_other_data_is_one_set_and_may_be_small_and_of_one_label(tmp_path):
    path = written(tmp_path / "mine.tsv", [("one", 0), ("two", 0)])
    found = load_eval_data(tmp_path, path)
    assert {name: part["text"][:] for name, part in found.sets.items()} == {"mine.tsv": ["one", "two"]}
    assert found.train is None
    assert load_eval_data(tmp_path, path, train_data=path).train["text"][:] == ["one", "two"]
    with pytest.raises(DataError):
        load_eval_data(tmp_path, path, protocol="book")


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_only_the_models_own_data_is_split_as_in_the_training(tmp_path, protocol):
    """Splitting changed data again would put training messages into the test split, so it does not count as unseen.

    The file name does not matter: a copy of the training data is recognized. The training messages stay what they were
    if their file is split in another way.
    """
    rows = [(f"{'win' if i % 2 else 'see'} {chr(97 + i % 26)}{chr(97 + i // 26)} now", i % 2) for i in range(60)]
    path, copy = written(tmp_path / "grow.tsv", rows), written(tmp_path / "again.tsv", rows)
    recipe = {"protocol": protocol, "seed": 5}
    splits = load_sms_spam(path, **recipe)
    (tmp_path / "history.json").write_text(json.dumps({"recipe": recipe, "splits": fingerprints(splits)}))
    own = load_eval_data(tmp_path, path)
    assert rows_of(own.sets) == rows_of(splits) and own.splits.endswith("as in the model's training")
    assert own.train is own.sets["train"] and own.remark == own.hint == ""
    assert list(load_eval_data(tmp_path, copy).sets) == list(own.sets)
    anew = load_eval_data(tmp_path, path, protocol="book", seed=8)
    assert rows_of(anew.sets) == rows_of(load_sms_spam(path, protocol="book", seed=8))
    assert anew.train.to_list() == splits["train"].to_list()
    assert anew.remark == (eval_data.SPLIT_ANEW if fingerprints(anew.sets) != fingerprints(splits) else "")

    swapped, relabelled = [rows[2], rows[1], rows[0], *rows[3:]], [(rows[0][0], 1), (rows[1][0], 0), *rows[2:]]
    added = [*rows, *[(f"hello {chr(97 + i)}{chr(97 + i)}", 0) for i in range(10)]]
    for others in (added, rows[1:], swapped, relabelled):
        written(path, others)
        found = load_eval_data(tmp_path, path)
        assert {name: len(part) for name, part in found.sets.items()} == {"grow.tsv": len(others)}
        assert found.train is None and "as in" not in found.splits
        assert found.remark.startswith("The data differ from ") and "--train-data" in found.hint
    kept = load_eval_data(tmp_path, path, train_data=copy)  # its training messages
    assert kept.train.to_list() == own.train.to_list() and kept.remark == ""
    assert kept.trained_on == "the messages that the model was trained on"
    named = load_eval_data(tmp_path, path, train_data=path)  # not recognized as its training messages
    assert len(named.train) == len(relabelled) and named.trained_on == "those of --train-data"


def test_classes_of_ones_own_are_recognized_whatever_they_are_mapped_to(tmp_path):
    rows = [f"{'fraud' if i % 2 else 'normal'},{'win' if i % 2 else 'see'} {chr(97 + i)}" for i in range(26)]
    path = tmp_path / "kind.csv"
    path.write_text("\n".join(["kind,text", *rows]))
    splits = load_sms_spam(path, label_column="kind")
    recipe = {"protocol": "full", "seed": 123, "label_column": "kind"}
    (tmp_path / "history.json").write_text(json.dumps({"recipe": recipe, "splits": fingerprints(splits)}))
    how = {"label_column": "kind", "label_map": "fraud=spam,normal=ham"}
    found, known = find_training_texts(tmp_path, path, classes=("fraud", "normal"), **how)
    assert (found, known) == (splits["train"]["text"][:], "known")


def test_corrections_are_recognized_as_a_whole(tmp_path):
    """All of them were trained on, without a split."""
    path = written(tmp_path / "corrections.tsv", [("call me back now", 0), ("you won", 1), ("see you", 0)])
    whole = DatasetDict(train=read_messages(path).select_columns(["text", "label"]))
    recipe = {"protocol": "full", "seed": 123, "replay_messages": 6400}
    (tmp_path / "history.json").write_text(json.dumps({"recipe": recipe, "splits": fingerprints(whole)}))
    assert find_training_texts(tmp_path, path) == (whole["train"]["text"][:], "known")
    found = load_eval_data(tmp_path, path)
    assert found.train is found.sets["train"] and found.remark == eval_data.SEEN_ALL and found.hint == ""


def test_the_bundled_model_was_not_trained_on_what_was_held_out():
    sample = read_messages("sample")["text"][:]
    texts, known = find_training_texts("bundled", "sample")
    assert known == "1 of 6 sources" and len(texts) == len(sample) - 3874 and {*texts} < {*sample}


def test_the_bundled_model_has_seen_the_whole_collection(sms_collection):
    """No split of it is unseen, and the report says so."""
    found = load_eval_data(None, sms_collection)
    assert len(found.train) == 5574 and found.train is found.sets["train"]
    assert found.remark == eval_data.SEEN_ALL
    assert found.hint == ""
    drawn = load_eval_data(None, sms_collection, protocol="book")
    assert len(drawn.sets["test"]) == 300 and len(drawn.train) == 5574 and drawn.remark == found.remark
    other = load_eval_data("bundled", MESSAGES)
    assert list(other.sets) == ["messages.csv"] and other.train is None
    assert other.remark == eval_data.BUNDLED_SEEN
    assert "--train-data uci,sample" in other.hint
    told = load_eval_data(None, MESSAGES, train_data=sms_collection)
    assert len(told.train) == 5574 and told.trained_on == "part of the messages that the model was trained on"
    assert told.remark == other.remark
    assert load_eval_data(None, "sample").remark == found.remark


def test_remarks_reach_the_reader():
    """The remark and the hint of the data are in the headline; without them, it expresses no doubt."""
    data, rows = messages(TRAIN), [(text, label, 0.9) for text, label in TRAIN]
    doubt = EvalData(DatasetDict(test=data), "", None, "not known", eval_data.NO_RECORD, eval_data.HINT.format(""))
    values = report_of(rows, data=doubt).values
    assert f"{doubt.remark} {doubt.hint}" in headline(values) and values["training_messages"] is None
    known = EvalData(
        DatasetDict(train=data), "", data, "the messages that the model was trained on", eval_data.SEEN_ALL
    )
    values = report_of(rows, data=known).values
    said = "\n".join([*headline(values), *(table.note for table in report_tables(values))])
    assert eval_data.SEEN_ALL in said and "not known" not in said and "--train-data" not in said


USABLE = {"recipe": {"protocol": "full", "seed": 1}, "splits": {}}
BAD_HISTORIES = [
    *([], {"recipe": []}, {"recipe": {"name": "x"}}, {"recipe": {"protocol": [], "seed": 1}}),
    *({"recipe": {"protocol": "full"}}, {"recipe": {"protocol": "full", "seed": True}}),
    *({"recipe": USABLE["recipe"] | {"text_column": 1}}, USABLE | {"trained_before": 1}, USABLE | {"splits": []}),
    *(USABLE | {"splits": {"train": train}} for train in (5, {}, {"messages": "5"})),
]
BAD_HISTORIES = [b"no json", b"\xff\xfe", b"[" * 100_000, *(json.dumps(history).encode() for history in BAD_HISTORIES)]
OTHER_HISTORIES = [  # of an old model, one trained on several datasets, and one with an invalid seed
    *({"recipe": USABLE["recipe"]}, USABLE),
    {"recipe": {"protocol": "book", "seed": 2**40}, "splits": {"train": {"messages": 700}}},
]


@pytest.mark.parametrize(
    ("history", "is_bad"),
    [*((bad, True) for bad in BAD_HISTORIES), *((json.dumps(other).encode(), False) for other in OTHER_HISTORIES)],
)
def test_without_a_usable_history_nothing_is_claimed(tmp_path, caplog, history, is_bad):
    """It may come from any repository on the Hub: a warning names a bad file, and evaluation continues."""
    (tmp_path / "history.json").write_bytes(history)
    found = load_eval_data(tmp_path, MESSAGES)
    assert list(found.sets) == ["messages.csv"] and found.train is None
    assert "it may have seen any of these" in found.remark
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == is_bad and "\n" not in "".join(lines)
    assert all(line.startswith(f"Ignoring {tmp_path / 'history.json'}, ") for line in lines)


def test_the_history_of_a_model_on_the_hub(tmp_path, hub):
    from huggingface_hub import HfApi

    (tmp_path / "history.json").write_text(json.dumps(USABLE))
    HfApi().create_repo("alice/spam")
    HfApi().upload_folder(repo_id="alice/spam", folder_path=tmp_path)
    assert trained_recipe("alice/spam").seed == 1
    (tmp_path / "history.json").unlink()
    assert trained_recipe(tmp_path) is eval_data.NO_RECIPE
