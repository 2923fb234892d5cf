"""Token ids to batches. The model lays messages out (`padded_length`, pooling): a batch only has to be a rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset


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
        input_ids[attention_mask] = torch.tensor([i for example in examples for i in example["input_ids"]]).long()
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch
