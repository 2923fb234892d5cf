"""Pretraining: the loss is that of a language model, pads do not count, and a run can be repeated."""

import json

import pytest
import torch
from accelerate import Accelerator
from command_line import hf_spam
from datasets import Dataset, DatasetDict
from small_data import MESSAGES, delimited
from small_runs import first_messages
from tiny_models import build, right
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from hf_spam import finetune, load_sms_spam
from hf_spam.modeling.modeling_spam_gpt import SpamGPTModel
from hf_spam.training.pretraining import next_token_loss, pretrain
from hf_spam.training.recipes import get_recipe
from hf_spam.training.setup import set_up

SMALL = {"n_embd": 32, "vocab_size": 300, "n_head": 2, "max_steps": 2}


def test_the_loss_is_the_mean_over_all_next_tokens():
    """Computed message by message, without pads."""
    gpt, messages, expected = build(SpamGPTModel), [[3, 1, 4, 1, 5], [9, 2], [6]], []
    for message in messages:
        hidden = gpt(input_ids=torch.tensor([message])).last_hidden_state[0]
        scores = hidden @ gpt.tok_emb.weight.T
        expected += [cross_entropy(scores[i], torch.tensor(token)) for i, token in enumerate(message[1:])]
    assert next_token_loss(gpt, *right(messages)).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_the_loss_falls_and_the_same_seed_gives_the_same_weights():
    data, recipe = first_messages(train=64), get_recipe("pocket", pretraining_steps=20, bpe_dropout=0.0, **SMALL)
    results = []
    for _ in range(2):
        setup = set_up(recipe, data)
        results.append((pretrain(setup, Accelerator()), setup.model))
    (losses, first), (again, second) = results
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_run_starts_from_the_pretrained_network(tmp_path, monkeypatch):
    """And a resumed run does not pretrain again, and ends with the same weights."""
    data = first_messages(train=100, validation=20, test=20)
    settings = {"data": data, "pretraining_steps": 3, "eval_freq": 100, **SMALL, "max_steps": 4}
    whole = finetune("pocket", **settings, output_dir=tmp_path / "whole", save_steps=2)
    plain = finetune("pocket", **{**settings, "pretraining_steps": 0})
    assert not torch.equal(whole.model.gpt.pos_emb.weight, plain.model.gpt.pos_emb.weight)
    monkeypatch.setattr("hf_spam.training.finetune.pretrain", None)
    resumed = finetune(
        "pocket", **settings, output_dir=tmp_path / "again", resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2")
    )
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_a_network_pretrained_on_unlabelled_texts_is_a_base(tmp_path):
    """The whole way through the command line; labels in the file are not read.

    The recipe does not pretrain the named base again unless asked to.
    """
    texts = load_sms_spam(MESSAGES)["train"]["text"][:60]
    (tmp_path / "texts.csv").write_bytes(delimited([("label", "text"), *enumerate(texts)]))
    small = ["--n-embd", "16", "--n-head", "2", "--vocab-size", "300", "--pretraining-steps", "3"]
    base, command = tmp_path / "new" / "base", ["pretrain", "--data", tmp_path / "texts.csv", *small]
    done = hf_spam(*command, "--output-dir", base, "--json")
    assert done.code == 0 and len(json.loads(done.out)["losses"]) == 3
    again = hf_spam(*command, "--output-dir", base)
    assert again.code == 1 and "already exists" in again.err
    none = hf_spam("pretrain", "--data", MESSAGES, "--base", base, "--output-dir", tmp_path / "none")
    assert none.code == 1 and "--pretraining-steps" in none.err and not (tmp_path / "none").exists()
    whole = hf_spam(*command, "--recipe", "book", "--base", "random", "--n-layer", 1, "--output-dir", tmp_path / "book")
    assert whole.code == 0, "all weights are trained, whatever the recipe trains"
    trained = finetune("inbox", data=MESSAGES, base=str(base), spliced_messages=0, max_steps=1, learning_rate=1e-9)
    assert trained.recipe.pretraining_steps == 0 < get_recipe("inbox", base="random").pretraining_steps
    assert get_recipe("inbox", base="mine", pretraining_steps=7).pretraining_steps == 7
    pretrained = SpamGPTModel.from_pretrained(base)
    assert torch.allclose(trained.model.gpt.tok_emb.weight, pretrained.tok_emb.weight, atol=1e-6)
    assert trained.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_few_messages_are_refused_before_pretraining(monkeypatch):
    monkeypatch.setattr("hf_spam.training.finetune.pretrain", None)
    data = DatasetDict(train=Dataset.from_dict({"text": ["win a prize", "hi mum"] * 40, "label": [1, 0] * 40}))
    with pytest.raises(ValueError, match="80 training messages do not fill a batch of 128"):
        finetune("inbox", data=data, temperature_scaling=False, target_fpr=None)
