"""Read labelled messages from sources, and split them into train, validation and test.

Sources are the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0),
the messages embedded in this package, files and Hub datasets. The "book" protocol follows chapter 6 of Raschka's *Build
a Large Language Model (From Scratch)*; the "full" protocol keeps every message, and duplicates in the same split.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from ..text import first_line, printable, short
from .duplicates import duplicate_groups
from .formats import LABELS, PLAIN_TEXT, SUFFIXES, Columns, DataError, DataFile, is_hub_id, suffix_of
from .labels import LABEL_NAMES, annotated_features_of, choose_classes, order_classes
from .names import Sources, source_name, sources_of
from .readers import DatasetReader, Reader, open_file
from .splits import SPLITS, book_split, full_split
from .tokenization import replace_lone_surrogates
from .uci import uci_file

logger = logging.getLogger(__name__)
OWN_DATA = "a DatasetDict"  # source name of data that the user passed as splits
WINDOW_ROWS = 4096
EMBEDDED = Path(__file__).with_name("messages")
MARKETING, TWINS = "marketing", "twins"  # files of the embedded messages that are treated in their own way


def load_sms_spam(
    source: Sources,
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
        source: "sample" (the messages embedded in the package, without marketing), "marketing" (the embedded marketing
            messages, labelled "not spam"), "uci" (the SMS Spam Collection, downloaded once), the path of a .tsv, .csv,
            .jsonl, .json (JSON lines), .parquet or .zip file, or a Hub dataset id "owner/name". Several, in a list or
            separated by commas ("uci,sample"), are read as one.
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
    parts = _labelled(source_name(source), readers, classes, positive_label)
    if all(split in parts for split in SPLITS):
        if protocol == "full":
            return DatasetDict({split: parts[split].select_columns(["text", "label"]) for split in SPLITS})
        # Published results were measured on these splits.
        logger.warning(
            "%s: merging its own splits and splitting again; protocol 'full' keeps them", *sources_of(source)
        )
    dataset = concatenate_datasets(list(parts.values()))
    try:
        indices = book_split(dataset["label"][:], seed) if protocol == "book" else full_split(dataset, seed)
    except DataError as error:
        raise DataError(f"{source_name(source)}: {error}") from None
    dataset = dataset.select_columns(["text", "label"])
    return DatasetDict({split: dataset.select(rows) for split, rows in zip(SPLITS, indices, strict=True)})


def read_messages(
    source: Sources,
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
        One row per message in the source's order, with the columns of `load_sms_spam`, and `source` (its name),
        `category` and `language` (as in the file, or "") and `group` (messages that belong in the same split, such as
        duplicates, have the same number).

    Raises:
        DataError: The source cannot be found, fetched or read.
    """
    readers = _open(source, protocol, Columns(text_column, label_column))
    parts = _labelled(source_name(source), readers, classes, positive_label, allow_single_label)
    return concatenate_datasets(list(parts.values()))


def read_texts(source: Sources, *, text_column: str | None = None) -> list[str]:
    """Read only the texts of a source, which needs no labels. Empty texts are left out.

    Args:
        source, text_column: As for `load_sms_spam`; a .txt file with a message on each line is read too.

    Raises:
        DataError: The source cannot be found, fetched or read, or has no texts.
    """
    readers = _open(source, "full", Columns(text_column, labelled=False))
    texts: list[str] = []
    for reader in chain(*readers.values()):
        for window in reader.windows(WINDOW_ROWS):
            texts += [replace_lone_surrogates(text) for text in reader.messages(window)[0] if text.strip()]
    if not texts:
        raise DataError(f"{source_name(source)}: no messages found")
    logger.info("%s: %d texts", source_name(source), len(texts))
    return texts


def read_sets(
    source: Sources,
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
    parts = _labelled(source_name(source), readers, classes, allow_single_label=True)
    if list(parts) == ["all"]:
        parts = {",".join(Path(one).name for one in sources_of(source)): parts["all"]}
    return DatasetDict({name: part.select_columns(["text", "label"]) for name, part in parts.items() if len(part)})


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
    parts = _labelled("the data", {split: [reader] for split, reader in readers.items()}, positive_label=positive_label)
    return DatasetDict({split: part.select_columns(["text", "label"]) for split, part in parts.items()})


def _open(source: Sources, protocol: str, columns: Columns) -> dict[str, list[Reader]]:
    """Return the readers of each split of a Hub dataset, or of one split called "all" for anything else."""
    if protocol not in ("book", "full"):
        raise DataError(f"unknown protocol {short(protocol)}: use 'book' or 'full'")
    opened = [_open_one(one, protocol, columns) for one in sources_of(source)]
    if not opened:
        raise DataError("no data source given")
    if len(opened) == 1:
        return opened[0]
    return {"all": [reader for splits in opened for readers in splits.values() for reader in readers]}


def _open_one(source: str | os.PathLike, protocol: str, columns: Columns) -> dict[str, list[Reader]]:
    name, suffixes = os.fspath(source), SUFFIXES if columns.labelled else (*SUFFIXES, PLAIN_TEXT)
    if not name:
        raise DataError("the data source is an empty string")
    files: list[DataFile] = []
    if source in ("sample", MARKETING):
        names = [path.stem for path in sorted(EMBEDDED.glob("*.tsv"))]
        names = [MARKETING] if source == MARKETING else [kind for kind in names if kind != MARKETING]
        files = [DataFile.find(EMBEDDED / f"{kind}.tsv", name=f"{name}, {kind}.tsv") for kind in names]
    elif isinstance(source, str) and is_hub_id(source) and not suffix_of(source, suffixes):
        try:
            splits = load_dataset(name)
        except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
            reason = f"no such file, and not loaded from the Hub ({first_line(error)})"
            raise DataError(f"{name}: {reason}; check the id, the network and your login, or use 'sample'") from error
        parts = {split: [DatasetReader(f"{name}, {split}", data, columns)] for split, data in splits.items()}
    elif source == "uci":
        files = [DataFile.find(uci_file(), name=name)]
    elif os.path.lexists(name):
        files = [DataFile.find(source, suffixes)]
    else:
        raise DataError(f"{name}: not a file, 'sample', 'marketing', 'uci' or a Hub dataset id 'owner/name'")
    if files:
        parts = {"all": [open_file(file, columns, book_quotes=protocol == "book") for file in files]}
    for reader in chain(*parts.values()):
        reader.source = name
    return parts


def _labelled(
    name: str,
    readers: Mapping[str, Sequence[Reader]],
    classes: Sequence[str] | None = None,
    positive_label: str | None = None,
    allow_single_label: bool = False,
) -> dict[str, Dataset]:
    """Read a dataset from the readers of each split; labels become indices into the classes that all share."""
    first_seen: dict[str, tuple[str, Any]] = {}
    parts = {split: _messages(of_split, first_seen) for split, of_split in readers.items()}
    total = sum(len(part["text"]) for part in parts.values())
    if not total:
        raise DataError(f"{name}: no messages found")
    names = choose_classes(name, first_seen, total, next(iter(readers.values()))[0], classes)
    names = order_classes(name, names, positive_label)
    ids = {label: names.index(label) if label in names else LABELS[label.lower()] for label in first_seen}
    if len(found := set(ids.values())) == 1 and not allow_single_label:
        raise DataError(f"{name}: every message is {names[found.pop()]!r}; at least two labels are needed")
    labelled = "" if names == LABEL_NAMES else f", labelled {printable(', '.join(names))}"
    if classes is None and positive_label is None and len(names) == 2 and "spam" not in map(str.lower, names):
        labelled += f"; the positive label is {printable(names[1])} (change it with --positive-label)"
    logger.info("%s: %d messages%s", name, total, labelled)
    groups = _groups(
        [text for part in parts.values() for text in part["text"]],
        [is_twin for part in parts.values() for is_twin in part.pop("is_twin")],
    )
    features, first_row, datasets = annotated_features_of(names), 0, {}
    for split, part in parts.items():
        count = len(part["text"])
        labels = [ids[label] for label in part["label"]]
        group = groups[first_row : first_row + count]
        datasets[split] = Dataset.from_dict(part | {"label": labels, "group": group}, features)
        first_row += count
    return datasets


def _groups(texts: list[str], is_twin: list[bool]) -> np.ndarray:
    """Return the group of each message, (N,): duplicates, and a twin and the message before it, belong together."""
    groups = duplicate_groups(texts)
    for row in np.flatnonzero(is_twin):
        groups[groups == groups[row]] = groups[row - 1]
    return groups


def _messages(readers: Sequence[Reader], first_seen: dict[str, tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of all messages of some readers, and whether a message belongs with the one before it.

    The place and raw value of new labels are added to `first_seen`.
    """
    names = ("text", "label", "source", "category", "language", "is_twin")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for reader in readers:
        in_pairs = reader.file is not None and reader.file.path == EMBEDDED / f"{TWINS}.tsv"
        first_row = len(columns["text"])
        for window in reader.windows(WINDOW_ROWS):
            texts, values = reader.messages(window)
            columns["text"] += texts
            columns["label"] += [
                _checked_label(reader.place(window, i), text, value, first_seen)
                for i, (text, value) in enumerate(zip(texts, values, strict=True))
            ]
            for name in ("category", "language"):
                columns[name] += reader.notes(window, name)
        count = len(columns["text"]) - first_row
        columns["source"] += [reader.source] * count
        columns["is_twin"] += [in_pairs and row % 2 == 1 for row in range(count)]
    return columns


def _checked_label(place: str, text: str, value: Any, first_seen: dict[str, tuple[str, Any]]) -> str:
    """Return a label as a string.

    Raises:
        DataError: The text is empty, the label is missing, or either is not valid Unicode.
    """
    label = "" if value is None or value != value else str(value).strip()  # NaN does not equal itself
    if not text.strip():
        raise DataError(f"{place}: the text is empty")
    if not label:
        raise DataError(f"{place}: the label is missing")
    try:
        f"{text}{label}".encode()  # JSON can hold half a surrogate pair, Arrow cannot
    except UnicodeEncodeError:
        raise DataError(f"{place}: not valid Unicode: {short(f'{label}: {text}')}") from None
    first_seen.setdefault(label, (place, value))
    return label
