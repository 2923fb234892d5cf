"""From a source of labelled messages to a DatasetDict with train, validation and test splits.

Sources: the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0)
and files or Hub datasets of the same shape. The "book" protocol follows chapter 6 of Raschka's *Build a Large Language
Model (From Scratch)*; the "full" protocol keeps every message and puts duplicates on one side of every split.
"""

import importlib.resources
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from datasets.exceptions import DatasetsError
from sklearn.model_selection import StratifiedGroupKFold

from .formats import SUFFIXES, DataError, Message, first_line, parse, short, suffix_of, table_messages
from .uci import uci_file

logger = logging.getLogger(__name__)

LABEL_NAMES = ["not spam", "spam"]
OWN_DATA = "a DatasetDict"  # the source that is named for data that were handed over, not read
SPLITS = ("train", "validation", "test")
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=LABEL_NAMES)})


def load_sms_spam(
    source: str | os.PathLike, *, protocol: Literal["book", "full"] = "full", seed: int = 123
) -> DatasetDict:
    """Read labelled messages and split them 70/10/20.

    Args:
        source: "sample" (the messages embedded in the package), "uci" (the SMS Spam Collection, downloaded once), the
            path of a .tsv, .csv, .jsonl, .json (JSON lines), .parquet or .zip file, or a Hub dataset id "owner/name".
        protocol: "full" keeps every message, stratifies by label and keeps duplicates (see `duplicate_key`) in one
            split; a Hub dataset's own train, validation and test splits are used as they are. "book" samples the larger
            class down to the smaller one and splits without regard to duplicates: on the UCI file, the book's very
            rows (1,045, 149 and 300). A Hub dataset's own splits are mixed and split anew, and a warning says so:
            those that `push_dataset` put there under "book" are read back under "full".
        seed: of the sampling and the shuffling, from 0 to 2**32 - 1.

    Returns:
        Splits "train", "validation" and "test" with columns `text` (string) and `label` (0 "not spam", 1 "spam").

    Raises:
        DataError: the source cannot be found, fetched or read, or holds too few messages to split.
    """
    if not 0 <= seed < 2**32:
        raise DataError(f"the seed must lie between 0 and 2**32 - 1, got {seed}")
    parts = _read(source, protocol)
    if all(split in parts for split in SPLITS):
        if protocol == "full":
            return DatasetDict({split: _dataset(parts[split]) for split in SPLITS})
        # Not an error, or no Hub dataset could be balanced. But what others have published is measured on its splits.
        logger.warning("%s: its own splits are mixed and split anew; protocol 'full' uses them as they are", source)
    dataset = _dataset(_joined(parts))
    try:
        indices = _book_split(dataset["label"][:], seed) if protocol == "book" else _full_split(dataset, seed)
    except DataError as error:
        raise DataError(f"{os.fspath(source)}: {error}") from None
    return DatasetDict({split: dataset.select(rows) for split, rows in zip(SPLITS, indices, strict=True)})


def read_messages(
    source: str | os.PathLike, *, protocol: Literal["book", "full"] = "full", one_label: bool = False
) -> Dataset:
    """Read all messages of a source without splitting or balancing them.

    Args:
        source: as for `load_sms_spam`; all splits of a Hub dataset are joined.
        protocol: "book" reads a header-less TSV with pandas' default quoting as the book does, which merges a few
            lines of the UCI file into their neighbours (5,572 rows); "full" (the default) reads every line (5,574).
        one_label: whether messages that are all of one label will do.

    Returns:
        One row per message in the source's order, with columns `text` (string) and `label` (0 "not spam", 1 "spam").

    Raises:
        DataError: the source cannot be found, fetched or read.
    """
    return _dataset(_joined(_read(source, protocol, one_label=one_label)))


def read_sets(source: str | os.PathLike) -> DatasetDict:
    """Read all messages of a source as they are to be tested on: neither split nor balanced, be they of one label.

    Args:
        source: as for `load_sms_spam`.

    Returns:
        The splits of a Hub dataset; of any other source one, which is named after it. Columns as for `read_messages`.

    Raises:
        DataError: the source cannot be found, fetched or read.
    """
    parts = _read(source, "full", one_label=True)
    if list(parts) == ["all"]:
        parts = {Path(source).name: parts["all"]}
    return DatasetDict({name: _dataset(part) for name, part in parts.items() if part})


def grouped_folds(dataset: Dataset, k: int = 5, seed: int = 123) -> Iterator[tuple[Dataset, Dataset]]:
    """Cut a dataset into k (default 5) train and test pairs for cross-validation.

    The folds are stratified by label, and duplicates (see `duplicate_key`) are never on both sides. Every message is
    in exactly one of the k test sets.

    Raises:
        DataError: k is below 2, or a label has fewer than k different messages.
    """
    folds = _folds(dataset, k, seed)
    everything = np.arange(len(dataset))
    return ((dataset.select(np.setdiff1d(everything, fold)), dataset.select(fold)) for fold in folds)


def check_splits(data: DatasetDict) -> DatasetDict:
    """`data` as this package reads it, whatever else it holds: columns `text` and `label` (0 not spam, 1 spam).

    Raises:
        DataError: there is no split `train`, a split is empty, or a column is missing or of another kind.
    """
    if "train" not in data:
        raise DataError(f"a split named 'train' is needed; found: {', '.join(map(repr, data)) or 'none'}")
    checked = DatasetDict()
    for split in (name for name in SPLITS if name in data):
        messages = data[split]
        if not {"text", "label"} <= set(messages.column_names):
            raise DataError(f"{split}: columns 'text' and 'label' are needed; found: {messages.column_names}")
        names = getattr(messages.features["label"], "names", LABEL_NAMES)
        if names != LABEL_NAMES:
            raise DataError(f"{split}: the labels must be {LABEL_NAMES} in that order, not {names}")
        if not len(messages):
            raise DataError(f"{split}: there are no messages in it")
        labels = set(messages["label"][:])
        if not labels <= {0, 1}:
            raise DataError(f"{split}: every label must be 0 or 1, found {short(labels)}")
        checked[split] = messages.select_columns(["text", "label"])
        if checked[split].features != FEATURES:
            checked[split] = checked[split].cast(FEATURES)
    return checked


def standing_in(texts: Sequence[str], others: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which texts, (N,) bool, stand among others: word for word; and at least nearly, see `duplicate_key`."""
    exact, near = set(others), set(map(duplicate_key, others))
    return (
        np.array([text in exact for text in texts], dtype=bool),
        np.array([duplicate_key(text) in near for text in texts], dtype=bool),
    )


def duplicate_groups(texts: Sequence[str]) -> np.ndarray:
    """The number of each text's group, (N,), from 0: those of one `duplicate_key` are in one."""
    groups, _ = pd.factorize(np.array([duplicate_key(text) for text in texts], dtype=object))
    return groups


def duplicate_key(text: str) -> str:
    """Reduce a message to what its near-duplicates share.

    Lower-cased, every run of digits becomes one "0" and every run of punctuation or white space one blank, so that
    "WIN £100 now!!" and "win £5000 now" agree. Without letters nothing would be left to compare ("16" and "?", say):
    such a message is its own key.
    """
    if not any(map(str.isalpha, text)):
        return text
    return re.sub(r"[\W_]+", " ", re.sub(r"\d+", "0", text.lower())).strip()


# Splitting


def _book_split(labels: Sequence[int], seed: int) -> list[np.ndarray]:
    """Row numbers of the book's three splits: sample the larger class down, shuffle, cut."""
    rows, is_spam = pd.Series(range(len(labels))), pd.Series(labels) == 1
    larger, smaller = rows[~is_spam], rows[is_spam]
    if len(larger) < len(smaller):
        larger, smaller = smaller, larger
    # The order (larger class first) and the two pandas calls decide which rows come out: they are the book's.
    balanced = pd.concat([larger.sample(len(smaller), random_state=seed), smaller])
    shuffled = balanced.sample(frac=1, random_state=seed).to_numpy()
    train_end = int(0.7 * len(shuffled))
    validation_end = train_end + int(0.1 * len(shuffled))
    if validation_end == train_end:
        raise DataError(f"the book's split needs 5 messages of each label; the rarer one has {len(smaller)}")
    return [shuffled[:train_end], shuffled[train_end:validation_end], shuffled[validation_end:]]


def _full_split(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Row numbers of a 70/10/20 split without shared duplicates: ten folds, dealt out 7, 1 and 2."""
    folds = _folds(dataset, 10, seed)
    return [np.sort(np.concatenate(part)) for part in (folds[:7], folds[7:8], folds[8:])]


def _folds(dataset: Dataset, k: int, seed: int) -> list[np.ndarray]:
    """Row numbers of k folds, stratified by label, each group of duplicates within one fold."""
    if k < 2:
        raise DataError(f"at least 2 folds are needed, not {k}")
    labels = np.array(dataset["label"][:])
    groups = duplicate_groups(dataset["text"][:])
    for label, name in enumerate(LABEL_NAMES):
        if (distinct := len(np.unique(groups[labels == label]))) < k:
            raise DataError(f"{k} folds need {k} different messages of each label; {name!r} has {distinct}")
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(labels, labels, groups)]


# Reading


def _read(source: str | os.PathLike, protocol: str, *, one_label: bool = False) -> dict[str, list[Message]]:
    """The messages of a source, by split for a Hub dataset and as "all" for everything else."""
    if protocol not in ("book", "full"):
        raise DataError(f"unknown protocol {short(protocol)}: use 'book' or 'full'")
    name = os.fspath(source)
    if not name:
        raise DataError("the name of the data is empty")
    if source == "sample":
        data = importlib.resources.files("hf_spam.data").joinpath("sample_messages.csv").read_bytes()
        parts = {"all": parse(name, ".csv", data, protocol)}
    elif source == "uci":
        parts = {"all": parse(name, ".tsv", uci_file(), protocol)}
    elif isinstance(source, str) and _is_hub_id(source):
        parts = {split: table_messages(*part) for split, part in _hub_tables(name).items()}
    else:
        parts = {"all": parse(name, suffix_of(name), _file_bytes(name), protocol)}
    classes = {label for _, label in _joined(parts)}
    if not classes:
        raise DataError(f"{name}: there are no messages in it")
    if len(classes) == 1 and not one_label:
        raise DataError(f"{name}: every message is {LABEL_NAMES[classes.pop()]!r}; both labels are needed")
    logger.info("%s: %d messages", name, len(_joined(parts)))
    return parts


def _is_hub_id(source: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)) and not suffix_of(source) and not os.path.exists(source)


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


def _joined(parts: dict[str, list[Message]]) -> list[Message]:
    return [message for part in parts.values() for message in part]


def _dataset(messages: list[Message]) -> Dataset:
    texts, labels = [text for text, _ in messages], [label for _, label in messages]
    return Dataset.from_dict({"text": texts, "label": labels}, features=FEATURES)
