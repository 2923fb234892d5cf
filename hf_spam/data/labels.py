"""Map labels to classes: the many names of ham and spam, or the user's own classes."""

import logging
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..text import printable, short, short_list
from .formats import DataError
from .reading import LABELS, Reading, label_key
from .windows import SKIP, Messages, Reader

logger = logging.getLogger(__name__)

LABEL_NAMES = ["not spam", "spam"]
FEW_MESSAGES = 5  # a class with fewer training messages than this may be a misspelt label
MAX_CLASSES = 1000
LONGEST_LABEL = 60  # characters


def features_of(names: Sequence[str]) -> Features:
    """Return the features of labelled messages with these class names, in the order of their indices."""
    return Features({"text": Value("string"), "label": ClassLabel(names=list(names))})


def annotated_features_of(names: Sequence[str]) -> Features:
    """Return the features of messages with their origin, as `read_messages` returns them."""
    origin = {name: Value("string") for name in ("source", "category", "language")}
    return Features({**features_of(names), **origin, "group": Value("int64")})


FEATURES = features_of(LABEL_NAMES)


def label_names(messages: Dataset) -> list[str]:
    """Return the names of the classes, in the order of their indices."""
    return list(messages.features["label"].names)


@dataclass
class FoundLabel:
    """A label found in the data; spellings that differ only in case count as one label."""

    place: str
    """Place of the first occurrence."""
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
        self._keys: dict[tuple[type, str | float], str] = {}  # by type, too, since 1 == True

    def add(self, reader: Reader, messages: Messages) -> list[str]:
        """Return the key of each label, which is the same for labels that differ only in case and white space."""
        keys = []
        for i, value in enumerate(messages.labels):
            if (key := self._keys.get((type(value), value))) is None:
                key = self._keys[type(value), value] = label_key(value)
                spelling = str(value).strip()
                seen = self.found.setdefault(key, FoundLabel(reader.place(messages.window, i), []))
                if spelling not in seen.spellings:
                    seen.spellings.append(spelling)
            keys.append(key)
        for key, count in Counter(keys).items():
            self.found[key].counts[reader.source] += count
        text, label = reader.columns
        columns = "" if label is None else f"from column {label or 'without a name'}, texts from {text}"
        self.notes.setdefault(reader.source, [columns, reader.note()])
        return keys

    def meanings(self) -> dict[str, str]:
        """Return what each label means by the label map, or its name."""
        return {key: self.reading.meanings.get(key, seen.spellings[0]) for key, seen in self.found.items()}

    def ids(self, names: Sequence[str]) -> dict[str, int]:
        """Return the index of the class of each label that has one."""
        known = LABELS if list(names) == LABEL_NAMES else {}
        known = known | {label_key(name): i for i, name in reversed(list(enumerate(names)))}
        meanings = {key: label_key(meaning) for key, meaning in self.meanings().items()}
        return {key: known[meaning] for key, meaning in meanings.items() if meaning in known}

    def choose_classes(self, source: str, declared: list[str] | None) -> list[str]:
        """Return the class names, in the order of their indices; `declared` are those of the column's `ClassLabel`.

        If all labels mean ham or spam, these are `LABEL_NAMES`. Other labels become classes in the order of `declared`,
        or sorted (numerically if all are whole numbers) if the user named the label column and the label map has other
        classes than ham and spam, or is empty. The classes of a model must include all labels.
        """
        named, classes = self.reading.label_column, self.reading.classes
        if declared is not None:
            declared = list(dict.fromkeys(self.reading.meanings.get(label_key(name), name) for name in declared))
        meanings = self.meanings()
        labels = {*map(label_key, meanings.values())}
        is_spam = (labels | {*map(label_key, declared or ())}) <= LABELS.keys()
        mapped = {*map(label_key, self.reading.meanings.values())}
        only_spam = bool(mapped) and mapped <= LABELS.keys()  # the map names no class of the user's own
        total = sum(seen.counts.total() for seen in self.found.values())
        if classes is not None and (not is_spam or labels <= {*map(label_key, classes)}):
            names = list(classes)
        elif is_spam or (declared is None and (named is None or only_spam)):
            names = LABEL_NAMES
        elif len(meanings) > min(MAX_CLASSES, max(20, total // 2)):
            found = f"{len(meanings):,} different labels in {total:,} messages"
            raise DataError(
                f"{source}: {found}, so {named or 'this'} is not a label column; name another with --label-column"
            )
        elif declared is not None:
            names = declared
        else:
            names = list({label_key(name): name for name in reversed(meanings.values())}.values())
            whole = all(re.fullmatch("-?[0-9]{1,18}", name) for name in names)
            names.sort(key=lambda name: (int(name) if whole else 0, name))
        ids = self.ids(names)
        unknown = [seen for key, seen in self.found.items() if key not in ids]
        if unknown and not (self.reading.skip_bad_rows and ids):
            raise self._unknown(unknown[0], names, may_be_own=classes is None and declared is None)
        return names if classes is not None else self._with_positive_last(source, names)

    def _with_positive_last(self, source: str, names: list[str]) -> list[str]:
        positive = self.reading.positive_label
        if positive is None:
            return names
        if any(name.lower() == "spam" != positive.lower() for name in names):
            raise DataError(f"{source}: a class is named spam, so it must be the positive label, not {short(positive)}")
        if positive not in names or len(names) != 2:
            found = f"not {short(positive)}; found: {printable(', '.join(names))}"
            raise DataError(f"{source}: the positive label must be one of two labels, {found}")
        return [name for name in names if name != positive] + [positive]

    def _unknown(self, seen: FoundLabel, names: list[str], may_be_own: bool) -> DataError:
        """Return the error for a label that is none of the classes."""
        known = "ham, spam, 0, 1, true, false" if names == LABEL_NAMES else printable(", ".join(names))
        label = " ".join(seen.spellings[0].split())
        choices = ("ham", "spam") if {*map(label_key, names)} <= LABELS.keys() else names
        first, second = (f"{shlex.quote(label)}={shlex.quote(choice)}" for choice in choices[:2])
        advice = f"say what it means with --label-map {first} or {second}"
        if self.reading.meanings:
            advice = f"say what it means by adding {first} or {second} to --label-map, after a comma"
        if "," in label:  # it separates the labels of the map
            advice = "rename it"
        if len(label) > LONGEST_LABEL:
            advice = "it looks like a text: name the columns with --text-column and --label-column"
        elif may_be_own and self.reading.label_column is None:
            advice += ", or keep labels of your own with --label-column"
        return DataError(f"{seen.place}: unknown label {short(label)}; known: {known}; {advice}; {SKIP}")

    def log(self, names: Sequence[str]) -> None:
        """Log how the labels of each source were read, and which were left out."""
        ids = self.ids(names)
        for source, notes in self.notes.items():
            shown = []
            for key, seen in self.found.items():
                if count := seen.counts[source]:
                    what = names[ids[key]] if key in ids else "left out"
                    what = "ham" if what == LABEL_NAMES[0] else what
                    meaning = "" if key == label_key(what) else f" ({what})"
                    shown.append(f"{'/'.join(seen.spellings)}{meaning} {count:,}")
            labels = ", ".join(shown if len(shown) <= 12 else [*shown[:12], "..."])
            total = sum(seen.counts[source] for seen in self.found.values())
            details = printable("; ".join(filter(None, [labels, *notes])))
            logger.info("%s: %s messages: %s", source, f"{total:,}", details)
        is_chosen = self.reading.classes is not None or self.reading.positive_label is not None
        if not is_chosen and len(names) == 2 and "spam" not in map(str.lower, names):
            logger.info("The positive label is %s (change it with --positive-label)", printable(names[1]))
        if unused := sorted(self.reading.meanings.keys() - self.found.keys()):
            logger.warning("The label map has labels that are not in the data: %s", printable(", ".join(unused)))
        for seen in (seen for key, seen in self.found.items() if key not in ids):
            label = printable(short(seen.spellings[0]))
            logger.warning("Left out %d rows labelled %s, the first at %s", seen.counts.total(), label, seen.place)


def check_classes(data: DatasetDict) -> str:
    """Describe classes with very few training messages, which may be misspelt labels; "" if there are none.

    A class that other splits have, but `train` lacks, is an error.
    """
    names, counts = label_names(data["train"]), Counter(data["train"]["label"][:])
    for split, messages in data.items():
        if missing := sorted(set(messages["label"][:]) - set(counts)):
            raise DataError(f"{split}: there are messages labelled {names[missing[0]]!r}, but none in train")
    few = [f"{counts[label]} labelled {names[label]!r}" for label in sorted(counts) if counts[label] < FEW_MESSAGES]
    return printable(short_list(few))
