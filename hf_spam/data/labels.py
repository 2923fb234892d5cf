"""Map labels to classes: the many names of ham and spam, or the user's own classes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..text import printable, short
from .formats import LABELS, DataError
from .readers import Reader

LABEL_NAMES = ["not spam", "spam"]
FEW_MESSAGES = 5  # a class with fewer training messages than this may be a misspelt label
MAX_CLASSES = 1000


def features_of(names: Sequence[str]) -> Features:
    """Return the features of labelled messages with these class names, in the order of their indices."""
    return Features({"text": Value("string"), "label": ClassLabel(names=list(names))})


def annotated_features_of(names: Sequence[str]) -> Features:
    """Return the features of messages with notes on their origin, as `read_messages` returns them."""
    notes = {name: Value("string") for name in ("source", "category", "language")}
    return Features({**features_of(names), **notes, "group": Value("int64")})


FEATURES = features_of(LABEL_NAMES)


def label_names(messages: Dataset) -> list[str]:
    """Return the names of the classes, in the order of their indices."""
    return list(messages.features["label"].names)


def choose_classes(
    source: str,
    labels: Mapping[str, tuple[str, Any]],
    total: int,
    reader: Reader,
    classes: Sequence[str] | None,
) -> list[str]:
    """Return the class names for the labels of a source, in the order of their indices.

    If all labels mean ham or spam, these are `LABEL_NAMES`. Other labels become classes in the order of the column's
    `ClassLabel`, or sorted (numerically if all are whole numbers) if the user named the label column.

    Args:
        source: Name of the source.
        labels: Each label, with the place and raw value of its first occurrence.
        total: The number of messages.
        reader: Reader of the first split, which knows the label column.
        classes: Classes of a model, which must include all labels; `None` for any classes.

    Raises:
        DataError: A label is unknown, or the column does not hold labels.
    """
    declared, named = reader.class_names, reader.columns.label
    if classes is not None and labels.keys() <= set(classes):
        return list(classes)
    if all(label.lower() in LABELS for label in (*labels, *(declared or ()))):
        return LABEL_NAMES
    own = classes is None and (declared is not None or named is not None)
    if own and len(labels) > min(MAX_CLASSES, max(20, total // 2)):
        found = f"{len(labels):,} different labels in {total:,} messages"
        raise DataError(f"{source}: {found}, so {named or 'this'} is not a label column; see --label-column")
    if own and declared is None:
        for where, value in labels.values():
            if not isinstance(value, str | int | float):
                raise DataError(f"{where}: a label must be a string, a number or a boolean, not {short(value)}")
        whole = all(re.fullmatch("-?[0-9]{1,18}", label) for label in labels)
        return sorted(labels, key=lambda label: (int(label) if whole else 0, label))
    names = list(classes or declared or LABEL_NAMES)
    known = list(LABELS) if names == LABEL_NAMES else names
    for label, (where, value) in labels.items():
        if (label.lower() if names == LABEL_NAMES else label) not in known:
            hint = "" if classes or declared else "; for classes of your own, name their column with --label-column"
            raise DataError(f"{where}: unknown label {short(value)}; known: {', '.join(known)}{hint}")
    return names


def order_classes(where: str, names: list[str], positive_label: str | None) -> list[str]:
    """Return the class names with the positive class last; unchanged if `positive_label` is `None`.

    Raises:
        DataError: There is no such class, there are more than two, or the other class is spam.
    """
    if positive_label is None:
        return names
    if any(name.lower() == "spam" != positive_label.lower() for name in names):
        raise DataError(f"{where}: the positive label of data with spam must be spam, not {short(positive_label)}")
    if positive_label not in names or len(names) != 2:
        found = f"not {short(positive_label)}; found: {printable(', '.join(names))}"
        raise DataError(f"{where}: the positive label must be one of two labels, {found}")
    return [name for name in names if name != positive_label] + [positive_label]


def check_classes(data: DatasetDict) -> str:
    """Describe classes with very few training messages, which may be misspelt labels; "" if there are none.

    Raises:
        DataError: Another split has messages of a class that `train` lacks.
    """
    names, counts = label_names(data["train"]), Counter(data["train"]["label"][:])
    for split, messages in data.items():
        if missing := sorted(set(messages["label"][:]) - set(counts)):
            raise DataError(f"{split}: there are messages labelled {names[missing[0]]!r}, but none in train")
    few = [f"{counts[label]} labelled {names[label]!r}" for label in sorted(counts) if counts[label] < FEW_MESSAGES]
    return printable(", ".join(few if len(few) <= 4 else [*few[:3], f"and {len(few) - 3} more labels"]))
