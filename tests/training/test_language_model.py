"""The second task, predicting the next token, adds to the gradient what it should, and nothing else changes."""

import pytest
import torch
from processes import finetune_on
from small_runs import first_messages, result
from torch.nn.functional import cross_entropy

from hf_spam import Recipe, SpamGPTConfig, SpamGPTForSequenceClassification, finetune
from hf_spam.training.language_model import WithLanguageModel

SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 6, "eval_freq": 3, "language_model_weight": 0.5}


@pytest.fixture(scope="module")
def data():
    return first_messages(train=64, validation=20)


def test_loss_is_that_of_each_message_alone():
    """Against a plain loop over messages and tokens; pads, and messages of one token or none, count for nothing."""
    torch.manual_seed(1)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    config = SpamGPTConfig(vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2, pooling="last_token", **ids)
    model = WithLanguageModel(SpamGPTForSequenceClassification(config)).train()
    messages = [[5, 6, 7, 8, 9], [11], [], [3, 4, 5], [7, 7]]
    ids = torch.tensor([message + [0] * (5 - len(message)) for message in messages])
    mask = torch.tensor([[1] * len(message) + [0] * (5 - len(message)) for message in messages])
    outputs = model(input_ids=ids, attention_mask=mask)
    losses = []
    for message in messages:
        if len(message) < 2:
            losses.append(torch.tensor(0.0))
            continue
        hidden = model.model.gpt(torch.tensor([message])).last_hidden_state[0]
        scores = hidden[:-1] @ model.model.gpt.tok_emb.weight.T
        losses.append(cross_entropy(scores, torch.tensor(message[1:])))
    assert outputs.loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-6)
    plain = model.model(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(outputs.logits, plain.logits, atol=1e-6, rtol=0)
    assert model.eval()(input_ids=ids, attention_mask=mask).loss is None


def test_resuming_is_exact(data, tmp_path):
    finetune("pocket", data=data, output_dir=tmp_path / "whole", save_steps=4, **SMALL)
    (tmp_path / "out").mkdir()
    (tmp_path / "whole/checkpoint-4").rename(tmp_path / "out/checkpoint-4")
    finetune("pocket", data=data, output_dir=tmp_path / "out", save_steps=4, resume_from_checkpoint="auto", **SMALL)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_do_what_one_does(data, tmp_path):
    settings = {**SMALL, "dropout": 0.0}
    one = finetune("pocket", data=data, per_device_train_batch_size=16, **settings)
    plain = finetune("pocket", data=data, per_device_train_batch_size=16, **settings | {"language_model_weight": 0.0})
    assert one.history.train_losses[-1] != plain.history.train_losses[-1]
    data.save_to_disk(tmp_path / "data")
    settings = {**settings, "per_device_train_batch_size": 8, "output_dir": tmp_path / "two"}
    finetune_on(2, "pocket", tmp_path / "data", **settings)
    assert result(tmp_path / "two")[1]["train_losses"] == pytest.approx(one.history.train_losses, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language_model_weight": -1.0}, "must not be negative"),
        ({"language_model_weight": 0.1, "causal": False}, "needs causal"),
        ({"language_model_weight": 0.1, "trainable": "head"}, "needs trainable all"),
    ],
)
def test_what_cannot_be_meant(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"trainable": "all", **settings})
