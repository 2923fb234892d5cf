"""Temperature and threshold are the right ones, change nothing of the training, and are what a model then goes by."""

import json
import logging
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import finetune_on
from scipy.optimize import minimize
from scipy.special import log_softmax
from small_runs import result

from hf_spam import SpamClassifier, SpamGPTConfig, finetune, load_sms_spam
from hf_spam.cli import main
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import fingerprints
from hf_spam.inference.classifier import BUNDLED
from hf_spam.modeling.configuration_spam_gpt import class_names
from hf_spam.training.calibration import TEMPERATURES, Calibration, fit_calibration
from hf_spam.training.recipes import get_recipe

SMALL = {"vocab_size": 300, "n_embd": 16, "n_head": 2, "max_steps": 25, "eval_freq": 6, "learning_rate": 5e-3}
BOTH = {"temperature_scaling": True, "target_fpr": 0.05}


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    splits = load_sms_spam("sample", protocol="full")
    return DatasetDict(
        {name: splits[name].select(range(n)) for name, n in (("train", 160), ("validation", 90), ("test", 60))}
    )


# Fitting


def fit(logits, labels, config=None, temperature_scaling=True, target_fpr=None) -> Calibration:
    if config is None:
        names = dict(enumerate(["not spam", "spam", "scam", "phish"][: logits.shape[1]]))
        config = SpamGPTConfig(id2label=names)
    return fit_calibration(
        logits,
        labels,
        class_names(config),
        fitted_on="here",
        temperature_scaling=temperature_scaling,
        target_fpr=target_fpr,
    )


def drawn(
    temperature: float, classes: int = 2, messages: int = 4000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are too high by a factor, the `temperature`, and labels drawn by the right ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(messages, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return (logits * temperature).float(), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.7])
def test_the_temperature_is_found_and_is_that_of_another_minimiser(temperature, classes):
    """The true one within what so many messages allow; scipy's BFGS over 1 / T, from NumPy's log loss, to 1e-4."""
    logits, labels = drawn(temperature, classes)
    calibration = fit(logits, labels)

    def loss(beta: np.ndarray) -> float:
        return -log_softmax(logits.double().numpy() * beta[0], axis=-1)[np.arange(len(labels)), labels].mean()

    other = minimize(loss, [1.0], method="BFGS", options={"gtol": 1e-9})
    assert calibration.temperature == pytest.approx(1 / other.x[0], rel=1e-4)
    assert calibration.temperature == pytest.approx(temperature, rel=0.1)
    assert calibration.loss == pytest.approx(other.fun) and calibration.loss_before == pytest.approx(loss(np.ones(1)))


@settings(max_examples=25)
@given(st.floats(0.5, 4), st.integers(0, 2**16), st.sampled_from([0, 0.02, 0.2]))
def test_invariances(factor, seed, rate):
    """Logits of another scale give the same scores in the end; the order of the messages is nothing."""
    logits, labels = drawn(1.0, messages=200, seed=seed)
    one, scaled = fit(logits, labels, target_fpr=rate), fit(logits * factor, labels, target_fpr=rate)
    assert scaled.temperature == pytest.approx(factor * one.temperature, rel=1e-4)
    assert scaled.loss == pytest.approx(one.loss) and one.loss <= one.loss_before + 1e-9
    assert (scaled.false_alarms, scaled.missed) == (one.false_alarms, one.missed)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    shuffled = fit(logits[order], labels[order], target_fpr=rate)
    assert shuffled.temperature == pytest.approx(one.temperature, rel=1e-5)
    assert shuffled.threshold == (one.threshold and pytest.approx(one.threshold, rel=1e-5))


def test_temperatures_that_would_run_away():
    """To 0 where all are right, to infinity where logits are worth nothing or less."""
    logits, labels = torch.tensor([[2.0, -1], [0.1, 0], [-1, 3]]), torch.tensor([0, 0, 1])
    separated = fit(logits, labels)
    assert separated.temperature == 1 and separated.loss == separated.loss_before
    assert separated.in_words() == [
        "Temperature 1.0000: 3 messages here tell of no other, since all are classified right."
    ]
    hot = fit(logits, 1 - labels)
    assert hot.temperature == pytest.approx(TEMPERATURES[1], rel=1e-4)
    (line,) = hot.in_words()
    assert line.startswith(
        "Temperature 10.0000, the highest that is tried and not the best, which lies beyond: the log"
    )
    almost = torch.tensor([[0.1, -0.1], [-0.1, 0.1], [1e-4, 0]]), torch.tensor([0, 1, 1])
    cold = fit(*almost)
    assert TEMPERATURES[0] * 0.999 <= cold.temperature < 0.2
    assert ("the lowest that is tried" in cold.in_words()[0]) == (cold.temperature < 0.10001)
    assert "tried" not in fit(*drawn(3.0, messages=300)).in_words()[0]


def test_what_is_fitted_is_what_the_configuration_says():
    """And what was there before does not count."""
    logits, labels = drawn(2.0, messages=300)
    config = SpamGPTConfig(temperature=7.0, threshold=0.1)
    for scaling, rate in ((True, None), (False, 0.05), (True, 0.05)):
        found = fit(logits, labels, config, scaling, rate)
        assert (config.temperature, config.threshold) == (found.temperature, found.threshold)
        assert (found.temperature != 1, found.threshold is not None) == (scaling, rate is not None)
    scores = (logits / found.temperature).softmax(-1)[:, 1]
    ham = scores[labels == 0]
    assert found.false_alarms == (ham >= found.threshold).sum() == int(0.05 * len(ham))
    assert found.missed == (scores[labels == 1] < found.threshold).sum() and found.ham == len(ham)
    (line,) = fit(logits, labels, config, False, 0.05).in_words()
    assert (
        f"for a false-positive rate of 5% or less: of {len(ham)} ham here {found.false_alarms} are called spam" in line
    )
    assert f"tell of no rate below {1 / len(ham):.2%}" in line


def test_a_rate_that_no_threshold_keeps():
    """The highest score is a ham's: there is no threshold rather than one that finds nothing, and that is said."""
    logits, labels = torch.tensor([[0.0, 9], [0, 1], [0, 2], [0, -5]]), torch.tensor([0, 1, 1, 0])
    config = SpamGPTConfig()
    found = fit(logits, labels, config, False, 0.1)
    assert found.threshold is None and config.threshold is None and not found.is_met
    assert "No threshold keeps a false-positive rate of 10% or less" in found.in_words()[0]
    assert fit(logits, labels, config, False, 0.5).is_met
    kinds = SpamGPTConfig(id2label={0: "work", 1: "home", 2: "shop"})
    assert fit(*drawn(2.0, 3, messages=300), kinds).temperature != 1
    with pytest.raises(ValueError, match=r"^target_fpr needs a label named spam where there are more than two"):
        fit(*drawn(2.0, 3, messages=300), kinds, target_fpr=0.1)


# In a run


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "out"
    finetune("pocket", data=data, output_dir=out, save_steps=12, **SMALL)
    return out


@pytest.fixture(scope="module")
def calibrated(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "out"
    finetune("pocket", data=data, output_dir=out, save_steps=12, **SMALL, **BOTH)
    return out


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_the_training_is_the_same(plain, calibrated):
    """Weights and history to the bit, checkpoints between included; only what is said of them differs."""
    weights, history, metrics = result(plain)
    theirs, their_history, their_metrics = result(calibrated)
    assert theirs == weights and their_metrics != metrics
    assert their_history == {**history, "recipe": {**history["recipe"], **BOTH}}
    config = config_of(calibrated)
    assert config["temperature"] != 1 and 0 < config["threshold"] < 1
    assert config_of(plain)["temperature"] == 1 and config_of(plain)["threshold"] is None
    assert {k: v for k, v in config.items() if k not in ("temperature", "threshold")} == {
        k: v for k, v in config_of(plain).items() if k not in ("temperature", "threshold")
    }


@pytest.mark.parametrize("folder", ["", "checkpoint-12", "checkpoint-24"])
def test_metrics_are_those_of_the_saved_model(folder, plain, calibrated, data):
    """Of a checkpoint too, which has a calibration of its own; less log loss, and no more false alarms than allowed."""
    metrics = json.loads((calibrated / folder / "metrics.json").read_text())
    before = json.loads((plain / folder / "metrics.json").read_text())
    classify = SpamClassifier.from_pretrained(calibrated / folder)
    for split, values in metrics.items():
        labels = np.array(data[split]["label"][:])
        called = np.array([answer["label"] == "spam" for answer in classify(data[split]["text"][:])])
        assert values["accuracy"] == pytest.approx((called == labels).mean())
        assert values["false_positive_rate"] == pytest.approx(called[labels == 0].mean())
        assert values["roc_auc"] == pytest.approx(before[split]["roc_auc"], abs=1e-3)
    assert metrics["validation"]["false_positive_rate"] <= BOTH["target_fpr"]
    assert metrics["validation"]["log_loss"] < before["validation"]["log_loss"]


def test_a_resumed_run_is_calibrated_alike(calibrated, data, tmp_path):
    shutil.copytree(calibrated / "checkpoint-12", tmp_path / "out/checkpoint-12")
    out, settings = tmp_path / "out", {**SMALL, **BOTH, "save_steps": 12}
    finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **settings)
    assert result(out) == result(calibrated) and config_of(out) == config_of(calibrated)


@pytest.mark.slow
def test_two_processes_calibrate_alike(data, calibrated, tmp_path):
    """On the whole of the validation split, each message counted once."""
    data.save_to_disk(tmp_path / "data")
    settings = {**SMALL, **BOTH, "per_device_train_batch_size": 8, "dropout": 0.0}
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "two", **settings)
    run = finetune("pocket", data=data, **{**settings, "per_device_train_batch_size": 16})
    two = config_of(tmp_path / "two")
    assert two["temperature"] == pytest.approx(run.model.config.temperature, abs=1e-3)
    assert two["threshold"] == pytest.approx(run.model.config.threshold, abs=1e-3)


def test_what_the_base_was_calibrated_to_is_forgotten(calibrated, data):
    """Its losses would be others, and its threshold is not that of other weights."""
    settings = {"base": str(calibrated), "vocab_size": None, "tokenizer": None, "max_steps": 1}
    run = finetune("pocket", data=data, **settings)
    plain = SpamClassifier(run.model, run.tokenizer)
    assert (run.model.config.temperature, run.model.config.threshold) == (1, None)
    assert run.calibration is None and [a["score"] >= 0.5 for a in plain(data["test"]["text"][:])]


def test_the_card_says_what_was_fitted_and_to_what(plain, calibrated):
    card, config = (calibrated / "README.md").read_text(), config_of(calibrated)
    assert f"Temperature {config['temperature']:.4f}" in card
    assert ": the log loss of 90 messages of the validation split is" in card
    assert f"Threshold {config['threshold']:.7f}, for a false-positive rate of 5% or less" in card
    assert 'pipeline("spam-classification", model="path/to/this/model")' in card
    assert "not calibrated probabilities" not in card and "| `target_fpr` | 0.05 |" in card
    assert "Calibration" not in (plain / "README.md").read_text()
    assert "not calibrated probabilities" in (plain / "README.md").read_text()


@pytest.mark.parametrize("setting", [{"temperature_scaling": True}, {"target_fpr": 0.01}])
def test_without_messages_to_fit_to_nothing_begins(setting, data, caplog):
    name = next(iter(setting))
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match=f"Recipe 'pocket': {name} needs a validation split"):
        finetune("pocket", data=DatasetDict(train=data["train"], test=data["test"]), **SMALL, **setting)
    ham = data["validation"].filter(lambda row: row["label"] == 0)
    with pytest.raises(
        ValueError, match=f"different labels; the validation split, which is for {name}, has only 'not spam'"
    ):
        finetune("pocket", data=DatasetDict(data, validation=ham), **SMALL, **setting)
    assert "Before training" not in caplog.text
    with pytest.raises(ValueError, match=r"target_fpr must lie in \[0, 1\), got 1"):
        get_recipe("pocket", target_fpr=1.0)


# Through the command line


@pytest.fixture
def hf_spam(capsys, monkeypatch) -> Callable[..., str]:
    """Runs the command line in this process; what went to standard output, or of one that fails to standard error."""

    def run(*arguments, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["hf-spam", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        printed = capsys.readouterr()
        assert bool(exit.value.code) == fails, printed.err
        return printed.err if fails else printed.out

    return run


def test_from_training_to_a_report(hf_spam, tmp_path, caplog):
    """`train`, `evaluate`, `classify` and `score` go by one threshold."""
    out = tmp_path / "out"
    flags = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", value)]
    flags += ["--temperature-scaling", "--target-fpr", "0.02", "--data", "sample", "--output-dir", out]
    trained = json.loads(hf_spam("train", "--recipe", "pocket", *flags, "--json"))
    assert "Temperature " in caplog.text and "rate of 2% or less" in caplog.text
    report = json.loads(hf_spam("evaluate", out, "--data", "sample", "--json"))
    config = config_of(out)
    assert (report["threshold"], report["temperature"]) == (config["threshold"], config["temperature"])
    for split, measured in report["sets"].items():
        values = {name: estimate["value"] for name, estimate in measured["model"].items()}
        assert values == pytest.approx(trained["metrics"][split], abs=1e-5)
    assert "It calls spam what has a score of at least" in hf_spam("evaluate", out, "--data", "sample")
    texts = load_sms_spam("sample")["test"]["text"][:40]
    answers = [json.loads(line) for line in hf_spam("classify", *texts, "--model", out, "--json").splitlines()]
    for answer in answers:
        spam = answer["score"] if answer["label"] == "spam" else 1 - answer["score"]
        assert (spam >= config["threshold"]) == (answer["label"] == "spam")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    hf_spam("score", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--model", out)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [answer["label"] for answer in answers]


def test_a_copy_that_is_calibrated_on_messages_of_ones_own(hf_spam, tmp_path):
    """Of the bundled model; its weights are the same, and another calibration is no better for the first."""
    out, again = tmp_path / "first", tmp_path / "again"
    found = json.loads(hf_spam("calibrate", out, "--data", "sample", "--target-fpr", "0.01", "--json"))
    ham = read_messages("sample").filter(lambda row: row["label"] == 0)["text"][:]
    called = [answer["label"] == "spam" for answer in SpamClassifier.from_pretrained(out)(ham)]
    assert sum(called) == found["false_alarms"] == math.floor(0.01 * len(ham)) and found["ham"] == len(ham)
    assert config_of(out)["temperature"] == found["temperature"] and config_of(out)["threshold"] == found["threshold"]
    assert (out / "model.safetensors").read_bytes() == (BUNDLED / "model.safetensors").read_bytes()
    assert json.loads((out / "calibration.json").read_text()) == found
    printed = hf_spam("calibrate", again, "--data", "sample", "--model", out)
    assert f"Temperature {found['temperature']:.4f}: " in printed and "Threshold" not in printed
    assert config_of(again)["temperature"] == found["temperature"] and config_of(again)["threshold"] is None


def test_a_models_own_data_are_its_validation_split(hf_spam, tmp_path, calibrated, caplog):
    """As its training drew it, and fitted as there; history goes with the copy, card and metrics do not.

    The card of the copy says whose it is, and what was fitted to what; there are no results of another model in it.
    """
    shutil.copytree(calibrated, tmp_path / "model")
    history = json.loads((calibrated / "history.json").read_text())
    history["recipe"] |= {"data": "sample", "protocol": "full"}
    history["splits"] = fingerprints(load_sms_spam("sample"))
    (tmp_path / "model" / "history.json").write_text(json.dumps(history))
    found = json.loads(
        hf_spam("calibrate", tmp_path / "out", "--data", "sample", "--model", tmp_path / "model", "--json")
    )
    assert found["messages"] == 100 == len(load_sms_spam("sample")["validation"])
    assert found["fitted_on"] == "of the validation split of the data"
    assert json.loads((tmp_path / "out" / "history.json").read_text()) == history
    assert not (tmp_path / "out" / "metrics.json").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md", ignore_metadata_errors=False)
    assert (
        "a recalibrated copy of `model`: the weights are unchanged" in card.text
        and "This copy has not been evaluated." in card.text
    )
    assert f"the log loss of 100 messages of the validation split of `sample` is {found['loss']:.4f}" in card.text
    assert card.data.eval_results is None and card.data.base_model is None
    assert str(tmp_path) not in card.text and "## Training" not in card.text and "|" not in card.text
    assert "Threshold" not in card.text and "calibrated for messages like those in the validation split" in card.text
    assert SpamClassifier.from_pretrained(tmp_path / "out")(["hi"])
    assert not [record for record in caplog.records if "too sure" in record.getMessage()]


def test_messages_that_may_have_been_seen_are_said_to_be(hf_spam, tmp_path, plain, caplog):
    """A file that has grown since the training has another validation split, most of which the model has learned."""
    source = tmp_path / "mine.jsonl"
    data = load_sms_spam("sample")
    rows = [{"text": row["text"], "label": row["label"]} for split in data.values() for row in split]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[:500]))
    shutil.copytree(plain, tmp_path / "model")
    history = json.loads((plain / "history.json").read_text())
    history["recipe"] |= {"data": "mine.jsonl", "protocol": "full"}
    history["splits"] = fingerprints(load_sms_spam(source))
    (tmp_path / "model" / "history.json").write_text(json.dumps(history))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[:510]))
    found = json.loads(
        hf_spam("calibrate", tmp_path / "out", "--data", source, "--model", tmp_path / "model", "--json")
    )
    assert found["messages"] == 510
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("hf_spam.training.recal")]
    assert "no longer, the messages that the model was trained on" in said and "so is a calibration on that" in said


def test_a_copy_that_cannot_be_made_is_not_begun(hf_spam, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "ham.csv").write_text("label,text\nham,hi\nham,see you\n")
    (tmp_path / "wrong.csv").write_text(
        "label,text\nspam,see you at home\nham,You have won a FREE prize! Call 09061701461 to claim\n"
    )
    for arguments, message in (
        ([tmp_path / "there", "--data", "sample"], "exists: name a folder that does not."),
        ([tmp_path / "out", "--data", tmp_path / "ham.csv"], "different labels; the data has only 'not spam'."),
        (
            [tmp_path / "out", "--data", tmp_path / "wrong.csv", "--target-fpr", "0"],
            "No threshold keeps a false-positive",
        ),
        ([tmp_path / "out", "--data", "sample", "--target-fpr", "2"], "target_fpr must lie in [0, 1), got 2.0."),
        ([tmp_path / "out", "--data", "sample", "--model", "no/where"], "no/where"),
        ([tmp_path / "out"], "Missing option '--data'"),
    ):
        (line,) = hf_spam("calibrate", *arguments, fails=True).splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()
