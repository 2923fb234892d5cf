"""Pushed datasets load back identical, and their card is correct."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from command_line import hf_spam
from datasets import ClassLabel, DatasetDict, load_dataset
from huggingface_hub import HfApi
from local_hub import both_transports

from hf_spam import load_sms_spam
from hf_spam.data.duplicates import duplicate_key
from hf_spam.hub.dataset import push_dataset, render_dataset_card
from hf_spam.hub.merging import END

REPO = "alice/messages"
INITIAL = "initial commit"


@pytest.fixture
def source(tmp_path) -> str:
    """Write a file of 110 messages with duplicates and near-duplicates, in a folder with a private name."""
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


@both_transports
@pytest.mark.parametrize("protocol", ["book", "full"])
def test_a_pushed_dataset_loads_back_identical(hub, source, protocol):
    """Messages, order and label names are the same, with `load_dataset` too."""
    push_dataset(source, REPO, protocol=protocol, seed=7)
    assert same(load_sms_spam(REPO), load_sms_spam(source, protocol=protocol, seed=7))
    plain = load_dataset(REPO)
    assert list(plain) == ["train", "validation", "test"]
    assert plain["test"].features["label"] == ClassLabel(names=["not spam", "spam"])
    assert plain["test"].column_names == ["text", "label"]


@both_transports
def test_everything_is_in_one_commit_and_no_change_makes_none(hub, source):
    """The file is named without its folder."""
    url = push_dataset(source, REPO)
    files = [f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]
    assert hub.files(REPO, kind="dataset") == [".gitattributes", "README.md", *files]
    everything = b"".join(hub.read(REPO, path, kind="dataset") for path in hub.files(REPO, kind="dataset"))
    assert b"mine.csv" in everything and b"of-the-customer" not in everything
    title = "mine.csv, protocol full, seed 123"
    assert hub.titles(REPO, kind="dataset") == [title, INITIAL]
    assert push_dataset(source, REPO) == url == f"{hub.url}/datasets/{REPO}/commit/{HfApi().dataset_info(REPO).sha}"
    assert hub.titles(REPO, kind="dataset") == [title, INITIAL]
    assert push_dataset(source, REPO, seed=5) != url
    assert len(hub.titles(REPO, kind="dataset")) == 3


def test_a_private_repository_on_a_branch_by_its_short_name(hub, source):
    push_dataset(source, "messages", private=True, revision="v2")
    assert hub.repo(REPO, "dataset").private
    assert hub.files(REPO, kind="dataset") == [".gitattributes"]
    assert len(hub.files(REPO, "v2", kind="dataset")) == 5
    assert f'load_dataset("{REPO}")' in card(hub, revision="v2")
    assert len(load_dataset(REPO, revision="v2")["train"]) == len(load_sms_spam(source)["train"])


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_the_card_counts_messages_and_duplicates(source, protocol):
    data = load_sms_spam(source, protocol=protocol)
    text = render_dataset_card(data, source, protocol=protocol)
    assert "| label | train | validation | test |\n|---|---|---|---|\n| `not spam` |" in text
    for name, counts in (
        ("`spam`", [sum(rows["label"][:]) for rows in data.values()]),
        ("all", map(len, data.values())),
    ):
        assert f"| {name} | {' | '.join(map(str, counts))} |\n" in text
    train = data["train"]["text"][:]
    for split in ("validation", "test"):
        texts = data[split]["text"][:]
        exact = sum(text in train for text in texts)
        near = sum(duplicate_key(text) in map(duplicate_key, train) for text in texts)
        counts = f"{exact} have an exact duplicate in train, and {near} an exact or near-duplicate"
        assert f"Of the {len(texts)} messages in {split}, {counts}" in text
        assert ("**The splits share duplicates**" in text) == (near > exact > 0) == (protocol == "book")
    assert ("No message in the other splits has a duplicate or near-duplicate in train" in text) == (protocol == "full")
    assert f"protocol `{protocol}` and seed 123" in text
    about = metadata(text)
    assert about["task_categories"] == ["text-classification"]
    assert "license" not in about and "language" not in about


def test_labels_of_any_name_keep_their_order(hub, tmp_path):
    """Columns may have any name, and no label breaks the table or the card."""
    path, labels = tmp_path / "mine.jsonl", ["a | b", "家 `x`", END]
    rows = [{"body": f"{'xyz'[i % 3]} {chr(97 + i % 26) * (1 + i // 26)}", "kind": labels[i % 3]} for i in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = hf_spam("data", "push", path, REPO, "--text-column", "body", "--label-column", "kind", "--json")
    assert done.code == 0 and json.loads(done.out)["commit_url"].startswith(f"{hub.url}/datasets/{REPO}/commit/")
    expected, found = load_sms_spam(path, text_column="body", label_column="kind"), load_sms_spam(REPO)
    assert same(found, expected)
    assert load_dataset(REPO)["test"].features["label"].names == sorted(labels)
    table = [line for line in card(hub).splitlines() if line.startswith("|")]
    assert all(line.count("|") == 5 for line in table) and len(table) == 6
    text = card(hub).split("---\n", 2)[2]  # the metadata above hold the label, too
    assert text.count(END) == 1 and "spam-detection" not in metadata(card(hub))["tags"]


def test_license_and_origin_by_source(source):
    """The authors of the collection are credited; no license is claimed for unknown data."""
    data = load_sms_spam(source)
    text = render_dataset_card(data, "uci")
    about = metadata(text)
    assert about["license"] == "cc-by-4.0" and about["language"] == "en"
    assert all(words in text for words in ("10.24432/C5CC84", "Almeida", "Hidalgo", "Yamakami", "by/4.0/"))
    text = render_dataset_card(data, "sample")
    assert metadata(text)["license"] == "mit" and "Almeida" not in text
    text = render_dataset_card(data, REPO)
    assert "license" not in metadata(text) and f"[`{REPO}`](https://huggingface.co/datasets/{REPO})" in text
    assert "If the source has its own train, validation and test splits, they are used." in text
    in_memory = render_dataset_card(data, pd.DataFrame({"text": ["a"], "label": ["ham"]}))
    assert "Messages that were passed as a DataFrame." in in_memory and "license" not in metadata(in_memory)
    nasty = render_dataset_card(data, Path(f"`{END} [x](y).csv"))
    assert END not in nasty and "_x_(y).csv`" in nasty, "the name neither ends our section nor makes a link"
