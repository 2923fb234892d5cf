"""Good files of every format give their messages unchanged; bad ones are refused in one line."""

import codecs
import csv
import gzip
import io
import json
import logging

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import delimited, rows, zipped

from hf_spam.data import dialects
from hf_spam.data.dialects import find_encoding
from hf_spam.data.formats import SUFFIXES, DataError, DataFile
from hf_spam.data.labels import LABEL_NAMES, annotated_features_of
from hf_spam.data.readers import open_file
from hf_spam.data.reading import Reading
from hf_spam.data.sources import load_sms_spam, read_messages, read_texts

quick = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], database=None)

# Texts that a reader might change: quotes, commas, blanks at the ends, Unicode line separators.
MESSAGES = [
    (0, 'He said "ok", then left'),
    (1, "WIN £100 now,, txt A"),
    (0, '"quoted" at the start'),
    (1, " blanks around, kept "),
    (0, "one\u2028two\x85three\x0bfour"),
    (0, "text"),
]
NAMED = [("spam" if label else "ham", text) for label, text in MESSAGES]
TEXTS = [text for _, text in MESSAGES]


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


# Good files: the same messages in every accepted form

HEADED = [("label", "text"), *NAMED]
SHUFFLED = [(i, text, label, "x") for i, (label, text) in enumerate(NAMED)]
INTEGERS, BOOLEANS = MESSAGES, [(bool(label), text) for label, text in MESSAGES]
WORDS = ("HAM ", "SPAM ", " Not_Spam", "spam")
SPELLED = [(WORDS[label + 2 * (i // 2 % 2)], text) for i, (label, text) in enumerate(MESSAGES)]
BYTES = parquet({"label": [0], "text": [b"a"]})
CLASSES = Features({"category": ClassLabel(names=["Spam", "Ham"]), "sms": Value("large_string")})
PLAIN, SEMICOLONS, TABS = (delimited(HEADED, delimiter) for delimiter in ",;\t")
# Texts cut at commas, as in Kaggle's copy of the UCI collection, and as pandas saves it again
CUT = [(label, *text.split(","), *[""] * (3 - text.count(","))) for label, text in NAMED]
KAGGLE = pd.DataFrame(CUT, columns=["v1", "v2", "Unnamed: 2", "Unnamed: 3", "Unnamed: 4"]).replace("", None)
# As pandas writes it with `doublequote=False, escapechar="\\"`: a text without a comma is not quoted.
BACKSLASHES = pd.DataFrame(NAMED, columns=["label", "text"]).to_csv(index=False, doublequote=False, escapechar="\\")
GOOD_FILES = {
    "tsv without header": ("a.tsv", plain_tsv(NAMED)),
    "tsv without header, CRLF, BOM": ("a.tsv", codecs.BOM_UTF8 + plain_tsv(NAMED).replace(b"\n", b"\r\n")),
    "UCI file": ("SMSSpamCollection", plain_tsv(NAMED)),
    "tsv with header": ("a.TSV", TABS),
    "csv without header": ("a.csv", delimited(NAMED)),
    "csv without header, the text first": ("a.csv", delimited([(text, label) for label, text in NAMED], "|")),
    "csv with header": ("a.csv", PLAIN),
    "csv, empty lines at the end": ("a.csv", PLAIN + b"\r\n\n\n"),
    "csv, empty rows of Excel at the end": ("a.csv", PLAIN + b",\r\n , \r\n"),
    "csv, extra empty cells": ("a.csv", PLAIN.replace(b"\r\n", b",,\r\n")),
    "csv, other columns, other order": ("a.csv", delimited([("id", "Message ", "CATEGORY", "note"), *SHUFFLED])),
    "csv, quotes with backslashes": ("a.csv", delimited(HEADED, escapechar="\\", doublequote=False)),
    "semicolons, BOM": ("a.csv", codecs.BOM_UTF8 + SEMICOLONS),
    "Excel's sep line": ("a.csv", codecs.BOM_UTF8 + b"sep=,\r\n" + PLAIN),
    "Excel's sep line, semicolon": ("a.csv", b"sep=;\r\n" + SEMICOLONS),
    "Excel's Unicode text": ("a.csv", TABS.decode().encode("utf-16")),
    "UTF-16 without a mark": ("a.csv", PLAIN.decode().encode("utf-16-le")),
    "tabs in a csv": ("a.csv", TABS),
    "table in a txt": ("a.txt", plain_tsv(NAMED)),
    "CR alone ends a line": ("a.csv", delimited(HEADED, lineterminator="\r")),
    "labels 0 and 1": ("a.csv", delimited([("labels", "Text"), *INTEGERS])),
    "labels 0.0 and 1.0": ("a.csv", delimited([(float(label), text) for label, text in MESSAGES])),
    "labels true and FALSE": ("a.csv", delimited([(["FALSE", "true"][label], text) for label, text in MESSAGES])),
    "labels in words": ("a.tsv", plain_tsv(SPELLED)),
    "json lines": ("a.jsonl", json_lines(NAMED)),
    "json lines, integers": ("a.json", json_lines(INTEGERS, "class", "sms")),
    "json array": ("a.json", json.dumps([{"text": text, "label": label} for label, text in MESSAGES]).encode()),
    "parquet, words": ("a.parquet", parquet({"label": [r[0] for r in NAMED], "text": TEXTS})),
    "parquet, booleans": ("a.parquet", parquet({"n": 1, "text": TEXTS, "class": [r[0] for r in BOOLEANS]})),
    "parquet, category": ("a.parquet", parquet({"label": pd.Categorical([r[0] for r in NAMED]), "text": TEXTS})),
    "parquet, ClassLabel": ("a.parquet", parquet({"category": [1 - r[0] for r in MESSAGES], "sms": TEXTS}, CLASSES)),
    "Kaggle's copy": ("a.csv", delimited([("v1", "v2", "", "", ""), *CUT])),
    "Kaggle's copy, saved by pandas": ("a.csv", KAGGLE.to_csv(index=False).encode()),
    "Kaggle's copy in parquet": ("a.parquet", parquet(KAGGLE)),
    "Kaggle's copy in json lines": ("a.jsonl", KAGGLE.to_json(orient="records", lines=True).encode()),
    "zip of a csv": ("a.zip", zipped({"notes/": b"", "in/a.csv": PLAIN, "__MACOSX/in/._a.csv": b"\0"})),
    "zip of the UCI file and more": ("a.zip", zipped({"b.csv": b"no", "SMSSpamCollection": plain_tsv(NAMED)})),
    "gz": ("a.csv.gz", gzip.compress(PLAIN)),
    "csv, spaces before quotes": ("a.csv", delimited(HEADED, quoting=csv.QUOTE_ALL).replace(b'","', b'", "')),
    "csv, quotes with backslashes outside quotes": ("a.csv", BACKSLASHES.encode()),
    "csv, commas with backslashes": ("a.csv", delimited(HEADED, escapechar="\\", quoting=csv.QUOTE_NONE)),
}


@pytest.mark.parametrize("case", GOOD_FILES)
def test_good_files_give_the_same_messages(case, tmp_path):
    """Texts of any format are identical byte for byte and in order, with the package's features, and need no labels."""
    name, data = GOOD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    dataset = read_messages(str(path))
    assert rows(dataset) == MESSAGES
    assert dataset.features == annotated_features_of(LABEL_NAMES)
    assert read_texts(path) == TEXTS


def test_backslashes_that_escape_nothing_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text('label,text\nham,"he said \\"ok\\" in C:\\temp, \\\\o/"\nspam,https:\\/\\/x\n')
    assert rows(read_messages(tmp_path / "a.csv")) == [(0, 'he said "ok" in C:\\temp, \\o/'), (1, "https:\\/\\/x")]


def test_a_backslash_before_the_closing_quote_is_part_of_the_text(tmp_path):
    (tmp_path / "a.csv").write_text('"a","text","b"\n"","\\",",0"\n')
    assert read_texts(tmp_path / "a.csv") == ["\\"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_label_column_without_a_name_is_not_part_of_the_text(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    frame = pd.DataFrame({"text": ["hi there", "win cash"], "Unnamed: 1": ["ham", "spam"]})
    data = {"a.csv": frame.to_csv(index=False).encode(), "a.parquet": parquet(frame)}[name]
    (tmp_path / name).write_bytes(data)
    assert rows(read_messages(tmp_path / name, label_column="Unnamed: 1")) == [(0, "hi there"), (1, "win cash")]
    assert "from column Unnamed: 1, texts from text" in caplog.text


@pytest.mark.parametrize("text", ["1,5 Liter Milch bitte", "Spam,egg and chips", "Message,from Bob\nsee you"])
def test_a_few_lines_of_plain_text_are_no_table(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    assert read_texts(tmp_path / "a.txt") == text.splitlines()


def test_kaggles_latin_1_copy(tmp_path):
    """Kaggle's spam.csv has characters that no letter in Windows-1252 can be next to."""
    path = tmp_path / "spam.csv"
    path.write_bytes('v1,v2,,,\nham,"caf\xe9, don\x89\xdb\xaat",,,\nspam,£5, or else,,\n'.encode("latin-1"))
    assert rows(read_messages(path)) == [(0, "café, don\x89Ûªt"), (1, "£5, or else")]


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (
            ['ham\t"a ""b"" c"', 'spam\t"two', 'lines,\ta tab"', 'ham\td "e"'],
            ['a "b" c', "two\nlines,\ta tab", 'd "e"'],
        ),
        (['ham\t"a', "spam\tb", 'ham\t"c"'], ['"a', "b", '"c"']),
        (['ham\t"a" b', "spam\tc", "ham\td"], ['"a" b', "c", "d"]),
        (["ham\ta", "spam\tb", 'ham\t"c'], ["a", "b", '"c']),
        (['ham\t"Oh" I said', 'spam\t"WIN, txt', "ham\t6'2\" tall"], ['"Oh" I said', '"WIN, txt', "6'2\" tall"]),
    ],
    ids=["quoted like CSV", "closed by a later message", "text after a quote", "never closed", "with commas"],
)
def test_quotes_in_a_tsv_with_a_header(lines, texts, tmp_path):
    """If they are not those of CSV, and each line is a row without them, they are part of the texts."""
    path = tmp_path / "a.tsv"
    for end in ("\n", "\r\n"):
        path.write_bytes("".join(f"{line}{end}" for line in ["label\ttext", *lines]).encode())
        assert rows(read_messages(path)) == [
            (label, text.replace("\n", end)) for label, text in zip([0, 1, 0], texts, strict=True)
        ]


def test_rows_of_any_length_become_rows_of_a_table(tmp_path):
    """Empty cells at the end may be missing or too many. Scoring adds its columns after them."""
    (tmp_path / "a.csv").write_text("label,text,n,\nham,a,1\nspam,b,2,,\n")
    reader = open_file(DataFile.find(tmp_path / "a.csv"), Reading())
    (window,) = reader.windows(9)
    assert reader.table(window).rows == [["ham", "a", "1", ""], ["spam", "b", "2", ""]]


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path):
    """A tokenizer does the same, and Arrow cannot hold it."""
    (tmp_path / "a.jsonl").write_text('{"label": 0, "text": "hi \\ud83c"}\n{"text": "\\ud83d\\ude42", "label": 1}\n')
    assert rows(read_messages(tmp_path / "a.jsonl")) == [(0, "hi \ufffd"), (1, "\U0001f642")]


def test_json_objects_may_have_different_keys(tmp_path):
    """Those of the first object come first. No text is lost under another known key."""
    objects = [{"message": "one", "label": 1}, {"text": "two", "class": 0}]
    objects.append({"text": "no", "message": "three", "label": 0})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    assert rows(read_messages(tmp_path / "a.jsonl")) == [(1, "one"), (0, "two"), (0, "three")]
    assert read_texts(tmp_path / "a.jsonl") == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("price €500\rhello\r".encode(), None),  # CR alone ends a line
        ("price €500\nhello\n".encode("cp1252"), None),
        ("price €500\nhello\n".encode("utf-16"), None),
        ("price €500\nhello\n".encode("iso8859-15"), "iso8859-15"),
    ],
)
def test_lines_of_a_text_file(data, encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes(data)
    assert read_texts(tmp_path / "a.txt", encoding=encoding) == ["price €500", "hello"]


def test_two_columns_make_a_text(tmp_path):
    """An empty or blank one of the two adds nothing; a row in which both are has no text."""
    table = [("Subject", "Message", "Category"), ("WIN big", "txt CLAIM", "spam"), (" ", "see you", "ham")]
    table += [("late", "", "ham"), ("", " ", "ham")]
    (tmp_path / "a.csv").write_bytes(delimited(table))
    named = {"text_column": "Subject,message"}
    assert read_texts(tmp_path / "a.csv", **named) == ["WIN big\ntxt CLAIM", "see you", "late"]
    with pytest.raises(DataError, match="line 5: the text is missing"):
        read_messages(tmp_path / "a.csv", **named)


# Bad files: one line that names the file, the place, the value and what to do

SKIP = "; --skip-bad-rows leaves such rows out"
MAP = "known: ham, spam, 0, 1, true, false; say what it means with --label-map {0}=ham or {0}=spam, or keep labels of "
MAP += f"your own with --label-column{SKIP}"
NAME, NAME_TEXT = "name it with --label-column", "name it with --text-column"
ADD, UNPACK = "; if line 1 is a message, add a header line above it", "unpack it and name one of them"
HEADER = f"put a text that contains ',' in double quotes, or add a line that names the columns{SKIP}"
COMMA = f"put a text that contains ',' in double quotes{SKIP}"
NO_LABEL = "there is no label column called label, category, class, v1, labels, target, is_spam, spam; found:"
NO_TEXT = "there is no text column called text, message, sms, v2, messages, content, body, sentence; found:"
TWICE = "several columns are called 'text'; rename all but one of ['label', 'text', 'Text', 'text']"
QUOTES = "close every quote, and double the quotes within a quoted text"
UNQUOTED = f"broken quotes or a stray line break (new-line character seen in unquoted field); {QUOTES}"
UNCLOSED = f"broken quotes or a stray line break (unexpected end of data); {QUOTES}"
AFTER = f"broken quotes or a stray line break ('\t' expected after '\"'); {QUOTES}"
JSON = f"write JSON lines, one object per line{SKIP}"
UTF8 = "mend it, or name the encoding with --encoding: cp1252, cp1251 or gb18030"
NO_NAMES = "columns without a name hold values in most rows; name them, or remove them"
EXTRA = f"expected 2 cells, found 3: 'ham,a,b'; put a text that contains ',' in double quotes{SKIP}"
LONG_TEXT = (
    "'You won a prize You won a prize You won a prize You won ...; known: ham, spam, 0, 1, true, false; it looks "
)
LONG_TEXT += "like a text: name the columns with --text-column and --label-column"
SWALLOWED = "the quoted text of 3 lines seems to hold another row, 'spam,b'; a quote may be missing"
BAD_FILES = [
    # Rows
    ("a.tsv", b"ham\ta\nspam b\n", f", line 2: expected 2 cells, found 1: 'spam b'{SKIP}"),
    ("a.csv", b"label,text\nham,a,b\n", f", line 2: {EXTRA}"),
    (
        "a.csv",
        b"text,label,,\nhi,ham,,\nwe,you,spam,\n",
        f", line 3: expected 2 cells, found 4: 'we,you,spam,'; {COMMA}",
    ),
    ("a.tsv", b"ham\ta\rb\nspam\tb\n", f", line 1: {UNQUOTED}"),
    ("a.csv", b'label,text\nham,"a\nb"\nspam,"b\nham,c\n', f", line 4: {UNCLOSED}"),
    ("a.csv", b'label,text\nham,a\nham,"hi\nspam,b\nham,c"\nspam,d\n', f", line 3: {SWALLOWED}{SKIP}"),
    ("a.tsv", b'label\ttext\nham\t"a" b\nspam\t"c\td"\n', f", line 2: {AFTER}"),
    ("a.jsonl", b'{"label": 1, "text": "a"}\n{"label', f", line 2: not a JSON object: '{{\"label'; {JSON}"),
    ("a.json", b'[{"label": 1, "text": "a"}, 1]', f", item 2: not a JSON object: '1'; {JSON}"),
    ("a.jsonl", b"[" * 100_000, ": a broken JSON array; write JSON lines, one object per line"),
    # Columns
    ("a.tsv", b"x" * 99, f", line 1 (the header): {NO_LABEL} ['{'x' * 55}...; {NAME}{ADD}"),
    ("a.csv", b"kind;text\nham;a\n", f", line 1 (the header): {NO_LABEL} ['kind', 'text']; {NAME}{ADD}"),
    ("a.csv", b"label,words\nham,a\n", f", line 1 (the header): {NO_TEXT} ['label', 'words']; {NAME_TEXT}{ADD}"),
    ("a.csv", b"ham,a,en\nham,b,en\n", f", line 1: expected 2 cells, found 3: 'ham,a,en'; {HEADER}"),
    ("a.csv", b"0,1\nham,a\nspam,b\n", f", line 1 (the header): {NO_LABEL} ['0', '1']; {NAME}{ADD}"),
    ("a.csv", b"0,1\n0,a\n1,b\n", f", line 1 (the header): {NO_LABEL} ['0', '1']; {NAME}{ADD}"),
    (
        "a.csv",
        b"Email,Spam\na b,ham\nc,spam\n",
        f", line 1 (the header): {NO_TEXT} ['Email', 'Spam']; {NAME_TEXT}{ADD}",
    ),
    ("a.parquet", parquet({"x": [1]}), f": {NO_LABEL} ['x']; {NAME}"),
    ("a.csv", b"label,text,\n" + b"ham,a,2024-01-01\nspam,b,2024-01-02\n" * 10, f": {NO_NAMES}"),
    ("a.parquet", parquet({"label": [0, 1] * 10, "text": ["a"] * 20, "Unnamed: 2": ["x"] * 20}), f": {NO_NAMES}"),
    ("a.csv", b"label,text,Text,text\nham,a,b,c\n", f", line 1 (the header): {TWICE}"),
    # Labels and texts
    ("a.tsv", b"ham\ta\neggs\tb\n", f", line 2: unknown label 'eggs'; {MAP.format('eggs')}"),
    ("a.csv", b'label,text\r\nham,"a\r\nb\nc"\r\n2,b\r\n', f", line 5: unknown label '2'; {MAP.format('2')}"),
    (
        "a.csv",
        b"label,text\nnot sure,b\nham,c\n",
        ", line 2: unknown label 'not sure'; " + MAP.format("'not sure'"),
    ),
    ("a.jsonl", b'{"label": 1, "text": "a"}\n{"text": "a"}', f", line 2: the label is missing{SKIP}"),
    ("a.csv", b"label,text\n ,a\n", f", line 2: the label is missing{SKIP}"),
    (
        "a.parquet",
        parquet({"category": [-1], "sms": ["a"]}, CLASSES),
        ", row 1: unknown label '-1'; known: Spam, Ham; say what it means with --label-map -1=ham or -1=spam" + SKIP,
    ),
    ("a.tsv", b"ham\ta\nham\t\n", f", line 2: the text is empty{SKIP}"),
    ("a.csv", b'ham," \n "\n', f", line 1: the text is empty{SKIP}"),
    ("a.jsonl", b'{"label": 0, "text": null}', f", line 1: the text is missing{SKIP}"),
    ("a.parquet", parquet({"label": [0, 1], "text": ["a", None]}), f", row 2: the text is missing{SKIP}"),
    ("a.jsonl", b'{"label": 0, "text": 5}', f", line 1: the text is not a string: 5{SKIP}"),
    ("a.parquet", BYTES, f", row 1: the text is not a string: b'a'{SKIP}"),
    # Files
    ("a", b"ham\ta\n", f": unknown file extension; save it as CSV, or use one of {', '.join(SUFFIXES)}"),
    ("a.csv", b"", ": the file is empty"),
    ("a.jsonl", b"\n", ": no messages found"),
    ("a.csv", b"label,text\n", ": no messages found"),
    ("a.csv", "label,text\nham,été\nspam,caf".encode() + b"\xe9\n", f", line 3: not UTF-8 (byte 0xe9); {UTF8}"),
    ("a.csv", "label,text\nham,привет\nspam,b".encode("cp1251"), f", line 2: not UTF-8 (byte 0xef); {UTF8}"),
    ("a.tsv", codecs.BOM_UTF8 + b"ham\ta\n\xff", f", line 2: not UTF-8 (byte 0xff); {UTF8}"),
    ("a.csv", b"label,text\rham,\xc3\xa9\rspam,\xe9\x81\r", f", line 3: not UTF-8 (byte 0xe9); {UTF8}"),
    ("a.json", b'[{"label": 1,\n"text": "\xe9"}]', f", line 2: not UTF-8 (byte 0xe9); {UTF8}"),
    ("a.txt", b"one\ntwo\n", ": plain text has no labels; write a label, a tab and a text on each line"),
    ("a.csv", b"PK\x03\x04\x14", ": this is an Excel file or a zip; save it as CSV, or call it .zip"),
    ("a.csv", b"\n<!DOCTYPE html><p>Sign in", ": this is a web page; download the file itself"),
    (
        "a.jsonl",
        b'{\n "text": "a",\n',
        ", line 1: an object over several lines; write JSON lines, in pandas with "
        "to_json(orient='records', lines=True)",
    ),
    ("a.csv", b"label,text\n" + b"You won a prize " * 9 + b",spam\n", f", line 2: unknown label {LONG_TEXT}{SKIP}"),
    ("a.zip", zipped({"a.xlsx": b""}), f": the zip must hold one data file; it holds ['a.xlsx']; {UNPACK}"),
    ("a.zip", b"PK", ": broken zip (File is not a zip file)"),
    ("a.csv.gz", b"ham,a\n", ": cannot be read (Not a gzipped file (b'ha'))"),
    (
        "a.zip",
        zipped({"a.csv": b"", "b.tsv": b""}),
        f": the zip must hold one data file; found 2: ['a.csv', 'b.tsv']; {UNPACK}",
    ),
    (
        "a.zip",
        zipped({"in/b.tsv": b"ham\ta\neggs\ta"}),
        f"/in/b.tsv, line 2: unknown label 'eggs'; {MAP.format('eggs')}",
    ),
]


@pytest.mark.parametrize("protocol", ["full", "book"])
@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_bad_files_are_refused_in_one_line(name, data, message, protocol, tmp_path):
    """It names the file, the line, the value and the remedy; nothing is dropped silently."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_sms_spam(path, protocol=protocol)
    assert str(caught.value) == f"{path}{message}" and "\n" not in message


def test_the_line_of_an_invalid_byte_is_right_in_a_long_file(tmp_path):
    """Files are decoded in blocks, so lines must be counted across blocks."""
    text = "label,text\nham,\u00e9t\u00e9\n" + "ham,some text\n" * 9_998
    (tmp_path / "a.csv").write_bytes(text.encode() + b"spam,\xe9\n" + b"ham,a\n" * 999)
    with pytest.raises(DataError, match=r"a\.csv, line 10001: not UTF-8 \(byte 0xe9\)"):
        read_messages(tmp_path / "a.csv")


@pytest.mark.parametrize("shift", range(5))
def test_windows_1252_is_recognized_wherever_a_block_of_the_file_ends(tmp_path, shift):
    """The check for UTF-8 reads 1 MB at a time, and the é could start a character that goes on in the next block."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * (2**20 - shift) + "é la carte".encode("cp1252"))
    assert find_encoding(DataFile.find(path)) == "cp1252"


def test_an_exact_column_name_wins_over_another_case(tmp_path):
    (tmp_path / "a.csv").write_text("Body,body,KIND\nupper,lower,ham\n")
    for name, text in (("Body", "upper"), ("body", "lower")):
        found = read_messages(tmp_path / "a.csv", text_column=name, label_column="Kind", allow_single_label=True)
        assert found["text"][:] == [text]
    with pytest.raises(DataError, match="several columns are called 'BODY'"):
        read_messages(tmp_path / "a.csv", text_column="BODY", label_column="kind", allow_single_label=True)


def test_a_first_line_with_a_named_column_is_a_header(tmp_path):
    """Its first cell may be a word that could be a label."""
    (tmp_path / "a.csv").write_text("spam,text\n1,a\n0,b\n")
    assert rows(read_messages(tmp_path / "a.csv", label_column="spam")) == [(1, "a"), (0, "b")]


@settings(max_examples=50, database=None)
@given(st.lists(st.lists(st.sampled_from(['"', "a", " ", '""', "b", '"c']), min_size=1).map("".join), min_size=1))
def test_the_book_protocol_reads_like_pandas(tmp_path_factory, texts):
    """Quotes may be anywhere. If the last one is never closed, both refuse the file. "NA" and "007" are texts."""
    path = tmp_path_factory.getbasetemp() / "quotes.tsv"
    texts = [f"x{text}" if i % 2 else f"{text}x" for i, text in enumerate(texts)]
    path.write_text("".join(f"ham\t{text}\n" for text in ["NA", "007", "null", *texts]))
    try:
        table = pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    except pd.errors.ParserError:
        with pytest.raises(
            DataError, match="a quote is never closed; with --protocol full, quotes are part of the tex"
        ):
            read_messages(path, protocol="book", allow_single_label=True)
    else:
        assert read_messages(path, protocol="book", allow_single_label=True)["text"][:] == table[1].to_list()


def test_a_long_message_is_read_and_an_endless_one_is_not(tmp_path, monkeypatch):
    """By default, Python's csv module refuses cells of more than 131,072 characters."""
    monkeypatch.setattr(dialects, "MAX_CELL_CHARACTERS", 300_000)
    path = tmp_path / "a.csv"
    path.write_text(f"ham,{'a' * 200_000}\nspam,b\n")
    assert len(read_messages(path)["text"][0]) == 200_000
    path.write_text(f'ham,"{"a" * 300_001}"\nspam,b\n')
    with pytest.raises(DataError, match=r"line 1: .*field larger than field limit"):
        read_messages(path)


# Arbitrary files


@quick
@given(
    st.lists(st.lists(st.sampled_from(["a", "two\nlines", "", "\r\n"]), min_size=2, max_size=2), max_size=7),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 7),
)
def test_rows_and_their_lines_do_not_depend_on_the_windows(tmp_path_factory, table, size, blanks, at):
    """All windows but the last are full, and empty lines are no rows."""
    path = tmp_path_factory.getbasetemp() / "windows.csv"
    first, second = (delimited(rows, quoting=csv.QUOTE_ALL) for rows in ([["text", "n"], *table[:at]], table[at:]))
    path.write_bytes(first + b"\r\n" * blanks + second)
    reader = open_file(DataFile.find(path), Reading(labelled=False))
    windows = list(reader.windows(size))
    assert {len(window) for window in windows[:-1]} <= {size} and (len(windows) == 1 or len(windows[-1]))
    windows = [reader.messages(window).window for window in windows]
    assert [row for window in windows for row in window.rows] == table
    lines = [2 + sum(1 + "".join(row).count("\n") for row in table[:i]) for i in range(len(table))]
    lines[at:] = [line + blanks for line in lines[at:]]
    assert [number for window in windows for number in window.numbers] == lines


@quick
@given(st.binary(max_size=80), st.sampled_from([".csv", ".tsv", ".jsonl", ".zip", ".parquet"]))
def test_garbage_raises_only_data_errors(tmp_path_factory, data, suffix):
    """No input makes the reader raise anything else."""
    path = tmp_path_factory.getbasetemp() / f"garbage{suffix}"
    path.write_bytes(data)
    for protocol in ("full", "book"):
        with pytest.raises(DataError) as caught:
            load_sms_spam(path, protocol=protocol)
        assert "\n" not in str(caught.value)
