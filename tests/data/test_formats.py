"""Labelled messages in every kind of file: the good ones arrive unchanged, the bad ones are refused in one line."""

import codecs
import csv
import io
import json
import zipfile

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_spam.data.formats import LONGEST_CELL, UNNAMED, DataError
from hf_spam.data.labels import FEATURES
from hf_spam.data.sources import load_sms_spam, read_messages

quick = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], database=None)

# What tempts a reader to change a text: quotes, commas, blanks at the ends, separators that only Unicode has.
MESSAGES = [
    (0, 'He said "ok", then left'),
    (1, "WIN £100 now!!"),
    (0, '"quoted" at the start'),
    (1, " blanks around, kept "),
    (0, "one\u2028two\x85three\x0bfour"),
    (0, "text"),
]
NAMED = [("spam" if label else "ham", text) for label, text in MESSAGES]


def rows(dataset: Dataset) -> list[tuple[int, str]]:
    return list(zip(dataset["label"][:], dataset["text"][:], strict=True))


def delimited(table: list, delimiter: str = ",", **options) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, **options).writerows(table)
    return out.getvalue().encode()


def plain_tsv(table: list) -> bytes:
    return "".join(f"{label}\t{text}\n" for label, text in table).encode()


def json_lines(table: list, label: str = "label", text: str = "text") -> bytes:
    return "".join(json.dumps({label: row[0], "id": 7, text: row[1]}) + "\n" for row in table).encode()


def parquet(columns: dict, features: Features | None = None) -> bytes:
    out = io.BytesIO()
    if features is None:
        pd.DataFrame(columns).to_parquet(out)
    else:
        Dataset.from_dict(columns, features=features).to_parquet(out)
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


# Good files: the same messages in every accepted form

HEADED = [("label", "text"), *NAMED]
SHUFFLED = [(i, text, label, "x") for i, (label, text) in enumerate(NAMED)]
KAGGLE = [("v1", "v2", "", "", ""), *((label, text, "", "", "") for label, text in NAMED)]
INTEGERS, BOOLEANS = MESSAGES, [(bool(label), text) for label, text in MESSAGES]
CLASSES = Features({"category": ClassLabel(names=["Spam", "Ham"]), "sms": Value("large_string")})
GOOD_FILES = {
    "tsv without header": ("a.tsv", plain_tsv(NAMED)),
    "tsv without header, CRLF, BOM": ("a.tsv", codecs.BOM_UTF8 + plain_tsv(NAMED).replace(b"\n", b"\r\n")),
    "UCI file": ("SMSSpamCollection", plain_tsv(NAMED)),
    "tsv with header": ("a.TSV", delimited(HEADED, "\t")),
    "csv without header": ("a.csv", delimited(NAMED)),
    "csv with header": ("a.csv", delimited(HEADED)),
    "csv, all quoted, BOM": ("a.csv", codecs.BOM_UTF8 + delimited(HEADED, quoting=csv.QUOTE_ALL)),
    "csv, empty lines at the end": ("a.csv", delimited(HEADED) + b"\r\n\n\n"),
    "csv, other columns, other order": ("a.csv", delimited([("id", "Message ", "CATEGORY", "note"), *SHUFFLED])),
    "Kaggle, UTF-8": ("spam.csv", delimited(KAGGLE)),
    "labels 0 and 1": ("a.csv", delimited(INTEGERS)),
    "labels 0.0 and 1.0": ("a.csv", delimited([(float(label), text) for label, text in MESSAGES])),
    "labels true and FALSE": ("a.csv", delimited([(["FALSE", "true"][label], text) for label, text in MESSAGES])),
    "labels in words": ("a.tsv", plain_tsv([([" Not_Spam", "SPAM "][label], text) for label, text in MESSAGES])),
    "json lines": ("a.jsonl", json_lines(NAMED)),
    "json lines, integers": ("a.json", json_lines(INTEGERS, "class", "sms")),
    "json lines, booleans": ("a.jsonl", json_lines(BOOLEANS, "Label", "TEXT")),
    "parquet, words": ("a.parquet", parquet({"label": [r[0] for r in NAMED], "text": [r[1] for r in NAMED]})),
    "parquet, booleans": (
        "a.parquet",
        parquet({"n": 1, "text": [r[1] for r in NAMED], "class": [r[0] for r in BOOLEANS]}),
    ),
    "parquet, category": (
        "a.parquet",
        parquet({"label": pd.Categorical([r[0] for r in NAMED]), "text": [r[1] for r in NAMED]}),
    ),
    "parquet, ClassLabel the other way round": (
        "a.parquet",
        parquet({"category": [1 - r[0] for r in MESSAGES], "sms": [r[1] for r in MESSAGES]}, CLASSES),
    ),
    "zip of a csv": ("a.zip", zipped({"notes/": b"", "in/a.csv": delimited(HEADED), "__MACOSX/in/._a.csv": b"\0"})),
    "zip of the UCI file and more": ("a.zip", zipped({"b.csv": b"no", "SMSSpamCollection": plain_tsv(NAMED)})),
}


@pytest.mark.parametrize("case", GOOD_FILES)
def test_good_files_give_the_same_messages(case, tmp_path):
    """Whatever the container, the text arrives byte for byte, in order, with the project's features."""
    name, data = GOOD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    dataset = read_messages(str(path))
    assert rows(dataset) == MESSAGES
    assert dataset.features == FEATURES


def test_the_uci_zip_reads_like_the_file_in_it(sms_collection, tmp_path):
    """The zip as UCI ships it, with its readme, needs no unpacking by hand."""
    path = tmp_path / "sms+spam+collection.zip"
    path.write_bytes(zipped({"SMSSpamCollection": sms_collection.read_bytes(), "readme": b"..."}))
    assert rows(read_messages(path)) == rows(read_messages(sms_collection))


def test_kaggles_latin_1_copy_is_read_and_its_cut_texts_are_put_together(tmp_path):
    """Kaggle's spam.csv is Latin-1, and some texts were cut at commas into its unnamed columns."""
    path = tmp_path / "spam.csv"
    table = [
        ("v1", "v2", "", "", ""),
        ("ham", "£5, caf\xe9", "", "", ""),
        ("spam", 'code "MIX" FML', " PO Box", "", " 16"),
    ]
    path.write_bytes(delimited(table).decode().encode("latin-1"))
    assert rows(read_messages(path)) == [(0, "£5, caf\xe9"), (1, 'code "MIX" FML, PO Box,, 16')]


def test_the_books_reading_keeps_texts_that_pandas_takes_for_missing_or_numbers(tmp_path):
    """Under "book", quotes act as pandas has them; "NA" and "007" are messages all the same."""
    path = tmp_path / "a.tsv"
    path.write_bytes(
        plain_tsv([("ham", "NA"), ("spam", "007"), ("ham", '"one'), ("ham", 'two" three'), ("ham", "null")])
    )
    assert rows(read_messages(path, protocol="book")) == [
        (0, "NA"),
        (1, "007"),
        (0, "one\nham\ttwo three"),
        (0, "null"),
    ]
    assert len(read_messages(path)) == 5


# Bad files: one line that names the file, the place and the value

KNOWN = "known: ham, not spam, not_spam, 0, 0.0, false, spam, 1, 1.0, true; others need --label-column"
TABS, COMMAS = (f"; {UNNAMED[delimiter]}" for delimiter in "\t,")
COLUMNS = ", and where that line names the columns also --text-column"
JSON_LINES = "JSON lines are read, one object a line"
BAD_FILES = {
    "no tab": ("a.tsv", b"ham\ta\nspam b\n", ", line 2: 2 fields expected, 1 found: 'spam b'"),
    "two tabs": ("a.tsv", b"ham\ta\tb\n", f", line 1: 2 fields expected, 3 found: 'ham\\ta\\tb'{TABS}"),
    "empty line": ("a.tsv", b"ham\ta\n\nspam\tb\n", ", line 2: 2 fields expected, 0 found: ''"),
    "long line": ("a.tsv", b"x" * 99, f", line 1: 2 fields expected, 1 found: '{'x' * 56}...{TABS}"),
    "semicolons": ("a.csv", b"label;text\nham;a\n", f", line 1: 2 fields expected, 1 found: 'label;text'{COMMAS}"),
    "columns of other names": ("a.csv", b"kind,body\nham,a\n", f", line 1: unknown label 'kind'; {KNOWN}{COLUMNS}"),
    "carriage return": ("a.tsv", b"ham\ta\rb\nspam\tb\n", ", line 2: 2 fields expected, 1 found: 'b'"),
    "header, extra field": ("a.csv", b"label,text\nham,a,b\n", ", line 2: 2 fields expected, 3 found: 'ham,a,b'"),
    "label": ("a.tsv", b"ham\ta\neggs\tb\n", f", line 2: unknown label 'eggs'; {KNOWN}"),
    "label after a field of three lines": (
        "a.csv",
        b'label,text\r\nham,"a\r\nb\nc"\r\n2,b\r\n',
        f", line 5: unknown label '2'; {KNOWN}",
    ),
    "label null": ("a.jsonl", b'{"label": null, "text": "a"}', f", line 1: unknown label None; {KNOWN}"),
    "open quote": (
        "a.csv",
        b'label,text\nham,"a\nb"\nspam,"b\nham,c\n',
        ", line 4: broken quoting or line break (unexpected end of data): 'spam,\"b'",
    ),
    "text after a quote": (
        "a.tsv",
        b'label\ttext\nham\t"a" b\n',
        ", line 2: broken quoting or line break ('\t' expected after '\"'): 'ham\\t\"a\" b'",
    ),
    "no text column": (
        "a.csv",
        b"label,body\nham,a\n",
        ", line 1: no text column (text, message, sms, v2); found: ['label', 'body']",
    ),
    "no label column": (
        "a.jsonl",
        b'{"label": 1, "text": "a"}\n{"text": "a"}',
        ", line 2: no label column (label, category, class, v1); found: ['text']",
    ),
    "no column": ("a.parquet", parquet({"x": [1]}), ": no label column (label, category, class, v1); found: ['x']"),
    "empty text": ("a.tsv", b"ham\ta\nham\t\n", ", line 2: empty or missing text: ''"),
    "blank text": ("a.csv", b'ham," \n "\n', ", line 1: empty or missing text: ' \\n '"),
    "text null": ("a.jsonl", b'{"label": 0, "text": null}', ", line 1: empty or missing text: None"),
    "text missing": (
        "a.parquet",
        parquet({"label": [0, 1], "text": ["a", None]}),
        ", row 2: empty or missing text: None",
    ),
    "text is a number": ("a.jsonl", b'{"label": 0, "text": 5}', ", line 1: the text is not a string: 5"),
    "texts are bytes": (
        "a.parquet",
        parquet({"label": [0], "text": [b"a"]}),
        ", row 1: the text is not a string: b'a'",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"label": 0, "text": "a\\ud800"}',
        ", line 1: the text is not valid Unicode: 'a\\ud800'",
    ),
    "broken json": ("a.jsonl", b'{"label": 1, "text": "a"}\n{"label', ", line 2: broken JSON: '{\"label'"),
    "deep json": ("a.jsonl", b'{"a":' * 100_000, ", line 1: broken JSON: '" + '{"a":' * 11 + "{..."),
    "json number": ("a.json", b"1", ", line 1: not a JSON object: '1'"),
    "json list": ("a.json", b"[1]", f", line 1: not a JSON object: '[1]'; {JSON_LINES}"),
    "deep json list": ("a.jsonl", b"[" * 100_000, f", line 1: not a JSON object: '{'[' * 56}...; {JSON_LINES}"),
    "json list of many lines": ("a.json", b'[\n{"label": 1}\n]', f", line 1: not a JSON object: '['; {JSON_LINES}"),
    "json object of many lines": ("a.json", b'{\n"label": [1]\n}', f", line 1: not a JSON object: '{{'; {JSON_LINES}"),
    "ClassLabel without label": (
        "a.parquet",
        parquet({"category": [-1], "sms": ["a"]}, CLASSES),
        ", row 1: unknown label -1; known: Spam, Ham",
    ),
    "empty": ("a.csv", b"", ": there are no messages in it"),
    "empty json": ("a.jsonl", b"\n", ": there are no messages in it"),
    "header only": ("a.csv", b"label,text\n", ": there are no messages in it"),
    "bytes": ("a.csv", b"label,text\nham,a\nham,caf\xe9\n", ", line 3: not UTF-8 (byte 0xe9)"),
    "bytes after a BOM": ("a.tsv", codecs.BOM_UTF8 + b"ham\ta\n\xff", ", line 2: not UTF-8 (byte 0xff)"),
    "zip": ("a.zip", b"PK", ": broken zip (File is not a zip file)"),
    "empty zip": ("a.zip", zipped({}), ": one data file expected in the zip, 0 found: []"),
    "zip of two": (
        "a.zip",
        zipped({"a.csv": b"", "b.tsv": b""}),
        ": one data file expected in the zip, 2 found: ['a.csv', 'b.tsv']",
    ),
    "line in a zip": (
        "a.zip",
        zipped({"in/b.tsv": b"eggs\ta"}),
        f"/in/b.tsv, line 1: unknown label 'eggs'; {KNOWN}{COLUMNS}",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("protocol", ["full", "book"])
def test_bad_files_are_refused_in_one_line(case, protocol, tmp_path):
    """Nothing is dropped silently: the user learns the file, the line and the value."""
    name, data, message = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_sms_spam(path, protocol=protocol)
    assert str(caught.value) == f"{path}{message}"
    assert "\n" not in message


def test_the_line_is_right_after_separators_that_only_unicode_has(tmp_path):
    """The quoted line of a CSV error is counted as the csv module counts lines, not as str.splitlines does."""
    path = tmp_path / "a.csv"
    path.write_bytes('label,text\nham,a\u2028b\x0bc\nspam,"b" c\n'.encode())
    with pytest.raises(DataError, match=r"line 3: .*: 'spam,\"b\" c'$"):
        read_messages(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            b'ham\ta\nspam\t"b\n',
            ": its quotes cannot be read as such (Error tokenizing data. C error: EOF inside",
        ),
        (b'ham\ta\nspam\t""\n', ", row 2: empty or missing text: ''"),
    ],
)
def test_what_only_the_books_reading_cannot_read(data, reason, tmp_path):
    """A file may be fine line by line and still not be readable the book's way."""
    path = tmp_path / "a.tsv"
    path.write_bytes(data)
    assert len(read_messages(path)) == 2
    with pytest.raises(DataError) as caught:
        read_messages(path, protocol="book")
    assert str(caught.value).startswith(f"{path}{reason}") and "\n" not in str(caught.value)


def test_lines_that_are_quoted_whole_have_no_columns(tmp_path):
    """Neither reading finds a label in them; the book's does not even find a place for one."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b'"ham\ta"\n"spam\tb"\n')
    with pytest.raises(
        DataError, match=r"a\.tsv: its quotes leave one column for label and text; protocol 'full' reads"
    ):
        read_messages(path, protocol="book")


def test_a_long_message_is_read_and_an_endless_one_is_not(tmp_path):
    """Python's csv module would refuse what is longer than 131,072 characters."""
    path = tmp_path / "a.csv"
    path.write_text(f"ham,{'a' * 200_000}\nspam,b\n")
    assert len(read_messages(path)["text"][0]) == 200_000
    path.write_text(f'ham,"{"a" * (LONGEST_CELL + 1)}"\nspam,b\n')
    with pytest.raises(DataError, match=r"line 1: .*field larger than field limit"):
        read_messages(path)


def test_a_broken_parquet_file_is_refused(tmp_path):
    """A download that stopped halfway must not end in a traceback."""
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet({"label": [0, 1], "text": ["a", "b"]})[:-20])
    with pytest.raises(DataError) as caught:
        read_messages(path)
    assert str(caught.value).startswith(f"{path}: broken Parquet file (") and "\n" not in str(caught.value)


# Round trips

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)
tables = st.lists(st.tuples(st.sampled_from([0, 1]), texts), max_size=6).map(lambda rest: [(0, "a"), (1, "b"), *rest])


@quick
@given(tables)
def test_round_trips_give_the_same_rows(tmp_path_factory, table):
    """Any text that a format can hold comes back unchanged."""
    folder = tmp_path_factory.getbasetemp()
    columns = {"label": [label for label, _ in table], "text": [text for _, text in table]}
    for name, data in {
        "r.csv": delimited([("label", "text"), *table]),
        "r.tsv": delimited([("label", "text"), *table], "\t"),
        "r.jsonl": json_lines(table),
        "r.parquet": parquet(columns),
    }.items():
        (folder / name).write_bytes(data)
        assert rows(read_messages(folder / name)) == table, name


@quick
@given(st.binary(max_size=80), st.sampled_from([".csv", ".tsv", ".jsonl", ".zip", ".parquet"]))
def test_garbage_is_a_data_error_and_nothing_else(tmp_path_factory, data, suffix):
    """No input makes the reader fail in another way than its own."""
    path = tmp_path_factory.getbasetemp() / f"garbage{suffix}"
    path.write_bytes(data)
    for protocol in ("full", "book"):
        with pytest.raises(DataError) as caught:
            load_sms_spam(path, protocol=protocol)
        assert "\n" not in str(caught.value)
