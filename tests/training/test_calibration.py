"""Temperature and threshold are correct, do not affect training, and are applied by the saved model or a copy of it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import binom
from small_runs import SMALL, config_of, first_messages, result

from hf_spam import Recipe, SpamClassifier, finetune
from hf_spam.evaluation.intervals import allowed_false_alarms, ham_needed, wilson
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from hf_spam.training.calibration import (
    TEMPERATURES,
    Calibration,
    calibration_of,
    fit_calibration,
    shift_of,
)

SETTINGS = {**SMALL, "max_steps": 16, "eval_freq": 6, "save_steps": 8, "learning_rate": 5e-3, "warmup_steps": 0}
BOTH = {"temperature_scaling": True, "target_fpr": 0.1}
NAMES = ["not spam", "spam", "scam", "phish"]


def fit(logits, labels, *, names=None, temperature_scaling=True, target_fpr=None, confidence=None) -> Calibration:
    recipe = Recipe(temperature_scaling=temperature_scaling, target_fpr=target_fpr, confidence=confidence)
    return fit_calibration(logits, labels, names or NAMES[: logits.shape[1]], recipe, "my data")


def drawn(temperature: float, classes: int = 2, messages: int = 4000, seed: int = 0) -> tuple:
    """Return labels drawn from the probabilities of random logits, and these logits multiplied by a temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(messages, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return (logits * temperature).float(), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("temperature", [0.3, 3.7])
def test_temperature_matches_the_truth_and_another_optimizer(temperature, classes):
    """Within 10 % of the true one on 4,000 messages, and within 1e-4 of SciPy's BFGS on NumPy's log loss."""
    logits, labels = drawn(temperature, classes)
    calibration = fit(logits, labels)

    def loss(beta: np.ndarray) -> float:
        return -log_softmax(logits.double().numpy() * beta[0], axis=-1)[np.arange(len(labels)), labels].mean()

    other = minimize(loss, [1.0], method="BFGS", options={"gtol": 1e-9})
    assert calibration.temperature == pytest.approx(1 / other.x[0], rel=1e-4)
    assert calibration.temperature == pytest.approx(temperature, rel=0.1)
    assert calibration.loss == pytest.approx(other.fun) and calibration.loss_before == pytest.approx(loss(np.ones(1)))


@settings(max_examples=15)
@given(st.floats(0.5, 4), st.integers(0, 2**16), st.sampled_from([0, 0.02, 0.2]))
def test_calibration_is_invariant_to_logit_scale_and_message_order(factor, seed, rate):
    logits, labels = drawn(1.0, messages=200, seed=seed)
    one, scaled = fit(logits, labels, target_fpr=rate), fit(logits * factor, labels, target_fpr=rate)
    assert scaled.temperature == pytest.approx(factor * one.temperature, rel=1e-4)
    assert scaled.loss == pytest.approx(one.loss) and one.loss <= one.loss_before + 1e-9
    assert (scaled.false_alarms, scaled.missed) == (one.false_alarms, one.missed)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    shuffled = fit(logits[order], labels[order], target_fpr=rate)
    assert shuffled.temperature == pytest.approx(one.temperature, rel=1e-5)
    assert shuffled.threshold == (one.threshold and pytest.approx(one.threshold, rel=1e-5))


def test_the_search_for_a_temperature_is_bounded():
    """The optimum is 0 if all messages are classified correctly, and infinite if the logits are worse than chance."""
    logits, labels = torch.tensor([[2.0, -1], [0.1, 0], [-1, 3]]), torch.tensor([0, 0, 1])
    separated = fit(logits, labels)
    assert separated.temperature == 1 and separated.loss == separated.loss_before
    assert fit(logits, 1 - labels).temperature == pytest.approx(TEMPERATURES[1], rel=1e-4)


def test_the_threshold_keeps_the_false_positive_rate():
    """Temperature and threshold are fitted only if asked for; the reported counts match the scores."""
    logits, labels = drawn(2.0, messages=300)
    for scaling, rate in ((True, None), (False, 0.05), (True, 0.05)):
        found = fit(logits, labels, temperature_scaling=scaling, target_fpr=rate)
        assert (found.temperature != 1, found.threshold is not None) == (scaling, rate is not None)
    scores = (logits / found.temperature).softmax(-1)[:, 1]
    ham = scores[labels == 0]
    assert found.false_alarms == (ham >= found.threshold).sum() == int(0.05 * len(ham))
    assert found.missed == (scores[labels == 1] < found.threshold).sum() and found.ham == len(ham)
    line = found.summary()[1]
    alarms = f"{found.false_alarms} of {len(ham)} ham messages are called"
    assert f"a false-positive rate of at most 5%: on my data, {alarms}" in line
    _, upper = wilson(found.false_alarms, len(ham))
    assert f"The rate on new messages may be up to {upper:.2%} (95% interval)." in line


@settings(max_examples=50)
@given(st.floats(0.001, 0.5), st.floats(0.5, 0.999), st.integers(0, 5000))
def test_the_allowed_false_alarms_are_the_most_that_keep_the_promise(rate, confidence, extra):
    """By definition: a threshold with that many breaks it at most as often as allowed, one more does not."""
    needed = ham_needed(rate, confidence)
    assert (1 - rate) ** needed <= 1 - confidence <= (1 - rate) ** (needed - 1) + 1e-9
    assert allowed_false_alarms(needed - 1, rate, confidence) is None
    allowed = allowed_false_alarms(needed + extra, rate, confidence)
    kept, broken = binom.cdf([allowed, allowed + 1], needed + extra, rate)
    assert kept <= 1 - confidence + 1e-9 and broken >= 1 - confidence - 1e-9


def test_a_promise_about_new_messages_allows_fewer_false_alarms_and_needs_enough_ham():
    """As many as `allowed_false_alarms` says, which is by definition what keeps the promise."""
    logits, labels = drawn(2.0, messages=300)
    ham = int((labels == 0).sum())
    message = f"needs at least 299 messages that are not spam; the data has {ham}. Add messages, or allow a higher rate"
    with pytest.raises(ValueError, match=message):
        fit(logits, labels, target_fpr=0.01, confidence=0.95)
    found = fit(logits, labels, target_fpr=0.1, confidence=0.95)
    assert found.false_alarms == allowed_false_alarms(ham, 0.1, 0.95) < int(0.1 * ham)
    assert found.summary()[1].endswith(" With 95% confidence, new messages like these keep to this rate.")


def test_no_threshold():
    """None is set if ham has the highest score, since it would find no spam. One of three labels must be named spam."""
    logits, labels = torch.tensor([[0.0, 9], [0, 1], [0, 2], [0, -5]]), torch.tensor([0, 1, 1, 0])
    found = fit(logits, labels, temperature_scaling=False, target_fpr=0.1)
    assert found.threshold is None and not found.is_met
    assert found.summary()[0].startswith("No threshold gives a false-positive rate of at most 10% on my data")
    assert fit(logits, labels, temperature_scaling=False, target_fpr=0.5).is_met
    several, names = drawn(2.0, 3, messages=300), ["work", "home", "shop"]
    assert fit(*several, names=names).temperature != 1
    with pytest.raises(ValueError, match="None of the model's labels is 'spam': 'work', 'home', 'shop'"):
        fit(*several, names=names, target_fpr=0.1)


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return first_messages(train=160, validation=90, test=60)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "out"
    finetune("pocket", data=data, output_dir=out, **SETTINGS)
    return out


@pytest.fixture(scope="module")
def calibrated(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "out"
    finetune("pocket", data=data, output_dir=out, **SETTINGS, **BOTH)
    return out


def test_calibration_does_not_change_the_training(plain, calibrated):
    """Weights and history are the same, bit for bit; only metrics, temperature and threshold differ."""
    weights, history, metrics = result(plain)
    their_weights, their_history, their_metrics = result(calibrated)
    assert their_weights == weights and their_metrics != metrics
    assert their_history == {**history, "recipe": {**history["recipe"], **BOTH}}
    config = config_of(calibrated)
    assert config["temperature"] != 1 and 0 < config["threshold"] < 1
    assert config_of(plain) == {**config, "temperature": 1, "threshold": None}


def test_the_calibration_of_a_base_is_dropped(plain, calibrated, data):
    """It was fitted to other weights. Training starts from the base's own logits, as if it was not calibrated."""
    settings = {"max_steps": 1}
    expected, run = (finetune("pocket", data=data, base=base, **settings) for base in (plain, calibrated))
    assert (run.model.config.temperature, run.model.config.threshold) == (1, None) and run.calibration is None
    assert run.history.initial == expected.history.initial


@pytest.mark.parametrize("folder", ["", "checkpoint-8"])
def test_metrics_match_the_saved_model(folder, plain, calibrated, data):
    """Each checkpoint has its own calibration, which lowers the log loss and keeps the false-positive rate."""
    metrics = json.loads((calibrated / folder / "metrics.json").read_text())
    before = json.loads((plain / folder / "metrics.json").read_text())
    classify = SpamClassifier.from_pretrained(calibrated / folder)
    for split, values in metrics.items():
        labels = np.array(data[split]["label"][:])
        is_spam = np.array(classify.predict(data[split]["text"][:])) == "spam"
        assert values["accuracy"] == pytest.approx((is_spam == labels).mean())
        assert values["false_positive_rate"] == pytest.approx(is_spam[labels == 0].mean())
        assert values["roc_auc"] == pytest.approx(before[split]["roc_auc"], abs=1e-3)
    assert metrics["validation"]["false_positive_rate"] <= BOTH["target_fpr"]
    assert metrics["validation"]["log_loss"] < before["validation"]["log_loss"]


def test_the_card_describes_the_calibration(plain, calibrated):
    card, config = (calibrated / "README.md").read_text(), config_of(calibrated)
    assert f"Temperature {config['temperature']:.4f}: log loss " in card
    assert "on 90 messages of the validation split" in card
    assert f"Threshold {config['threshold']:.7f} for a false-positive rate of at most 10%" in card
    assert "not calibrated probabilities" not in card and "| `target_fpr` | 0.1 |" in card
    card = (plain / "README.md").read_text()
    assert "Calibration" not in card and "not calibrated probabilities" in card


@pytest.mark.parametrize("setting", [{"temperature_scaling": True}, {"target_fpr": 0.01}])
def test_calibration_needs_a_validation_split_of_both_classes(setting, data, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="Recipe 'pocket': temperature_scaling and target_fpr need a validation split"):
        finetune("pocket", data=DatasetDict(train=data["train"]), **SMALL, **setting)
    ham = data["validation"].filter(lambda row: row["label"] == 0)
    message = "at least two classes; the validation split has only 'not spam'"
    with pytest.raises(ValueError, match=message):
        finetune("pocket", data=DatasetDict(data, validation=ham), **SMALL, **setting)
    assert "Before training" not in caplog.text


@pytest.mark.parametrize(("temperature", "threshold"), [(1.0, None), (1.7, None), (1.0, 0.9), (0.6, 0.2), (2.5, 0.98)])
def test_shifted_logits_are_largest_at_the_class_to_predict(temperature, threshold):
    """So the loss of corrections counts from the threshold that their scores must pass."""
    config = SpamGPTConfig(temperature=temperature, threshold=threshold)
    logits = 4 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    shifted = logits + shift_of(calibration_of(config), class_names(config))
    assert shifted.argmax(-1).tolist() == decide(config, (logits / temperature).softmax(-1)).tolist()
