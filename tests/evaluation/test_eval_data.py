"""Which messages are a model's own, and what may be said of those that are not."""

import json
import shutil

import pytest
from datasets import DatasetDict

from hf_spam import SpamClassifier, load_sms_spam
from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import fingerprints
from hf_spam.evaluation.eval_data import Evaluated, messages_for, trained_recipe
from hf_spam.evaluation.page import headline, report_tables
from hf_spam.evaluation.report import make_report

POCKET = SpamClassifier.from_pretrained()


@pytest.fixture
def folder(tmp_path):
    """A model's folder that tells how it was trained."""
    (tmp_path / "config.json").write_text("{}")
    record(tmp_path, "sample", protocol="book", seed=7)
    return tmp_path


def record(folder, source, **recipe) -> None:
    """Writes what a run on a source leaves of it."""
    splits = fingerprints(load_sms_spam(source, **recipe))
    (folder / "history.json").write_text(json.dumps({"recipe": {"data": "sample", **recipe}, "splits": splits}))


def test_a_models_own_data_are_split_as_for_its_training(folder):
    own = load_sms_spam("sample", protocol="book", seed=7)
    evaluated = messages_for(folder, "sample")
    assert {name: part.to_list() for name, part in evaluated.sets.items()} == {
        name: part.to_list() for name, part in own.items()
    }
    assert evaluated.train is evaluated.sets["train"]
    other = messages_for(folder, "sample", seed=8)  # its training messages are what they were
    assert other.sets["test"].to_list() == load_sms_spam("sample", protocol="book", seed=8)["test"].to_list()
    assert other.train.to_list() == own["train"].to_list()


def test_a_file_is_one_set_and_may_be_small_and_of_one_label(folder, tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("ham\tone\nham\ttwo\n")
    evaluated = messages_for(folder, path, train_data="sample")
    assert {name: part["text"][:] for name, part in evaluated.sets.items()} == {"mine.tsv": ["one", "two"]}
    assert evaluated.train.to_list() == load_sms_spam("sample", protocol="book", seed=7)["train"].to_list()
    assert messages_for(folder, path).train is None
    assert messages_for(folder, path, train_data=path).train.to_list() == evaluated.sets["mine.tsv"].to_list()
    assert list(messages_for(None, "sample").sets) == ["sample"]
    assert len(messages_for(None, "sample", protocol="full").sets["train"]) == 700
    with pytest.raises(DataError, match=r"there is no split 'tset'; there is: mine\.tsv"):
        make_report(POCKET, evaluated, split="tset")
    with pytest.raises(DataError, match="at least two labels are needed"):
        read_messages(path)


def test_the_collection_is_the_same_by_any_name(folder, sms_collection, tmp_path):
    """Trained on uci, measured on its file: not as one set, of which most has been seen."""
    record(folder, sms_collection, protocol="book", seed=123)
    shutil.copyfile(sms_collection, tmp_path / "mine.tsv")
    for path in (sms_collection, tmp_path / "mine.tsv"):
        assert len(messages_for(folder, path).sets["test"]) == 300


def written(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{'spam' if label else 'ham'}\t{text}\n" for text, label in rows))
    return path


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_a_file_that_has_changed_is_not_a_models_own(tmp_path, protocol):
    """Its splits come out differently, with training messages in the test split: no clean test may be claimed.

    Nor of a file that has the name alone. The very messages are its own under any name.
    """
    rows = [(f"{'win' if i % 2 else 'see'} {chr(97 + i % 26)}{chr(97 + i // 26)} now", i % 2) for i in range(60)]
    path = written(tmp_path / "grow.tsv", rows)
    record(tmp_path, path, protocol=protocol, seed=5)
    own = messages_for(tmp_path, path)
    assert list(own.sets) == ["train", "validation", "test"] and own.splits.endswith("as for the training of the model")
    assert own.train is own.sets["train"] and own.remark == own.remedy == ""
    assert list(messages_for(tmp_path, written(tmp_path / "again.tsv", rows)).sets) == list(own.sets)

    swapped, relabelled = [rows[2], rows[1], rows[0], *rows[3:]], [(rows[0][0], 1), (rows[1][0], 0), *rows[2:]]
    added = [*rows, *[(f"hello {chr(97 + i)}{chr(97 + i)}", 0) for i in range(10)]]
    for others in (added, rows[1:], swapped, relabelled):
        written(path, others)
        for changed in (path, written(tmp_path / "elsewhere" / "grow.tsv", others)):
            found = messages_for(tmp_path, changed)
            assert {name: len(part) for name, part in found.sets.items()} == {"grow.tsv": len(others)}
            assert found.train is None and "as for the training" not in found.splits
            values = make_report(POCKET, found, model=tmp_path, data=changed).values
            (said,) = [line for line in headline(values) if line.startswith("These are not, or no longer, ")]
            assert "it may have seen any of them. --train-data names" in said
            assert values["duplicates"] == {"grow.tsv": {}} and values["training_messages"] is None
            drawn = messages_for(tmp_path, changed, protocol="full")
            assert drawn.trained_on.endswith("is not known") and drawn.remark == found.remark
        kept = messages_for(tmp_path, path, train_data=tmp_path / "again.tsv")  # the messages that it was trained on
        assert kept.train.to_list() == own.train.to_list() and kept.remark == ""
        assert kept.trained_on == "the messages that the model was trained on"
        named = messages_for(tmp_path, path, train_data=path)  # which nothing proves to be those
        assert len(named.train) == len(others) and named.trained_on == "those of --train-data"


def test_nothing_is_claimed_for_a_model_without_digests(folder):
    """One of an earlier version, or that has gone on with other messages: its recipe alone tells no message again."""
    history = json.loads((folder / "history.json").read_text())
    for splits in ({}, None):
        history["splits"] = splits
        left = {name: value for name, value in history.items() if value is not None}
        (folder / "history.json").write_text(json.dumps(left))
        evaluated = messages_for(folder, "sample")
        assert list(evaluated.sets) == ["sample"] and evaluated.train is None
        assert evaluated.remark.startswith("No record tells which messages the model was trained on")


def test_the_bundled_model_knows_its_own_messages(sms_collection):
    """It has seen all of the collection: no figure on that is of new messages, and the report says nothing else."""
    evaluated = messages_for(None, sms_collection)
    few = evaluated.sets["train"].select(range(50))
    assert len(evaluated.train) == 5574 and evaluated.train is evaluated.sets["train"]
    evaluated = Evaluated(DatasetDict(train=few), evaluated.splits, few, evaluated.trained_on, evaluated.remark)
    values = make_report(POCKET, evaluated, data=sms_collection).values
    lines = headline(values)
    assert "The model was trained on these very messages: its figures say nothing about new ones." in lines
    said = "\n".join([*lines, *(table.note for table in report_tables(values))])
    assert "not known" not in said and "--train-data" not in said and "may have" not in said
    drawn = messages_for(None, sms_collection, protocol="book")
    assert len(drawn.sets["test"]) == 300 and len(drawn.train) == 5574 and drawn.remark == evaluated.remark


def test_the_bundled_model_names_its_messages_where_others_are_asked_about(sms_collection):
    evaluated = messages_for(None, "sample")
    few = DatasetDict(sample=evaluated.sets["sample"].select(range(50)))
    few = Evaluated(few, evaluated.splits, None, evaluated.trained_on, evaluated.remark, evaluated.remedy)
    lines = headline(make_report(POCKET, few, data="sample").values)
    (said,) = [line for line in lines if "trained on the whole SMS Spam Collection, and has seen" in line]
    assert "--train-data uci, or the collection's file, names the messages of its training" in said
    told = messages_for(None, "sample", train_data=sms_collection)
    assert len(told.train) == 5574 and told.trained_on == "the messages that the model was trained on"


USABLE = {"recipe": {"protocol": "full", "seed": 1}, "splits": {}}


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (b"no json", "Expecting value"),
        (b"\xff\xfe", "can't decode"),
        (b"[" * 100_000, "recursion"),
        *[
            (json.dumps(history).encode(), problem)
            for history, problem in (
                ([], "there is no recipe in it"),
                ({}, "there is no recipe in it"),
                ({"recipe": []}, "there is no recipe in it"),
                ({"recipe": {"name": "x"}}, "its recipe has no protocol that is known"),
                ({"recipe": {"data": "tiny.csv"}}, "its recipe has no protocol that is known"),
                ({"recipe": {"protocol": [], "seed": 1}}, "its recipe has no protocol that is known"),
                ({"recipe": {"protocol": "full"}}, "its recipe has no seed"),
                ({"recipe": {"protocol": "full", "seed": True}}, "its recipe has no seed"),
                ({"recipe": USABLE["recipe"] | {"undersample": "no"}}, "undersample is neither true nor false"),
                (USABLE | {"trained_before": 1}, "trained_before is neither true nor false"),
                ({"recipe": USABLE["recipe"] | {"text_column": 1}}, "a column of its recipe is not a name"),
                (USABLE | {"splits": []}, "its splits are not digests"),
                (USABLE | {"splits": {"train": 5}}, "its splits are not digests"),
                (USABLE | {"splits": {"train": {"messages": "5"}}}, "its splits are not digests"),
            )
        ],
    ],
)
def test_a_history_that_is_anyones_counts_as_none(folder, caplog, history, problem):
    """It may come from any repository of the Hub: one line names the file, and the data are measured all the same."""
    (folder / "history.json").write_bytes(history)
    evaluated = messages_for(folder, "sample")
    assert list(evaluated.sets) == ["sample"] and "No record tells" in evaluated.remark
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"{folder / 'history.json'} is passed over: ") and problem in line and "\n" not in line


def test_a_seed_that_no_run_can_have_is_no_error(folder):
    history = json.loads((folder / "history.json").read_text())
    history["recipe"]["seed"] = 2**40
    (folder / "history.json").write_text(json.dumps(history))
    assert list(messages_for(folder, "sample").sets) == ["sample"]


def test_a_model_on_the_hub_tells_how_it_was_trained(folder, hub):
    from huggingface_hub import HfApi

    HfApi().create_repo("alice/spam")
    HfApi().upload_folder(repo_id="alice/spam", folder_path=folder)
    assert trained_recipe("alice/spam").seed == 7
    (folder / "history.json").unlink()
    assert trained_recipe(folder) is None
