"""Data on the Hub: what is pushed is read back identical, with a card that is true and keeps a person's words."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, DatasetDict, load_dataset
from huggingface_hub import HfApi

from hf_spam.cli import main
from hf_spam.data import messages
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.formats import DataError
from hf_spam.data.sources import load_sms_spam
from hf_spam.hub import dataset
from hf_spam.hub.dataset import push_dataset
from hf_spam.hub_errors import HubError

REPO = "alice/messages"
INITIAL = "initial commit"
THEIRS = "---\nmine: 1\n---\nMine."


@pytest.fixture
def source(tmp_path) -> str:
    """A file of 110 messages, some of them twice and some nearly, in a folder with a telling name."""
    texts = [f"{'ab'[i % 2] * (i % 40 + 1)}{'!' * (i // 40)}" for i in range(90)]
    texts += texts[:20]
    (tmp_path / "of-the-customer").mkdir()
    path = tmp_path / "of-the-customer" / "mine.csv"
    path.write_text("label,text\n" + "".join(f"{'spam' if i % 2 else 'ham'},{t}\n" for i, t in enumerate(texts)))
    return str(path)


def same(one: DatasetDict, other: DatasetDict) -> bool:
    return list(one) == list(other) and all(
        one[split].features == other[split].features and one[split].to_dict() == other[split].to_dict() for split in one
    )


def card(hub, name: str = REPO, revision: str = "main") -> str:
    return hub.read(name, "README.md", revision, kind="dataset").decode()


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_what_is_pushed_is_read_back_identical(hub, source, protocol):
    """Rows, their order, and the names of the labels, whichever protocol made the splits; for others as well."""
    push_dataset(source, REPO, protocol=protocol, seed=7)
    assert same(load_sms_spam(REPO), load_sms_spam(source, protocol=protocol, seed=7))
    plain = load_dataset(REPO)
    assert list(plain) == ["train", "validation", "test"]
    assert plain["test"].features["label"] == ClassLabel(names=["not spam", "spam"])
    assert plain["test"].column_names == ["text", "label"]


def test_one_commit_with_everything_and_none_for_nothing_new(hub, source):
    """Nobody ever loads half of it; a command that is run again changes nothing."""
    url = push_dataset(source, REPO)
    assert hub.files(REPO, kind="dataset") == [".gitattributes", "README.md"] + [
        f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")
    ]
    title = "mine.csv, protocol full, seed 123"
    assert hub.titles(REPO, kind="dataset") == [title, INITIAL]
    assert push_dataset(source, REPO) == url == f"{hub.url}/datasets/{REPO}/commit/{HfApi().dataset_info(REPO).sha}"
    assert hub.titles(REPO, kind="dataset") == [title, INITIAL]
    assert push_dataset(source, REPO, seed=5) != url
    assert len(hub.titles(REPO, kind="dataset")) == 3
    assert same(load_sms_spam(REPO), load_sms_spam(source, seed=5))


def test_a_lost_answer_is_mended_by_running_again(hub, source):
    hub.fail("POST", "/commit/", drop="after")
    with pytest.raises(HubError, match=r"the connection to the Hub at .* broke off"):
        push_dataset(source, REPO)
    push_dataset(source, REPO)
    assert len(hub.titles(REPO, kind="dataset")) == 2 and same(load_sms_spam(REPO), load_sms_spam(source))


def test_branches_private_repositories_and_names_without_an_owner(hub, source):
    push_dataset(source, "messages", private=True, revision="v2")
    assert hub.repo(REPO, "dataset").private
    assert hub.files(REPO, kind="dataset") == [".gitattributes"]
    assert len(hub.files(REPO, "v2", kind="dataset")) == 5
    assert f'load_dataset("{REPO}")' in card(hub, revision="v2")
    assert len(load_dataset(REPO, revision="v2")["train"]) == len(load_sms_spam(source)["train"])


def test_the_card_counts_what_it_says(hub, source):
    """Sizes, spam and shared duplicates, of the rows themselves; of the machine it came from, the file's name only."""
    for protocol in ("full", "book"):
        push_dataset(source, REPO, protocol=protocol)
        data, text = load_sms_spam(REPO), card(hub)
        assert "| label | train | validation | test |\n|---|---|---|---|\n| `not spam` |" in text
        for name, counts in (
            ("`spam`", [sum(rows["label"][:]) for rows in data.values()]),
            ("all", map(len, data.values())),
        ):
            assert f"| {name} | {' | '.join(map(str, counts))} |\n" in text
        train = data["train"]["text"][:]
        for split in ("validation", "test"):
            exact = sum(t in train for t in data[split]["text"][:])
            near = sum(duplicate_key(t) in map(duplicate_key, train) for t in data[split]["text"][:])
            assert (
                f"Of the {len(data[split])} messages in {split}, {exact} stand in train word for word, and {near} but"
                in text
            )
        assert f"protocol `{protocol}` and seed 123" in text
        assert ("**The splits share duplicates**" in text) == (near > exact > 0) == (protocol == "book")
        assert ("No message of validation or test is in train" in text) == (protocol == "full")
    everything = b"".join(hub.read(REPO, path, kind="dataset") for path in hub.files(REPO, kind="dataset"))
    assert b"mine.csv" in everything and b"of-the-customer" not in everything and b"hf_write" not in everything
    about = metadata(text)
    assert about["size_categories"] == "n<1K" and about["task_categories"] == ["text-classification"]
    assert "license" not in about and "language" not in about


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_labels_of_any_name_come_back_in_their_order(hub, tmp_path, monkeypatch, capsys):
    """Of columns of any name, by the command line; the card counts each label, and none breaks its table."""
    path, labels = tmp_path / "mine.jsonl", ["a | b", "家 `x`", "<!-- hf_spam: end -->"]
    rows = [{"body": f"{'xyz'[i % 3]} {chr(97 + i % 26) * (1 + i // 26)}", "kind": labels[i % 3]} for i in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["--text-column", "body", "--label-column", "kind"]
    monkeypatch.setattr(sys, "argv", ["hf-spam", "data", "push", str(path), REPO, *columns])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0, capsys.readouterr().err
    expected = load_sms_spam(path, text_column="body", label_column="kind")
    found = load_sms_spam(REPO)
    assert same(found, expected) and found["train"].features == expected["train"].features
    assert load_dataset(REPO)["test"].features["label"].names == sorted(labels)
    table = [line for line in card(hub).splitlines() if line.startswith("|")]
    assert all(line.count("|") == 5 for line in table) and len(table) == 6
    text = card(hub).split("---\n", 2)[2]  # without the metadata, which a merge of cards does not search for marks
    assert text.count("<!-- hf_spam: end -->") == 1 and "spam-detection" not in metadata(card(hub))["tags"]


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_licence_and_origin_by_source(hub, source, monkeypatch):
    """The collection's authors are named, its licence with them; none is claimed for what is not known."""
    tsv = "".join(f"{'spam' if i % 2 else 'ham'}\t{chr(97 + i) * 3}\n" for i in range(26)).encode()
    monkeypatch.setattr(messages, "uci_file", lambda: tsv)
    push_dataset("uci", REPO)
    about = metadata(card(hub))
    assert (about["license"], about["language"], about["pretty_name"].split(",")[0]) == (
        "cc-by-4.0", "en", "SMS Spam Collection",
    )  # fmt: skip
    assert all(words in card(hub) for words in ("10.24432/C5CC84", "Almeida", "Hidalgo", "Yamakami", "by/4.0/"))
    push_dataset("sample", REPO)
    assert metadata(card(hub))["license"] == "mit" and "Almeida" not in card(hub)
    push_dataset(REPO, "alice/copy")
    copy = card(hub, "alice/copy")
    assert "license" not in metadata(copy) and f"[`{REPO}`](https://huggingface.co/datasets/{REPO})" in copy
    assert "Those of the source where it has train, validation and test splits." in copy
    push_dataset(source, REPO)
    assert "license" not in metadata(card(hub))


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_a_file_with_a_nasty_name(hub, source, tmp_path):
    """Its name stands in the card, where it must not end our section or make a link."""
    path = tmp_path / "`<!-- hf_spam: end --> [x](y).csv"
    path.write_bytes(Path(source).read_bytes())
    push_dataset(path, REPO)
    assert card(hub).count("<!-- hf_spam: end -->") == 1 and "_x_(y).csv`" in card(hub)


def test_words_of_a_person_stay(hub, source):
    push_dataset(source, REPO)
    edited = card(hub).replace("---\n\n<!--", "license: mit\nmine: 1\n---\n\nMine.\r\n<!--", 1) + "\nMine too.\n"
    HfApi().upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=edited.encode(), path_in_repo="README.md")
    push_dataset(source, REPO, seed=9)
    text = card(hub)
    assert "\n---\n\nMine.\r\n<!--" in text and text.endswith("-->\n\nMine too.\n") and "and seed 9" in text
    assert metadata(text)["mine"] == 1 and metadata(text)["license"] == "mit"


def test_words_of_a_person_at_the_same_moment_are_not_lost(hub, source, monkeypatch):
    """Between our reading of the card and our commit."""
    push_dataset(source, REPO)

    def merge(ours, theirs):
        HfApi().upload_file(
            repo_id=REPO, repo_type="dataset", path_or_fileobj=THEIRS.encode(), path_in_repo="README.md"
        )
        return ours

    monkeypatch.setattr(dataset, "merge_card", merge)
    with pytest.raises(HubError, match=r"somebody else is changing it at the same time .*; try again"):
        push_dataset(source, REPO, seed=9)
    assert card(hub) == THEIRS


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_own_splits_are_split_anew_by_the_book_only_and_said(hub, source, caplog):
    """A model would be tested on what it has seen if its data were published split and then split again."""
    push_dataset(source, REPO, protocol="book")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hf_spam"):
        assert same(load_sms_spam(REPO), load_sms_spam(source, protocol="book")) and caplog.text == ""
        assert not same(load_sms_spam(REPO, protocol="book"), load_sms_spam(REPO))
    line = f"{REPO}: its own splits are mixed and split anew; protocol 'full' uses them as they are"
    assert [record.getMessage() for record in caplog.records] == [line]


# Errors

MISTAKES = {
    "token": ("hf_bad", REPO, "the Hub does not accept the token"),
    "read": ("hf_read", REPO, 'the token has no write access .* it needs the role "write"'),
    "other": ("hf_write", "bob/messages", "the token has no write access .* for bob \\("),
    "name": ("hf_write", "alice/no--name", "cannot be the name of a dataset"),
    "private": ("hf_write", "alice/public", "it is public already; make it private in its settings, or choose another"),
}


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(hub, case, monkeypatch, capsys):
    """On the real command line, in this process; nothing is left on the Hub."""
    token, repo, line = MISTAKES[case]
    HfApi().create_repo("alice/public", repo_type="dataset")
    monkeypatch.setenv("HF_TOKEN", token)
    assert re.fullmatch(rf"hf-spam: {repo}: {line}.*\n", fails(monkeypatch, capsys, "sample", repo, "--private"))
    assert set(hub.repos) == {("dataset", "alice/public")}
    assert hub.titles("alice/public", kind="dataset") == [INITIAL]


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_the_hub_is_down_or_the_source_unreadable(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fails(monkeypatch, capsys, "no.csv", REPO).startswith("hf-spam: no.csv: no such file")
    with pytest.raises(DataError):
        push_dataset("no.csv", REPO)
    hub.stop()
    assert re.fullmatch(
        rf"hf-spam: {REPO}: the Hub cannot be reached at 127.0.0.1:\d+ \(.*\); check the network, .*\n",
        fails(monkeypatch, capsys, "sample", REPO),
    )


def fails(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["hf-spam", "data", "push", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    printed = capsys.readouterr()
    assert exit.value.code == 1 and printed.out == ""
    return printed.err


# From end to end


def push(*arguments: str) -> str:
    """What `hf-spam data push` prints, in a process of its own; on standard error there is nothing."""
    command = [sys.executable, "-m", "hf_spam", "data", "push", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def evaluated(monkeypatch, capsys, *arguments: str) -> dict:
    """The figures of the bundled model on every split."""
    monkeypatch.setattr(sys, "argv", ["hf-spam", "evaluate", *arguments, "--json"])
    with pytest.raises(SystemExit):
        main()
    return json.loads(capsys.readouterr().out)["sets"]


def test_push_and_read_back_on_the_command_line(hub, source, monkeypatch, capsys):
    """`--data REPO` gives a model the very messages that were pushed: its results on them are the same."""
    url = f"{hub.url}/datasets/{REPO}/commit/"
    if hub.xet:
        assert json.loads(push(source, REPO, "--seed", "5", "--json"))["commit_url"].startswith(url)
    else:
        assert push(source, REPO, "--seed", "5").startswith(f"The splits and their card are at {url}")
    assert hub.titles(REPO, kind="dataset") == ["mine.csv, protocol full, seed 5", INITIAL]
    expected = evaluated(monkeypatch, capsys, "--data", source, "--seed", "5")
    assert evaluated(monkeypatch, capsys, "--data", REPO) == expected
