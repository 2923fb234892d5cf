"""Frozen blocks are computed once per run, with the same results as if they were computed at every step."""

from dataclasses import asdict

import pytest
import torch
from datasets import DatasetDict

from hf_spam import Recipe, finetune
from hf_spam.training import frozen_prefix, loaders
from hf_spam.training.frozen_prefix import compute_prefix
from hf_spam.training.setup import set_up

LAST_TOKEN = {"pooling": "last_token", "padded_length": None, "trainable": "head"}


def run(base, data, **settings):
    settings = {"learning_rate": 1e-3, "max_steps": 8, "eval_freq": 5, "eval_iter": 2, **settings}
    return finetune("book", base=base, data=data, **settings)


@pytest.fixture(scope="module")
def long_messages(data) -> DatasetDict:
    """Messages, one of them longer than the model reads."""
    texts = ["win " * 1100, *data["train"]["text"][1:40]]
    train = data["train"].select(range(40)).remove_columns("text")
    return DatasetDict(data, train=train.add_column("text", texts, feature=data["train"].features["text"]))


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"pooling": "last", "padded_length": 40}, 2),
        (LAST_TOKEN, 2),
        ({"pooling": "last_token", "padded_length": 40}, 2),
        ({"pooling": "mean", "padded_length": None, "trainable": "last_two_blocks", "causal": False}, 1),
        ({"pooling": "first", "padded_length": None, "causal": False}, 2),
    ],
    ids=["book", "last-token-head", "last-token-padded", "mean-two-blocks", "first"],
)
def test_results_do_not_depend_on_the_prefix(settings, frozen, base, data, long_messages, monkeypatch):
    """Losses, accuracies, metrics and weights agree, however messages are padded and read."""
    computed = []

    def counted(accelerator, model, blocks, *rest):
        computed.append(blocks)
        return compute_prefix(accelerator, model, blocks, *rest)

    monkeypatch.setattr(loaders, "compute_prefix", counted)
    messages = long_messages if settings == LAST_TOKEN else data
    once = run(base, messages, **settings)
    assert computed == [frozen] * 3  # each split once
    monkeypatch.setattr(loaders, "frozen_blocks", lambda model, recipe: 0)
    always = run(base, messages, **settings)
    assert len(computed) == 3
    for name, values in asdict(always.history).items():
        if name not in ("seconds", "splits"):
            assert asdict(once.history)[name] == pytest.approx(values, abs=1e-6), name
    assert once.metrics == {split: pytest.approx(values, abs=1e-6) for split, values in always.metrics.items()}
    weights = always.model.state_dict()
    for name, tensor in once.model.state_dict().items():
        if not name.endswith("W_key.bias"):  # attention does not depend on it; its gradients are rounding errors
            torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)


def test_large_states_are_mapped_from_a_file(base, data, monkeypatch, tmp_path):
    """The results are the same, and no file is left."""
    expected = run(base, data)
    monkeypatch.setattr(frozen_prefix, "MEMORY_BUDGET", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped, from_file = [], torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *args, **more: mapped.append(args) or from_file(*args, **more))
    assert {**asdict(run(base, data).history), "seconds": 0} == {**asdict(expected.history), "seconds": 0}
    assert len(mapped) == len(data) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", frozen_prefix.RANDOM_SETTINGS)
def test_no_prefix_if_its_output_varies(setting, base, data, caplog):
    """The log names the setting."""
    recipe = Recipe(base=str(base), **{setting: 10 if setting.endswith("messages") else 0.1})
    model = set_up(Recipe(base=str(base)), data).model
    with caplog.at_level("INFO", "hf_spam"):
        assert frozen_prefix.frozen_blocks(model, recipe) == 0
    assert f"The 2 frozen blocks are computed at every step, because of {setting}." in caplog.text


def test_no_prefix_if_all_weights_are_trained(base, data, caplog):
    recipe = Recipe(base=str(base), trainable="all")
    with caplog.at_level("INFO", "hf_spam"):
        assert frozen_prefix.frozen_blocks(set_up(recipe, data).model, recipe) == 0 and "frozen" not in caplog.text
