"""Options for reading a source: which columns hold the texts and labels, and what the labels mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..text import short
from .formats import DataError

# If a file has several of these columns, the first name in the list wins.
TEXT_COLUMNS = ("text", "message", "sms", "v2", "messages", "content", "body", "sentence")
LABEL_COLUMNS = ("label", "category", "class", "v1", "labels", "target", "is_spam", "spam")
HAM_WORDS = ("ham", "not spam", "not_spam", "not-spam", "non spam", "non-spam", "nonspam", "0", "false")
LABELS = dict.fromkeys(HAM_WORDS, 0) | dict.fromkeys(("spam", "1", "true"), 1)


class MissingColumn(DataError):
    """There is no text column or no label column."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading a source. Those without a description here are options of `load_sms_spam`."""

    protocol: Literal["book", "full"] = "full"
    text_column: str | None = None
    label_column: str | None = None
    label_map: str | Mapping[str, str] | None = None
    positive_label: str | None = None
    classes: Sequence[str] | None = None
    encoding: str | None = None
    skip_bad_rows: bool = False
    remembered: tuple[str | None, str | None] = (None, None)
    allow_single_label: bool = False
    """Whether all messages may have the same label."""
    labelled: bool = True
    """Whether to read labels. Without labels, texts may be missing or empty."""
    added: tuple[str, ...] = ()
    """Names of columns that the caller will add."""

    def __post_init__(self) -> None:
        if self.protocol not in ("book", "full"):
            raise DataError(f"unknown protocol {short(self.protocol)}: use 'book' or 'full'")

    @cached_property
    def meanings(self) -> dict[str, str]:
        """The parsed `label_map`, with keys as `label_key` returns them."""
        return parse_label_map(self.label_map)

    def find(self, where: str, names: Sequence[str]) -> tuple[list[int], int | None]:
        """Return the positions of the text columns, and of the label column (`None` if labels are not read).

        An exact match takes precedence over one that differs in case or surrounding white space.
        """
        for name in self.added:
            if name in names:
                raise DataError(
                    f"{where}: column {name!r} already exists; write another one with --prefix, such as new_"
                )
        label_at = self.find_label(where, names) if self.labelled else None
        text = _named_or_remembered(names, self.text_column, self.remembered[0])
        parts = [text] if text is None or _positions(names, text) else text.split(",")
        return [_find(where, names, "text", part, TEXT_COLUMNS) for part in parts], label_at

    def find_label(self, where: str, names: Sequence[str]) -> int:
        """Return the position of the label column."""
        label = _named_or_remembered(names, self.label_column, self.remembered[1])
        return _find(where, names, "label", label, LABEL_COLUMNS)

    @cached_property
    def known_labels(self) -> frozenset[str]:
        """Labels that mean ham or spam by themselves, and those in the label map, as `label_key` returns them."""
        return frozenset([*LABELS, *self.meanings])

    def is_label(self, cell: str) -> bool:
        """Return whether a cell is one of `known_labels`."""
        return label_key(cell) in self.known_labels


def for_other_data(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for additional data: named columns are used only where they exist."""
    text, label = reading.get("remembered") or (None, None)
    remembered = (reading.get("text_column") or text, reading.get("label_column") or label)
    skip_bad_rows = reading.get("skip_bad_rows", False)
    return {"text_column": None, "label_column": None, "remembered": remembered, "skip_bad_rows": skip_bad_rows}


def label_key(value: object) -> str:
    """Normalize a label: case, white space and a trailing ".0" do not matter; "" if it is missing."""
    if value is None or value != value:  # NaN does not equal itself
        return ""
    key = " ".join(str(value).split()).casefold()
    key = re.sub(r"^(-?\d+)\.0+$", r"\1", key)  # a column with a missing number has 0.0 and 1.0
    return "" if key in ("nan", "null", "<na>") else key


def parse_label_map(label_map: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return the meaning of each label, by `label_key`: "not spam", "spam", or the name of another class."""
    if isinstance(label_map, str):
        entries = [entry.rpartition("=")[::2] for entry in label_map.split(",")]
    else:
        entries = (label_map or {}).items()
    meanings: dict[str, str] = {}
    for old, new in entries:
        key, meaning = label_key(old), " ".join(str(new).split())
        if not key or not meaning:
            entry = short(f"{old}={new}" if old else str(new))
            raise DataError(f"label map: {entry} is not OLD=NEW; write, for example, legit=ham,smishing=spam")
        if (known := LABELS.get(meaning.casefold())) is not None:
            meaning = ("not spam", "spam")[known]
        if meanings.setdefault(key, meaning) != meaning:
            raise DataError(f"label map: {short(key)} cannot mean both {meanings[key]!r} and {meaning!r}")
    return meanings


def _named_or_remembered(names: Sequence[str], named: str | None, remembered: str | None) -> str | None:
    if named is None and remembered is not None and all(_positions(names, part) for part in remembered.split(",")):
        return remembered
    return named


def _positions(names: Sequence[str], wanted: str) -> list[int]:
    exact = [i for i, name in enumerate(names) if name == wanted]
    return exact or [i for i, name in enumerate(names) if name.strip().casefold() == wanted.strip().casefold()]


def _find(where: str, names: Sequence[str], kind: str, wanted: str | None, known: Sequence[str]) -> int:
    for name in known if wanted is None else (wanted,):
        found = _positions(names, name)
        if len(found) > 1:
            raise DataError(f"{where}: several columns are called {name!r}; rename all but one of {short(list(names))}")
        if found:
            return found[0]
    looked_for = f"called {', '.join(known)}" if wanted is None else repr(wanted)
    advice = f"name it with --{kind}-column"
    if where.endswith("(the header)"):
        advice += "; if line 1 is a message, add a header line above it"
    raise MissingColumn(f"{where}: there is no {kind} column {looked_for}; found: {short(list(names))}; {advice}")
