"""What labels mean: ham and spam under their many names, or classes of their own."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..text import printable, short
from .formats import LABELS, Columns, DataError
from .splits import SPLITS

LABEL_NAMES = ["not spam", "spam"]
FEW = 5  # training messages of a class, below which it may be none
MOST_LABELS = 1000  # more than that are no classes, but a column of something else


def features_of(names: Sequence[str]) -> Features:
    """The features of messages whose classes have these names, in the order of their indices."""
    return Features({"text": Value("string"), "label": ClassLabel(names=list(names))})


FEATURES = features_of(LABEL_NAMES)


def label_names(messages: Dataset) -> list[str]:
    """The names of the classes, in the order of their indices."""
    return list(messages.features["label"].names)


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
