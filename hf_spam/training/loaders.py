"""Data loaders of a run, prepared by Accelerate.

One generator draws the order of messages for training and for the evaluations in between, as in the book's loop.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import DatasetDict
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from transformers import PreTrainedTokenizerBase

from ..data.augmentation import Augmentation
from ..data.batching import EncodedMessages, PadRight
from ..data.tokenization import encode
from .frozen_prefix import AfterPrefix, collate_prefix, compute_prefix, frozen_blocks
from .recipes import Recipe
from .setup import Setup

Batch = dict[str, torch.Tensor]


class Loaders:
    """Data loaders for training and evaluation.

    Attributes:
        rng: random generator for the order of messages.
        network: the module that takes the batches: the model, or the part of it after its frozen blocks.
        train: training batches, in a new order at each pass.
        evaluation: evaluation loader of each split, batched as in the book; `train` is shuffled.
        by_length: loader of all messages of each split, sorted by length for speed, and their indices in that order.
        steps_per_epoch: optimizer steps per epoch.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, setup: Setup, data: DatasetDict):
        config, (extra, targets) = setup.model.config, setup.extra
        self.recipe, self.rng, self.max_tokens = recipe, torch.Generator(), config.max_tokens
        self.texts = [*data["train"]["text"][:], *extra]
        self.augmentation = augmentation_for(setup.tokenizer, recipe)
        ids, labels = setup.encoded["train"].input_ids, setup.encoded["train"].labels
        # Augmentation changes these ids in each epoch; evaluation keeps the original ones.
        self._augmented = EncodedMessages(ids, labels)
        if extra:
            ids = [*ids, *encode(setup.tokenizer, extra, self.max_tokens)]
            hard = [int(target > 0.5) for target in targets]
            self._augmented = EncodedMessages(ids, [*labels, *hard], [*map(float, labels), *targets])
        self.network: nn.Module = setup.model
        collate, parts, train_part = PadRight(config.pad_token_id), setup.encoded, self._augmented
        if blocks := frozen_blocks(setup.model, recipe):
            collate, self.network = collate_prefix, AfterPrefix(setup.model, blocks)
            parts = {split: compute_prefix(accelerator, setup.model, blocks, part) for split, part in parts.items()}
            train_part = parts["train"]

        def prepare(messages: Dataset, **settings: Any) -> DataLoader:
            # Each pass draws one number from the loader's generator; in the book it comes from the global one.
            return accelerator.prepare(DataLoader(messages, collate_fn=collate, **{"generator": self.rng, **settings}))

        count, batch_size = len(labels), recipe.per_device_train_batch_size
        global_batch = batch_size * accelerator.num_processes
        grouped = recipe.train_sampling_strategy == "group_by_length"
        lengths = [config.laid_out_length(len(message)) for message in ids] if grouped else None
        sampler = SeededShuffle(len(ids), global_batch, self.rng, lengths)
        self.train = prepare(train_part, batch_size=batch_size, sampler=sampler, drop_last=True)
        self._sampler = SeededShuffle(count, global_batch, self.rng, lengths and lengths[:count])
        self._counted = count - count % global_batch or count
        shuffled = {"sampler": self._sampler, "drop_last": count >= global_batch}
        self.evaluation = {
            split: prepare(part, batch_size=batch_size, **(shuffled if split == "train" else {}))
            for split, part in parts.items()
        }
        self.steps_per_epoch = -(-len(self.train) // recipe.gradient_accumulation_steps)
        self.by_length = {}
        for split, part in parts.items():
            read = [config.laid_out_length(len(message)) for message in setup.encoded[split].input_ids]
            order = torch.tensor(read).argsort(stable=True)
            # Its own generator keeps a pass from drawing from the global one.
            loader = prepare(Subset(part, order.tolist()), batch_size=32, generator=torch.Generator())
            self.by_length[split] = loader, order

    def training_batches(self, epoch: int, steps: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, for at most `steps` optimizer steps; augmentation varies by epoch."""
        if self.augmentation:
            self._augmented.input_ids = [
                self.augmentation.encode(text, f"{self.recipe.seed} {epoch} {i}", self.max_tokens)
                for i, text in enumerate(self.texts)
            ]
        return first_batches(self.train, steps * self.recipe.gradient_accumulation_steps)

    def draw_training_messages(self) -> list[int]:
        """Draw the indices of one more pass over the training loader, which drops the last short batch."""
        _draw_seed(self.rng)  # a pass over the loader draws this number too
        return list(self._sampler)[: self._counted]


def augmentation_for(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Augmentation:
    """Return the augmentation of training messages that a recipe asks for."""
    return Augmentation(
        tokenizer, case=recipe.case_augmentation, digits=recipe.digit_augmentation, bpe_dropout=recipe.bpe_dropout
    )


class SeededShuffle(Sampler[int]):
    """Draw a new order at each pass from `rng`, as `DataLoader(shuffle=True)` draws it from the global generator.

    With `lengths`, batches hold messages of similar length: windows of `WINDOW` batches are sorted, then the batches
    are shuffled.
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
