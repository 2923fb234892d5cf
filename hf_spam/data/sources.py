"""Read labelled messages from sources, and split them into train, validation and test.

Sources are the UCI SMS Spam Collection v.1 (Almeida, Gómez Hidalgo and Yamakami 2011, doi 10.24432/C5CC84, CC BY 4.0),
the messages embedded in this package, files and Hub datasets. The "book" protocol follows chapter 6 of Raschka's *Build
a Large Language Model (From Scratch)*; the "full" protocol keeps every message, and duplicates in the same split.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import httpx2
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from ..hub_errors import HubError, check_reachable
from ..text import first_line, printable, short_list
from .duplicates import duplicate_groups
from .formats import PLAIN_TEXT, DataError, DataFile, is_hub_id, suffix_of
from .labels import Labels, annotated_features_of
from .names import Source, Sources, source_name, sources_of
from .readers import open_file
from .reading import MissingColumn, Reading, for_other_data, label_key
from .splits import SPLITS, book_split, full_split
from .tables import DatasetReader
from .uci import uci_file
from .windows import Reader

logger = logging.getLogger(__name__)
WINDOW_ROWS = 256  # of thousands, the garbage collector would scan the rows again and again
SPLIT_NAMES = {split: split for split in SPLITS} | {"training": "train", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("valid", "val", "dev", "eval", "evaluation"), "validation")
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
    given: then they become classes, sorted, numerically if all are whole numbers. Labels that differ only in case or
    white space are one class.

    Args:
        source: "sample" (the embedded messages), "marketing" (the embedded marketing messages, labelled "not spam"),
            "uci" (the SMS Spam Collection, downloaded once), the path of a .tsv, .csv, .txt, .jsonl, .json or .parquet
            file, also in a .zip or .gz, a folder with files called train, validation and test, a Hub dataset id
            "owner/name", or a `Dataset`, `DatasetDict` or `DataFrame`. Several, in a list or separated by commas
            ("uci,sample"), are read as one.
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
        protocol=protocol,
        text_column=text_column,
        label_column=label_column,
        label_map=label_map,
        positive_label=positive_label,
        classes=classes,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        remembered=remembered,
    )
    name, parts = source_name(source), _read_splits(source, reading)
    if all(split in parts for split in SPLITS) and protocol == "full":
        _warn_of_others(name, parts)
        _check_filled(f"{name}, ", parts)
        return _texts_and_labels({split: parts[split] for split in SPLITS})
    if len(parts) > 1:
        advice = "protocol 'full' keeps them" if set(SPLITS) <= set(parts) else f"{', '.join(SPLITS)} would be kept"
        logger.warning("%s: merging its splits (%s) and splitting again; %s", name, ", ".join(parts), advice)
    dataset = concatenate_datasets(list(parts.values()))
    try:
        indices = book_split(dataset["label"][:], seed) if protocol == "book" else full_split(dataset, seed)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    return _texts_and_labels({split: dataset.select(rows) for split, rows in zip(SPLITS, indices, strict=True)})


def read_messages(source: Sources, **reading: Any) -> Dataset:
    """Read all messages of a source without splitting or balancing them.

    Arguments and errors are those of `load_sms_spam`, and `allow_single_label` says whether all messages may have the
    same label. Protocol "book" only interprets quotes in a TSV without a header, as the book does, which merges a few
    messages of the UCI file (5,572 rows in place of 5,574).

    Returns one row per message in the source's order, with the columns of `load_sms_spam`, and `source` (its name),
    `category` and `language` (as in the file, or "") and `group` (messages that belong in the same split, such as
    duplicates, have the same number).
    """
    return concatenate_datasets(list(_read_splits(source, Reading(**reading)).values()))


def read_texts(source: Sources, **reading: Any) -> list[str]:
    """Read only the texts of a source, which needs no labels, such as a .txt file with a message on each line.

    Empty texts are left out. Arguments and errors are those of `load_sms_spam`.
    """
    texts: list[str] = []
    for reader in _open(source, Reading(**reading, labelled=False)):
        for window in reader.windows(WINDOW_ROWS):
            texts += [text for text in reader.messages(window).texts if (text or "").strip()]
    if not texts:
        raise DataError(f"{source_name(source)}: no messages found")
    logger.info("%s: %d texts", source_name(source), len(texts))
    return texts


def read_sets(source: Sources, **reading: Any) -> DatasetDict:
    """Read all messages of a source as test sets, which may have a single label, without splitting or balancing.

    Returns the splits of a source that has them, or one set named after the source. Arguments, columns and errors are
    those of `load_sms_spam`.
    """
    parts = _read_splits(source, Reading(**reading, allow_single_label=True))
    if list(parts) == ["all"]:
        parts = {",".join(Path(source_name(one)).name for one in sources_of(source)): parts["all"]}
    return _texts_and_labels({name: part for name, part in parts.items() if len(part)})


def check_splits(data: DatasetDict, **reading: Any) -> DatasetDict:
    """Convert splits passed by the user, one of them called train, to the columns and labels of `load_sms_spam`.

    Arguments and errors are those of `load_sms_spam`.
    """
    how = Reading(**reading)
    readers = _split_readers("", data, how)
    _warn_of_others("the data", [reader.split for reader in readers])
    readers = [reader for reader in readers if reader.split in SPLITS]
    if all(reader.split != "train" for reader in readers):
        raise DataError(f"a split named 'train' is needed; found: {', '.join(map(repr, data)) or 'none'}")
    parts = _labelled("the data", _in_order(readers), how)
    _check_filled("", parts)
    return _texts_and_labels(parts)


def _warn_of_others(name: str, splits: Iterable[str]) -> None:
    if others := [split for split in splits if split not in SPLITS]:
        logger.warning("%s: not used: the splits %s", name, short_list(others))


def _check_filled(prefix: str, parts: Mapping[str, Dataset]) -> None:
    """Raise an error that names a split without messages, after `prefix`."""
    if empty := [split for split, part in parts.items() if not len(part)]:
        raise DataError(f"{prefix}{empty[0]}: no messages found")


def _texts_and_labels(parts: Mapping[str, Dataset]) -> DatasetDict:
    return DatasetDict({split: part.select_columns(["text", "label"]) for split, part in parts.items()})


def _read_splits(source: Sources, reading: Reading) -> dict[str, Dataset]:
    """Read the messages of each split of a source that has splits, or of one split called "all"."""
    return _labelled(source_name(source), _open(source, reading), reading)


def _open(source: Sources, reading: Reading) -> list[Reader]:
    """Return the readers of a source, or of several, which are read as one without their splits.

    If there are several, named columns are used only in those that have them.
    """
    sources, readers = sources_of(source), []
    how = replace(reading, **for_other_data(vars(reading))) if len(sources) > 1 else reading
    for one in sources:
        try:
            opened = _open_one(one, how)
        except MissingColumn:
            opened = _open_one(one, reading)  # for an error that says which columns were named
        for reader in opened:
            reader.source = source_name([one])
            reader.split = reader.split if len(sources) == 1 else "all"
            readers.append(reader)
    if not readers:
        raise DataError("no data source given")
    used = [name for reader in readers for name in reader.columns if name]
    found = {label_key(part) for name in used for part in (name, *name.split(","))}
    for name in filter(None, (reading.text_column, reading.label_column)):
        if len(sources) > 1 and label_key(name) not in found and not {*map(label_key, name.split(","))} <= found:
            raise DataError(f"{source_name(source)}: no column {name!r} in any of them; name one that a source has")
    return readers


def _open_one(source: Source, reading: Reading) -> list[Reader]:
    name = source_name([source])
    if isinstance(source, str) and source in ("sample", MARKETING, "uci"):
        reading = replace(reading, encoding=None)  # the one that is named is that of the files beside them
    if isinstance(source, dict):
        return _split_readers(f"{name}, ", source, reading)
    if not isinstance(source, str | os.PathLike):
        return [DatasetReader(name, _as_dataset(name, source), reading)]
    if source in ("sample", MARKETING):
        paths = [path for path in sorted(EMBEDDED.glob("*.tsv")) if (path.stem == MARKETING) == (source == MARKETING)]
        return [open_file(DataFile.find(path, name=f"{name}, {path.name}"), reading) for path in paths]
    if isinstance(source, str) and is_hub_id(source):
        return _split_readers(f"{name}, ", _load_from_hub(name), reading)
    if source == "uci":
        return [open_file(DataFile.find(uci_file(), name=name), reading)]
    if os.path.isdir(name):
        return _open_folder(Path(name), reading)
    if os.path.lexists(name):
        return [open_file(DataFile.find(source), reading)]
    known = "a file or folder, 'sample', 'marketing', 'uci' or a Hub dataset id 'owner/name'"
    raise DataError(f"{name or repr(name)}: not {known}")


def _load_from_hub(name: str) -> DatasetDict:
    try:
        check_reachable(name, "dataset")  # `load_dataset` would retry for 23 s
        return load_dataset(name)
    except HubError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
        reason = f"no such file, and not loaded from the Hub ({first_line(error)})"
        raise DataError(f"{name}: {reason}; check the id, the network and your login, or use 'sample'") from error


def _split_readers(prefix: str, splits: Mapping[str, Any], reading: Reading) -> list[Reader]:
    """Return a reader of each split; errors call it by its own name, after `prefix`."""
    readers = []
    for split, data in splits.items():
        name = f"{prefix}{split}"
        readers.append(DatasetReader(name, _as_dataset(name, data), reading))
        readers[-1].split = SPLIT_NAMES.get(str(split).lower(), str(split))
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
    except (pa.ArrowException, ValueError, TypeError) as error:  # also of columns that are not needed
        advice = "pass the text and label columns only, of one type each, for example frame.astype({'label': str})"
        raise DataError(f"{name}: {first_line(error.args[0] if error.args else error)}; {advice}") from None


def _open_folder(folder: Path, reading: Reading) -> list[Reader]:
    """Return readers of what `save_to_disk` wrote, or of files such as train.csv and data/train-00000-of-00002.csv."""
    if any((folder / written).exists() for written in ("dataset_dict.json", "state.json")):
        try:
            saved = load_from_disk(folder)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DataError(f"{folder}: not what save_to_disk wrote ({first_line(error)}); name a file in it") from None
        return _split_readers(f"{folder}, ", saved if isinstance(saved, dict) else {"all": saved}, reading)
    found: dict[str, dict[tuple, list[Path]]] = defaultdict(lambda: defaultdict(list))
    others: list[str] = []
    for path in sorted([*folder.iterdir(), *(folder / "data").glob("*")]):
        match = re.fullmatch(r"([a-z]+)(?:-\d+-of-(\d+)(?:-[0-9a-f]{16})?)?(\..+)", path.name.lower())
        split = SPLIT_NAMES.get(match[1]) if match else None
        if split and suffix_of(path.name) and path.is_file():
            found[split][(path.parent, *match.groups())].append(path)
        elif suffix_of(path.name) not in ("", PLAIN_TEXT):  # not a readme.txt
            others.append(path.relative_to(folder).as_posix())
    if found and others:
        logger.warning("%s: not read, since not called train, validation or test: %s", folder, short_list(others))
    readers: list[Reader] = []
    for split, sets in found.items():
        ((_, _, total, _), paths), *others = sets.items()
        if others:
            extra = others[0][1][0].relative_to(folder)
            raise DataError(f"{folder}: several files for {split}, such as {extra}; remove all but one")
        if len(paths) != int(total or 1):
            raise DataError(f"{folder}: {split} has {len(paths)} of {int(total)} files; add the missing ones")
        for path in paths:
            readers.append(open_file(DataFile.find(path), reading))
            readers[-1].split = split
    if not readers:
        raise DataError(f"{folder}: is a folder without files called train, validation or test; name a file in it")
    return _in_order(readers)


def _in_order(readers: Sequence[Reader]) -> list[Reader]:
    return sorted(readers, key=lambda reader: SPLITS.index(reader.split))


def _labelled(name: str, readers: Sequence[Reader], reading: Reading) -> dict[str, Dataset]:
    """Read the messages of each split; labels become indices into the classes that all share."""
    labels, twins = Labels(reading), []
    columns: dict[str, list[Any]] = defaultdict(list)
    ends: dict[str, int] = {}
    for split in dict.fromkeys(reader.split for reader in readers):
        for reader in (reader for reader in readers if reader.split == split):
            first_row = len(columns["text"])
            _read(reader, labels, columns)
            if reader.file is not None and reader.file.path == EMBEDDED / f"{TWINS}.tsv":
                twins += range(first_row + 1, len(columns["text"]), 2)
        ends[split] = len(columns["text"])
    if not columns["text"]:
        raise DataError(f"{name}: no messages found")
    names = labels.choose_classes(name, readers[0].class_names)
    ids = labels.ids(names)
    if len(found := set(ids.values())) == 1 and not reading.allow_single_label:
        shown = printable(", ".join(label for seen in labels.found.values() for label in seen.spellings))
        advice = "at least two classes are needed; --label-map says what labels mean, for example 0=spam,1=ham"
        raise DataError(f"{name}: every message is {names[found.pop()]!r} (labels: {shown}); {advice}")
    labels.log(names)
    groups = duplicate_groups(columns["text"])
    for row in twins:  # a fake and the genuine message before it belong together
        groups[groups == groups[row]] = groups[row - 1]
    columns |= {"label": list(map(ids.get, columns["label"])), "group": groups}
    # Much faster than `Dataset.from_dict`, which encodes value by value.
    table = pa.table(columns, annotated_features_of(names).arrow_schema)
    rows = zip(ends, pairwise([0, *ends.values()]), strict=True)
    # Unknown labels, which `skip_bad_rows` leaves out, are null.
    return {split: Dataset(table[start:end].drop_null()) for split, (start, end) in rows}


def _read(reader: Reader, labels: Labels, columns: dict[str, list[Any]]) -> None:
    """Append the messages of a reader to the columns, with the keys that `labels.add` returns."""
    left_out = []
    for window in reader.windows(WINDOW_ROWS):
        messages = reader.messages(window)
        columns["text"] += messages.texts
        columns["label"] += labels.add(reader, messages)
        columns["source"] += [reader.source] * len(messages.texts)
        for name, values in reader.annotations(messages.window).items():
            columns[name] += values
        left_out += messages.left_out
    if left_out:
        logger.warning("%s: left out %d rows: %s", reader.name, len(left_out), "; ".join(left_out[:3]))
