"""An adapter that PEFT saved is loaded wherever a model is, with PEFT's answers, or refused with one line."""

import json
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from command_line import hf_spam
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hf_spam import SpamClassifier
from hf_spam.conversion.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from hf_spam.conversion.loading import BUNDLED, load_classifier, load_tokenizer
from hf_spam.evaluation.models import load_candidate
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig

THREE_LABELS = {"num_labels": 3, "ignore_mismatched_sizes": True}
TEXTS = ["Free entry! Txt WIN to 10010", "Running late, start without me", ""]


def save_adapter(folder: Path, base: Path | str = BUNDLED, **settings) -> torch.Tensor:
    """Save an adapter with random weights and a random head; return its logits for `TEXTS`."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, **settings)
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["W_query", "W_value"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora).eval()
    torch.nn.init.normal_(adapted.base_model.model.out_head.weight)
    adapted.save_pretrained(folder)
    batch = load_tokenizer(BUNDLED)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return adapted(**{name: tensor.long() for name, tensor in batch.items()}).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_adapter(folder)
    return folder


@pytest.fixture
def adapter(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "adapter")


def change(adapter: Path, **settings) -> None:
    path = adapter / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def remove_tensors(adapter: Path, part: str) -> None:
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if part not in name}, adapter / ADAPTER_WEIGHTS)


@pytest.mark.parametrize("settings", [{}, THREE_LABELS])
def test_an_adapter_has_the_answers_of_peft(settings, tmp_path):
    """Also with its own number of labels, for which the calibration of the base does not hold."""
    expected = save_adapter(tmp_path / "adapter", **settings)
    classifier = SpamClassifier.from_pretrained(tmp_path / "adapter")  # the tokenizer is that of the base
    torch.testing.assert_close(classifier.logits(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert set(classifier.model.state_dict()) == set(load_classifier(BUNDLED).state_dict())
    assert (classifier.model.config.threshold is None) == (settings == THREE_LABELS)
    classifier.tokenizer.add_tokens("a token of mine")
    classifier.tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not fit the model"):  # so it was read
        load_tokenizer(tmp_path / "adapter")


def test_labels_are_named_by_a_config_next_to_the_adapter(tmp_path):
    """PEFT saves none, but people may."""
    save_adapter(tmp_path, **THREE_LABELS)
    assert list(load_classifier(tmp_path).config.id2label.values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    labels = {0: "ham", 1: "spam", 2: "scam"}
    SpamGPTConfig.from_pretrained(BUNDLED, id2label=labels, label2id=None).save_pretrained(tmp_path)
    assert load_classifier(tmp_path).config.id2label == labels


def test_the_adapter_of_a_pretrained_network_needs_its_own_head(tmp_path):
    load_classifier(BUNDLED).gpt.save_pretrained(tmp_path / "base")
    expected = save_adapter(tmp_path / "adapter", tmp_path / "base")
    shutil.copy(BUNDLED / "tokenizer.json", tmp_path / "adapter")
    torch.testing.assert_close(SpamClassifier.from_pretrained(tmp_path / "adapter").logits(TEXTS), expected)
    remove_tensors(tmp_path / "adapter", "out_head")
    with pytest.raises(ValueError, match=r"out_head\.bias is missing"):
        load_classifier(tmp_path / "adapter")


COMMANDS = [
    "classify win --model {0}",
    "evaluate {0} --data data.csv",
    "score data.csv {0}.csv --model {0} --prefix p_",
    "export {0} {0}-gpt2 --format gpt2 --data data.csv",
    "calibrate {0}-calibrated --model {0} --data data.csv",
]


def test_commands_take_an_adapter_like_the_merged_model(adapter, tmp_path, monkeypatch):
    load_classifier(adapter).save_pretrained(tmp_path / "merged")
    load_tokenizer(adapter).save_pretrained(tmp_path / "merged")
    rows = [f"{'spam' if i % 2 else 'ham'},message {chr(97 + i % 26) * (1 + i // 26)}" for i in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["label,text", *rows]))
    monkeypatch.chdir(tmp_path)
    sizes = {name: load_candidate(name, any_labels=True).size for name in ("adapter", "merged")}
    assert sizes["adapter"] > sizes["merged"], "its base is counted too"
    for command in COMMANDS:
        ours, theirs = (hf_spam(*command.format(name).split()) for name in ("adapter", "merged"))
        assert ours.code == theirs.code == 0, ours.err
        assert ours.out.replace("adapter", "merged") == theirs.out
    for name in ("{}.csv", "{}-gpt2/model.safetensors", "{}-calibrated/model.safetensors"):
        assert Path(name.format("adapter")).read_bytes() == Path(name.format("merged")).read_bytes()


FAULTS = {
    "no base": (lambda a: change(a, base_model_name_or_path=None), "set base_model_name_or_path in its adapter_config"),
    "a base that has moved": (lambda a: change(a, base_model_name_or_path="./gone"), "'./gone': there is no such"),
    "a base that is an adapter": (lambda a: change(a, base_model_name_or_path=str(a)), "No model in .*config.json"),
    "another kind": (lambda a: change(a, peft_type="IA3"), "an adapter of type 'IA3', not 'LORA': merge it with PEFT"),
    "code": (lambda a: change(a, megatron_config={"a": 1}, megatron_core="antigravity"), "megatron_config"),
    "another rank": (lambda a: change(a, r=3), "size mismatch"),
    "no weights": (lambda a: (a / ADAPTER_WEIGHTS).unlink(), "an adapter_model.safetensors is needed"),
    "no JSON": (lambda a: (a / ADAPTER_CONFIG).write_text("{"), "the adapter cannot be read"),
    "too few tensors": (lambda a: remove_tensors(a, "W_value"), r"W_value.* is missing in one of them"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_cannot_be_used_is_refused_with_one_line(fault, adapter, tmp_path):
    damage, message = FAULTS[fault]
    damage(adapter)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        SpamClassifier.from_pretrained(adapter)
    assert "\n" not in str(caught.value) and str(adapter) in str(caught.value)
    assert "antigravity" not in sys.modules


def test_without_peft_the_line_says_how_to_install_it(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    done = hf_spam("classify", "hi", "--model", adapter)
    assert done.code == 1 and done.err.count("\n") == 1
    assert 'an adapter needs peft, which is not installed: pip install "hf-spam[lora]"' in done.err


def test_a_base_that_is_an_adapter_is_not_asked_for_its_own_base(adapter):
    """It may name itself."""
    change(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ValueError, match="No tokenizer in"):
        load_tokenizer(adapter)
