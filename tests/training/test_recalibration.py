"""A calibrated copy of a model has the same weights, its own card, and a documented calibration."""

import json
import math

import pytest
import torch
from command_line import hf_spam
from datasets import concatenate_datasets
from huggingface_hub import ModelCard
from small_data import MESSAGES
from small_runs import SMALL, config_of

from hf_spam import SpamClassifier, finetune, load_sms_spam
from hf_spam.inference.classifier import BUNDLED
from hf_spam.training.recalibration import calibrated_copy


@pytest.fixture(scope="module")
def messages():
    return load_sms_spam(MESSAGES)


@pytest.fixture(scope="module")
def own(messages, tmp_path_factory):
    """A folder with a file of messages and a model trained on it."""
    folder = tmp_path_factory.mktemp("own")
    part = concatenate_datasets(list(messages.values())).shuffle(seed=1).select(range(300))
    part.to_json(folder / "mine.jsonl")
    settings = {**SMALL, "max_steps": 8, "learning_rate": 5e-3, "target_fpr": 0.1, "license": "apache-2.0"}
    finetune("pocket", data=folder / "mine.jsonl", output_dir=folder / "model", **settings)
    return folder


def test_the_bundled_model_is_calibrated_on_all_messages_of_a_source(messages, tmp_path):
    """The copy is itself a model that can be calibrated; the first calibration does not influence the second."""
    first, second = tmp_path / "first", tmp_path / "second"
    found = calibrated_copy(None, first, data=MESSAGES, target_fpr=0.01)
    ham = [row["text"] for split in messages.values() for row in split if row["label"] == 0]
    called = SpamClassifier.from_pretrained(first).predict(ham).count("spam")
    assert called == found.false_alarms == math.floor(0.01 * len(ham)) and found.ham == len(ham)
    assert (config_of(first)["temperature"], config_of(first)["threshold"]) == (found.temperature, found.threshold)
    about = ModelCard.load(first / "README.md", ignore_metadata_errors=False).data
    assert about.license == "mit" and "en" in about.language and about.metrics is None
    assert (first / "model.safetensors").read_bytes() == (BUNDLED / "model.safetensors").read_bytes()
    shown = hf_spam("calibrate", second, "--data", MESSAGES, "--model", first, "--json")
    again = json.loads(shown.out)
    assert again == json.loads((second / "calibration.json").read_text())
    assert again["temperature"] == found.temperature == config_of(second)["temperature"]
    assert config_of(second)["threshold"] is None


def test_own_training_data_is_calibrated_on_its_validation_split(own, tmp_path, caplog):
    """The copy gets the history and a card of its own with the license, but not the results of the original."""
    found = calibrated_copy(own / "model", tmp_path / "out", data=own / "mine.jsonl")
    validation = load_sms_spam(own / "mine.jsonl")["validation"]
    assert found.messages == len(validation) and found.fitted_on == "the validation split of the data"
    assert (tmp_path / "out/history.json").read_bytes() == (own / "model/history.json").read_bytes()
    assert not (tmp_path / "out/metrics.json").exists()
    card = ModelCard.load(tmp_path / "out/README.md", ignore_metadata_errors=False)
    for words in (
        "a recalibrated copy of `model`: the weights are unchanged",
        "This copy has not been evaluated.",
        f"log loss {found.loss:.4f} instead of {found.loss_before:.4f} on {found.messages} messages of the validation",
        "calibrated for messages like those in the validation split of `mine.jsonl`",
    ):
        assert words in card.text
    assert card.data.eval_results is None and card.data.base_model is None and card.data.license == "apache-2.0"
    for words in (str(tmp_path), str(own), "## Training", "|", "Threshold"):
        assert words not in card.text
    before, after = (SpamClassifier.from_pretrained(path).logits(["hi"]) for path in (own / "model", tmp_path / "out"))
    assert torch.allclose(after * found.temperature, before, atol=1e-5)
    assert not [record for record in caplog.records if "overconfident" in record.getMessage()]


def test_possibly_seen_messages_are_reported(own, tmp_path, caplog):
    """If the data file has grown, its splits differ, but the model was trained on most of its messages."""
    lines = (own / "mine.jsonl").read_text().splitlines()
    (tmp_path / "mine.jsonl").write_text("\n".join([*lines, '{"text": "one more", "label": 0}']))
    found = calibrated_copy(own / "model", tmp_path / "out", data=tmp_path / "mine.jsonl")
    assert found.messages == 301 and found.fitted_on == "the data"
    (warning,) = [record.getMessage() for record in caplog.records if "overconfident" in record.getMessage()]
    assert warning.endswith("A calibration on messages the model was trained on is overconfident.")
