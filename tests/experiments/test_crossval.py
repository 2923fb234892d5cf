"""Cross-validation tests every message once, with a model that has not seen it, and aggregates metrics correctly."""

import json
import signal
import statistics

import pytest
from command_line import flags_of, hf_spam
from datasets import DatasetDict
from processes import run_processes
from small_data import MESSAGES
from small_reports import predictions_of
from small_runs import at_call

from hf_spam import finetune
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import grouped_folds
from hf_spam.evaluation.baseline import measure_baseline
from hf_spam.experiments import crossval
from hf_spam.experiments.crossval import cross_validate, summary
from hf_spam.experiments.results import identity_of
from hf_spam.signals import RunInterrupted
from hf_spam.terminal import format_metric
from hf_spam.training.loop import TrainingLoop
from hf_spam.training.recipes import get_recipe

SMALL = {"max_steps": 10, "n_embd": 16, "vocab_size": 300}
SETTINGS = flags_of(SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 300 messages."""
    path = tmp_path_factory.mktemp("crossval") / "few.csv"
    path.write_text("".join(MESSAGES.read_text().splitlines(keepends=True)[:301]))
    return path


@pytest.fixture(scope="module")
def command(data):
    """A command that runs two repeats of two folds; it saves them beside the data."""
    how = ("--data", data, *SETTINGS, "--seed", 5, "--folds", 2, "--repeats", 2)
    return ("crossval", "--recipe", "pocket", *how, "--output-dir", data.parent / "runs", "--json")


@pytest.fixture(scope="module")
def results(command):
    """What this command prints."""
    done = hf_spam(*command)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_each_run_matches_finetune_on_its_fold(results, data):
    """Folds and training of the second repeat use the next seed."""
    assert [run["seed"] for run in results["runs"]] == [5, 5, 6, 6] and results["recipe"]["max_steps"] == 10
    train, test = list(grouped_folds(read_messages(data), 2, seed=6))[1]
    splits = DatasetDict(train=train, test=test)
    alone = finetune("pocket", data=splits, seed=6, **SMALL)
    assert results["runs"][3]["model"] == pytest.approx(alone.metrics["test"])
    assert results["runs"][3]["baseline"] == measure_baseline(splits)["test"]


def test_an_interrupted_cross_validation_goes_on(results, command, data, tmp_path, monkeypatch):
    """The same command trains only the missing folds, and its result is that of an uninterrupted one."""
    seeds, measure_run = [], crossval.measure_run

    def measure(recipe, data, seed):
        seeds.append(seed)
        if len(seeds) == 2:
            raise RunInterrupted("interrupted", signal.SIGTERM)
        return measure_run(recipe, data, seed)

    monkeypatch.setattr(crossval, "measure_run", measure)
    runs = data.parent / "runs"
    for name in ("run-2.json", "run-4.json"):
        (runs / name).unlink()
    done = hf_spam(*command)
    assert done.code == 143 and "interrupted in run 4 of 4; run the same command again to resume" in done.err
    assert sorted(path.name for path in runs.iterdir()) == ["run-1.json", "run-2.json", "run-3.json"]
    found = json.loads(hf_spam(*command).out)
    assert seeds == [5, 6, 6]
    for run, expected in zip(found["runs"], results["runs"], strict=True):
        assert {**run, "seconds": 0} == {**expected, "seconds": 0}
    assert {**found, "runs": []} == {**results, "runs": []}
    done = hf_spam(*command, "--max-steps", 3)
    assert done.code == 1 and "different settings (max_steps): use another --output-dir" in done.err
    (tmp_path / data.name).write_text(data.read_text() + "ham,one more\n")
    done = hf_spam(*command, "--data", tmp_path / data.name)
    assert done.code == 1 and "different settings (messages)" in done.err


def test_ctrl_c_while_the_last_weights_are_measured_stops_all_folds(data, monkeypatch):
    monkeypatch.setattr(TrainingLoop, "_measured_run", at_call(1, TrainingLoop._measured_run, signal.SIGINT))
    with pytest.raises(RunInterrupted, match="interrupted in run 1 of 2; nothing is saved without --output-dir"):
        cross_validate("pocket", data=data, folds=2, **SMALL)


@pytest.mark.slow
def test_metrics_do_not_depend_on_the_number_of_processes(data):
    """The processes stay connected from one run to the next."""
    settings = ["--folds", "2", "--dropout", "0", "--json", "--per-device-train-batch-size"]
    command = ["crossval", "--recipe", "pocket", "--data", data, *SETTINGS, *settings]
    two = json.loads(run_processes(2, "-m", "hf_spam", *command, 8).stdout)
    one = json.loads(hf_spam(*command, 16).out)
    assert two["mean"]["model"] == pytest.approx(one["mean"]["model"], abs=1e-4)


def test_mean_spread_and_pooled_metrics(results, data):
    """Each message is answered once per repeat: pooled accuracy is the mean weighted by the sizes of the folds."""
    values = [run["model"]["f1"] for run in results["runs"]]
    assert results["mean"]["model"]["f1"] == pytest.approx(sum(values) / 4)
    assert results["spread"]["model"]["f1"] == pytest.approx(statistics.stdev(values))
    assert results["mean"]["baseline"]["ece"] is None and results["pooled"]["model"]["ece"] > 0
    sizes = [len(test) for seed in (5, 6) for _, test in grouped_folds(read_messages(data), 2, seed)]
    for kind in ("model", "baseline"):
        right = sum(run[kind]["accuracy"] * size for run, size in zip(results["runs"], sizes, strict=True))
        assert sum(sizes) == 600 and results["pooled"][kind]["accuracy"] == pytest.approx(right / 600)
    assert format_metric(results, "f1", "model") == f"{sum(values) / 4:.4f} ± {statistics.stdev(values):.4f}"
    assert format_metric(results, "f1", "model", "pooled") == f"{results['pooled']['model']['f1']:.4f}"
    assert format_metric(results, "ece", "baseline") == "-"


def test_temperature_is_fitted_to_a_held_out_tenth(data, monkeypatch):
    """Neither the tested fold nor the training messages may be used to fit the temperature."""
    jobs, run = [], {"model": {"f1": 0.5}, "baseline": None}
    monkeypatch.setattr(crossval, "measure_run", lambda recipe, *job: jobs.append(job) or dict(run))
    monkeypatch.setattr(crossval, "summary", lambda *runs: {})
    cross_validate("pocket", folds=2, target_fpr=0.1, temperature_scaling=True, data=data, **SMALL)
    folds = grouped_folds(read_messages(data), 2, seed=123)
    for (parts, _), (train, test) in zip(jobs, folds, strict=True):
        assert parts["test"]["text"][:] == test["text"][:]
        splits = ("train", "validation", "test")
        fitted, validation, tested = (set(map(duplicate_key, parts[split]["text"][:])) for split in splits)
        assert set(map(duplicate_key, train["text"][:])) == fitted | validation
        assert not fitted & validation and not validation & tested
        assert len(parts["validation"]) == pytest.approx(len(train) / 10, rel=0.1)


def run(labels, scores):
    given = predictions_of(labels, scores)
    return {"model": given.metrics(), "baseline": None, "answers": {"model": given, "baseline": None}}


def test_pooling_resolves_a_low_false_positive_rate():
    """One of 500 ham above all spam exceeds the rate in a fold, so recall is 0 there; one of 2,500 does not."""
    labels = [0] * 500 + [1] * 100
    found = summary([run(labels, [0.1] * 499 + [highest] + [0.9] * 100) for highest in (0.95, *[0.45] * 4)])
    assert found["mean"]["model"]["recall_at_fpr_0.001"] == 0.8
    assert found["pooled"]["model"]["recall_at_fpr_0.001"] == 1


def test_groups_count_each_message_once():
    """Later repeats have the same messages again, which would make the intervals too narrow."""
    answers = run([1, 1, 0], [0.9, 0.4, 0.1])
    notes = {"source": ["a"] * 3, "category": ["x", "x", "y"], "language": [""] * 3}
    once, twice = (summary([answers] * repeats, notes)["groups"] for repeats in (1, 2))
    assert once == twice and once[0]["spam"] == 2


def test_runs_of_another_base_are_not_taken_over(tmp_path):
    """Folders of the same name are told apart by their weights."""
    settings = []
    for place, weights in (("one", b"1"), ("two", b"2"), ("three", b"1")):
        (tmp_path / place / "base").mkdir(parents=True)
        (tmp_path / place / "base" / "model.safetensors").write_bytes(weights)
        recipe = get_recipe("pocket", base=str(tmp_path / place / "base"))
        settings.append(identity_of(recipe, "base"))
    first, second, third = settings
    assert first == third != second and "summary" not in first


def test_single_run_without_a_baseline():
    found = summary([run([1, 1], [0.9, 0.8])])
    assert found["mean"]["baseline"] is found["spread"]["baseline"] is found["pooled"]["baseline"] is None
    assert set(found["spread"]["model"].values()) == {None} and found["mean"]["model"]["roc_auc"] is None


def test_too_few_messages_to_calibrate(tmp_path):
    rows = "".join(f"{label},{label} {letter}\n" for label in ("ham", "spam") for letter in "abcdefghijkl")
    (tmp_path / "few.csv").write_text("label,text\n" + rows)
    with pytest.raises(ValueError, match="Calibration needs a tenth of the training messages"):
        cross_validate("pocket", data=tmp_path / "few.csv", target_fpr=0.1, **SMALL)
