"""Compute frozen blocks once: training and its evaluations start from their output.

In recipe `book` eleven of twelve blocks are frozen, and their output for a message is the same in every epoch.
"""

import copy
import logging
import tempfile
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.modeling_outputs import SequenceClassifierOutput

from ..data.batching import EncodedMessages, batch_tokens_for, length_batches, pad_batch
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel
from .recipes import Recipe

logger = logging.getLogger(__name__)

# Settings that change the output of frozen blocks from step to step, or the messages.
RANDOM_SETTINGS = (
    "dropout",
    "attention_dropout",
    "case_augmentation",
    "digit_augmentation",
    "bpe_dropout",
    "replay_messages",
    "adversarial_epsilon",
    "spliced_messages",
)
MEMORY_BUDGET = 2 * 2**30  # bytes of hidden states per split; more are mapped from a file


def frozen_blocks(model: SpamGPTForSequenceClassification, recipe: Recipe) -> int:
    """Return how many blocks, counted from the first, have the same output for a message at every step.

    Returns 0, and says so in the log, if one of `RANDOM_SETTINGS` is used.
    """
    gpt = model.gpt
    below = [gpt.tok_emb, gpt.pos_emb]
    frozen = 0
    for block in gpt.trf_blocks[:-1]:
        below.append(block)
        if any(parameter.requires_grad for layer in below for parameter in layer.parameters()):
            break
        frozen += 1
    if frozen and (found := [name for name in RANDOM_SETTINGS if getattr(recipe, name)]):
        logger.info("The %d frozen blocks are computed at every step, because of %s.", frozen, " and ".join(found))
        return 0
    return frozen


class PrefixedMessages(Dataset):
    """Messages represented by the hidden states that enter the first trained block.

    `states` holds those of all messages, one after the other, (positions, C), and `starts` the first row of each
    message, followed by the number of rows. `lengths` counts the real tokens of each message.
    """

    def __init__(self, states: torch.Tensor, starts: Sequence[int], lengths: Sequence[int], labels: Sequence[int]):
        self.states, self.starts, self.lengths, self.labels = states, starts, lengths, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        states = self.states[self.starts[index] : self.starts[index + 1]]
        return {"hidden_states": states, "lengths": self.lengths[index], "labels": self.labels[index]}


def collate_prefix(examples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Collate prefixed messages into `hidden_states` (B, L, C), zero-padded, `lengths` and `labels`."""
    states = nn.utils.rnn.pad_sequence([example["hidden_states"] for example in examples], batch_first=True)
    return {
        "hidden_states": states.float(),  # stored states may be bfloat16; the trained blocks are float32
        "lengths": torch.tensor([example["lengths"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


class AfterPrefix(nn.Module):
    """The classifier without its first blocks; shares its modules with the model."""

    def __init__(self, model: SpamGPTForSequenceClassification, blocks: int):
        super().__init__()
        remaining = {"pos_emb": _Zero(), "drop_emb": nn.Identity(), "trf_blocks": model.gpt.trf_blocks[blocks:]}
        self.classifier = _copy_with(model, gpt=_copy_with(model.gpt, **remaining))

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor) -> SequenceClassifierOutput:
        """Classify messages from the hidden states (B, L, C) that enter the block."""
        return self.classifier.read(hidden_states, lengths)


@torch.no_grad()
def compute_prefix(
    accelerator: Accelerator,
    model: SpamGPTForSequenceClassification,
    blocks: int,
    messages: EncodedMessages,
    split: str,
    dtype: torch.dtype = torch.float32,
) -> PrefixedMessages:
    """Compute the output of the first blocks for all messages of a split, on every process."""
    config = model.config
    real = [min(max(1, len(ids)), config.max_tokens) for ids in messages.input_ids]
    read = [config.laid_out_length(len(ids)) for ids in messages.input_ids]
    starts = [0, *torch.tensor(read).cumsum(0).tolist()]
    states = _storage((starts[-1], config.n_embd), dtype)
    prefix: SpamGPTModel = _copy_with(model.gpt, trf_blocks=model.gpt.trf_blocks[:blocks], final_norm=nn.Identity())
    if dtype != torch.float32:
        prefix = copy.deepcopy(prefix).to(dtype)
    prefix.to(accelerator.device).eval()
    batches = list(length_batches(read, batch_tokens_for(config, accelerator.device)))
    hidden = None if accelerator.is_local_main_process else True  # None: show it on a terminal only
    for chosen in tqdm(batches, desc=f"Frozen blocks, {split}", unit="batch", disable=hidden):
        batch = pad_batch([messages.input_ids[i] for i in chosen], config.pad_token_id)
        tokens, lengths = model.lay_out(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()})
        with accelerator.autocast():
            output = prefix(tokens, model.attention_mask(tokens, lengths)).last_hidden_state
        for i, row in zip(chosen, output.cpu(), strict=True):
            states[starts[i] : starts[i + 1]] = row[: read[i]]
    return PrefixedMessages(states, starts, real, messages.labels)


def _storage(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Allocate hidden states in memory, or in a file if they are many."""
    size = shape[0] * shape[1]
    if size * dtype.itemsize <= MEMORY_BUDGET:
        return torch.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="hf-spam-") as file:  # unlinked at once; the mapping keeps its content
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(shape)


def _copy_with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a copy of a module that shares everything but these children."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin


class _Zero(nn.Module):
    """Replaces the position embedding, which the hidden states already contain."""

    def forward(self, positions: torch.Tensor) -> float:
        return 0.0
