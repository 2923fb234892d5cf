"""The configuration: validation, labels, saving, and the class chosen by a threshold."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import POSITIONS, VOCAB, tiny_config
from transformers import GPT2Config

from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"n_inner": 0}, "n_inner must be at least 1"),
        ({"n_embd": 30}, r"n_embd \(30\) must be a multiple of n_head \(4\)"),
        ({"pad_token_id": VOCAB}, r"pad_token_id \(64\) is not in the vocabulary of 64"),
        ({"padded_length": 0}, r"padded_length \(0\) must lie in 1..n_positions \(16\)"),
        ({"padded_length": POSITIONS + 1}, r"padded_length \(17\) must lie in 1..n_positions"),
        ({"embd_pdrop": 1.0}, r"embd_pdrop must lie in \[0, 1\), got 1.0"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be above 0"),
        ({"id2label": {}}, "id2label must name the classes 0, 1, ..."),
        ({"id2label": {1: "ham", 2: "spam"}}, "id2label must name the classes"),
        ({"temperature": 0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": float("inf")}, "temperature must be a finite number above 0, got inf"),
        ({"threshold": float("nan")}, "threshold must be above 0 and at most 1"),
        ({"threshold": 0.5, "id2label": {0: "a", 1: "b", 2: "c"}}, "None of the model's labels is 'spam': 'a', 'b'"),
        # refused by their types
        ({"pooling": "max"}, "expected one of .*'last', 'last_token', 'first', 'mean'.*got max"),
        ({"vocab_size": "64"}, "vocab_size' expected int, got str"),
        ({"padded_length": True}, "padded_length' with value True"),
        ({"temperature": None}, "temperature' with value None"),
    ],
    ids=str,
)
def test_invalid_configurations_are_refused(bad, message):
    """Protects the user from finding out at the first batch, or never."""
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**bad)


def test_later_changes_are_validated(tmp_path):
    """Protects published models: types are checked on assignment, values before saving."""
    config = tiny_config()
    with pytest.raises(StrictDataclassError, match="pooling"):
        config.pooling = "max"
    config.n_head = 5
    with pytest.raises(StrictDataclassError, match="multiple of n_head"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_defaults_and_attribute_aliases():
    """Protects tools that read `hidden_size` or `num_labels` from any model."""
    config, stock = SpamGPTConfig(), GPT2Config()
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon"):
        assert getattr(config, name) == getattr(stock, name), name
    assert config.pad_token_id == config.eos_token_id == stock.eos_token_id
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (768, 12, 12)
    assert config.max_position_embeddings == 1024 and config.is_causal is True and config.model_type == "spam_gpt"
    config.hidden_size = 48
    assert config.n_embd == 48
    small = SpamGPTConfig(vocab_size=99)  # special tokens default to the last id
    assert small.pad_token_id == small.bos_token_id == small.eos_token_id == 98
    assert SpamGPTConfig(vocab_size=60_000, pad_token_id=50_256).pad_token_id == 50_256, "even GPT-2's id is kept"


@pytest.mark.parametrize(
    ("given_", "names"),
    [
        ({}, ["not spam", "spam"]),
        ({"num_labels": 2}, ["not spam", "spam"]),
        ({"id2label": {0: "ham", 1: "spam", 2: "scam"}}, ["ham", "spam", "scam"]),
        ({"id2label": {"1": "spam", "0": "ham"}}, ["ham", "spam"]),
        ({"label2id": {"ham": 0, "spam": 1}}, ["ham", "spam"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
    ids=str,
)
def test_id2label_and_label2id_agree(given_, names, tmp_path):
    """Protects the names a pipeline prints: either direction, or a count, gives the other, also in the file."""
    tiny_config(**given_).save_pretrained(tmp_path)
    for config in (tiny_config(**given_), SpamGPTConfig.from_pretrained(tmp_path)):
        assert config.id2label == dict(enumerate(names)) and config.num_labels == len(names)
        assert config.label2id == {name: i for i, name in enumerate(names)} and class_names(config) == names


def test_another_number_of_labels_resets_the_calibration(tmp_path):
    """It was fitted to the old head, and a threshold for spam needs a label of that name."""
    tiny_config(temperature=2.0, threshold=0.9).save_pretrained(tmp_path)
    config = SpamGPTConfig.from_pretrained(tmp_path, num_labels=3)
    assert (config.temperature, config.threshold, config.num_labels) == (1.0, None, 3)
    assert SpamGPTConfig.from_pretrained(tmp_path, num_labels=2).threshold == 0.9


def test_configuration_round_trip(tmp_path):
    """Protects every field, at its default and at another value; two instances share no state."""
    away = {
        "n_inner": 20, "embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3, "layer_norm_epsilon": 1e-6,
        "qkv_bias": False, "pooling": "mean", "padded_length": 7, "causal": False, "bos_token_id": 3,
        "vocab_size": 60_000, "pad_token_id": 50_256,
        "id2label": {0: "a", 1: "spam", 2: "c"}, "temperature": 2.0, "threshold": 0.3,
    }  # fmt: skip
    for overrides in ({}, away):
        config = tiny_config(**overrides)
        config.save_pretrained(tmp_path)
        assert SpamGPTConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
        assert SpamGPTConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    one, other = tiny_config(), tiny_config()
    one.auto_map["AutoModel"] = one.id2label[0] = "changed"
    assert "changed" not in (other.auto_map["AutoModel"], other.id2label[0])


# --- the threshold

PROBABILITIES = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(2**-10, 1, width=32), min_size=n, max_size=n), min_size=1, max_size=8)
)


@given(PROBABILITIES, st.floats(0.01, 1), st.data())
def test_decide_applies_the_threshold(rows, threshold, data):
    """Spam from the threshold on, else the most likely other class; without a threshold, the most likely class."""
    probabilities = torch.tensor(rows) / torch.tensor(rows).sum(-1, keepdim=True)
    spam = data.draw(st.integers(0, len(rows[0]) - 1))
    names = {i: "Spam" if i == spam else f"kind {i}" for i in range(len(rows[0]))}
    config = SpamGPTConfig(id2label=names, threshold=threshold)
    others = [i for i in names if i != spam]
    for row, given_class in zip(probabilities.tolist(), decide(config, probabilities).tolist(), strict=True):
        assert given_class == (spam if row[spam] >= threshold else max(others, key=row.__getitem__))
    config.threshold = None
    assert torch.equal(decide(config, probabilities), probabilities.argmax(-1))


def test_threshold_is_compared_in_float64():
    """The threshold lies between two neighbouring float32 scores; rounded, it would equal one of them."""
    below = torch.tensor(0.75)
    above = torch.nextafter(below, torch.tensor(1.0))
    scores = torch.stack([torch.stack([1 - below, below]), torch.stack([1 - above, above])])
    config = SpamGPTConfig(threshold=(below.double() + above.double()).item() / 2)
    assert decide(config, scores).tolist() == [0, 1]
