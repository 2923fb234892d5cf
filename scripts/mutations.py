"""Data files in the shapes that people bring: plain rows, and mutations that change how they are written.

`make_case` draws a file, `write` writes it. To add a shape, add a function with `@mutation`.
"""

import codecs
import csv
import io
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# fmt: off
ODD = [
    " blanks around, kept ", "tab\there", "007", "NA", "null", "None", "1", "nan", "N/A", "=SUM(A1)", "-", "#hash",
    "🎉👩‍👩‍👧 जीतें ₹5000", "\u200fربحت جائزة! اتصل الآن\u202c", "zero\u200bwidth\u200d", "\ufefffrom the middle",
    "恭喜您中奖了，请立即回复", "one\u2028two\x85three\x0bfour\x0cfive", "cafe\u0301 is not café",
    "£5, €3, ’tis caf\xe9",
    'He said "ok", then left', '5" pipe', '"quoted" at the start', '"whole"', 'ends in a "quote"', '"', '""',
    "'single'",
    "saved in C:\\temp\\, ok?", "see, C:\\new\\", "\\", "a; b; c", "a | b", '{"label": "ham", "text": "no"}', "sep=;",
    "a,b,c,d", "yes;no", "x" * 200_000, "Unnamed: 2", "&pound;5 &amp; more",
]
LOOKALIKES = ["ham", "spam", "Spam", "0", "1", "true", "label,text", "label", "text", "v2", "ham,hello",
              "spam\twin", "ham;1"]
KNOWN_NAMES = [("Category", "Message"), ("v1", "v2"), ("LABEL", "TEXT"), ("Label", "Text"), ("labels", "text"),
               ("class", "sms"), ("label", "message")]
# fmt: on
OTHER_NAMES = [("kind", "body"), ("Spam/Ham", "Message"), ("is_spam", "text"), ("spam", "text"), ("target", "content")]
WORDS = [("legit", "smishing"), ("no", "yes"), ("-1", "1"), ("1", "0"), ("Legit", "Spam"), ("clean", "junk")]
MISSING = ["", " ", "NaN", "nan", "null", "None"]
ENCODINGS = {
    "UTF-8 with BOM": ("utf-8", codecs.BOM_UTF8),
    "UTF-16 LE": ("utf-16-le", codecs.BOM_UTF16_LE),
    "UTF-16 BE": ("utf-16-be", codecs.BOM_UTF16_BE),
    "UTF-16 without BOM": ("utf-16-le", b""),
    "cp1252": ("cp1252", b""),
    "latin-1": ("latin-1", b""),
    "cp1251": ("cp1251", b""),
}
SPECIAL = {
    "cp1252": "£5 and €3, it’s caf\xe9",
    "latin-1": "£5 at the caf\xe9",
    "cp1251": "Привет, ты дома? Вы выиграли приз",
}
SPECIAL["utf-16-le"] = SPECIAL["utf-16-be"] = SPECIAL["utf-8"] = "caf\xe9 € 🎉"


DAMAGES = ("bit", "bytes", "zeros", "cut", "removed", "inserted", "repeated")
INSERTED = [b'"', b",", b"\t", b";", b"\0", b"{", b"[", b"\xff", b"spam,", b"9", b"\n", b"\r", b'\n"']


@dataclass
class Row:
    """A message, and how it is written."""

    text: str
    spam: bool
    label: Any = ""
    also: list[str] = field(default_factory=list)  # other texts that are right
    bad: str = ""  # what cannot be used: "text", "label" or "row"
    may_go: bool = False  # whether `skip_bad_rows` may skip it
    cells: dict[str, Any] = field(default_factory=dict)  # cells of other columns, and a text that is not `text`
    change: Callable[[str], str] = str  # what happens to the line

    @property
    def plain(self) -> bool:
        """Whether the text is in one cell and may be replaced."""
        return not self.also and "rest 0" not in self.cells

    def has(self, text: str) -> bool:
        return text == self.text or text in self.also


@dataclass
class Case:
    """A file to be written, and what it says."""

    rng: random.Random
    rows: list[Row]
    kind: str = "delimited"
    name: str = "data.csv"
    delimiter: str = ","
    header: bool = True
    columns: dict[str, str] = field(default_factory=lambda: {"label": "label", "text": "text"})  # ours: in the file
    quoting: str = "minimal"
    line_end: str = "\n"
    before: str = ""
    after: str = ""
    blank_before: int | None = None  # row that a blank line comes before
    encoding: str = "utf-8"
    bom: bytes = b""
    reading: dict[str, Any] = field(default_factory=dict)  # arguments of `read_messages`
    own_classes: bool = False  # whether labels may become classes of the user's own
    unclear: set[str] = field(default_factory=set)  # why a person would not be sure how to read the file
    damage: Callable[[bytes], bytes] | None = None
    damaged: int | None = None  # row whose bytes are damaged
    kinds: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # of the file

    @property
    def has_lines(self) -> bool:
        return self.kind in ("delimited", "JSON lines")

    @property
    def text_last(self) -> bool:
        return list(self.columns)[-1] == "text"

    def some(self) -> list[Row]:
        """Return some rows, at least one, in any order."""
        return self.rng.sample(self.rows, self.rng.randint(1, len(self.rows)))

    def some_plain(self) -> list[Row]:
        return [row for row in self.some() if row.plain]

    def set_texts(self, change: Callable[[str], str]) -> None:
        for row in self.rows:
            row.text, row.also = change(row.text), [change(text) for text in row.also]
            row.cells = {key: change(cell) if isinstance(cell, str) else cell for key, cell in row.cells.items()}


Mutation = Callable[[Case, random.Random], str | None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(**needs: Any) -> Callable[[Mutation], Mutation]:
    """Register a mutation of cases with these attributes; mutations apply in the order given here.

    It returns its kind, or None if it does not apply.
    """

    def register(mutate: Mutation) -> Mutation:
        def checked(case: Case, rng: random.Random) -> str | None:
            return mutate(case, rng) if all(getattr(case, name) == value for name, value in needs.items()) else None

        MUTATIONS[mutate.__name__] = checked
        return mutate

    return register


# The format and its columns


@mutation()
def other_format(case: Case, rng: random.Random) -> str:
    case.kind = rng.choice(["JSON lines", "JSON lines", "JSON array", "Parquet", "Parquet"])
    suffixes = {"JSON lines": [".jsonl", ".json"], "JSON array": [".json"], "Parquet": [".parquet"]}
    case.name = f"data{rng.choice(suffixes[case.kind])}"
    return case.kind


@mutation(kind="delimited")
def delimiter(case: Case, rng: random.Random) -> str:
    case.delimiter = rng.choice([",", ";", ";", "\t", "\t", "|"])
    case.name = rng.choice(["data.csv", "data.tsv", "data.txt", "data.TSV", "DATA.CSV"])
    return f"delimiter {case.delimiter!r} in {case.name[-4:]}"


@mutation(kind="delimited")
def no_header(case: Case, rng: random.Random) -> str:
    case.header = False
    if rng.random() < 0.3:
        case.columns = {"text": "text", "label": "label"}
        case.unclear.add("text first")
        return "no header, text first"
    if rng.random() < 0.5:
        case.name, case.delimiter = rng.choice(["data.tsv", "SMSSpamCollection"]), "\t"
    return "no header"


@mutation(header=True)
def names(case: Case, rng: random.Random) -> str:
    known = rng.random() < 0.5
    case.columns["label"], case.columns["text"] = rng.choice(KNOWN_NAMES if known else OTHER_NAMES)
    if known:
        return f"columns {case.columns['label']}, {case.columns['text']}"
    if rng.random() < 0.3:
        case.unclear.add("unknown columns")
        return "unknown columns"
    change = rng.choice([str, str, str.upper])
    case.reading = {"text_column": change(case.columns["text"]), "label_column": change(case.columns["label"])}
    case.own_classes = True
    return "named columns"


@mutation(header=True)
def header_spelling(case: Case, rng: random.Random) -> str:
    change = rng.choice([str.upper, str.title, lambda name: f" {name} ", lambda name: f"{name} "])
    case.columns = {key: change(name) for key, name in case.columns.items()}
    return "header case or blanks"


@mutation(header=True)
def text_first(case: Case, rng: random.Random) -> str:
    case.columns = dict(reversed(case.columns.items()))
    return "text first"


@mutation(header=True, own_classes=False)
def no_labels(case: Case, rng: random.Random) -> str:
    del case.columns["label"]
    return "no labels"


@mutation()
def more_columns(case: Case, rng: random.Random) -> str:
    fill = {
        "id": lambda i: str(i + 1),
        "date": lambda i: f"2026-01-{i % 28 + 1:02}, 10:00",
        "language": lambda i: rng.choice(["en", "de", ""]),
        "prediction": lambda i: rng.choice(["ham", "spam"]),
        "note": lambda i: rng.choice(["", "", "first; second", 'a "b"']),
    }
    items = list(case.columns.items())
    for name in rng.sample(list(fill), rng.randint(1, 3)):
        items.insert(rng.randint(0, len(items)), (name, rng.choice([str, str.title])(name)))
        for i, row in enumerate(case.rows):
            row.cells[name] = fill[name](i)
    case.columns = dict(items)
    if not case.header:
        case.unclear.add("columns without names")
    return "more columns"


@mutation(kind="delimited", header=True)
def pandas_index(case: Case, rng: random.Random) -> str:
    case.columns = {"index": rng.choice(["", "Unnamed: 0"])} | case.columns
    for i, row in enumerate(case.rows):
        row.cells["index"] = str(i)
    return "pandas index"


@mutation(header=True, text_last=True)
def kaggle(case: Case, rng: random.Random) -> str:
    """Add columns without a name, into which texts that were cut at commas run on."""
    unnamed = case.kind == "delimited" and rng.random() < 0.5
    names = ["" if unnamed else f"Unnamed: {i}" for i in (2, 3, 4)]
    case.columns |= {f"rest {i}": name for i, name in enumerate(names)}
    for row in case.rows:
        row.text = row.text.rstrip(",")
        row.cells |= dict.fromkeys([f"rest {i}" for i in range(3)], "" if case.kind == "delimited" else None)
    for row in case.some():
        more = rng.choice([[" 150p/msg"], [" reply STOP", "", "end"], ["", " call 0800", " or else"]])
        pieces = [row.text.replace(",", " "), *more]
        row.also = [case.delimiter.join(pieces)] + [",".join([text, *pieces[1:]]) for text in row.also]
        row.text, row.cells = ",".join(pieces), row.cells | {f"rest {i}": one for i, one in enumerate(pieces[1:])}
        row.cells["text"] = pieces[0]
    return f"Kaggle's columns in {case.kind}" if not unnamed else "Kaggle's columns without names"


# Labels


@mutation()
def label_spelling(case: Case, rng: random.Random) -> str:
    for row in case.rows:
        change = rng.choice([str.upper, str.title, lambda word: f" {word}", lambda word: f"{word} "])
        row.label = change(row.label)
    return "label case or blanks"


@mutation()
def label_numbers(case: Case, rng: random.Random) -> str:
    values = rng.choice([(0, 1), (0.0, 1.0), (False, True), ("FALSE", "true"), ("not_spam", "Spam")])
    for row in case.rows:
        row.label = values[row.spam]
    return f"labels {values[0]}, {values[1]}"


@mutation()
def label_words(case: Case, rng: random.Random) -> str | None:
    words, mapped = rng.choice(WORDS), rng.random() < 0.7
    if words == ("1", "0") and not mapped:
        return None
    for row in case.rows:
        row.label = words[row.spam]
        if words[0] == "Legit":
            row.label = rng.choice([str, str.lower, str.upper])(row.label)
    if mapped:
        names = {words[0]: "ham", words[1]: "spam"}
        case.reading["label_map"] = rng.choice([names, ",".join(f"{key}={name}" for key, name in names.items())])
        case.own_classes = False
    elif not case.own_classes:
        case.unclear.add("unknown labels")
    return f"labels {words[0]}, {words[1]}, {'mapped' if mapped else 'not mapped'}"


# Texts


@mutation()
def odd_texts(case: Case, rng: random.Random) -> str:
    for row in case.some_plain():
        row.text = rng.choice(ODD)
    return "odd texts"


@mutation()
def lookalikes(case: Case, rng: random.Random) -> str:
    for row in case.some_plain():
        row.text = rng.choice(LOOKALIKES)
    if not case.header and next(iter(case.columns)) == "text":
        case.rows[0].text = "hello there"  # or else nobody could tell it from a header
    return "texts like labels or headers"


@mutation()
def many_delimiters(case: Case, rng: random.Random) -> str:
    marks = rng.choice([",", ";", "\t", "|", ",;", ",;\t|"])
    for row in case.rows:
        if row.plain:
            row.text = "".join(f"{word}{rng.choice(marks)} " for word in row.text.split(" ")[:12]) + "end"
    return f"{marks!r} in every text"


@mutation()
def line_breaks(case: Case, rng: random.Random) -> str:
    for row in case.some_plain():
        end = rng.choice(["\n", "\n", "\r\n", "\r\n", "\n\n", "\r"])
        row.text = rng.choice(["Hi,{}see you", "one{}ham,two{}spam,three", "ends with one{}", "a{}label,text{}b"])
        row.text = row.text.replace("{}", end)
    return "line breaks in texts"


@mutation()
def long_file(case: Case, rng: random.Random) -> str:
    """What is odd comes after the first 64 KiB."""
    keys = [key for key in case.columns if key not in ("label", "text")]
    labels = {row.spam: row.label for row in case.rows}
    for i in range(700):
        text = f"message {i} of a long file, which says little, but at some length, so that others come late {i * i}"
        row = Row(text, bool(i % 2), labels.get(bool(i % 2), case.rows[0].label))
        row.spam = row.spam if bool(i % 2) in labels else case.rows[0].spam
        row.cells = {key: case.rows[0].cells[key] if key in ("index", "id") else "" for key in keys}
        case.rows.insert(i, row)
    return "long file"


# Quotes


@mutation(kind="delimited")
def quoting(case: Case, rng: random.Random) -> str | None:
    how = rng.choice(["all", "none", "none", "backslash"])
    if how == "none" and list(case.columns) == ["text"]:
        return None  # a quote in the only column may well be CSV's
    case.quoting = how
    if how == "backslash":
        case.set_texts(lambda text: text.replace("\\", "/"))
        if not any('"' in row.text for row in case.rows):
            row = rng.choice(case.rows)
            row.text, row.also, row.cells = 'say "hi", then', [], {key: "" for key in row.cells if key != "text"}
    elif how == "none":
        for row in case.some_plain():
            row.text = rng.choice(['"begins', 'lone " quote', '"two" words', '"all"', 'ends"', '"a" and "b"', '"'])
        case.set_texts(lambda text: re.sub(rf"[\r\n{re.escape(case.delimiter)}]", " ", text))
        for row in [row for row in case.rows if "rest 0" in row.cells]:
            pieces = [row.cells.get("text", row.text), *(row.cells[f"rest {i}"] for i in range(3))]
            text = case.delimiter.join(pieces).rstrip(case.delimiter)
            row.text, row.also = text.replace(case.delimiter, ","), [text]
    return f"quotes: {how}"


# Bad rows


def make_bad(case: Case, rng: random.Random, row: Row, what: str) -> str:
    row.bad = what
    if case.reading.get("skip_bad_rows") or rng.random() < 0.5:
        case.reading["skip_bad_rows"] = True
        case.unclear.discard("bad rows")
        return ", skipped"
    case.unclear.add("bad rows")
    return ""


@mutation()
def no_text(case: Case, rng: random.Random) -> str | None:
    row = rng.choice(case.rows)
    if not row.plain or list(case.columns) == ["text"]:
        return None
    row.text, how = "", make_bad(case, rng, row, "text")
    row.cells["text"] = rng.choice(["", "   "] if case.kind == "delimited" else ["", " ", None])
    row.also = [row.cells["text"] or ""]
    return f"empty text{how}"


@mutation()
def no_label(case: Case, rng: random.Random) -> str | None:
    row = rng.choice(case.rows[not case.header :])  # a first line without a label may well be a header
    if row.bad or "label" not in case.columns:
        return None
    row.label = rng.choice(MISSING) if case.kind == "delimited" else rng.choice([None, "", "NaN"])
    if case.kind == "JSON lines" and rng.random() < 0.3:
        row.label = math.nan
    return f"missing label{make_bad(case, rng, row, 'label')}"


@mutation()
def unknown_label(case: Case, rng: random.Random) -> str | None:
    row = rng.choice(case.rows[not case.header :])
    if row.bad or "label" not in case.columns or case.own_classes:
        return None
    row.label = rng.choice(["maybe", "2", "?", "hamm", "ham spam"])
    return f"unknown label{make_bad(case, rng, row, 'label')}"


@mutation()
def short_row(case: Case, rng: random.Random) -> str | None:
    row = rng.choice(case.rows)
    if row.bad or case.kind != "delimited" or len(case.columns) != 2 or "label" not in case.columns:
        return None
    first = "some text" if not case.text_last else row.label
    row.change = lambda line: str(first)
    row.text, row.also = "some text", []
    return f"short row{make_bad(case, rng, row, 'row')}"


@mutation(kind="delimited")
def extra_cell(case: Case, rng: random.Random) -> str | None:
    row = rng.choice(case.rows)
    if row.bad or not row.plain or re.search(rf'[\r\n"{re.escape(case.delimiter)}]', row.text):
        return None
    if case.quoting in ("all", "backslash"):
        return None
    if not case.text_last:
        row.change = lambda line: f"{line}{case.delimiter}more"
        return f"extra cell{make_bad(case, rng, row, 'row')}"
    row.change = lambda line: f"{line}{case.delimiter} and more"
    row.text, row.may_go = f"{row.text}{case.delimiter} and more", True
    case.unclear.add("unquoted delimiter")
    return "unquoted delimiter in a text"


@mutation(kind="delimited")
def empty_cells(case: Case, rng: random.Random) -> str | None:
    if any(row.bad == "row" or row.may_go for row in case.rows) or len(case.columns) < 2:
        return None
    rows = case.some() if rng.random() < 0.5 else case.rows
    count = rng.choice([1, 3])
    for row in rows:
        row.change = lambda line: line + case.delimiter * count
    return "extra empty cells"


# The file


@mutation(has_lines=True)
def line_ends(case: Case, rng: random.Random) -> str:
    case.line_end = rng.choice(["\r\n", "\r\n", "\r"]) if case.kind == "delimited" else "\r\n"
    if case.line_end == "\r" and any(re.search(r"[\r\n]", row.text) for row in case.rows):
        case.unclear.add("mixed line ends")
    return f"line ends {case.line_end!r}"


@mutation(has_lines=True)
def blank_lines(case: Case, rng: random.Random) -> str:
    if rng.random() < 0.4 and list(case.columns) != ["text"]:
        case.blank_before = rng.randrange(len(case.rows))
        return "blank line in the middle"
    case.after = rng.choice(["\n", "\n\n\n", "none"])
    return "no line end at the end" if case.after == "none" else "blank lines at the end"


@mutation(kind="delimited")
def sep_line(case: Case, rng: random.Random) -> str:
    case.before = rng.choice(["sep={}", "sep={}", "SEP={}", '"sep={}"']).format(case.delimiter)
    return "sep= line"


@mutation()
def encoding(case: Case, rng: random.Random) -> str | None:
    if case.kind == "Parquet":
        return None
    name = rng.choice(list(ENCODINGS))
    case.encoding, case.bom = ENCODINGS[name]
    special = SPECIAL[case.encoding]
    for row in case.some() + ([rng.choice(case.rows)] if name != "cp1251" else case.rows):
        if not row.bad and not row.also and not row.may_go and row.change is str and "rest 0" not in row.cells:
            row.text = special.replace(case.delimiter, "") if case.quoting == "none" else special
    case.set_texts(lambda text: text.encode(case.encoding, "replace").decode(case.encoding))
    if name == "latin-1":  # whose control characters are letters in cp1252
        case.set_texts(lambda text: re.sub("[\x80-\x9f]", "?", text))
    if not case.bom:
        if rng.random() < 0.5:
            case.reading["encoding"] = case.encoding
            return f"{name}, said so"
        case.unclear.add("encoding")
    return name


@mutation()
def damage(case: Case, rng: random.Random) -> str | None:
    """Damage the bytes of one row: the others must come through."""
    bad = any(row.bad or row.may_go for row in case.rows)
    if bad or case.kind == "JSON array":
        return None
    how = rng.choice(DAMAGES)
    case.damage, case.damaged = partial(damaged, how=how, rng=rng), rng.randrange(len(case.rows))
    case.unclear.add("damage")
    return f"damage: {how}"


def damaged(data: bytes, how: str, rng: random.Random) -> bytes:
    """Return bytes with random damage somewhere."""
    at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8])
    rest = data[at + length :]
    changed = {
        "bit": bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        "bytes": rng.randbytes(length) + rest,
        "zeros": bytes(length) + rest,
        "cut": b"",
        "removed": rest,
        "inserted": rng.choice(INSERTED) + data[at:],
        "repeated": data[at : at + length] + data[at:],
    }
    return data[:at] + changed[how]


def make_case(rng: random.Random, texts: list[tuple[str, bool]]) -> Case:
    rows = [Row(text, spam, "spam" if spam else "ham") for text, spam in rng.sample(texts, rng.randint(3, 12))]
    case = Case(rng, rows)
    count = rng.randint(1, 4)
    for name in sorted(rng.sample(list(MUTATIONS), count + 1), key=list(MUTATIONS).index):
        if len(case.kinds) < count and (kind := MUTATIONS[name](case, rng)):
            case.kinds.append(kind)
    return case


def write(case: Case, folder: Path) -> Path:
    """Write the file of a case, and note its lines."""
    content = parquet(case) if case.kind == "Parquet" else text_file(case)
    if case.kind == "Parquet" and case.damage:
        content = case.damage(content)
    path = folder / case.name
    path.write_bytes(content)
    return path


def values(case: Case, row: Row) -> dict[str, Any]:
    cells = {"label": row.label, "text": row.text} | row.cells
    return {key: cells[key] for key in case.columns}


def keyed(case: Case, row: Row) -> dict[str, Any]:
    return {case.columns[key]: value for key, value in values(case, row).items()}


def parquet(case: Case) -> bytes:
    import pandas as pd

    frame = pd.DataFrame([keyed(case, row) for row in case.rows])
    out = io.BytesIO()
    kinds = {type(row.label) for row in case.rows} - {type(None)}
    if len(kinds) > 1:  # Parquet columns have one type
        column = frame.columns[list(case.columns).index("label")]
        frame[column] = frame[column].map(lambda value: None if value is None else str(value))
    frame.to_parquet(out)
    return out.getvalue()


def text_file(case: Case) -> bytes:
    if case.kind == "JSON array":
        return case.bom + json.dumps([keyed(case, row) for row in case.rows], ensure_ascii=False).encode(case.encoding)
    end = case.line_end
    head = [case.before] if case.before else []
    if case.kind == "delimited" and case.header:
        head.append(case.delimiter.join(quoted(case, name) for name in case.columns.values()))
    pieces, starts = [line + end for line in head], []
    for i, row in enumerate(case.rows):
        if case.kind == "delimited":
            line = case.delimiter.join(quoted(case, value) for value in values(case, row).values())
        else:
            line = json.dumps(keyed(case, row), ensure_ascii=len(row.text) % 2 == 0)
        if i == case.blank_before:
            pieces.append(end)
        starts.append(len(pieces))
        pieces.append(row.change(line) + ("" if i == len(case.rows) - 1 and case.after == "none" else end))
    if case.name == "SMSSpamCollection" and case.quoting != "none":  # its quotes mean nothing
        for row in case.rows:
            row.also.append(quoted(case, values(case, row)["text"]))
    if case.quoting == "none":
        accept_quotes(case, "".join(pieces[int(bool(case.before)) :]))
    case.lines = re.split("\r" if end == "\r" else r"\r\n|\n", "".join(pieces))
    encoded = [piece.encode(case.encoding) for piece in pieces]
    if case.damage:
        start, tail = starts[case.damaged], len(end.encode(case.encoding)) * pieces[starts[case.damaged]].endswith(end)
        line = encoded[start]
        encoded[start] = case.damage(line[: len(line) - tail]) + line[len(line) - tail :]
    after = "" if case.after == "none" else case.after.replace("\n", end)
    return case.bom + b"".join(encoded) + after.encode(case.encoding)


def quoted(case: Case, value: Any) -> str:
    cell = "" if value is None else str(value)
    needed = case.quoting == "all" or any(mark in cell for mark in (case.delimiter, '"', "\r", "\n"))
    if case.quoting == "none" or not needed:
        return cell
    inner = cell.replace('"', '\\"') if case.quoting == "backslash" else cell.replace('"', '""')
    return f'"{inner}"'


def accept_quotes(case: Case, content: str) -> None:
    """If lines without CSV's quotes are valid rows with them, one to one, nobody can tell which is meant."""
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), delimiter=case.delimiter, strict=True))
    except csv.Error:
        return
    rows = [row for row in rows if row][int(case.header) :]
    if len(rows) == len(case.rows):
        at = list(case.columns).index("text")
        for row, cells in zip(case.rows, rows, strict=True):
            row.also += cells[at : at + 1]
