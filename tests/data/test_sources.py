"""Messages are read from every kind of source. The Hub is local or replaced."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from small_data import rows

from hf_spam.data import sources
from hf_spam.data.formats import DataError, DataFile
from hf_spam.data.labels import FEATURES
from hf_spam.data.readers import open_file
from hf_spam.data.reading import Reading
from hf_spam.data.sources import check_splits, load_sms_spam, read_messages, read_sets, read_texts


def test_passed_splits_may_have_what_files_may_have():
    """Column names in any case, words as labels, and unused columns and splits."""
    part = Dataset.from_dict({"Text": ["a", "b"], "LABEL": ["ham", "Spam"], "id": [1, 2]})
    checked = check_splits(DatasetDict(train=part, test=part, more=part))
    assert list(checked) == ["train", "test"] and checked["test"].features == FEATURES
    assert rows(checked["train"]) == [(0, "a"), (1, "b")]
    with pytest.raises(DataError, match="a split named 'train' is needed; found: 'test'"):
        check_splits(DatasetDict(test=part))
    with pytest.raises(DataError, match="no messages found"):
        check_splits(DatasetDict(train=part, test=part.select([])))
    with pytest.raises(DataError, match=r"^train: there is no text column .*; found: \['LABEL', 'id'\]"):
        check_splits(DatasetDict(train=part.remove_columns("Text")))


# The package's own messages

TABLE = "label\tcategory\tlanguage\ttext\n"


def letters(number: int) -> str:
    return f"{chr(97 + number // 26)}{chr(97 + number % 26)}"


@pytest.fixture
def embedded(tmp_path, monkeypatch) -> Path:
    """The folder of the package's messages, replaced by a small one.

    The second twin of `al` and the first one of `am` are duplicates of a chat message.
    """
    chat = [f"ham\tchat\ten\thow is {letters(i)} today\n" for i in range(60)]
    twins = [
        f"{label}\tbank\tfr\t{word} {letters(i)}\n"
        for i in range(60)
        for label, word in (("ham", "pay"), ("spam", "lose"))
    ]
    twins[23], twins[24] = "spam\tbank\tfr\thow is aa today?\n", "ham\tbank\tfr\tHow is AA today\n"
    files = {"chat": chat, "twins": twins, "marketing": ["ham\tshop\tes\tsale\n", "ham\tshop\tpt\tsale again\n"]}
    for name, lines in files.items():
        (tmp_path / f"{name}.tsv").write_text(TABLE + "".join(lines))
    monkeypatch.setattr(sources, "EMBEDDED", tmp_path)
    return tmp_path


def test_twins_belong_together(embedded):
    """Rows of `twins.tsv` come in pairs: spam, and what it imitates. Duplicates of a twin belong with both."""
    found = read_messages("sample")
    groups = found["group"][:]
    chat, pairs = groups[:60], list(zip(groups[60::2], groups[61::2], strict=True))
    assert all(ham == spam for ham, spam in pairs)
    assert pairs[11] == pairs[12] == (chat[0], chat[0])
    assert len(set(groups)) == len({*chat, *dict(pairs)}) == 118


def test_marketing_is_a_source_of_its_own(embedded):
    """Whether it counts as spam differs between users, so it must not be trained on unasked."""
    assert {*read_messages("sample")["category"]} == {"chat", "bank"}
    marketing = read_messages("marketing", allow_single_label=True)
    assert rows(marketing) == [(0, "sale"), (0, "sale again")] and {*marketing["source"]} == {"marketing"}
    both = read_messages("sample,marketing")
    assert Counter(both["source"]) == {"sample": 180, "marketing": 2}


# Several sources


def test_several_sources_are_read_as_one(tmp_path, monkeypatch):
    """They keep their order, and the column `source` names them. One of them may have a single label."""
    monkeypatch.chdir(tmp_path)
    Path("ham.tsv").write_text("ham\tone\nham\tTWO!\n")
    Path("both.csv").write_text("text,label\ntwo,spam\nthree,ham\n")
    for source in ("ham.tsv,both.csv", ["ham.tsv", Path("both.csv")]):
        found = read_messages(source)
        assert rows(found) == [(0, "one"), (0, "TWO!"), (1, "two"), (0, "three")]
        assert found["source"][:] == ["ham.tsv"] * 2 + ["both.csv"] * 2
        one, two, too, three = found["group"]
        assert two == too and len({one, two, three}) == 3, "duplicates belong together, wherever they are from"
    with pytest.raises(DataError, match=r"^none\.csv: not a file"):
        read_messages("ham.tsv,none.csv")
    with pytest.raises(DataError, match=r"^unknown protocol 'books': use 'book' or 'full'$"):
        load_sms_spam("ham.tsv,both.csv", protocol="books")
    with pytest.raises(DataError, match=r"^ham\.tsv,ham\.tsv: every message is 'not spam'"):
        read_messages("ham.tsv,ham.tsv")
    Path("ham.tsv,both.csv").write_text("label,text\nspam,a file\n")
    assert read_messages("ham.tsv,both.csv", allow_single_label=True)["text"][:] == ["a file"]


def test_only_the_sources_that_have_the_named_columns_use_them(tmp_path, monkeypatch):
    """A file of one's own and the embedded messages can be trained on together."""
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("body,kind\nwin,smishing\nhi,legit\n")
    Path("ours.csv").write_text("label,text\nham,a\nspam,b\n")
    named = {"text_column": "Body", "label_map": "smishing=spam,legit=ham"}
    assert rows(read_messages("mine.csv,ours.csv", label_column="kind", **named)) == [
        (1, "win"), (0, "hi"), (0, "a"), (1, "b")
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"^mine\.csv, line 1 \(the header\): there is no label column 'kindd'; found:"):
        read_messages("mine.csv,ours.csv", label_column="kindd", **named)
    with pytest.raises(DataError, match=r"^ours\.csv,ours\.csv: no column 'kindd' in any of them; name one"):
        read_messages("ours.csv,ours.csv", label_column="kindd")


def test_a_named_encoding_is_that_of_the_users_files(embedded, tmp_path):
    (embedded / "chat.tsv").write_text(TABLE + "ham\tchat\ten\t£5 please\nspam\tchat\ten\tyou won\n", encoding="utf-8")
    (tmp_path / "mine.csv").write_bytes("label,text\nham,café\n".encode("latin-1"))
    found = read_messages([tmp_path / "mine.csv", "sample"], encoding="latin-1")["text"][:]
    assert {"café", "£5 please"} <= {*found}


def test_named_columns_are_found_in_data_in_memory_too(tmp_path):
    (tmp_path / "mine.csv").write_text("label,text\nham,hi\n")
    frame = pd.DataFrame({"body": ["win"], "subject": ["now"], "label": ["spam"]})
    for named, text in (("body", "win"), ("subject, body", "now\nwin")):
        assert read_messages([frame, tmp_path / "mine.csv"], text_column=named)["text"][:] == [text, "hi"]


def test_a_window_of_a_table_may_have_no_message(tmp_path):
    pd.DataFrame({"text": ["a", "b", None], "label": [0, 1, 1]}).to_parquet(tmp_path / "a.parquet")
    reader = open_file(DataFile.find(tmp_path / "a.parquet"), Reading(skip_bad_rows=True))
    found = [reader.messages(window) for window in reader.windows(2)]
    assert [messages.texts for messages in found] == [["a", "b"], []] and found[1].left_out == [
        "row 3: the text is missing"
    ]


# Folders

ROWS = "label,text\nham,see you {0}\nspam,win {0}\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train-00000-of-00002.csv"], "train has 1 of 2 files; add the missing ones"),
        (["train-00000-of-00001.csv", "data/train-00000-of-00001.csv"], "several files for train, such as train-00000"),
        (["train-00000-of-00001.csv", "train-00000-of-00001.jsonl"], "several files for train, such as train-00000"),
        (["train.csv", "training-00000-of-00001.csv"], "several files for train, such as training-00000-of-00001.csv;"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], "several files for tra"),
        (["state.json"], r"not what save_to_disk wrote \(.*\); name a file in it"),
        (["dataset_dict.json"], r"not what save_to_disk wrote \(.*\); name a file in it"),
    ],
)
def test_files_of_a_folder_are_neither_doubled_nor_lost(files, message, tmp_path):
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ROWS.format(number))
    with pytest.raises(DataError, match=message):
        load_sms_spam(tmp_path)


def test_a_split_in_several_files_is_read_in_their_order(tmp_path):
    for number in range(3):
        (tmp_path / f"train-{number:05}-of-00003.csv").write_text(ROWS.format("abc"[number]))
    assert read_messages(tmp_path)["text"][:] == [f"{word} {i}" for i in "abc" for word in ("see you", "win")]


def test_files_that_are_no_splits_are_named(tmp_path, caplog):
    """Hub datasets have hashes in the names of their files."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001-b943ad76ea3ad3e4.csv").write_text(ROWS.format(1))
    (tmp_path / "eval.csv").write_text(ROWS.format(2))
    (tmp_path / "train2.csv").write_text(ROWS.format(3))
    (tmp_path / "readme.txt").write_text("read me")
    assert read_messages(tmp_path)["text"][:] == ["see you 1", "win 1", "see you 2", "win 2"]
    assert f"{tmp_path}: not read, since not called train, validation or test: train2.csv" in caplog.text


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame([["a", "b"]], columns=["text", "text"]),
        pd.DataFrame({"text": ["a"], "when": pd.period_range("2024", "2024", freq="Y")}),
    ],
)
def test_a_frame_that_arrow_cannot_hold_is_refused(frame):
    with pytest.raises(DataError, match=r"^a DataFrame: .*; pass the text and label columns only"):
        read_messages(frame)


def test_a_folder_keeps_its_splits_and_none_may_be_empty(tmp_path):
    splits = ["train", "validation", "test"]
    for split in splits:
        (tmp_path / f"{split}.csv").write_text(ROWS.format(split))
    for found in (load_sms_spam(tmp_path), read_sets(tmp_path)):
        expected = [(split, [(0, f"see you {split}"), (1, f"win {split}")]) for split in splits]
        assert [(split, rows(part)) for split, part in found.items()] == expected
    (tmp_path / "validation.csv").write_text("label,text\n")
    with pytest.raises(DataError, match=r"validation: no messages found$"):
        load_sms_spam(tmp_path)


def test_categories_and_languages_come_through(tmp_path):
    """They are empty where a file has none. A column that holds the labels is no category."""
    (tmp_path / "a.csv").write_text("language,label,category,text\nfr,ham,bank,un\n,spam,,deux\n")
    table = {"text": ["three", "four"], "label": ["ham", "spam"], "language": ["en", None]}
    Dataset.from_dict(table).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.tsv").write_text("category\tsms\nham\tfive\nspam\tsix\n")
    (tmp_path / "d.tsv").write_text("ham\tseven\n")
    found = read_messages([tmp_path / name for name in ("a.csv", "b.parquet", "c.tsv", "d.tsv")])
    assert found["text"][:] == ["un", "deux", "three", "four", "five", "six", "seven"]
    assert found["language"][:] == ["fr", "", "en", "", "", "", ""]
    assert found["category"][:] == ["bank", "", "", "", "", "", ""]


# Splits of a Hub dataset, or of a `DatasetDict`

HUB_FEATURES = Features({"sms": Value("string"), "label": ClassLabel(names=["spam", "ham"]), "id": Value("int32")})


def split_messages(**sizes: int) -> DatasetDict:
    """Return splits of ham and spam messages."""
    splits = {}
    for split, size in sizes.items():
        columns = {"sms": [f"{split} {'ab'[i % 2] * (i + 1)}" for i in range(size)], "id": list(range(size))}
        splits[split] = Dataset.from_dict(columns | {"label": [i % 2 for i in range(size)]}, features=HUB_FEATURES)
    return DatasetDict(splits)


def test_own_splits_are_used_as_they_are(caplog):
    """Published results refer to these splits. ClassLabel ids are mapped by name. No split is dropped silently."""
    data = split_messages(test=4, train=20, validation=2, extra=2)
    for splits in (load_sms_spam(data), check_splits(data)):
        assert {name: len(split) for name, split in splits.items()} == {"train": 20, "validation": 2, "test": 4}
        assert rows(splits["validation"]) == [(1, "validation a"), (0, "validation bb")]
        assert all(split.features == FEATURES for split in splits.values())
    assert caplog.text.count("not used: the splits extra") == 2


def test_messages_are_split_again_for_the_book_protocol_or_without_own_splits():
    """No message is left out."""
    data = split_messages(test=4, train=20, validation=2)
    assert [len(split) for split in load_sms_spam(data, protocol="book").values()] == [18, 2, 6]
    assert len(read_messages(data)) == 26
    splits = load_sms_spam(split_messages(train=30, test=10))
    assert list(splits) == ["train", "validation", "test"] and sum(map(len, splits.values())) == 40


def test_a_file_and_a_dataset_are_split_together(tmp_path):
    """The splits of the dataset are not kept, because the file has none."""
    sources = [split_messages(train=20, validation=2, test=4), tmp_path / "a.csv"]
    sources[1].write_text("label,text\n" + "".join(f"ham,file {letters(i)}\n" for i in range(10)))
    found = read_messages(sources)
    assert Counter(found["source"]) == {"a DatasetDict": 26, str(tmp_path / "a.csv"): 10}
    splits = load_sms_spam(sources)
    assert Counter(row for part in splits.values() for row in rows(part)) == Counter(rows(found))
    assert all(part.features == FEATURES for part in splits.values())
    assert len(splits["train"]) > 20


@pytest.mark.parametrize("reachable", [True, False])
def test_a_missing_or_unreachable_hub_dataset_is_one_line(hub, reachable):
    """The client is the real one."""
    if not reachable:
        hub.stop()
    with pytest.raises(DataError) as caught:
        load_sms_spam("owner/name-that-is-not-there")
    message = str(caught.value)
    reason = (
        "no such file, and not loaded from the Hub (" if reachable else "no such file or folder; cannot reach the Hub"
    )
    assert message.startswith(f"owner/name-that-is-not-there: {reason}") and "\n" not in message


def test_texts_are_read_without_labels(tmp_path):
    """From a text file, a table with any labels or none, and several sources; empty texts are left out."""
    (tmp_path / "lines.txt").write_text("win a prize\n\nsee you\n")
    (tmp_path / "table.csv").write_text("text,label\nhello,whatever\n,ham\nbye,\n")
    (tmp_path / "only.csv").write_text("sms\nok\n")
    sources = [tmp_path / name for name in ("lines.txt", "table.csv", "only.csv")]
    assert read_texts(sources) == ["win a prize", "see you", "hello", "bye", "ok"]
    with pytest.raises(DataError, match=r"none\.txt"):
        read_texts("texts/none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"empty\.txt: no messages found"):
        read_texts(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="plain text has no labels"):  # labels are needed to train
        read_messages(tmp_path / "lines.txt")
