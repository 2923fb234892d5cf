"""Tiny random models, and batches for them."""

from pathlib import Path

import small_data
import torch
from transformers import PreTrainedTokenizerFast

from hf_spam.conversion.loading import save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification

VOCAB, PAD, POSITIONS, PADDED, WIDTH = 64, 63, 16, 12, 32
POOLINGS = ("last", "last_token", "first", "mean")
READINGS = [(p, length, causal) for p in POOLINGS for length in (None, PADDED) for causal in (True, False)]
# One that fits, one of one token, an empty one, one longer than PADDED, one longer than POSITIONS.
MESSAGES = [[5, 9, 2, 44, 7], [8], [], list(range(20, 34)), [*range(1, 21)]]


def tiny_config(**overrides) -> SpamGPTConfig:
    """Return a config for a two-layer GPT with large weights, so that every position affects the logits."""
    shape = {"vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": 2, "n_head": 4}
    return SpamGPTConfig(**{**shape, "initializer_range": 0.3, **overrides})


def build(architecture=SpamGPTForSequenceClassification, seed: int = 0, attention: str = "sdpa", **overrides):
    """Return a model in evaluation mode, with biases and norms away from 0 and 1, which would hide mistakes."""
    torch.manual_seed(seed)
    model = architecture(tiny_config(**overrides)).eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_tiny(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **settings) -> Path:
    """Save a classifier with large random weights, and a tokenizer that fits it; return the folder."""
    settings = {"vocab_size": 300, "pad_token_id": 1, "eos_token_id": 0, **settings}
    tokenizer = tokenizer or train_tokenizer(read_messages(small_data.MESSAGES)["text"][:100], settings["vocab_size"])
    save_classifier(build(**settings), tokenizer, folder)
    return folder


def lay(messages: list[list[int]], where: list[list[int]], width: int, junk: int = PAD):
    """Return ids and mask (B, width): message i is at the positions `where[i]`, `junk` everywhere else."""
    ids, mask = torch.full((len(messages), width), junk), torch.zeros(len(messages), width, dtype=torch.long)
    for row, (message, positions) in enumerate(zip(messages, where, strict=True)):
        ids[row, positions] = torch.tensor(message, dtype=torch.long)
        mask[row, positions] = 1
    return ids, mask


def right(messages: list[list[int]], junk: int = PAD):
    """Return ids and mask of messages padded on the right."""
    return lay(messages, [list(range(len(m))) for m in messages], max(map(len, messages)), junk)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=tolerance, rtol=tolerance)
