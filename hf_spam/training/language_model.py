"""Predicting the next token beside the label: GPT-1's auxiliary objective (Radford et al. 2018, section 3.2)."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import SequenceClassifierOutput

from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification


class WithLanguageModel(nn.Module):
    """A classifier that in training also predicts each next token of a message, by its own token embeddings.

    In evaluation mode it is the model. In training its output has a `loss`, the language model's: the mean over the
    messages of the mean cross-entropy over their tokens but the first. So it depends neither on padding nor on how the
    messages of a step are dealt out to processes.
    """

    def __init__(self, model: SpamGPTForSequenceClassification):
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """As that of the model, for a batch without `labels`."""
        if not self.training:
            return self.model(**batch)
        tokens, lengths = self.model.lay_out(**batch)
        outputs = self.model.read(tokens, lengths, output_hidden_states=True)
        hidden = outputs.hidden_states[-1]  # (B, L, C), after the final norm
        real = torch.arange(1, tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, L - 1)
        logits = hidden[:, :-1][real] @ self.model.get_input_embeddings().weight.T  # (tokens, vocab_size)
        losses = cross_entropy(logits.float(), tokens[:, 1:][real], reduction="none")
        shares = (1 / (lengths - 1).clamp(min=1))[:, None].expand_as(real)[real]
        return SequenceClassifierOutput(loss=(losses * shares).sum() / len(lengths), logits=outputs.logits)
