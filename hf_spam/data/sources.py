"""From a source of labelled messages to a DatasetDict with train, validation and test splits.

Sources: the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0)
and files or Hub datasets of the same shape. The "book" protocol follows chapter 6 of Raschka's *Build a Large Language
Model (From Scratch)*; the "full" protocol keeps every message and puts duplicates on one side of every split.
"""

import importlib.resources
import logging
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal

import httpx2
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from ..text import first_line, printable, short
from .formats import LABELS, SUFFIXES, Columns, DataError, is_hub_id, parse, suffix_of, table_messages
from .labels import LABEL_NAMES, _label_names, _positive_last, features_of
from .splits import SPLITS, _book_split, _full_split
from .uci import uci_file

logger = logging.getLogger(__name__)
OWN_DATA = "a DatasetDict"  # the source that is named for data that were handed over, not read


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
