"""Data loaders of a run, prepared by Accelerate.

One generator draws the order of messages for training and for the evaluations in between, as in the book's loop.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ..data.batching import EncodedMessages, PadRight
from ..data.tokenization import encode
from .frozen_prefix import collate_prefix, compute_prefix, frozen_blocks, without_prefix
from .setup import Setup

Batch = dict[str, torch.Tensor]


class Loaders:
    """Data loaders for training and evaluation of the `network`: the model, or the part of it after its frozen blocks.

    `evaluation` maps each split to a loader that is batched as in the book, with `train` shuffled. `by_length` maps it
    to a loader of all its messages, sorted by length for speed, and the indices of this order.
    """

    def __init__(self, accelerator: Accelerator, setup: Setup):
        recipe, config, (extra, targets) = setup.recipe, setup.model.config, setup.extra
        self.setup, self.rng, self.max_tokens = setup, torch.Generator(), config.max_tokens
        self.texts = [*setup.splits["train"]["text"][:], *extra]
        ids, labels = setup.encoded["train"].input_ids, setup.encoded["train"].labels
        # Augmentation changes these ids in each epoch; evaluation keeps the original ones.
        self._augmented = EncodedMessages(ids, labels)
        if extra:
            ids = [*ids, *encode(setup.tokenizer, extra, self.max_tokens)]
            self._augmented = EncodedMessages(ids, [*labels, *map(round, targets)], [*map(float, labels), *targets])
        self.network: nn.Module = setup.model
        collate, parts, train_part = PadRight(config.pad_token_id), setup.encoded, self._augmented
        if blocks := frozen_blocks(setup.model, recipe):
            collate, self.network = collate_prefix, without_prefix(setup.model, blocks)
            parts = {split: compute_prefix(accelerator, setup.model, blocks, part) for split, part in parts.items()}
            train_part = parts["train"]

        def prepare(messages: Dataset, **settings: Any) -> DataLoader:
            # Each pass draws one number from the loader's generator; in the book it comes from the global one.
            return accelerator.prepare(DataLoader(messages, collate_fn=collate, **{"generator": self.rng, **settings}))

        def read_lengths(messages: Sequence[Sequence[int]]) -> list[int]:
            return [config.laid_out_length(len(message)) for message in messages]

        count, batch_size = len(labels), recipe.per_device_train_batch_size
        self.global_batch = batch_size * accelerator.num_processes
        lengths = read_lengths(ids) if recipe.train_sampling_strategy == "group_by_length" else None
        sampler = SeededShuffle(len(ids), self.global_batch, self.rng, lengths)
        self.train = prepare(train_part, batch_size=batch_size, sampler=sampler, drop_last=True)
        self._sampler = SeededShuffle(count, self.global_batch, self.rng, lengths and lengths[:count])
        shuffled = {"sampler": self._sampler, "drop_last": count >= self.global_batch}
        self.evaluation, self.by_length = {}, {}
        for split, part in parts.items():
            how = shuffled if split == "train" else {}
            self.evaluation[split] = prepare(part, batch_size=batch_size, **how)
            order = torch.tensor(read_lengths(setup.encoded[split].input_ids)).argsort(stable=True)
            # Its own generator keeps a pass from drawing from the global one.
            loader = prepare(Subset(part, order.tolist()), batch_size=32, generator=torch.Generator())
            self.by_length[split] = loader, order

    def training_batches(self, epoch: int, steps: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, for at most `steps` optimizer steps; augmentation varies by epoch."""
        recipe, augmentation = self.setup.recipe, self.setup.augmentation
        if augmentation:
            self._augmented.input_ids = [
                augmentation.encode(text, f"{recipe.seed} {epoch} {i}", self.max_tokens)
                for i, text in enumerate(self.texts)
            ]
        return first_batches(self.train, steps * recipe.gradient_accumulation_steps)

    def draw_training_messages(self) -> list[int]:
        """Draw the indices of one more pass over the training loader, which drops the last short batch."""
        _draw_seed(self.rng)  # a pass over the loader draws this number too
        order = list(self._sampler)
        return order[: len(order) - len(order) % self.global_batch or None]


class SeededShuffle(Sampler[int]):
    """Draw a new order at each pass from `rng`, as `DataLoader(shuffle=True)` draws it from the global generator.

    With `lengths`, windows of `WINDOW` batches are sorted by them, then the batches are shuffled.
    """

    WINDOW = 16

    def __init__(self, size: int, batch_size: int, rng: torch.Generator, lengths: Sequence[int] | None = None):
        self.size, self.batch_size, self.rng, self.lengths = size, batch_size, rng, lengths

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_draw_seed(self.rng))
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            yield from order
            return
        window = self.WINDOW * self.batch_size
        windows = (order[start : start + window] for start in range(0, self.size, window))
        order = [index for part in windows for index in sorted(part, key=self.lengths.__getitem__)]
        whole = self.size - self.size % self.batch_size or self.size  # the loader drops the last short batch
        batches = [order[start : start + self.batch_size] for start in range(0, whole, self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]


def first_batches(loader: DataLoader, batches: int | None) -> Iterator[Batch]:
    """Yield the first batches of a pass over a prepared loader; None: all."""
    if batches is None or batches >= len(loader):
        yield from loader
    else:
        yield from islice(loader, batches)
        loader.end()  # otherwise Accelerate mistakes the abandoned loader for the active one


def _draw_seed(rng: torch.Generator) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=rng))
