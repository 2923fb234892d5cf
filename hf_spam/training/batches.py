"""The batches of a run: of which messages, in which order, and from where on.

Every order of the training, and of the evaluations beside it, is drawn from one generator, as in the book's loop.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import DatasetDict
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from transformers import PreTrainedTokenizerBase

from ..data.augmentation import Augmentation
from ..data.batching import EncodedMessages, PadRight, token_batches
from ..data.tokenization import encode
from ..modeling.configuration_spam_gpt import class_names
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .frozen_prefix import AfterPrefix, collate_prefixed, compute_prefix, frozen_blocks
from .recipes import Recipe

Batch = dict[str, torch.Tensor]


class Batches:
    """The loaders of a run, prepared by Accelerate.

    Attributes:
        rng: the generator of all orders.
        network: what the batches are for: the model, or what follows its frozen blocks.
        names: of the classes.
        encoded: the messages of each split as ids.
        evaluation: a loader for each split, of the training's batch size; the training messages are shuffled.
        whole: a loader for each split that goes through all of it, in an order of its own, and draws no number.
        steps_per_epoch: optimizer steps in a pass over the training messages.

    Raises:
        ValueError: there are too few training messages for a batch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: Recipe,
        model: SpamGPTForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        data: DatasetDict,
    ):
        config = model.config
        self.recipe = recipe
        self.names = class_names(config)
        self.max_length = config.padded_length or config.n_positions
        # Columns are taken as lists: read one by one, each value would be formatted anew.
        self.texts = data["train"]["text"][:]
        self.encoded = {
            split: EncodedMessages(encode(tokenizer, messages["text"][:], self.max_length), messages["label"][:])
            for split, messages in data.items()
        }
        self.augmentation = Augmentation(
            tokenizer,
            case=recipe.case_augmentation,
            digits=recipe.digit_augmentation,
            bpe_dropout=recipe.bpe_dropout,
        )
        self.rng = torch.Generator()
        global_batch_size = recipe.per_device_train_batch_size * accelerator.num_processes
        if len(self.texts) < global_batch_size:
            raise ValueError(f"{len(self.texts)} training messages do not fill one batch of {global_batch_size}.")
        self.network: nn.Module = model
        collate, parts = PadRight(config.pad_token_id), dict(self.encoded)
        # Training reads a set of its own: with augmentation its ids change from epoch to epoch, those evaluated do not.
        self.train_set = EncodedMessages(parts["train"].input_ids, parts["train"].labels)
        train_part = self.train_set
        if blocks := frozen_blocks(model, recipe):
            collate, self.network = collate_prefixed, AfterPrefix(model, blocks)
            dtype = torch.bfloat16 if recipe.prefix_precision == "bf16" else torch.float32
            parts = {
                split: compute_prefix(accelerator, model, blocks, part, split, dtype) for split, part in parts.items()
            }
            train_part = parts["train"]
        lengths = [config.padded_length or len(ids) for ids in self.encoded["train"].input_ids]

        def prepared(messages: Dataset, **settings: Any) -> DataLoader:
            # The loader is given the generator too, since it draws a number from it at the start of each pass.
            return accelerator.prepare(DataLoader(messages, collate_fn=collate, **{"generator": self.rng, **settings}))

        def loader(messages: Dataset, shuffle: bool, labels: Sequence[int] | None = None) -> DataLoader:
            grouped = lengths if recipe.train_sampling_strategy == "group_by_length" else None
            sampler = SeededShuffle(len(messages), global_batch_size, self.rng, grouped, labels) if shuffle else None
            return prepared(messages, batch_size=recipe.per_device_train_batch_size, sampler=sampler, drop_last=shuffle)

        def whole(split: str, messages: Dataset) -> DataLoader:
            # Like lengths together, which changes nothing but the time. From the global generator, which is dropout's,
            # the loader would draw a number: it is given one of its own.
            ids = self.encoded[split].input_ids
            order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
            return prepared(Subset(messages, order), batch_size=32, generator=torch.Generator())

        if recipe.train_batch_tokens is None:
            self._train = loader(train_part, True, parts["train"].labels if recipe.balanced_sampling else None)
        else:
            sampler = SeededTokenBatches(lengths, recipe.train_batch_tokens, self.rng)
            self._train = prepared(train_part, batch_sampler=sampler)
            if not len(self._train):
                raise ValueError("The training messages do not fill a batch of train_batch_tokens on each process.")
        self.evaluation = {split: loader(part, shuffle=split == "train") for split, part in parts.items()}
        self.whole = {split: whole(split, part) for split, part in parts.items()}
        self.steps_per_epoch = -(-len(self._train) // recipe.gradient_accumulation_steps)

    def epoch(
        self, epoch: int, steps: int, done: int = 0, restore_random: Callable[[], None] | None = None
    ) -> Iterator[Batch]:
        """The training batches of an epoch, counted from 1.

        Args:
            epoch: its number, of which the augmentation depends.
            steps: optimizer steps that are left for it and all that follow.
            done: batches at its start that are left out, since an earlier process went through them.
            restore_random: sets the random state to what it was after those, once their order is drawn.
        """
        if self.augmentation:
            self.train_set.input_ids = [
                self.augmentation.encode(text, f"{self.recipe.seed} {epoch} {i}", self.max_length)
                for i, text in enumerate(self.texts)
            ]
        batches = first(self._train, steps * self.recipe.gradient_accumulation_steps)
        for _ in islice(batches, done):
            pass
        if restore_random is not None:
            restore_random()
        yield from batches


class SeededShuffle(Sampler[int]):
    """A new order at each pass, drawn from `rng` as `DataLoader(shuffle=True)` draws it from the global generator.

    With `lengths`, batches hold messages of like length: windows of `WINDOW` batches are sorted, and the batches
    shuffled. With `labels`, each of them is drawn equally often, and so is each message of a label, in both cases but
    for one.
    """

    WINDOW = 16

    def __init__(
        self,
        size: int,
        batch_size: int,
        rng: torch.Generator,
        lengths: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
    ):
        self.size, self.batch_size, self.rng, self.lengths, self.labels = size, batch_size, rng, lengths, labels

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_draw_seed(self.rng))
        order = torch.randperm(self.size, generator=generator)
        if self.labels is not None:
            order = _equally_often(torch.tensor(self.labels), generator)[order]
        order = order.tolist()
        if self.lengths is None:
            yield from order
            return
        window = self.WINDOW * self.batch_size
        order = [
            index
            for start in range(0, self.size, window)
            for index in sorted(order[start : start + window], key=self.lengths.__getitem__)
        ]
        whole = self.size - self.size % self.batch_size  # what is left over fills no batch and is dropped
        batches = [order[start : start + self.batch_size] for start in range(0, whole, self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]


class SeededTokenBatches(Sampler[list[int]]):
    """Batches of like length and of a number of tokens, in a new order at each pass, with new neighbours.

    Which messages of one length are together is drawn anew; how many are to a batch is not, so that every pass has as
    many batches. Arguments as for `token_batches`; all orders are drawn from `rng`.
    """

    batch_size = None  # Accelerate asks for it; with None and drop_last it leaves out what does not go round
    drop_last = True

    def __init__(self, lengths: Sequence[int], batch_tokens: int, rng: torch.Generator):
        self.lengths, self.batch_tokens, self.rng = lengths, batch_tokens, rng
        self.batches = sum(1 for _ in token_batches(lengths, batch_tokens))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_draw_seed(self.rng))
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches = list(token_batches([self.lengths[i] for i in order], self.batch_tokens))
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield [order[place] for place in batches[i]]


def _equally_often(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Indices of messages, (N,), label by label in turn: those of each come in whole rounds, in new orders, cut off."""
    classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    share = -(-len(labels) // len(classes))
    drawn = [
        torch.cat(
            [members[torch.randperm(len(members), generator=generator)] for _ in range(-(-share // len(members)))]
        )[:share]
        for members in classes
    ]
    return torch.stack(drawn, 1).flatten()[: len(labels)]


def _draw_seed(rng: torch.Generator) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=rng))


def first(loader: DataLoader, batches: int | None) -> Iterator[Batch]:
    """The first batches of a pass over a loader; None: all."""
    if batches is None or batches >= len(loader):
        yield from loader
    else:
        yield from islice(loader, batches)
        # Left early, a loader of Accelerate's stays the active one, and the end of the training's is not noticed.
        loader.end()
