"""Read labelled messages from sources, and split them into train, validation and test.

Sources are the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0),
the messages embedded in this package, files and Hub datasets. The "book" protocol follows chapter 6 of Raschka's *Build
a Large Language Model (From Scratch)*; the "full" protocol keeps every message, and duplicates in the same split.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from ..hub_errors import HubError, check_reachable
from ..text import first_line, printable, short
from .duplicates import duplicate_groups
from .formats import DataError, DataFile, is_hub_id, suffix_of
from .labels import Labels, annotated_features_of
from .names import Source, Sources, source_name, sources_of
from .readers import open_file
from .reading import Reading
from .splits import SPLITS, book_split, full_split
from .tables import DatasetReader
from .tokenization import replace_lone_surrogates
from .uci import uci_file
from .windows import Reader

logger = logging.getLogger(__name__)
WINDOW_ROWS = 256  # of thousands, the garbage collector would scan the rows again and again
SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
EMBEDDED = Path(__file__).with_name("messages")
MARKETING, TWINS = "marketing", "twins"  # files of the embedded messages that are treated in their own way


def load_sms_spam(
    source: Sources,
    *,
    protocol: Literal["book", "full"] = "full",
    seed: int = 123,
    text_column: str | None = None,
    label_column: str | None = None,
    label_map: str | Mapping[str, str] | None = None,
    positive_label: str | None = None,
    classes: Sequence[str] | None = None,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    remembered: tuple[str | None, str | None] = (None, None),
) -> DatasetDict:
    """Read labelled messages and split them 70/10/20.

    Labels that mean ham or spam (words, 0 and 1, or booleans, or by `label_map`) become "not spam" and "spam". Other
    labels are errors unless the column is a `ClassLabel`, which keeps its classes and their order, or `label_column` is
    given: then they become classes, sorted, numerically if all are whole numbers. Case and white space make no classes.

    Args:
        source: "sample" (the messages embedded in the package, without marketing), "marketing" (the embedded marketing
            messages, labelled "not spam"), "uci" (the SMS Spam Collection, downloaded once), the path of a .tsv, .csv,
            .txt, .jsonl, .json or .parquet file, also in a .zip or .gz, a folder with files called train, validation
            and test, or a Hub dataset id "owner/name". Or data in memory: a `Dataset`, `DatasetDict` or
            `DataFrame`. Several, in a list or separated by commas ("uci,sample"), are read as one.
        protocol: "full" keeps every message, stratifies by label and keeps duplicates (see `duplicate_key`) in one
            split; the train, validation and test splits of a source that has them are used as they are. "book" samples
            every class down to the size of the smallest and ignores duplicates: on the UCI file, exactly the book's
            rows (1,045, 149 and 300). It merges a source's own splits, with a warning; to read back splits that
            `push_dataset` made with "book", use "full".
        seed: Seed for sampling and shuffling, from 0 to 2**32 - 1.
        text_column: Text column; `None` for "text", "message", "sms", "v2" and others. Case does not matter. Several,
            separated by commas ("subject,body"), are joined with a line break.
        label_column: Label column; `None` for "label", "category", "class", "v1" and others.
        label_map: Meaning of labels, such as {"legit": "ham", "smishing": "spam"} or "legit=ham,smishing=spam".
        positive_label: Positive class of two, which gets index 1; `None` for spam or, without spam, the second class.
        classes: Classes of a model, which must include every label, unless all labels mean ham or spam.
        encoding: Encoding of text files; `None` for UTF-8, UTF-16 or Windows-1252, whichever fits.
        skip_bad_rows: Whether to leave out rows that cannot be read, that have no text, or that have no label or an
            unknown one. Their number and the first three are logged.
        remembered: Text and label columns of a model's training data, used if they exist and no others are named.

    Returns:
        Splits "train", "validation" and "test" with columns `text` (string) and `label` (`ClassLabel`; 0 "not spam"
        and 1 "spam" unless there are other classes).

    Raises:
        DataError: The source cannot be found, fetched or read, has too few messages to split, or unknown labels.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise DataError(f"the seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    reading = Reading(
        text_column=text_column,
        label_column=label_column,
        label_map=label_map,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        remembered=remembered,
    )
    parts = _labelled(source_name(source), _open(source, protocol, reading), reading, classes, positive_label)
    if all(split in parts for split in SPLITS) and protocol == "full":
        return DatasetDict({split: parts[split].select_columns(["text", "label"]) for split in SPLITS})
    if len(parts) > 1:
        advice = "protocol 'full' keeps them" if set(SPLITS) <= set(parts) else f"{', '.join(SPLITS)} would be kept"
        found = ", ".join(parts)
        logger.warning("%s: merging its splits (%s) and splitting again; %s", source_name(source), found, advice)
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
    positive_label: str | None = None,
    classes: Sequence[str] | None = None,
    **reading: Any,
) -> Dataset:
    """Read all messages of a source without splitting or balancing them.

    Args:
        source: As for `load_sms_spam`; the splits of a source that has them are concatenated.
        protocol: "book" interprets quotes in a TSV without a header, as the book does, which merges a few messages of
            the UCI file (5,572 rows); "full" reads every line (5,574).
        allow_single_label: Whether all messages may have the same label.
        positive_label, classes, **reading: As for `load_sms_spam`.

    Returns:
        One row per message in the source's order, with the columns of `load_sms_spam`, and `source` (its name),
        `category` and `language` (as in the file, or "") and `group` (messages that belong in the same split, such as
        duplicates, have the same number).

    Raises:
        DataError: The source cannot be found, fetched or read.
    """
    how = Reading(**reading)
    readers = _open(source, protocol, how)
    parts = _labelled(source_name(source), readers, how, classes, positive_label, allow_single_label)
    return concatenate_datasets(list(parts.values()))


def read_texts(source: Sources, **reading: Any) -> list[str]:
    """Read only the texts of a source, which needs no labels, such as a .txt file with a message on each line.

    Empty texts are left out. Arguments and errors are those of `load_sms_spam`.
    """
    readers = _open(source, "full", Reading(**reading, labelled=False))
    texts: list[str] = []
    for reader in chain(*readers.values()):
        for window in reader.windows(WINDOW_ROWS):
            texts += [replace_lone_surrogates(text) for text in reader.messages(window).texts if (text or "").strip()]
    if not texts:
        raise DataError(f"{source_name(source)}: no messages found")
    logger.info("%s: %d texts", source_name(source), len(texts))
    return texts


def read_sets(source: Sources, *, classes: Sequence[str] | None = None, **reading: Any) -> DatasetDict:
    """Read all messages of a source as test sets, which may have a single label, without splitting or balancing.

    Returns the splits of a source that has them, or one set named after the source. Arguments, columns and errors are
    those of `load_sms_spam`.
    """
    how = Reading(**reading)
    parts = _labelled(source_name(source), _open(source, "full", how), how, classes, allow_single_label=True)
    if list(parts) == ["all"]:
        parts = {",".join(Path(source_name(one)).name for one in sources_of(source)): parts["all"]}
    return DatasetDict({name: part.select_columns(["text", "label"]) for name, part in parts.items() if len(part)})


def check_splits(data: DatasetDict, positive_label: str | None = None, **reading: Any) -> DatasetDict:
    """Convert splits passed by the user to the columns and labels of `load_sms_spam`.

    Raises:
        DataError: There is no split `train`, a split is empty, a column is missing, a label is unknown, or the splits
            have different classes.
    """
    how = Reading(**reading)
    readers = _split_readers("the data", data, how)
    if "train" not in readers:
        raise DataError(f"a split named 'train' is needed; found: {', '.join(map(repr, data)) or 'none'}")
    readers = {split: readers[split] for split in SPLITS if split in readers}
    for split, (reader,) in readers.items():
        if reader.class_names != readers["train"][0].class_names:
            known = short(readers["train"][0].class_names)
            raise DataError(f"{split}: its classes {short(reader.class_names)} differ from those of train, {known}")
        if not reader.dataset.num_rows:
            raise DataError(f"{split}: no messages found")
    parts = _labelled("the data", readers, how, positive_label=positive_label)
    return DatasetDict({split: part.select_columns(["text", "label"]) for split, part in parts.items()})


def _open(source: Sources, protocol: str, reading: Reading) -> dict[str, list[Reader]]:
    """Return the readers of each split of a source that has splits, or of one split called "all"."""
    if protocol not in ("book", "full"):
        raise DataError(f"unknown protocol {short(protocol)}: use 'book' or 'full'")
    opened = [_open_one(one, protocol, reading) for one in sources_of(source)]
    if not opened:
        raise DataError("no data source given")
    if len(opened) == 1:
        return opened[0]
    return {"all": [reader for splits in opened for readers in splits.values() for reader in readers]}


def _open_one(source: Source, protocol: str, reading: Reading) -> dict[str, list[Reader]]:
    name = source_name([source])
    if isinstance(source, dict):
        return _split_readers(name, source, reading)
    if not isinstance(source, str | os.PathLike):
        return {"all": [DatasetReader(name, _as_dataset(name, source), reading)]}
    if not name:
        raise DataError("the data source is an empty string")
    files: dict[str, list[DataFile]] = {}
    if source in ("sample", MARKETING):
        names = [path.stem for path in sorted(EMBEDDED.glob("*.tsv"))]
        names = [MARKETING] if source == MARKETING else [kind for kind in names if kind != MARKETING]
        files["all"] = [DataFile.find(EMBEDDED / f"{kind}.tsv", name=f"{name}, {kind}.tsv") for kind in names]
    elif isinstance(source, str) and is_hub_id(source) and not suffix_of(source):
        splits = _load_from_hub(name)
        return _split_readers(name, splits, reading)
    elif source == "uci":
        files["all"] = [DataFile.find(uci_file(), name=name)]
    elif os.path.isdir(name):
        if any((Path(name) / written).exists() for written in ("dataset_dict.json", "state.json")):
            saved = load_from_disk(name)
            return _split_readers(name, saved if isinstance(saved, dict) else {"all": saved}, reading)
        for split, paths in _files_of_splits(Path(name)).items():
            files[split] = [DataFile.find(path) for path in paths]
    elif os.path.lexists(name):
        files["all"] = [DataFile.find(source)]
    else:
        raise DataError(f"{name}: not a file or folder, 'sample', 'marketing', 'uci' or a Hub dataset id 'owner/name'")
    parts = {
        split: [open_file(file, reading, book_quotes=protocol == "book") for file in of_split]
        for split, of_split in files.items()
    }
    for reader in chain(*parts.values()):
        reader.source = name
    return parts


def _load_from_hub(name: str) -> DatasetDict:
    try:
        check_reachable(name, "dataset")  # `load_dataset` would retry for 23 s
        return load_dataset(name)
    except HubError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
        reason = f"no such file, and not loaded from the Hub ({first_line(error)})"
        raise DataError(f"{name}: {reason}; check the id, the network and your login, or use 'sample'") from error


def _split_readers(name: str, splits: Mapping[str, Any], reading: Reading) -> dict[str, list[Reader]]:
    """Return a reader of each split, under its usual name."""
    readers: dict[str, list[Reader]] = {}
    for split, data in splits.items():
        data = _as_dataset(name, data)
        usual = SPLIT_NAMES.get(str(split).lower(), str(split).lower() if str(split).lower() in SPLITS else str(split))
        reader = DatasetReader(split if name == "the data" else f"{name}, {split}", data, reading)
        reader.source = name
        readers.setdefault(usual, []).append(reader)
    return readers


def _as_dataset(name: str, data: Any) -> Dataset | IterableDataset:
    """Return data that is a `Dataset` or `DataFrame` as a dataset."""
    if isinstance(data, Dataset | IterableDataset):
        return data
    if not isinstance(data, pd.DataFrame):
        known = "a path, a Hub dataset id, or a Dataset, DatasetDict or DataFrame"
        raise DataError(f"a {type(data).__name__} is not a source of messages; pass {known}")
    try:
        return Dataset.from_pandas(data, preserve_index=False)
    except pa.ArrowException as error:
        advice = "give each column one type, for example with frame.astype({'label': str})"
        raise DataError(f"{name}: {first_line(error)}; {advice}") from None


def _files_of_splits(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split in a folder: train.csv, or parts such as data/train-00000-of-00002.parquet."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*folder.iterdir(), *(folder / "data").glob("*")]):
        match = re.fullmatch(r"([a-z]+)(-\d+-of-\d+)?(\..+)", path.name.lower())
        split = SPLIT_NAMES.get(match[1], match[1]) if match else ""
        if split in SPLITS and suffix_of(path.name) and path.is_file():
            if split in found and not match[2]:
                raise DataError(f"{folder}: several files for {split}, such as {path.name}; remove all but one")
            found.setdefault(split, []).append(path)
    if not found:
        raise DataError(f"{folder}: is a folder without files called train, validation or test; name a file in it")
    return {split: found[split] for split in SPLITS if split in found}


def _labelled(
    name: str,
    readers: Mapping[str, Sequence[Reader]],
    reading: Reading,
    classes: Sequence[str] | None = None,
    positive_label: str | None = None,
    allow_single_label: bool = False,
) -> dict[str, Dataset]:
    """Read a dataset from the readers of each split; labels become indices into the classes that all share."""
    labels = Labels(reading)
    parts = {split: _messages(of_split, labels) for split, of_split in readers.items()}
    if not sum(len(part["text"]) for part in parts.values()):
        raise DataError(f"{name}: no messages found")
    names = labels.choose_classes(name, next(iter(readers.values()))[0], classes, positive_label)
    ids = labels.ids(names)
    if len(found := set(ids.values())) == 1 and not allow_single_label:
        shown = printable(", ".join(label for seen in labels.found.values() for label in seen.spellings))
        advice = "at least two classes are needed; --label-map says what labels mean, for example 0=spam,1=ham"
        raise DataError(f"{name}: every message is {names[found.pop()]!r} (labels: {shown}); {advice}")
    labels.log(names, classes is None and positive_label is None)
    if unknown := labels.found.keys() - ids.keys():  # with `skip_bad_rows`
        for part in parts.values():
            kept = [i for i, label in enumerate(part["label"]) if label not in unknown]
            part |= {column: [values[i] for i in kept] for column, values in part.items()}
    groups = _groups(
        [text for part in parts.values() for text in part["text"]],
        [is_twin for part in parts.values() for is_twin in part.pop("is_twin")],
    )
    features, first_row, datasets = annotated_features_of(names), 0, {}
    for split, part in parts.items():
        count = len(part["text"])
        indices = [ids[label] for label in part["label"]]
        group = groups[first_row : first_row + count]
        # Much faster than `Dataset.from_dict`, which encodes value by value.
        datasets[split] = Dataset(pa.table(part | {"label": indices, "group": group}, features.arrow_schema))
        first_row += count
    return datasets


def _groups(texts: list[str], is_twin: list[bool]) -> np.ndarray:
    """Return the group of each message, (N,): duplicates, and a twin and the message before it, belong together."""
    groups = duplicate_groups(texts)
    for row in np.flatnonzero(is_twin):
        groups[groups == groups[row]] = groups[row - 1]
    return groups


def _messages(readers: Sequence[Reader], labels: Labels) -> dict[str, list[Any]]:
    """Return the columns of all messages of some readers, and whether a message belongs with the one before it.

    Labels are those that `labels.add` returns.
    """
    names = ("text", "label", "source", "category", "language", "is_twin")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for reader in readers:
        in_pairs = reader.file is not None and reader.file.path == EMBEDDED / f"{TWINS}.tsv"
        first_row, left_out = len(columns["text"]), []
        for window in reader.windows(WINDOW_ROWS):
            messages = reader.messages(window)
            columns["text"] += messages.texts
            columns["label"] += labels.add(reader, messages)
            left_out += messages.left_out
            for name, values in reader.notes(messages.window, ("category", "language")).items():
                columns[name] += values
        if left_out:
            logger.warning("%s: left out %d rows: %s", reader.name, len(left_out), "; ".join(left_out[:3]))
        count = len(columns["text"]) - first_row
        columns["source"] += [reader.source] * count
        columns["is_twin"] += [in_pairs and row % 2 == 1 for row in range(count)]
    return columns
