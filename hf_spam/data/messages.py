"""From a source of labelled messages to a DatasetDict with train, validation and test splits.

Sources: the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0)
and files or Hub datasets of the same shape. The "book" protocol follows chapter 6 of Raschka's *Build a Large Language
Model (From Scratch)*; the "full" protocol keeps every message and puts duplicates on one side of every split.
"""

import importlib.resources
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError
from sklearn.model_selection import StratifiedGroupKFold

from ..printable import first_line, printable, short
from .duplicates import duplicate_groups
from .formats import LABELS, SUFFIXES, Columns, DataError, is_hub_id, parse, suffix_of, table_messages
from .uci import uci_file

logger = logging.getLogger(__name__)

LABEL_NAMES = ["not spam", "spam"]
OWN_DATA = "a DatasetDict"  # the source that is named for data that were handed over, not read
SPLITS = ("train", "validation", "test")
FEW = 5  # training messages of a class, below which it may be none
MOST_LABELS = 1000  # more than that are no classes, but a column of something else


def features_of(names: Sequence[str]) -> Features:
    """The features of messages whose classes have these names, in the order of their indices."""
    return Features({"text": Value("string"), "label": ClassLabel(names=list(names))})


FEATURES = features_of(LABEL_NAMES)


def load_sms_spam(
    source: str | os.PathLike,
    *,
    protocol: Literal["book", "full"] = "full",
    seed: int = 123,
    text_column: str | None = None,
    label_column: str | None = None,
    positive_label: str | None = None,
    classes: Sequence[str] | None = None,
) -> DatasetDict:
    """Read labelled messages and split them 70/10/20.

    Labels that say ham or spam, as words, 0 and 1, or booleans, are read as "not spam" and "spam", and any other is an
    error. Where `label_column` is named, or the column is a `ClassLabel`, other labels are classes under their own
    names: of a `ClassLabel` in its order, else sorted, as numbers where all of them are whole numbers.

    Args:
        source: "sample" (the messages embedded in the package), "uci" (the SMS Spam Collection, downloaded once), the
            path of a .tsv, .csv, .jsonl, .json (JSON lines), .parquet or .zip file, or a Hub dataset id "owner/name".
        protocol: "full" keeps every message, stratifies by label and keeps duplicates (see `duplicate_key`) in one
            split; a Hub dataset's own train, validation and test splits are used as they are. "book" samples the larger
            class (of more than two, every one) down to the smallest and splits without regard to duplicates: on the
            UCI file, the book's very rows (1,045, 149 and 300). A Hub dataset's own splits are mixed and split anew,
            and a warning says so: those that `push_dataset` put there under "book" are read back under "full".
        seed: of the sampling and the shuffling, from 0 to 2**32 - 1.
        text_column: where the texts are. None (the default): in "text", "message", "sms" or "v2".
        label_column: where the labels are. None (the default): in "label", "category", "class" or "v1".
        positive_label: of two labels the one that is sought, as spam is, and comes second. None: spam, or the one that
            comes second in any case.
        classes: the labels that a model knows, which all labels are then to be among, unless they say ham or spam.

    Returns:
        Splits "train", "validation" and "test" with columns `text` (string) and `label` (a `ClassLabel`; 0 "not spam"
        and 1 "spam", unless the classes are others).

    Raises:
        DataError: the source cannot be found, fetched or read, holds too few messages to split, or labels that are
            none.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise DataError(f"the seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    parts = _read(source, protocol, Columns(text_column, label_column), classes, positive_label=positive_label)
    if all(split in parts for split in SPLITS):
        if protocol == "full":
            return DatasetDict({split: parts[split] for split in SPLITS})
        # Not an error, or no Hub dataset could be balanced. But what others have published is measured on its splits.
        logger.warning("%s: its own splits are mixed and split anew; protocol 'full' uses them as they are", source)
    dataset = concatenate_datasets(list(parts.values()))
    try:
        indices = _book_split(dataset["label"][:], seed) if protocol == "book" else _full_split(dataset, seed)
    except DataError as error:
        raise DataError(f"{os.fspath(source)}: {error}") from None
    return DatasetDict({split: dataset.select(rows) for split, rows in zip(SPLITS, indices, strict=True)})


def read_messages(
    source: str | os.PathLike,
    *,
    protocol: Literal["book", "full"] = "full",
    one_label: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
    positive_label: str | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Read all messages of a source without splitting or balancing them.

    Args:
        source: as for `load_sms_spam`; all splits of a Hub dataset are joined.
        protocol: "book" reads a header-less TSV with pandas' default quoting as the book does, which merges a few
            lines of the UCI file into their neighbours (5,572 rows); "full" (the default) reads every line (5,574).
        one_label: whether messages that are all of one label will do.
        text_column, label_column, positive_label, classes: as for `load_sms_spam`.

    Returns:
        One row per message in the source's order, with columns as `load_sms_spam` has them.

    Raises:
        DataError: the source cannot be found, fetched or read.
    """
    columns = Columns(text_column, label_column)
    parts = _read(source, protocol, columns, classes, positive_label=positive_label, one_label=one_label)
    return concatenate_datasets(list(parts.values()))


def read_sets(
    source: str | os.PathLike,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
) -> DatasetDict:
    """Read all messages of a source as they are to be tested on: neither split nor balanced, be they of one label.

    Args:
        source, text_column, label_column, classes: as for `load_sms_spam`.

    Returns:
        The splits of a Hub dataset; of any other source one, which is named after it. Columns as for `read_messages`.

    Raises:
        DataError: the source cannot be found, fetched or read.
    """
    parts = _read(source, "full", Columns(text_column, label_column), classes, one_label=True)
    if list(parts) == ["all"]:
        parts = {Path(source).name: parts["all"]}
    return DatasetDict({name: part for name, part in parts.items() if len(part)})


def label_names(messages: Dataset) -> list[str]:
    """The names of the classes, in the order of their indices."""
    return list(messages.features["label"].names)


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


def check_splits(data: DatasetDict, positive_label: str | None = None) -> DatasetDict:
    """`data` as this package reads it, whatever else it holds: columns `text` and `label`.

    A `ClassLabel` says what the labels mean, as for `load_sms_spam`; integers without one are 0 not spam, 1 spam.
    `positive_label` is as for that, too.

    Raises:
        DataError: there is no split `train`, a split is empty, a column is missing or of another kind, the splits do
            not have the same classes, or none is the positive label.
    """
    if "train" not in data:
        raise DataError(f"a split named 'train' is needed; found: {', '.join(map(repr, data)) or 'none'}")
    checked, first = DatasetDict(), None
    for split in (name for name in SPLITS if name in data):
        messages = data[split]
        if not {"text", "label"} <= set(messages.column_names):
            raise DataError(f"{split}: columns 'text' and 'label' are needed; found: {messages.column_names}")
        names = getattr(messages.features["label"], "names", LABEL_NAMES)
        first = first or names
        if names != first:
            raise DataError(f"{split}: the labels must be those of train, {short(first)}, not {short(names)}")
        if len(names) < 2:
            raise DataError(f"{split}: two labels or more are needed, not {names}")
        if not len(messages):
            raise DataError(f"{split}: there are no messages in it")
        labels = set(messages["label"][:])
        if not labels <= set(range(len(names))):
            known = "0 or 1" if len(names) == 2 else f"one of 0 to {len(names) - 1}"
            raise DataError(f"{split}: every label must be {known}, found {short(labels)}")
        order = meanings = names
        if all(name.strip().lower() in LABELS for name in names):
            order, meanings = LABEL_NAMES, [LABEL_NAMES[LABELS[name.strip().lower()]] for name in names]
        order = _positive_last(split, order, positive_label)
        if order != names:
            ids = [order.index(meaning) for meaning in meanings]
            texts, labels = messages["text"][:], [ids[label] for label in messages["label"][:]]
            messages, names = Dataset.from_dict({"text": texts, "label": labels}, features=features_of(order)), order
        checked[split] = messages.select_columns(["text", "label"])
        if checked[split].features != features_of(names):
            checked[split] = checked[split].cast(features_of(names))
    return checked


def check_classes(data: DatasetDict) -> str:
    """Looks whether every class that a model is tested on is one that it is trained on.

    Returns:
        In words, the classes of which there are training messages, but fewer than `FEW`: a misspelt label, taken for a
        class of its own, is one. Empty if there are none.

    Raises:
        DataError: a class is in another split than `train`, but not in that.
    """
    names, counts = label_names(data["train"]), Counter(data["train"]["label"][:])
    for split, messages in data.items():
        if missing := sorted(set(messages["label"][:]) - set(counts)):
            raise DataError(f"{split}: there are messages labelled {names[missing[0]]!r}, but none of them in train")
    few = [f"{counts[label]} labelled {names[label]!r}" for label in sorted(counts) if counts[label] < FEW]
    return printable(", ".join(few if len(few) <= 4 else [*few[:3], f"and {len(few) - 3} more labels"]))


def undersample(messages: Dataset, seed: int) -> Dataset:
    """As many messages of each class as the rarest has, drawn as the book draws them, in the order they stand in."""
    return messages.select(np.sort(_as_many_of_each(messages["label"][:], seed).to_numpy()))


# Splitting


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
    names = label_names(dataset)
    for label, name in enumerate(names):
        # A ClassLabel may know classes of which there are no messages.
        if (distinct := len(np.unique(groups[labels == label]))) < k and (labels == label).any():
            fault = f"{needed_by or f'{k} folds need {k}'} different messages of each label; {name!r} has {distinct}"
            if needed_by:
                fault += ": add some" if len(names) == 2 else ": add some, or leave those of this label out"
            raise DataError(fault)
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(labels, labels, groups)]


# Reading


def _read(
    source: str | os.PathLike,
    protocol: str,
    columns: Columns,
    classes: Sequence[str] | None,
    *,
    positive_label: str | None = None,
    one_label: bool = False,
) -> dict[str, Dataset]:
    """The messages of a source, by split for a Hub dataset and as "all" for everything else."""
    if protocol not in ("book", "full"):
        raise DataError(f"unknown protocol {short(protocol)}: use 'book' or 'full'")
    name = os.fspath(source)
    if not name:
        raise DataError("the name of the data is empty")
    if source == "sample":
        data = importlib.resources.files("hf_spam.data").joinpath("sample_messages.csv").read_bytes()
        parts = {"all": parse(name, ".csv", data, protocol, columns)}
    elif source == "uci":
        parts = {"all": parse(name, ".tsv", uci_file(), protocol, columns)}
    elif isinstance(source, str) and is_hub_id(source) and not suffix_of(source):
        parts = {split: table_messages(*part, columns) for split, part in _hub_tables(name).items()}
    else:
        parts = {"all": parse(name, suffix_of(name), _file_bytes(name), protocol, columns)}
    total = sum(len(part.texts) for part in parts.values())
    if not total:
        raise DataError(f"{name}: there are no messages in it")
    labels = {label: place for part in reversed(parts.values()) for label, place in part.places.items()}
    names = _label_names(name, labels, total, next(iter(parts.values())).names, columns, classes)
    names = _positive_last(name, names, positive_label)
    ids = {label: names.index(label) if label in names else LABELS[label.lower()] for label in labels}
    found = {ids[label] for part in parts.values() for label in part.labels}
    if len(found) == 1 and not one_label:
        needed = "both labels" if names == LABEL_NAMES else "two labels or more"
        raise DataError(f"{name}: every message is {names[found.pop()]!r}; {needed} are needed")
    labelled = "" if names == LABEL_NAMES else f", labelled {printable(', '.join(names))}"
    if classes is None and positive_label is None and len(names) == 2 and "spam" not in map(str.lower, names):
        labelled += f"; {printable(names[1])} is the positive label (--positive-label names another)"
    logger.info("%s: %d messages%s", name, total, labelled)
    return {
        split: Dataset.from_dict(
            {"text": part.texts, "label": [ids[label] for label in part.labels]}, features=features_of(names)
        )
        for split, part in parts.items()
    }


def _label_names(
    name: str,
    labels: dict[str, tuple[str, Any]],
    messages: int,
    declared: list[str] | None,
    columns: Columns,
    classes: Sequence[str] | None,
) -> list[str]:
    """The classes of messages.

    Args:
        name: of the source.
        labels: each label that there is, where it stands first, and the value there.
        messages: how many there are.
        declared: the names of the column's ClassLabel, if it is one.
        columns: as they were named.
        classes: those that are to be found there. None: any.

    Raises:
        DataError: a label is none of them, or the labels are not those of classes.
    """
    if classes is not None and labels.keys() <= set(classes):
        return list(classes)
    if all(label.lower() in LABELS for label in (*labels, *(declared or ()))):
        return LABEL_NAMES
    own = classes is None and (declared is not None or columns.label is not None)
    if own and len(labels) > min(MOST_LABELS, max(20, messages // 2)):
        column = "this" if columns.label is None else repr(columns.label)
        raise DataError(
            f"{name}: {len(labels):,} different labels in {messages:,} messages: {column} looks like no column of "
            "labels (--label-column names another)"
        )
    known = None if own and declared is None else list(classes or declared or LABEL_NAMES)
    for label, (where, value) in labels.items():
        if known is not None:
            accepted = LABELS if known == LABEL_NAMES else known
            if (label.lower() if known == LABEL_NAMES else label) not in accepted:
                hint = "; others need --label-column" if classes is None and accepted is LABELS else ""
                if hint and where.lower().endswith((".csv, line 1", ".tsv, line 1")):
                    hint += ", and where that line names the columns also --text-column"
                raise DataError(f"{where}: unknown label {short(value)}; known: {', '.join(accepted)}{hint}")
        elif not label:
            raise DataError(f"{where}: empty or missing label: {short(value)}")
        elif not isinstance(value, str | int | float):
            raise DataError(f"{where}: the label is not a string, a number or a boolean: {short(value)}")
    if known is not None:
        return known
    whole = all(re.fullmatch("-?[0-9]{1,18}", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label) if whole else 0, label))


def _positive_last(where: str, names: list[str], positive: str | None) -> list[str]:
    """The classes with the positive one, if it is named, after the other.

    Raises:
        DataError: it is none of them, or there are more than two, or another is spam.
    """
    if positive is None:
        return names
    if any(name.lower() == "spam" != positive.lower() for name in names):
        known = "; ham and spam, 0 and 1, false and true are read as that" if names == LABEL_NAMES else ""
        raise DataError(f"{where}: where there is spam, that is the positive label, not {short(positive)}{known}")
    if positive not in names:
        known = printable(", ".join(names))
        raise DataError(f"{where}: nothing is labelled {short(positive)}, the positive label; labels: {known}")
    if len(names) > 2:
        raise DataError(f"{where}: a positive label is one of two labels, and there are {len(names)}")
    return sorted(names, key=lambda name: name == positive)


def _file_bytes(name: str) -> bytes:
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: no such file (nor 'sample', 'uci' or a Hub dataset id 'owner/name')") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read ({first_line(error)})") from error
    if not suffix_of(name):
        raise DataError(f"{name}: unknown extension; known: {', '.join(SUFFIXES)}")
    return data


def _hub_tables(name: str) -> dict[str, tuple[str, pa.Table, Features | None]]:
    try:
        splits = load_dataset(name)
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
        reason = f"no such file, and not loaded from the Hub ({first_line(error)})"
        raise DataError(f"{name}: {reason}; check the id, the network and your login, or use 'sample'") from error
    return {split: (f"{name}, {split}", data.with_format("arrow")[:], data.features) for split, data in splits.items()}
