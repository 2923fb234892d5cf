"""Cross-validation: each message is tested on once, by a model that has not seen it, and the figures are those."""

import json
import statistics
import subprocess
import sys

import numpy as np
import pytest
from datasets import DatasetDict
from processes import run_processes

from hf_spam import finetune
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import grouped_folds, undersample
from hf_spam.evaluation.baseline import measure_baseline
from hf_spam.evaluation.metrics import SpamMetrics
from hf_spam.experiments.crossval import cross_validate, measure_runs, summary
from hf_spam.training import crossval

NO_BASELINE = {"baseline": None}
SMALL = {"data": "sample", "max_steps": 20, "n_embd": 16, "vocab_size": 300}
FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def results():
    """Two repeats of two folds, as the command line prints them."""
    command = [sys.executable, "-m", "hf_spam", "crossval", "--recipe", "pocket", *FLAGS, "--seed", "5", "--folds", "2"]
    done = subprocess.run([*command, "--repeats", "2", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the baseline 0.") == 4 and "Epoch" not in done.stderr
    return json.loads(done.stdout)


def test_every_run_is_that_of_finetune_on_its_fold(results):
    """Folds and training of the second repeat are drawn with the next seed."""
    assert [run["seed"] for run in results["runs"]] == [5, 5, 6, 6] and results["recipe"]["max_steps"] == 20
    train, test = list(grouped_folds(read_messages("sample"), 2, seed=6))[1]
    data = DatasetDict(train=train, test=test)
    alone = finetune("pocket", data=data, seed=6, **{name: SMALL[name] for name in list(SMALL)[1:]})
    assert results["runs"][3]["model"] == pytest.approx(alone.metrics["test"])
    assert results["runs"][3]["baseline"] == measure_baseline(data)["test"]


def test_what_is_fitted_is_fitted_to_a_tenth_of_the_training_messages(monkeypatch):
    """Else what a fold is tested on, or what the weights have seen, would say how sure a model may be."""
    folds = []
    measured = crossval.measure_runs
    monkeypatch.setattr(crossval, "measure_runs", lambda recipe, jobs: measured(recipe, keeping(jobs)))

    def keeping(jobs):
        for data, seed in jobs:
            folds.append(data)
            yield data, seed

    cross_validate("pocket", folds=2, target_fpr=0.1, temperature_scaling=True, **SMALL)
    messages = read_messages("sample")
    for data, (train, test) in zip(folds, grouped_folds(messages, 2, seed=123), strict=True):
        assert data["test"]["text"][:] == test["text"][:]
        parts = [set(map(duplicate_key, data[split]["text"][:])) for split in ("train", "validation", "test")]
        assert set.union(*parts[:2]) == set(map(duplicate_key, train["text"][:]))
        assert not parts[0] & parts[1] and not parts[1] & parts[2]
        assert len(data["validation"]) == pytest.approx(len(train) / 10, rel=0.1)


@pytest.mark.slow
def test_two_processes_do_what_one_does():
    """They stay connected from one run to the next."""
    flags = [*FLAGS, "--folds", "2", "--dropout", "0", "--json", "--per-device-train-batch-size"]
    crossval = ["-m", "hf_spam", "crossval", "--recipe", "pocket", *flags]
    two = json.loads(run_processes(2, *crossval, 8).stdout)
    one = subprocess.run([sys.executable, *crossval, "16"], capture_output=True, text=True, check=True, timeout=300)
    assert two["mean"]["model"] == pytest.approx(json.loads(one.stdout)["mean"]["model"], abs=1e-4)


def test_mean_and_spread(results):
    values = [run["model"]["f1"] for run in results["runs"]]
    assert results["mean"]["model"]["f1"] == pytest.approx(sum(values) / 4)
    assert results["spread"]["model"]["f1"] == pytest.approx(statistics.stdev(values))
    assert results["mean"]["baseline"]["ece"] is None and results["mean"]["baseline"]["f1"] > 0.5


def test_pooled_metrics_are_those_of_all_answers_together(results):
    """Each message has been answered once in each repeat: so accuracy is its mean, and F1 that of all the errors."""
    for kind in ("model", "baseline"):
        pooled, runs = results["pooled"][kind], [run[kind] for run in results["runs"]]
        sizes = [len(test) for seed in (5, 6) for _, test in grouped_folds(read_messages("sample"), 2, seed)]
        right = sum(run["accuracy"] * size for run, size in zip(runs, sizes, strict=True))
        assert sum(sizes) == 2000 and pooled["accuracy"] == pytest.approx(right / 2000)
        assert pooled["recall"] == pytest.approx(results["mean"][kind]["recall"], abs=0.01)
        assert min(run["f1"] for run in runs) < pooled["f1"] < max(run["f1"] for run in runs)
    assert pooled["ece"] is None and results["pooled"]["model"]["ece"] > 0
    assert all("answers" not in run for run in results["runs"])


def test_a_rate_that_no_fold_can_tell_can_be_told_of_all_together():
    """One of a fold's 500 ham scores above all its spam, which then is not found there; of 2,500 it may be lost."""

    def run(highest):
        scores = np.array([*[0.1] * 499, highest, *[0.9] * 100])
        references = np.array([0] * 500 + [1] * 100)
        answers = {"predictions": (scores > 0.5).astype(int), "references": references, "scores": scores}
        return {
            "model": SpamMetrics().compute(**answers),
            "baseline": None,
            "answers": {"model": answers} | NO_BASELINE,
        }

    found = summary([run(0.95), *[run(0.45)] * 4])
    assert found["mean"]["model"]["recall_at_fpr_0.001"] == 0.8
    assert found["pooled"]["model"]["recall_at_fpr_0.001"] == 1


def test_runs_without_a_spread_or_a_baseline():
    answers = {"predictions": np.array([1, 1]), "references": np.array([1, 0])}
    only = {"model": {"f1": 0.5, "roc_auc": None}, "baseline": None, "answers": {"model": answers} | NO_BASELINE}
    found = summary([only])
    assert found["mean"] == {"model": {"f1": 0.5, "roc_auc": None}, "baseline": None}
    assert found["spread"] == {"model": {"f1": None, "roc_auc": None}, "baseline": None}
    assert found["pooled"] == {"model": SpamMetrics().compute(**answers), "baseline": None}


def test_what_cannot_be_meant():
    with pytest.raises(ValueError, match="Unknown recipe 'nonesuch'"):
        cross_validate("nonesuch")
    with pytest.raises(ValueError, match="folds need 600 different messages of each label"):
        cross_validate("pocket", folds=600, **SMALL)


def test_the_baseline_of_a_fold_learns_from_the_rows_that_the_model_does():
    """Of undersampled messages from those that are left."""
    rare = read_messages("sample").select([*range(150), *range(900, 1000)])
    train, test = next(grouped_folds(rare, 2, seed=3))
    (run,) = measure_runs("pocket", [(DatasetDict(train=train, test=test), 3)], undersample=True, **SMALL)
    fewer = DatasetDict(train=undersample(train, 3), test=test)
    assert len(fewer["train"]) < len(train)
    assert run["baseline"] == measure_baseline(fewer)["test"] != measure_baseline(DatasetDict(train=train, test=test))


def test_too_few_messages_to_calibrate_on_are_not_called_too_few_for_the_folds(tmp_path):
    rows = "".join(f"{label},{label} {letter}\n" for label in ("ham", "spam") for letter in "abcdefghijkl")
    (tmp_path / "few.csv").write_text("label,text\n" + rows)
    settings = SMALL | {"data": tmp_path / "few.csv", "target_fpr": 0.1}
    with pytest.raises(
        ValueError, match=r"^a tenth to calibrate on needs 10 different messages of each label; '.*' has"
    ):
        cross_validate("pocket", **settings)
