"""The loss follows the recipe: cross-entropy, adjusted for class frequencies, or adversarial (Miyato et al. 2017)."""

import pytest
import torch
from small_runs import NO_DROPOUT, SMALL
from tiny_models import MESSAGES, build, right
from torch import nn
from torch.nn.functional import cross_entropy

from hf_spam import SpamGPTForSequenceClassification, finetune
from hf_spam.training.objective import Objective, log_priors

SETTINGS = {**SMALL, **NO_DROPOUT, "max_steps": 6, "eval_freq": 3, "warmup_steps": 0}
LABELS = torch.tensor([0, 1, 1, 0, 1])  # of MESSAGES


def network(**settings) -> SpamGPTForSequenceClassification:
    return build(**settings).train()


def batch() -> dict[str, torch.Tensor]:
    return dict(zip(("input_ids", "attention_mask"), right(MESSAGES), strict=True))


def test_the_plain_loss_is_the_models_own():
    model = network()
    assert torch.equal(Objective(model)(labels=LABELS, **batch()).loss, model(labels=LABELS, **batch()).loss)
    assert Objective(model, epsilon=1.0)(**batch()).loss is None


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_targets_replace_the_labels(epsilon):
    """Targets of 0 and 1 give the loss of these labels, and a target in between the loss of both, weighted."""
    objective = Objective(network(), epsilon=epsilon)

    def loss(**targets: torch.Tensor) -> torch.Tensor:
        return objective(**{"labels": LABELS, **targets}, **batch()).loss

    torch.testing.assert_close(loss(labels=1 - LABELS, targets=LABELS.float()), loss())
    if not epsilon:  # the perturbation depends on the targets too
        both = 0.7 * loss() + 0.3 * loss(labels=1 - LABELS)
        torch.testing.assert_close(loss(targets=0.7 * LABELS + 0.3 * (1 - LABELS)), both)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_logit_adjustment_removes_class_frequencies(tau):
    """If messages carry no information, the best logits are (1 - tau) times the log frequencies."""
    labels = [0] * 70 + [1] * 20 + [2] * 10
    priors = log_priors(labels, 4)
    assert priors.exp().tolist() == pytest.approx([0.7, 0.2, 0.1, 0.01])  # the absent class counts as one message
    priors, labels = priors[:3], torch.tensor(labels)
    best = ((1 - tau) * priors).expand(100, 3).clone().requires_grad_()
    loss = Objective(nn.Identity(), adjustment=tau * priors).loss(best, labels)
    torch.testing.assert_close(torch.autograd.grad(loss, best)[0].sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss, cross_entropy(priors.expand(100, 3), labels))


def test_adjustment_favours_the_rare_class(data):
    """After a few steps a network has learned little but the class frequencies; here, an eighth is spam."""
    spam = [i for i, label in enumerate(data["train"]["label"]) if label]
    few = data["train"].select(sorted({*range(len(data["train"]))} - {*spam[7:]}))
    settings = {**SETTINGS, "max_steps": 3, "learning_rate": 1e-2, "weight_average": 0.0}
    scores = []
    for tau in (0.0, 1.0):
        run = finetune("pocket", data=type(data)(train=few), logit_adjustment=tau, **settings)
        scores.append(run.predictions["train"].scores.mean())
    assert scores[0] + 0.03 < scores[1]


@pytest.mark.parametrize(
    "layout",
    [{"pooling": "last_token"}, {"pooling": "mean", "causal": False}, {"pooling": "last", "padded_length": 7}],
    ids=["last-token", "mean", "padded"],
)
def test_messages_are_perturbed_independently(layout):
    """Compared with the formula, message by message; the direction is checked by finite differences."""
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
        assert loss(embeddings + 1e-2 * direction) > loss(embeddings - 1e-2 * direction)
        losses.append((clean + loss(embeddings + epsilon * direction)) / 2)
    expected = torch.stack(losses).mean()
    outputs = objective(labels=LABELS, **batch())
    torch.testing.assert_close(outputs.loss, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.logits, model(**batch()).logits, atol=1e-6, rtol=0)
    weights = list(model.parameters())
    torch.testing.assert_close(  # no gradient passes through the direction
        torch.autograd.grad(outputs.loss, weights, allow_unused=True),
        torch.autograd.grad(expected, weights, allow_unused=True),
        atol=1e-6,
        rtol=1e-4,
    )
    assert outputs.loss > model(labels=LABELS, **batch()).loss


def test_probabilities_are_learned_whatever_label_is_ignored():
    loss = Objective(nn.Identity(), ignore_index=50256).loss
    logits, targets = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]])
    assert loss(logits, targets) == Objective(nn.Identity()).loss(logits, targets)


def test_frozen_embeddings_are_perturbed():
    """The loss is that of a network that is trained from its embeddings on."""
    frozen = network()
    frozen.gpt.requires_grad_(False)
    losses = [Objective(model, epsilon=0.5)(labels=LABELS, **batch()).loss for model in (frozen, network())]
    torch.testing.assert_close(*losses)


def test_perturbation_of_confident_messages_in_half_precision():
    """In a large batch their gradients are too small for float16."""
    model = network(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    model.out_head.bias.data.copy_(torch.tensor([5.5, -5.5]))
    many = {name: tensor.repeat(64, 1) for name, tensor in batch().items()}
    many["labels"] = torch.zeros(len(many["input_ids"]), dtype=torch.long)
    objective = Objective(model, epsilon=1.0)
    expected = objective(**many).loss.item()
    assert expected > 1.2 * Objective(model)(**many).loss.item()
    with torch.autocast("cpu", dtype=torch.float16):
        assert objective(**many).loss.item() == pytest.approx(expected, rel=0.05)
