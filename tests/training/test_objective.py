"""What is minimised is what the recipe says, whatever the batch, and adversarial training is Miyato's."""

import pytest
import torch
from processes import finetune_on
from small_runs import first_messages, result
from torch.nn.functional import cross_entropy

from hf_spam import Recipe, SpamGPTConfig, SpamGPTForSequenceClassification, finetune
from hf_spam.training.objective import Objective

SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 6, "eval_freq": 3, "adversarial_epsilon": 0.5}
MESSAGES = [[5, 6, 7, 8, 9], [11], [], [3, 4, 5], [7, 7]]
LABELS = torch.tensor([0, 1, 1, 0, 1])


@pytest.fixture(scope="module")
def data():
    return first_messages(train=64, validation=20)


def network(**settings) -> SpamGPTForSequenceClassification:
    torch.manual_seed(1)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    settings = {"vocab_size": 50, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2, **ids, **settings}
    return SpamGPTForSequenceClassification(SpamGPTConfig(**settings)).train()


def batch() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([message + [0] * (5 - len(message)) for message in MESSAGES]),
        "attention_mask": torch.tensor([[1] * len(message) + [0] * (5 - len(message)) for message in MESSAGES]),
    }


@pytest.mark.parametrize(
    "layout",
    [{"pooling": "last_token"}, {"pooling": "mean", "causal": False}, {"pooling": "last", "padded_length": 7}],
    ids=["last-token", "mean", "padded"],
)
def test_each_message_is_moved_as_if_it_were_alone(layout):
    """Against the step written out for one message after the other, and its gradient by finite differences."""
    model, epsilon = network(**layout), 0.3
    objective = Objective(model, epsilon=epsilon)
    losses = []
    for message, label in zip(MESSAGES, LABELS, strict=True):
        tokens, lengths = model.lay_out(torch.tensor([message], dtype=torch.long), torch.ones(1, len(message)))
        embeddings = model.gpt.tok_emb.weight[tokens]

        def loss(moved, lengths=lengths, label=label):
            return cross_entropy(model.read(moved, lengths).logits, label[None])

        clean = loss(embeddings)
        direction = torch.autograd.grad(clean, embeddings, retain_graph=True)[0]
        direction = direction / direction.norm()
        rise = (loss(embeddings + 1e-2 * direction) - loss(embeddings - 1e-2 * direction)) / 2e-2
        assert rise > 0  # it is the way up
        losses.append((clean + loss(embeddings + epsilon * direction)) / 2)
    expected = torch.stack(losses).mean()
    outputs = objective(labels=LABELS, **batch())
    torch.testing.assert_close(outputs.loss, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.logits, model(**batch()).logits, atol=1e-6, rtol=0)
    weights = list(model.parameters())
    # The direction counts as given: no gradient goes through it.
    torch.testing.assert_close(
        torch.autograd.grad(outputs.loss, weights, allow_unused=True),
        torch.autograd.grad(expected, weights, allow_unused=True),
        atol=1e-6,
        rtol=1e-4,
    )
    assert outputs.loss > model(labels=LABELS, **batch()).loss


def test_half_precision_knows_the_way_of_messages_that_the_model_is_sure_of():
    """Of a large batch, whose gradients are too small for it."""
    model = network(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    model.out_head.bias.data.copy_(torch.tensor([5.5, -5.5]))
    many = {name: tensor.repeat(64, 1) for name, tensor in batch().items()}
    many["labels"] = torch.zeros(len(many["input_ids"]), dtype=torch.long)
    objective = Objective(model, epsilon=1.0)
    expected = objective(**many).loss.item()
    assert expected > 1.2 * Objective(model)(**many).loss.item()
    with torch.autocast("cpu", dtype=torch.float16):
        assert objective(**many).loss.item() == pytest.approx(expected, rel=0.05)


def test_without_an_adversary_it_is_the_models_own_loss():
    model = network()
    assert torch.equal(Objective(model)(labels=LABELS, **batch()).loss, model(labels=LABELS, **batch()).loss)
    assert Objective(model, epsilon=1.0)(**batch()).loss is None


def test_embeddings_that_are_not_trained_are_moved_too(data):
    """And the frozen blocks above them are then computed at every step."""
    settings = {**SMALL, "n_layer": 2, "dropout": 0.0, "bpe_dropout": 0.0, "case_augmentation": 0.0}
    settings = {**settings, "digit_augmentation": 0.0, "trainable": "last_block", "warmup_steps": 0}
    moved = finetune("pocket", data=data, **settings).history
    plain = finetune("pocket", data=data, **settings | {"adversarial_epsilon": 0.0}).history
    assert moved.initial == pytest.approx(plain.initial)
    assert moved.train_losses != pytest.approx(plain.train_losses, abs=1e-6)


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
    data.save_to_disk(tmp_path / "data")
    settings = {**settings, "per_device_train_batch_size": 8, "output_dir": tmp_path / "two"}
    finetune_on(2, "pocket", tmp_path / "data", **settings)
    assert result(tmp_path / "two")[1]["train_losses"] == pytest.approx(one.history.train_losses, abs=1e-5)


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
def test_what_cannot_be_meant(epsilon):
    with pytest.raises(ValueError, match="adversarial_epsilon must not be negative"):
        Recipe(adversarial_epsilon=epsilon)
