"""Split messages into train, validation and test, like the book or without shared duplicates, and into folds."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sklearn.model_selection import StratifiedGroupKFold

from .formats import DataError

SPLITS = ("train", "validation", "test")


def grouped_folds(dataset: Dataset, k: int = 5, seed: int = 123) -> Iterator[tuple[Dataset, Dataset]]:
    """Split a dataset into k pairs of train and test sets for cross-validation.

    The folds are stratified by label, and messages of the same `group`, such as duplicates (see `duplicate_key`), are
    in the same fold. Every message is in exactly one of the k test sets.
    """
    folds = _folds(dataset, k, seed, f"{k} folds need {k}")
    rows = np.arange(len(dataset))
    return ((dataset.select(np.setdiff1d(rows, fold)), dataset.select(fold)) for fold in folds)


def digest(messages: Dataset, *columns: Sequence[Any]) -> str:
    """Return the sha256 of messages, their labels and class names, and further columns such as token ids, in order."""
    sha256 = hashlib.sha256(f"{messages.features['label'].names}\n".encode("utf-8", "surrogatepass"))
    for row in zip(messages["text"][:], messages["label"][:], *columns, strict=True):
        sha256.update(f"{row}\n".encode("utf-8", "surrogatepass"))
    return sha256.hexdigest()


def fingerprints(data: DatasetDict) -> dict[str, dict[str, Any]]:
    """Return the number of messages and the digest of each split, which identify it without revealing it."""
    return {split: {"messages": len(messages), "sha256": digest(messages)} for split, messages in data.items()}


def book_split(labels: Sequence[int], seed: int) -> list[np.ndarray]:
    """Return the row indices of the book's three splits: sample every class down to the rarest, shuffle, cut."""
    labels = pd.Series(labels)
    # To reproduce the book's rows, take the larger classes first, keep the rarest as it is, and sample with pandas.
    counts = labels.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    *larger, rarest = (pd.Series(np.flatnonzero(labels == label)) for label in counts.index)
    balanced = pd.concat([*(rows.sample(len(rarest), random_state=seed) for rows in larger), rarest])
    shuffled = balanced.sample(frac=1, random_state=seed).to_numpy()
    train_end = int(0.7 * len(shuffled))
    validation_end = train_end + int(0.1 * len(shuffled))
    if validation_end == train_end:
        needed = -(-10 // len(counts))
        raise DataError(f"the book's split needs {needed} messages of each label; the rarest one has {len(rarest)}")
    return [shuffled[:train_end], shuffled[train_end:validation_end], shuffled[validation_end:]]


def full_split(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Return the row indices of a 70/10/20 split without shared duplicates: 7, 1 and 2 of ten folds."""
    folds = _folds(dataset, 10, seed, "a 70/10/20 split needs 10")
    return [np.sort(np.concatenate(part)) for part in (folds[:7], folds[7:8], folds[8:])]


def _folds(dataset: Dataset, k: int, seed: int, need: str) -> list[np.ndarray]:
    """Return the row indices of k folds, stratified by label, with each group in one fold."""
    if k < 2:
        raise DataError(f"at least 2 folds are needed, not {k}")
    labels, groups = (np.array(dataset[name][:]) for name in ("label", "group"))
    for label, name in enumerate(dataset.features["label"].names):
        distinct = len(np.unique(groups[labels == label]))
        if 0 < distinct < k:  # a ClassLabel may have classes without messages
            counted, total = f"{name!r} has {distinct}", int((labels == label).sum())
            if distinct < total:
                counted += (
                    f" ({total} messages, but those that differ only in case, digits or punctuation count as one)"
                )
            raise DataError(f"{need} different messages of each label; {counted}: add some")
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(labels, labels, groups)]
