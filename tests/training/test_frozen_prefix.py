"""Frozen blocks are computed once, and nothing in the run is another for it."""

from dataclasses import asdict

import pytest
import torch
from datasets import DatasetDict
from small_runs import first_messages

from hf_spam import Recipe, SpamGPTConfig, SpamGPTForSequenceClassification, finetune
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.training import frozen_prefix, loaders
from hf_spam.training.frozen_prefix import compute_prefix
from hf_spam.training.setup import set_up


@pytest.fixture(scope="module")
def data():
    return first_messages(train=60, validation=21)


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(data["train"]["text"], 300)
    torch.manual_seed(1)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = SpamGPTConfig(vocab_size=300, n_positions=64, n_embd=16, n_layer=4, n_head=2, **ids)
    SpamGPTForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(base, data, **settings):
    settings = {"learning_rate": 1e-3, "num_train_epochs": 2, "eval_freq": 5, "eval_iter": 2, **settings}
    return finetune("book", base=str(base), data=data, **settings)


def everywhere(monkeypatch):
    """Every block at every step, as without a frozen prefix."""
    monkeypatch.setattr(loaders, "frozen_blocks", lambda model, recipe: 0)


@pytest.mark.parametrize("pooling", ["last", "last_token", "first", "mean"])
@pytest.mark.parametrize("padded_length", [40, None])
@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"trainable": "last_block"}, 3),
        ({"trainable": "last_two_blocks", "causal": False}, 2),
        ({"trainable": "head"}, 3),
    ],
    ids=["last-block", "two-blocks-not-causal", "head"],
)
def test_nothing_is_another(pooling, padded_length, settings, frozen, base, data, monkeypatch):
    """Losses, accuracies, final metrics and weights, for every way to lay out and to read a message."""
    settings = {**settings, "pooling": pooling, "padded_length": padded_length}
    counted, computed = [], frozen_prefix.compute_prefix

    def count(accelerator, model, blocks, *rest):
        counted.append(blocks)
        return computed(accelerator, model, blocks, *rest)

    monkeypatch.setattr(loaders, "compute_prefix", count)
    once = run(base, data, **settings)
    assert counted == [frozen] * 2  # a split each
    everywhere(monkeypatch)
    always = run(base, data, **settings)
    assert len(counted) == 2
    for name, values in asdict(always.history).items():
        if name not in ("seconds", "steps", "splits"):
            assert asdict(once.history)[name] == pytest.approx(values, abs=1e-6), name
    assert once.metrics == {split: pytest.approx(values, abs=1e-6) for split, values in always.metrics.items()}
    weights = always.model.state_dict()
    for name, tensor in once.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)


def test_states_beyond_the_budget_are_mapped_from_the_disk(base, data, monkeypatch, tmp_path):
    """With the same numbers, and no file that stays behind."""
    expected = run(base, data)
    monkeypatch.setattr(frozen_prefix, "MEMORY_BUDGET", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped, from_file = [], torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *how, **more: mapped.append(how) or from_file(*how, **more))
    assert asdict(run(base, data).history) == {**asdict(expected.history), "seconds": pytest.approx(0, abs=60)}
    assert len(mapped) == 2 and not list(tmp_path.iterdir())


def test_a_prefix_in_bfloat16(base, data, monkeypatch):
    """Near the numbers of float32, kept in half the room; what is trained on it is float32."""
    kept = []

    def keep(*how):
        kept.append(compute_prefix(*how))
        return kept[-1]

    monkeypatch.setattr(loaders, "compute_prefix", keep)
    exact, near = run(base, data), run(base, data, prefix_precision="bf16")
    assert [part.states.dtype for part in kept] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert near.history.train_losses == pytest.approx(exact.history.train_losses, abs=0.02)
    assert near.history.train_losses != exact.history.train_losses
    assert {parameter.dtype for parameter in near.model.parameters()} == {torch.float32}
    frozen = {name for name, parameter in near.model.named_parameters() if not parameter.requires_grad}
    weights = exact.model.state_dict()
    assert frozen and all(torch.equal(near.model.state_dict()[name], weights[name]) for name in frozen)


def test_longer_messages_than_the_model_reads(base, data):
    """Cut to the positions that there are, with a prefix as without."""
    texts = ["win " * 100, "x", *data["train"]["text"][2:]]
    train = data["train"].remove_columns("text").add_column("text", texts, feature=data["train"].features["text"])
    assert run(base, DatasetDict(train=train), pooling="last_token", padded_length=None).metrics["train"]["accuracy"]


@pytest.mark.parametrize(
    "setting", ["dropout", "attention_dropout", "case_augmentation", "digit_augmentation", "bpe_dropout"]
)
def test_off_where_it_would_not_be_exact(setting, base, data, caplog):
    """What is drawn anew at each step comes out of the frozen blocks as another each time: that is said."""
    recipe = Recipe(base=str(base), **{setting: 0.1})
    model = set_up(recipe, data).model
    with caplog.at_level("INFO", "hf_spam"):
        assert frozen_prefix.frozen_blocks(model, recipe) == 0
    assert f"The 3 frozen blocks are computed at every step, because of {setting}." in caplog.text


def test_nothing_is_frozen_where_all_is_trained(base, data, caplog):
    recipe = Recipe(base=str(base), trainable="all")
    model = set_up(recipe, data).model
    assert frozen_prefix.frozen_blocks(model, recipe) == 0 and not caplog.text
