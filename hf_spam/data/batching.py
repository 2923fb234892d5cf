"""Token ids to batches. The model lays messages out (`padded_length`, pooling): a batch only has to be a rectangle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

# Numbers in the widest activation of a batch. On a CPU they are to stay in its cache (8 MB), an accelerator is to be
# filled.
CPU_BATCH, ACCELERATOR_BATCH = 2**21, 2**26


class EncodedMessages(Dataset):
    """Messages as token ids with their labels.

    Args:
        input_ids: the ids of each message.
        labels: the class index of each message.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], labels: Sequence[int]):
        self.input_ids = input_ids
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Sequence[int] | int]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class PadRight:
    """Collates encoded messages into `input_ids` and `attention_mask` (B, T) and, where they have them, `labels` (B,).

    T is the length of the longest message, at least 1.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        shape = (len(examples), max(1, int(lengths.max())))
        attention_mask = torch.arange(shape[1]) < lengths[:, None]
        input_ids = torch.full(shape, self.pad_token_id)
        ids = chain.from_iterable(example["input_ids"] for example in examples)
        input_ids[attention_mask] = torch.from_numpy(np.fromiter(ids, np.int64))  # faster than torch.tensor of a list
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of messages in batches of like length, the shortest first, which holds padding down.

    Args:
        lengths: of each message.
        batch_tokens: tokens to a batch, pads included. A message that is longer than this is a batch by itself.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * max(1, lengths[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def batch_tokens_for(config: PreTrainedConfig, device: torch.device) -> int:
    """The tokens to a batch at which a model of this width computes fastest: 682 for GPT-2 124M on a CPU."""
    inner = getattr(config, "n_inner", None) or 4 * config.hidden_size
    return max(1, (CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH) // inner)
