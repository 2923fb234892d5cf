"""Read labelled messages from a source, and split them into train, validation and test.

Sources are the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0),
files and Hub datasets. The "book" protocol follows chapter 6 of Raschka's *Build a Large Language Model (From
Scratch)*; the "full" protocol keeps every message, and duplicates in the same split.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import httpx2
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from ..text import first_line, printable, short
from .formats import LABELS, Columns, DataError, DataFile, is_hub_id, suffix_of
from .labels import LABEL_NAMES, choose_classes, features_of, order_classes
from .readers import DatasetReader, Reader, open_file
from .splits import SPLITS, book_split, full_split
from .uci import uci_file

logger = logging.getLogger(__name__)
OWN_DATA = "a DatasetDict"  # source name of data that the user passed as splits
WINDOW_ROWS = 4096


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

    Labels that mean ham or spam (words, 0 and 1, or booleans) become "not spam" and "spam". Other labels are errors
    unless the column is a `ClassLabel`, which keeps its classes and their order, or `label_column` is given: then they
    become classes, sorted, numerically if all are whole numbers.

    Args:
        source: "sample" (the messages embedded in the package), "uci" (the SMS Spam Collection, downloaded once), the
            path of a .tsv, .csv, .jsonl, .json (JSON lines), .parquet or .zip file, or a Hub dataset id "owner/name".
        protocol: "full" keeps every message, stratifies by label and keeps duplicates (see `duplicate_key`) in one
            split; a Hub dataset's own train, validation and test splits are used as they are. "book" samples every
            class down to the size of the smallest and ignores duplicates: on the UCI file, exactly the book's rows
            (1,045, 149 and 300). It merges a Hub dataset's own splits, with a warning; to read back splits that
            `push_dataset` made with "book", use "full".
        seed: Seed for sampling and shuffling, from 0 to 2**32 - 1.
        text_column: Text column; `None` for "text", "message", "sms" or "v2". Case does not matter.
        label_column: Label column; `None` for "label", "category", "class" or "v1".
        positive_label: Positive class of two, which gets index 1; `None` for spam or, without spam, the second class.
        classes: Classes of a model, which must include every label, unless all labels mean ham or spam.

    Returns:
        Splits "train", "validation" and "test" with columns `text` (string) and `label` (`ClassLabel`; 0 "not spam"
        and 1 "spam" unless there are other classes).

    Raises:
        DataError: The source cannot be found, fetched or read, has too few messages to split, or unknown labels.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise DataError(f"the seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    readers = _open(source, protocol, Columns(text_column, label_column))
    parts = _labelled(os.fspath(source), readers, classes, positive_label)
    if all(split in parts for split in SPLITS):
        if protocol == "full":
            return DatasetDict({split: parts[split] for split in SPLITS})
        # Published results were measured on these splits.
        logger.warning("%s: merging its own splits and splitting again; protocol 'full' keeps them", source)
    dataset = concatenate_datasets(list(parts.values()))
    try:
        indices = book_split(dataset["label"][:], seed) if protocol == "book" else full_split(dataset, seed)
    except DataError as error:
        raise DataError(f"{os.fspath(source)}: {error}") from None
    return DatasetDict({split: dataset.select(rows) for split, rows in zip(SPLITS, indices, strict=True)})


def read_messages(
    source: str | os.PathLike,
    *,
    protocol: Literal["book", "full"] = "full",
    allow_single_label: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
    positive_label: str | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Read all messages of a source without splitting or balancing them.

    Args:
        source: As for `load_sms_spam`; the splits of a Hub dataset are concatenated.
        protocol: "book" interprets quotes in a TSV without a header, as the book does, which merges a few messages of
            the UCI file (5,572 rows); "full" reads every line (5,574).
        allow_single_label: Whether all messages may have the same label.
        text_column, label_column, positive_label, classes: As for `load_sms_spam`.

    Returns:
        One row per message in the source's order, with the columns of `load_sms_spam`.

    Raises:
        DataError: The source cannot be found, fetched or read.
    """
    readers = _open(source, protocol, Columns(text_column, label_column))
    parts = _labelled(os.fspath(source), readers, classes, positive_label, allow_single_label)
    return concatenate_datasets(list(parts.values()))


def read_sets(
    source: str | os.PathLike,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
) -> DatasetDict:
    """Read all messages of a source as test sets, which may have a single label, without splitting or balancing.

    Args:
        source, text_column, label_column, classes: As for `load_sms_spam`.

    Returns:
        The splits of a Hub dataset, or one set named after the source. Columns are those of `load_sms_spam`.

    Raises:
        DataError: The source cannot be found, fetched or read.
    """
    readers = _open(source, "full", Columns(text_column, label_column))
    parts = _labelled(os.fspath(source), readers, classes, allow_single_label=True)
    if list(parts) == ["all"]:
        parts = {Path(source).name: parts["all"]}
    return DatasetDict({name: part for name, part in parts.items() if len(part)})


def check_splits(data: DatasetDict, positive_label: str | None = None) -> DatasetDict:
    """Convert splits passed by the user to the columns and labels of `load_sms_spam`.

    Raises:
        DataError: There is no split `train`, a split is empty, a column is missing, a label is unknown, or the splits
            have different classes.
    """
    if "train" not in data:
        raise DataError(f"a split named 'train' is needed; found: {', '.join(map(repr, data)) or 'none'}")
    readers = {split: DatasetReader(split, data[split], Columns()) for split in SPLITS if split in data}
    for split, reader in readers.items():
        if reader.class_names != readers["train"].class_names:
            known = short(readers["train"].class_names)
            raise DataError(f"{split}: its classes {short(reader.class_names)} differ from those of train, {known}")
        if not len(data[split]):
            raise DataError(f"{split}: no messages found")
    return DatasetDict(_labelled("the data", readers, positive_label=positive_label))


def _open(source: str | os.PathLike, protocol: str, columns: Columns) -> dict[str, Reader]:
    """Return a reader for each split of a Hub dataset, or one called "all" for any other source."""
    if protocol not in ("book", "full"):
        raise DataError(f"unknown protocol {short(protocol)}: use 'book' or 'full'")
    name = os.fspath(source)
    if not name:
        raise DataError("the data source is an empty string")
    if isinstance(source, str) and is_hub_id(source) and not suffix_of(source):
        try:
            splits = load_dataset(name)
        except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
            reason = f"no such file, and not loaded from the Hub ({first_line(error)})"
            raise DataError(f"{name}: {reason}; check the id, the network and your login, or use 'sample'") from error
        return {split: DatasetReader(f"{name}, {split}", data, columns) for split, data in splits.items()}
    if source == "sample":
        file = DataFile.find(Path(__file__).with_name("sample_messages.csv"), name=name)
    elif source == "uci":
        file = DataFile.find(uci_file(), name=name)
    elif os.path.lexists(name):
        file = DataFile.find(source)
    else:
        raise DataError(f"{name}: not a file, 'sample', 'uci' or a Hub dataset id 'owner/name'")
    return {"all": open_file(file, columns, book_quotes=protocol == "book")}


def _labelled(
    name: str,
    readers: Mapping[str, Reader],
    classes: Sequence[str] | None = None,
    positive_label: str | None = None,
    allow_single_label: bool = False,
) -> dict[str, Dataset]:
    """Read a dataset from each reader; labels become indices into the classes that all share."""
    first_seen: dict[str, tuple[str, Any]] = {}
    parts = {split: _messages(reader, first_seen) for split, reader in readers.items()}
    total = sum(len(texts) for texts, _ in parts.values())
    if not total:
        raise DataError(f"{name}: no messages found")
    names = choose_classes(name, first_seen, total, next(iter(readers.values())), classes)
    names = order_classes(name, names, positive_label)
    ids = {label: names.index(label) if label in names else LABELS[label.lower()] for label in first_seen}
    if len(found := set(ids.values())) == 1 and not allow_single_label:
        raise DataError(f"{name}: every message is {names[found.pop()]!r}; at least two labels are needed")
    labelled = "" if names == LABEL_NAMES else f", labelled {printable(', '.join(names))}"
    if classes is None and positive_label is None and len(names) == 2 and "spam" not in map(str.lower, names):
        labelled += f"; the positive label is {printable(names[1])} (change it with --positive-label)"
    logger.info("%s: %d messages%s", name, total, labelled)
    return {
        split: Dataset.from_dict({"text": texts, "label": [ids[label] for label in labels]}, features_of(names))
        for split, (texts, labels) in parts.items()
    }


def _messages(reader: Reader, first_seen: dict[str, tuple[str, Any]]) -> tuple[list[str], list[str]]:
    """Return all texts and labels of a reader; add the place and raw value of new labels to `first_seen`."""
    texts, labels = [], []
    for window in reader.windows(WINDOW_ROWS):
        for i, (text, value) in enumerate(zip(*reader.messages(window), strict=True)):
            label = "" if value is None or value != value else str(value).strip()  # NaN does not equal itself
            if not text.strip():
                raise DataError(f"{reader.place(window, i)}: the text is empty")
            if not label:
                raise DataError(f"{reader.place(window, i)}: the label is missing")
            try:
                f"{text}{label}".encode()  # JSON can hold half a surrogate pair, Arrow cannot
            except UnicodeEncodeError:
                raise DataError(f"{reader.place(window, i)}: not valid Unicode: {short(f'{label}: {text}')}") from None
            if label not in first_seen:
                first_seen[label] = reader.place(window, i), value
            texts.append(text)
            labels.append(label)
    return texts, labels
