"""Splits of messages into train, validation and test: the book's, and one without shared duplicates."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sklearn.model_selection import StratifiedGroupKFold

from .duplicates import duplicate_groups
from .formats import DataError

SPLITS = ("train", "validation", "test")


def grouped_folds(
    dataset: Dataset, k: int = 5, seed: int = 123, needed_by: str | None = None
) -> Iterator[tuple[Dataset, Dataset]]:
    """Cut a dataset into k (default 5) train and test pairs for cross-validation.

    The folds are stratified by label, and duplicates (see `duplicate_key`) are never on both sides. Every message is
    in exactly one of the k test sets.

    Args:
        dataset: the messages.
        k: how many folds.
        seed: of the shuffling.
        needed_by: what the folds are for, where nobody has asked for folds; an error says so.

    Raises:
        DataError: k is below 2, or a label has fewer than k different messages.
    """
    folds = _folds(dataset, k, seed, needed_by)
    everything = np.arange(len(dataset))
    return ((dataset.select(np.setdiff1d(everything, fold)), dataset.select(fold)) for fold in folds)


def undersample(messages: Dataset, seed: int) -> Dataset:
    """As many messages of each class as the rarest has, drawn as the book draws them, in the order they stand in."""
    return messages.select(np.sort(_as_many_of_each(messages["label"][:], seed).to_numpy()))


def digest(messages: "Dataset", *columns: Sequence[Any]) -> str:
    """The sha256 of messages and their labels, in their order.

    Args:
        messages: with columns `text` and `label`, a `ClassLabel`, whose names count too.
        columns: what else belongs to each message, such as its ids.
    """
    found = hashlib.sha256(f"{messages.features['label'].names}\n".encode("utf-8", "surrogatepass"))
    for row in zip(messages["text"][:], messages["label"][:], *columns, strict=True):
        found.update(f"{row}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def fingerprints(data: "DatasetDict") -> dict[str, dict[str, Any]]:
    """By what the messages of each split can be known again, without telling what they are: number and digest."""
    return {split: {"messages": len(messages), "sha256": digest(messages)} for split, messages in data.items()}


def _as_many_of_each(labels: Sequence[int], seed: int) -> pd.Series:
    """Row numbers of as many messages of each class as the rarest has, class by class."""
    labels = pd.Series(labels)
    # The order (larger classes first, the rarest as it is) and the call of pandas decide which rows come out: for two
    # classes they are the book's.
    counts = labels.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    *larger, rarest = (pd.Series(np.flatnonzero(labels == label)) for label in counts.index)
    return pd.concat([*(rows.sample(len(rarest), random_state=seed) for rows in larger), rarest])


def _book_split(labels: Sequence[int], seed: int) -> list[np.ndarray]:
    """Row numbers of the book's three splits: sample the larger classes down, shuffle, cut."""
    shuffled = _as_many_of_each(labels, seed).sample(frac=1, random_state=seed).to_numpy()
    train_end = int(0.7 * len(shuffled))
    validation_end = train_end + int(0.1 * len(shuffled))
    if validation_end == train_end:
        classes = len(set(labels))
        needed, rarest = -(-10 // classes), len(shuffled) // classes
        raise DataError(f"the book's split needs {needed} messages of each label; the rarest one has {rarest}")
    return [shuffled[:train_end], shuffled[train_end:validation_end], shuffled[validation_end:]]


def _full_split(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Row numbers of a 70/10/20 split without shared duplicates: ten folds, dealt out 7, 1 and 2."""
    folds = _folds(dataset, 10, seed, needed_by="a 70/10/20 split needs 10")
    return [np.sort(np.concatenate(part)) for part in (folds[:7], folds[7:8], folds[8:])]


def _folds(dataset: Dataset, k: int, seed: int, needed_by: str | None = None) -> list[np.ndarray]:
    """Row numbers of k folds, stratified by label, each group of duplicates within one fold."""
    if k < 2:
        raise DataError(f"at least 2 folds are needed, not {k}")
    labels = np.array(dataset["label"][:])
    groups = duplicate_groups(dataset["text"][:])
    names = list(dataset.features["label"].names)
    for label, name in enumerate(names):
        # A ClassLabel may know classes of which there are no messages.
        if (distinct := len(np.unique(groups[labels == label]))) < k and (labels == label).any():
            fault = f"{needed_by or f'{k} folds need {k}'} different messages of each label; {name!r} has {distinct}"
            if needed_by:
                fault += ": add some" if len(names) == 2 else ": add some, or leave those of this label out"
            raise DataError(fault)
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(labels, labels, groups)]
