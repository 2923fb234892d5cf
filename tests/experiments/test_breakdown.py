"""Results by source, category and language: every group's numbers are those of its own messages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import hf_spam
from small_data import delimited
from small_reports import predictions_of

from hf_spam.evaluation.intervals import wilson
from hf_spam.experiments import crossval
from hf_spam.experiments.breakdown import FEW, breakdown, groups_tables

SMALL = ["--recipe", "pocket", "--max-steps", "5", "--n-embd", "16", "--vocab-size", "300"]
SMALL += ["--per-device-train-batch-size", "2"]


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("label", "category", "text")) -> Path:
    path.write_bytes(delimited([header, *rows]))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two files: one with categories, and one that repeats a message of the first with other digits."""
    folder = tmp_path_factory.mktemp("sources")
    first = [("spam", "prize", f"You won {word} 1, claim now") for word in ["gold", "cash", "cars", "rice"]]
    first += [("ham", "chat", f"See you at {word}") for word in ["noon", "home", "work", "school"]]
    second = [("spam", "Loan without papers, call 1"), ("spam", "You won gold 2, claim now")]
    second += [("ham", f"Your {word} is ready") for word in ["order", "pizza", "bike"]]
    second += [("spam", f"Cheap {word} here") for word in ["pills", "credit"]]
    return write(folder / "a.csv", first), write(folder / "b.csv", second, ("label", "text"))


def test_groups_measure_their_own_messages():
    answers = predictions_of([1, 1, 0, 0, 0], [0.9, 0.4, 0.1, 0.8, 0.2])
    notes = {"source": ["a"] * 5, "category": ["x", "y", "x", "y", ""], "language": [""] * 5}
    found = {(group["by"], group["name"]): group for group in breakdown({"model": answers, "baseline": None}, notes)}
    assert list(found) == [("category", "x"), ("category", "y")], "one source is no breakdown, and no language is known"
    x, y = found.values()
    assert (x["spam"], x["ham"], x["baseline"]) == (1, 1, None)
    assert x["model"]["recall"] == 1 and x["model"]["false_positive_rate"] == 0 and x["model"]["roc_auc"] == 1
    assert y["model"]["recall"] == 0 and y["model"]["false_positive_rate"] == 1
    assert y["model"]["recall_interval"] == wilson(0, 1)
    only_ham = breakdown({"model": answers, "baseline": answers}, notes | {"language": ["", "", "de", "de", "de"]})
    assert only_ham[-1]["name"] == "de" and only_ham[-1]["model"]["recall"] is only_ham[-1]["model"]["roc_auc"] is None
    assert breakdown({"model": replace(answers, names=("a", "b", "c"))}, notes) == []


def test_sources_of_one_name_stay_apart():
    answers = predictions_of([1, 0], [0.9, 0.1])
    notes = {"source": ["p/q/s.csv", "p/r/s.csv"], "category": ["", ""], "language": ["", ""]}
    assert [group["name"] for group in breakdown({"model": answers}, notes)] == ["p/q/s.csv", "p/r/s.csv"]
    notes["source"][1] = "p/q/t.csv"
    assert [group["name"] for group in breakdown({"model": answers}, notes)] == ["s.csv", "t.csv"]


def test_a_source_with_the_only_messages_of_a_label_is_refused_before_any_run(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(crossval, "measure_run", lambda *job: pytest.fail("a run was started"))
    only_ham = write(tmp_path / "ham.csv", [("ham", "Lunch at one"), ("ham", "On my way")], ("label", "text"))
    done = hf_spam("crossval", *SMALL, "--data", f"{only_ham},{sources[0]}", "--by-source")
    assert done.code == 1 and "without a.csv, no message is labelled 'spam': add a source that has some" in done.err


def test_crossval_by_source_on_the_command_line(sources, monkeypatch):
    """A message that also stands in another source must not be trained on when it is tested."""
    trained, measure = [], crossval.measure_run
    monkeypatch.setattr(crossval, "measure_run", lambda *job: trained.append(job[1]) or measure(*job))
    data = ",".join(map(str, sources))
    done = hf_spam("crossval", *SMALL, "--data", data, "--by-source", "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert results["folds"] is None and len(results["runs"]) == 2
    groups = {(group["by"], group["name"]): group for group in results["groups"]}
    assert {name for by, name in groups if by == "source"} == {path.name for path in sources}
    assert (groups["category", "prize"]["spam"], groups["category", "prize"]["ham"]) == (4, 0)
    assert [run["left_out"] for run in results["runs"]] == list(map(str, sources))
    tested = [{*splits["test"]["source"]} for splits in trained]
    assert tested == [{str(path)} for path in sources] and [len(splits["test"]) for splits in trained] == [8, 7]
    texts = [splits["train"]["text"][:] for splits in trained]
    assert "You won gold 2, claim now" not in texts[0] and "You won cash 1, claim now" in texts[1]
    one = hf_spam("crossval", *SMALL, "--data", sources[0], "--by-source")
    assert one.code and "Leaving a source out needs at least two" in one.err and "--data uci,sample" in one.err


def test_the_table_shows_groups_that_say_something():
    measured = {"recall": 0.5, "recall_interval": (0.31, 0.69), "false_positive_rate": None}
    group = {"by": "category", "spam": FEW, "ham": 0, "model": measured, "baseline": None}
    groups = [group | {"name": "bank/loans"}, group | {"name": "rare", "spam": FEW - 1}]
    found, alarms = groups_tables(groups, {"model": "pocket", "baseline": "SVM"})
    assert found.columns == ["messages", "spam", "pocket", "SVM"] and alarms.rows == []
    assert found.rows == [["category bank/loans", str(FEW), "50.0 (31-69)", "-"]]
