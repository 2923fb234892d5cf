"""What a step of the training minimises."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers.modeling_outputs import SequenceClassifierOutput

from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .frozen_prefix import AfterPrefix


class Objective(nn.Module):
    """A network with the loss that it is trained by: what Accelerate prepares.

    With `epsilon` half of the loss is that of the same messages, their token embeddings moved to where the loss is
    higher: adversarial training (Miyato, Dai and Goodfellow 2017, *Adversarial Training Methods for Semi-Supervised
    Text Classification*, with embeddings that are not normalised). A step takes two passes forward and three back.

    Args:
        network: the classifier, or what follows its frozen blocks, which has no embeddings to move.
        weights: of the classes, (K,); None: all weigh the same.
        ignore_index: the class whose messages are left out.
        epsilon: how far a message is moved, as the L2 norm over all its tokens.
        adjustment: what is added to the logits of each class, (K,), before the loss is taken (see `log_priors`); None:
            nothing. The logits that the network answers with are without it.
    """

    # The layers that FSDP wraps, where whoever launches names none: Accelerate asks what it prepares.
    _no_split_modules = SpamGPTForSequenceClassification._no_split_modules

    def __init__(
        self,
        network: SpamGPTForSequenceClassification | AfterPrefix,
        weights: torch.Tensor | None = None,
        ignore_index: int = -100,
        epsilon: float = 0.0,
        adjustment: torch.Tensor | None = None,
    ):
        super().__init__()
        self.network, self.ignore_index, self.epsilon = network, ignore_index, epsilon
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(self, labels: torch.Tensor | None = None, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """As the network, for a batch as it takes it; with `labels` (B,) there is a `loss`."""
        if labels is None:
            return self.network(**batch)
        if not self.epsilon:
            outputs = self.network(**batch)
            outputs.loss = self.loss(outputs.logits, labels)
            return outputs
        tokens, lengths = self.network.lay_out(**batch)
        embeddings = self.network.get_input_embeddings()(tokens)
        if not embeddings.requires_grad:
            embeddings.requires_grad_()
        outputs = self.network.read(embeddings, lengths)
        logits = outputs.logits.float()
        loss = self.loss(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        # The way is the same however steep it is, and half precision would lose that of a message the model is sure of.
        (gradient,) = torch.autograd.grad(logits, embeddings, normalize(gradient, dim=1), retain_graph=True)
        moved = embeddings + self.epsilon * normalize(gradient.flatten(1), dim=1).view_as(gradient)
        outputs.loss = (loss + self.loss(self.network.read(moved, lengths).logits, labels)) / 2
        return outputs

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of a batch: of logits (B, K) and labels (B,)."""
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if self.weights is None:
            return cross_entropy(logits, labels, ignore_index=self.ignore_index)
        # Divided by the messages, not by their weights, which differ from batch to batch: so it does not matter into
        # how many batches and processes those of a step are cut.
        losses = cross_entropy(logits, labels, weight=self.weights, ignore_index=self.ignore_index, reduction="sum")
        return losses / len(labels)


def balanced_weights(labels: Sequence[int], classes: int) -> torch.Tensor:
    """What the messages of each class count for, (K,): all of a class as much as all of another, 1 in the mean."""
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    return len(labels) / (counts.count_nonzero() * counts.clamp(min=1).float())


def log_priors(labels: Sequence[int], classes: int) -> torch.Tensor:
    """The logarithm of the part of the messages that are of each class, (K,); a class without any counts as of one.

    Added to the logits in the loss, it leaves to the network what a message says beyond how common the classes are:
    logit adjustment (Menon et al. 2021, *Long-tail learning via logit adjustment*). Weights do little where a network
    can tell all its training messages apart, since every loss is then near 0, whatever it is multiplied by; this moves
    the boundary all the same.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    return (counts.clamp(min=1) / len(labels)).log()
