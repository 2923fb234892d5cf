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
    ("settings", "frozen", "memory"),
    [
        ({"pooling": "last", "padded_length": 40}, 2, 10**6),
        (LAST_TOKEN, 2, 10**7),
        ({"pooling": "last_token", "padded_length": 40}, 2, 10**6),
        ({"pooling": "mean", "padded_length": None, "trainable": "last_two_blocks", "causal": False}, 1, 1000),
    ],
    ids=["book", "last-token-head", "last-token-padded", "mean-two-blocks"],
)
def test_results_do_not_depend_on_the_prefix(
    settings, frozen, memory, base, data, long_messages, monkeypatch, tmp_path
):
    """Losses, accuracies, metrics and weights agree, however messages are padded and read.

    Hidden states that do not fit into the memory are mapped from a file, which is not left behind.
    """
    computed, mapped, from_file = [], [], torch.from_file
    monkeypatch.setattr(frozen_prefix, "MEMORY_BUDGET", memory)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(torch, "from_file", lambda *args, **more: mapped.append(args) or from_file(*args, **more))

    def counted(accelerator, model, blocks, *rest):
        computed.append(blocks)
        return compute_prefix(accelerator, model, blocks, *rest)

    monkeypatch.setattr(loaders, "compute_prefix", counted)
    messages = long_messages if settings == LAST_TOKEN else data
    once = run(base, messages, **settings)
    assert computed == [frozen] * 3  # each split once
    assert len(mapped) == (3 if memory == 1000 else 0) and not list(tmp_path.iterdir())
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


def test_no_prefix_if_its_output_varies(base, data, caplog):
    """The log names the setting; it says nothing of frozen blocks if there are none."""
    model = set_up(Recipe(base=str(base)), data).model
    with caplog.at_level("INFO", "hf_spam"):
        for setting in frozen_prefix.RANDOM_SETTINGS:
            recipe = Recipe(base=str(base), **{setting: 10 if setting.endswith("messages") else 0.1})
            assert frozen_prefix.frozen_blocks(model, recipe) == 0
            assert f"The 2 frozen blocks are computed at every step, because of {setting}." in caplog.messages
        caplog.clear()
        assert frozen_prefix.frozen_blocks(model.requires_grad_(True), recipe) == 0 and not caplog.messages
