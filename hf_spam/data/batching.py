"""Batch texts as token ids, and compute a model's logits for them.

The model itself handles `padded_length` and pooling, so a batch only has to be rectangular.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .tokenization import encode

# Elements in the widest activation of a batch: small enough for a CPU's cache (8 MB), large enough to keep an
# accelerator busy (1 GB; see docs/training.md).
CPU_BATCH, ACCELERATOR_BATCH = 2**21, 2**28


@dataclass(eq=False)
class EncodedMessages(Dataset):
    """Dataset of the token ids and class index of each message, and its probability of class 1 (`targets`)."""

    input_ids: Sequence[Sequence[int]]
    labels: Sequence[int]
    targets: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Sequence[int] | int | float]:
        targets = {} if self.targets is None else {"targets": self.targets[index]}
        return {"input_ids": self.input_ids[index], "labels": self.labels[index], **targets}


def pad_batch(ids: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-pad token ids to the longest message: `input_ids` and `attention_mask` (B, T) in int64, T at least 1."""
    lengths = torch.tensor([len(message) for message in ids])
    shape = (len(ids), max(1, int(lengths.max())))
    attention_mask = torch.arange(shape[1]) < lengths[:, None]
    input_ids = torch.full(shape, pad_token_id)
    # np.fromiter is faster than torch.tensor of a list.
    input_ids[attention_mask] = torch.from_numpy(np.fromiter(chain.from_iterable(ids), np.int64))
    return {"input_ids": input_ids, "attention_mask": attention_mask.long()}


@dataclass(frozen=True)
class PadRight:
    """Collate encoded messages with `pad_batch`, adding `labels` and `targets` (B,) if present."""

    pad_token_id: int

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        batch = pad_batch([example["input_ids"] for example in examples], self.pad_token_id)
        for name in {"labels", "targets"} & examples[0].keys():
            batch[name] = torch.tensor([example[name] for example in examples])
        return batch


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of messages of similar length, a batch at a time, shortest first.

    A batch has at most `batch_tokens` tokens, padding included; a longer message gets a batch of its own.
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
    """Return the fastest number of tokens per batch for a model of this width (682 for GPT-2 124M on a CPU)."""
    widest = max(getattr(config, "n_inner", None) or 0, 4 * config.hidden_size)
    return max(1, (CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH) // widest)


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Return the logits of each text, (N, num_labels) in float32 on the CPU, in the order of the texts.

    The model is a SpamGPT classifier in evaluation mode, or an `OnnxModel`.
    """
    config = model.config
    logits = torch.empty(len(texts), config.num_labels)
    ids = encode(tokenizer, texts, config.max_tokens)
    lengths = [config.laid_out_length(len(message)) for message in ids]
    with tqdm(total=len(texts), desc="Classifying", unit="message", disable=not progress) as bar:
        for chosen in length_batches(lengths, batch_tokens_for(config, model.device)):
            batch = pad_batch([ids[i] for i in chosen], config.pad_token_id)
            outputs = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            logits[chosen] = outputs.logits.float().cpu()
            bar.update(len(chosen))
    if not logits.isfinite().all():
        raise ValueError("The model returned NaN or infinite logits: its weights are damaged.")
    return logits
