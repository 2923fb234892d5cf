"""Compute frozen blocks once: training and its evaluations start from their output.

In recipe `book` eleven of twelve blocks are frozen, and their output for a message is the same in every epoch.
"""

import copy
import logging
import tempfile
from collections.abc import Sequence
from itertools import takewhile

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from ..data.batching import EncodedMessages, batch_tokens_for, length_batches, pad_batch
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel
from .settings import Recipe

logger = logging.getLogger(__name__)

# Settings that change the output of frozen blocks from step to step, or the messages.
RANDOM_SETTINGS = (
    *("dropout", "case_augmentation", "digit_augmentation", "bpe_dropout", "adversarial_epsilon"),
    *("replay_messages", "spliced_messages"),
)
MEMORY_BUDGET = 2 * 2**30  # bytes of hidden states per split; more are mapped from a file


def frozen_blocks(model: SpamGPTForSequenceClassification, recipe: Recipe) -> int:
    """Return how many blocks, counted from the first, have the same output for a message at every step."""

    def is_frozen(layer: nn.Module) -> bool:
        return not any(parameter.requires_grad for parameter in layer.parameters())

    gpt = model.gpt
    layers = list(takewhile(is_frozen, (gpt.tok_emb, gpt.pos_emb, *gpt.trf_blocks[:-1])))
    frozen = max(0, len(layers) - 2)
    if frozen and (found := [name for name in RANDOM_SETTINGS if getattr(recipe, name)]):
        logger.info("The %d frozen blocks are computed at every step, because of %s.", frozen, " and ".join(found))
        return 0
    return frozen


def collate_prefix(examples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Collate the results of `compute_prefix` into `tokens` (B, L, C), zero-padded, `lengths` and `labels`."""
    states = nn.utils.rnn.pad_sequence([example["tokens"] for example in examples], batch_first=True)
    numbers = {name: torch.tensor([example[name] for example in examples]) for name in ("lengths", "labels")}
    return {"tokens": states, **numbers}


def without_prefix(model: SpamGPTForSequenceClassification, blocks: int) -> SpamGPTForSequenceClassification:
    """Return the classifier without its first blocks: it shares its modules with the model, and can only `read`."""
    # Positions are in the hidden states already.
    nothing = nn.Embedding.from_pretrained(torch.zeros_like(model.gpt.pos_emb.weight))
    return _copy_with(model, gpt=_copy_with(model.gpt, pos_emb=nothing, trf_blocks=model.gpt.trf_blocks[blocks:]))


@torch.no_grad()
def compute_prefix(
    accelerator: Accelerator, model: SpamGPTForSequenceClassification, blocks: int, messages: EncodedMessages
) -> list[dict]:
    """Compute the output of the first blocks for all messages of a split, on every process.

    Returns for each message the hidden states in place of its `tokens` (L, C), its number of real tokens (`lengths`),
    and its label (`labels`).
    """
    config = model.config
    read = [config.laid_out_length(len(ids)) for ids in messages.input_ids]
    states = _storage(sum(read), config.n_embd).split(read)
    prefix: SpamGPTModel = _copy_with(model.gpt, trf_blocks=model.gpt.trf_blocks[:blocks], final_norm=nn.Identity())
    prefix.to(accelerator.device).eval()
    batches = list(length_batches(read, batch_tokens_for(config, accelerator.device)))
    hidden = not accelerator.is_local_main_process or None  # None: show it on a terminal only
    examples: list[dict] = [{}] * len(read)
    for chosen in tqdm(batches, desc="Frozen blocks", unit="batch", disable=hidden):
        batch = pad_batch([messages.input_ids[i] for i in chosen], config.pad_token_id)
        tokens, lengths = model.lay_out(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()})
        with accelerator.autocast():
            output = prefix(tokens, model.attention_mask(tokens, lengths)).last_hidden_state
        for i, row, length in zip(chosen, output.cpu(), lengths.tolist(), strict=True):
            states[i].copy_(row[: read[i]])
            examples[i] = {"tokens": states[i], "lengths": length, "labels": messages.labels[i]}
    return examples


def _storage(rows: int, width: int) -> torch.Tensor:
    """Allocate hidden states in float32 in memory, or in a file if they are many."""
    size = rows * width
    if 4 * size <= MEMORY_BUDGET:
        return torch.empty(rows, width)
    with tempfile.NamedTemporaryFile(prefix="hf-spam-") as file:  # unlinked at once; the mapping keeps its content
        return torch.from_file(file.name, shared=True, size=size).view(rows, width)


def _copy_with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a copy of a module that shares everything but these children."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin
