"""Map labels to classes: the many names of ham and spam, or the user's own classes."""

import logging
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..text import printable, short
from .formats import DataError
from .reading import LABELS, Reading, label_key
from .windows import SKIP, Messages, Reader

logger = logging.getLogger(__name__)

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


@dataclass
class FoundLabel:
    """A label found in the data; spellings that differ only in case count as one label."""

    place: str
    """Place of the first occurrence."""
    value: Any
    """Raw value of the first occurrence."""
    spellings: list[str]
    """All spellings; the first one names the class."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of messages by source."""


class Labels:
    """Collect the labels of a source, and map them to classes."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self.found: dict[str, FoundLabel] = {}
        self.notes: dict[str, list[str]] = {}
        self._keys: dict[tuple[type, Any], str] = {}

    def add(self, reader: Reader, messages: Messages) -> list[str]:
        """Return the key of each label, which is the same for labels that differ only in case and white space."""
        counts: Counter[str] = Counter()
        keys = []
        for i, value in enumerate(messages.labels):
            cached = (type(value), value) if isinstance(value, str | int | float) else (str, repr(value))
            if (key := self._keys.get(cached)) is None:
                key = self._keys[cached] = label_key(value)
                spelling = str(value).strip()
                seen = self.found.setdefault(key, FoundLabel(reader.place(messages.window, i), value, []))
                if spelling not in seen.spellings:
                    seen.spellings.append(spelling)
            counts[key] += 1
            keys.append(key)
        for key, count in counts.items():
            self.found[key].counts[reader.source] += count
        text, label = reader.columns
        columns = f"from column {label}, texts from {text}" if label else ""
        self.notes.setdefault(reader.source, [columns, reader.note()])
        return keys

    def meaning(self, key: str) -> str:
        """Return what a label means by the label map, or its name."""
        return self.reading.meanings.get(key, self.found[key].spellings[0])

    def ids(self, names: Sequence[str]) -> dict[str, int]:
        """Return the index of the class of each label that has one."""
        known = {label_key(name): i for i, name in reversed(list(enumerate(names)))}
        words = LABELS if list(names) == LABEL_NAMES else {}
        meanings = {key: label_key(self.meaning(key)) for key in self.found}
        indices = {key: known.get(meaning, words.get(meaning)) for key, meaning in meanings.items()}
        return {key: index for key, index in indices.items() if index is not None}

    def choose_classes(
        self, source: str, reader: Reader, classes: Sequence[str] | None, positive_label: str | None
    ) -> list[str]:
        """Return the class names, in the order of their indices.

        If all labels mean ham or spam, these are `LABEL_NAMES`. Other labels become classes in the order of the
        column's `ClassLabel`, or sorted (numerically if all are whole numbers) if the user named the label column and
        the label map has other classes than ham and spam, or is empty.
        The `reader` of any split knows that column. `classes` are those of a model, and must include all labels.

        Raises:
            DataError: A label is unknown, or the column does not hold labels.
        """
        named, total = self.reading.label_column, sum(seen.counts.total() for seen in self.found.values())
        declared = reader.class_names
        if declared is not None:
            declared = list(dict.fromkeys(self.reading.meanings.get(label_key(name), name) for name in declared))
        meanings = {key: self.meaning(key) for key in self.found}
        if classes is not None and {*map(label_key, meanings.values())} <= {*map(label_key, classes)}:
            return list(classes)
        if all(label_key(label) in LABELS for label in (*meanings.values(), *(declared or ()))):
            return order_classes(source, LABEL_NAMES, positive_label)
        mapped = {label_key(meaning) for meaning in self.reading.meanings.values()}
        only_spam = bool(mapped) and mapped <= LABELS.keys()  # the map names no class of the user's own
        own = classes is None and (declared is not None or (named is not None and not only_spam))
        if own and len(meanings) > min(MAX_CLASSES, max(20, total // 2)):
            found = f"{len(meanings):,} different labels in {total:,} messages"
            raise DataError(f"{source}: {found}, so {named or 'this'} is not a label column; see --label-column")
        if own and declared is None:
            for seen in self.found.values():
                if not isinstance(seen.value, str | int | float):
                    fault = f"a label must be a string, a number or a boolean, not {short(seen.value)}"
                    raise DataError(f"{seen.place}: {fault}")
            names = list({label_key(name): name for name in reversed(meanings.values())}.values())
            whole = all(re.fullmatch("-?[0-9]{1,18}", name) for name in names)
            names.sort(key=lambda name: (int(name) if whole else 0, name))
            return order_classes(source, names, positive_label)
        names = list(classes or declared or LABEL_NAMES)
        ids = self.ids(names)
        if self.reading.skip_bad_rows and ids:
            return order_classes(source, names, positive_label)
        for key, seen in self.found.items():
            if key not in ids:
                known = "ham, spam, 0, 1, true, false" if names == LABEL_NAMES else printable(", ".join(names))
                label = " ".join(str(seen.value).split())
                quoted = label if re.fullmatch(r"[\w.+-]+", label) else shlex.quote(label)
                advice = f"say what it means with --label-map {quoted}=ham or {quoted}=spam"
                advice = "rename it, since a label map cannot hold commas" if "," in label else advice
                if not classes and not declared:
                    keep = (
                        f"keep it as a class with {quoted}={quoted}"
                        if named
                        else "keep labels of your own with --label-column"
                    )
                    advice += f", or {keep}"
                fault = f"unknown label {short(seen.value)}; known: {known}"
                raise DataError(f"{seen.place}: {fault}; {advice}; {SKIP}")
        return order_classes(source, names, positive_label)

    def log(self, names: Sequence[str], by_default: bool) -> None:
        """Log how the labels of each source were read, and which were left out."""
        ids = self.ids(names)
        for source, notes in self.notes.items():
            shown = []
            for key, seen in self.found.items():
                if count := seen.counts[source]:
                    what = "left out" if key not in ids else names[ids[key]]
                    what = "ham" if what == LABEL_NAMES[0] else what
                    plain = key == label_key(what) or (what == "ham" and key in ("not spam", "not_spam"))
                    shown.append(f"{'/'.join(seen.spellings)}{'' if plain else f' ({what})'} {count:,}")
            labels = ", ".join(shown if len(shown) <= 12 else [*shown[:12], "..."])
            total = sum(seen.counts[source] for seen in self.found.values())
            details = "; ".join(filter(None, [labels, *notes]))
            logger.info("%s: %s messages: %s", source or "the data", f"{total:,}", printable(details))
        if by_default and len(names) == 2 and "spam" not in map(str.lower, names):
            logger.info("The positive label is %s (change it with --positive-label)", printable(names[1]))
        if unused := self.reading.meanings.keys() - self.found.keys():
            logger.warning(
                "The label map has labels that are not in the data: %s", printable(", ".join(sorted(unused)))
            )
        for key in self.found.keys() - ids.keys():
            seen = self.found[key]
            label = printable(short(seen.value))
            logger.warning("Left out %d rows labelled %s, the first at %s", seen.counts.total(), label, seen.place)


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
