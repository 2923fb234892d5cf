"""Learn token embeddings that share the character n-grams of the tokens.

The embedding of a token is its own vector plus those of its n-grams, whose sum is divided by the square root of their
number, as for words in fastText (Bojanowski et al. 2017, *Enriching Word Vectors with Subword Information*, where the
sum is not divided). So a rare token learns from others that are spelled like it. A saved model has ordinary embeddings.
"""

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerBase

from ..modeling.modeling_spam_gpt import SpamGPTModel, SpamGPTPreTrainedModel

SHORTEST, LONGEST = 2, 5  # n-grams, in characters of the vocabulary, which in a byte-level tokenizer are bytes


class NGramVectors(nn.Module):
    """Adds to the embeddings of tokens (V, C) the vectors of their n-grams, which are 0 at first.

    Only n-grams of at least two tokens have one.
    """

    def __init__(self, tokens: list[str | None], width: int):
        super().__init__()
        ngrams = [set() if token is None else _ngrams(token) for token in tokens]  # ids may have gaps
        counts = Counter(ngram for found in ngrams for ngram in found)
        index = {ngram: i for i, ngram in enumerate(sorted(ngram for ngram, count in counts.items() if count > 1))}
        ids = [sorted(index[ngram] for ngram in found if ngram in index) for found in ngrams]
        numbers = torch.tensor([len(found) for found in ids])
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), numbers.cumsum(0)])
        self.vectors = nn.EmbeddingBag(len(index), width, mode="sum", include_last_offset=True)
        nn.init.zeros_(self.vectors.weight)
        self.register_buffer(
            "ids", torch.tensor([i for found in ids for i in found], dtype=torch.long), persistent=False
        )
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("scale", numbers.clamp(min=1)[:, None] ** -0.5, persistent=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings + self.scale * self.vectors(self.ids, self.offsets)


def add_ngrams(gpt: SpamGPTModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the vectors of n-grams to the token embeddings of a network, whose answers stay the same."""
    tokens = tokenizer.convert_ids_to_tokens(range(gpt.config.vocab_size))
    parametrize.register_parametrization(gpt.tok_emb, "weight", NGramVectors(tokens, gpt.config.n_embd))


def without_ngrams(model: SpamGPTPreTrainedModel) -> SpamGPTPreTrainedModel:
    """Return a model whose token embeddings are the sums: a copy if it has vectors of n-grams, else itself."""
    embeddings = model.get_input_embeddings()
    if not parametrize.is_parametrized(embeddings):
        return model
    model = copy.deepcopy(model)
    # `remove_parametrizations` would change the class of the module, which the original shares.
    model.set_input_embeddings(nn.Embedding.from_pretrained(embeddings.weight.detach(), freeze=False))
    return model


def _ngrams(token: str) -> set[str]:
    """Return the n-grams of a token, with marks of its ends."""
    marked = f"<{token}>"
    lengths = range(SHORTEST, LONGEST + 1)
    return {marked[start : start + n] for n in lengths for start in range(len(marked) - n + 1)}
