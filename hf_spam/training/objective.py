"""The training loss."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers.modeling_outputs import SequenceClassifierOutput


class Objective(nn.Module):
    """A network together with its training loss; the module that Accelerate prepares.

    With `epsilon`, half of the loss comes from the same messages with their token embeddings moved in the direction
    that increases the loss, by this L2 norm for each message: adversarial training (Miyato, Dai and Goodfellow 2017,
    *Adversarial Training Methods for Semi-Supervised Text Classification*, without normalizing the embeddings).

    `network` is the classifier or, without adversarial training, the part of it after its frozen blocks, which reads
    messages that are laid out already. The `adjustment` (num_labels,) is added to the logits in the loss only.
    """

    def __init__(
        self, network: nn.Module, ignore_index: int = -100, epsilon: float = 0.0, adjustment: torch.Tensor | None = None
    ):
        super().__init__()
        self.network, self.ignore_index, self.epsilon = network, ignore_index, epsilon
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(
        self, labels: torch.Tensor | None = None, targets: torch.Tensor | None = None, **batch: torch.Tensor
    ) -> SequenceClassifierOutput:
        """Run the network; return `loss` too when `labels` (B,) are given.

        `targets` are probabilities of class 1 (B,), to learn in place of the labels.
        """
        run = self.network.read if "lengths" in batch else self.network
        if labels is None:
            return run(**batch)
        if targets is not None:
            labels = torch.stack([1 - targets, targets], dim=1)
        if not self.epsilon:
            outputs = run(**batch)
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
        # Only the direction matters. Without this normalization, half precision would round the tiny gradient of a
        # confidently classified message to 0.
        (gradient,) = torch.autograd.grad(logits, embeddings, normalize(gradient, dim=1), retain_graph=True)
        moved = embeddings + self.epsilon * normalize(gradient.flatten(1), dim=1).view_as(gradient)
        outputs.loss = (loss + self.loss(self.network.read(moved, lengths).logits, labels)) / 2
        return outputs

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of logits (B, num_labels) and labels (B,) or probabilities (B, num_labels)."""
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        ignored = self.ignore_index if labels.ndim == 1 else -100  # probabilities are never ignored
        return cross_entropy(logits, labels, ignore_index=ignored)


def log_priors(labels: Sequence[int], classes: int) -> torch.Tensor:
    """Return the log frequency of each class, (classes,), counting an absent class as one message.

    Added to the logits in the loss, it lets the network learn what a message says beyond the class frequencies: logit
    adjustment (Menon et al. 2021, *Long-tail learning via logit adjustment*).
    """
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    return (counts.clamp(min=1) / len(labels)).log()
