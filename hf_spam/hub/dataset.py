"""Splits of messages on the Hub: Parquet files and a card, in one commit."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, DatasetCard, DatasetCardData, HfApi

from .. import __version__
from ..data.duplicates import standing_in
from ..data.formats import suffix_of
from ..data.labels import label_names
from ..data.sources import load_sms_spam
from ..hub_errors import explained
from ..text import in_markdown
from .merging import merge_card
from .repository import fetch_card, prepare_repository

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
FILE = "data/{split}-00000-of-00001.parquet"  # where and as push_to_hub of datasets puts them
PROTOCOLS = {
    "book": "As in the book: every class is sampled down to the size of the smallest one, then all is shuffled and "
    "cut 70/10/20, without regard to duplicates.",
    "full": "Every message is kept, 70/10/20, stratified by label; what differs in digits, case, punctuation or "
    "blanks only is in one split.",
}


@dataclass(frozen=True)
class Source:
    """What the card says of where messages are from."""

    name: str
    text: str
    license: str | None = None
    language: str | None = None
    own_splits: bool = False
    """Whether it may come with splits of its own, which protocol "full" keeps."""


SOURCES = {
    "uci": Source(
        "SMS Spam Collection",
        "The [SMS Spam Collection v.1](https://doi.org/10.24432/C5CC84) by Tiago A. Almeida and José María Gómez "
        "Hidalgo, from the UCI Machine Learning Repository, under "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/); here it is cut into splits. To cite it: T. A. "
        "Almeida, J. M. Gómez Hidalgo and A. Yamakami, “Contributions to the Study of SMS Spam Filtering: New "
        "Collection and Results”, DocEng 2011.",
        license="cc-by-4.0",
        language="en",
    ),
    "sample": Source(
        "Sample messages of hf_spam",
        "The messages that come with hf_spam, under its licence (MIT): written for it, not collected.",
        license="mit",
        language="en",
    ),
}


def push_dataset(
    source: str | os.PathLike,
    repo_id: str,
    *,
    protocol: Literal["book", "full"] = "full",
    seed: int = 123,
    text_column: str | None = None,
    label_column: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Put the splits of a source on the Hub, from where `load_sms_spam(repo_id)` reads the same again.

    There is one commit for all, so that nobody ever loads half of it, and none if nothing has changed. A card that is
    there already is merged with ours: see `merge_card`.

    Args:
        source: as for `load_sms_spam`.
        repo_id: the dataset, "owner/name", or "name" for one of yours; it is made if there is none.
        protocol: how the splits are made, as for `load_sms_spam`. Read it back with "full", whichever it was: "full"
            takes the splits of a Hub dataset as they are.
        seed: of the splits.
        text_column, label_column: as for `load_sms_spam`.
        private: whether the repository is to be private; None (the default) for as it is, or as the account makes
            new ones.
        revision: the branch, made if there is none; None (the default) for "main".

    Returns:
        The address of the commit.

    Raises:
        DataError: the source cannot be read or split.
        HubError: the Hub cannot be reached or refuses; the message, one line, says what to do.
    """
    columns = {"text_column": text_column, "label_column": label_column}
    data = load_sms_spam(source, protocol=protocol, seed=seed, **columns)
    with explained(repo_id, "dataset"):
        api = HfApi()
        repo_id = prepare_repository(api, repo_id, revision, repo_type="dataset", private=private)
        there = api.dataset_info(repo_id, revision=revision)
        theirs = fetch_card(repo_id, there.sha, "dataset")
        card = merge_card(render_dataset_card(data, source, repo_id, protocol=protocol, seed=seed), theirs)
        files = {"README.md": card.encode()} | {FILE.format(split=split): _parquet(data[split]) for split in data}
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=f"{_source(source).name}, protocol {protocol}, seed {seed}",
            commit_description=f"Pushed by hf_spam {__version__}",
            repo_type="dataset",
            revision=revision,
            parent_commit=there.sha,  # or words that a person adds at this very moment would be lost
        )
    return str(commit.commit_url)


def render_dataset_card(
    data: DatasetDict, source: str | os.PathLike, repo_id: str, *, protocol: str = "full", seed: int = 123
) -> str:
    """The card of a dataset, with what it says of duplicates counted in `data`."""
    about, names = _source(source), label_names(data["train"])
    total = sum(map(len, data.values()))
    metadata = DatasetCardData(
        pretty_name=f"{about.name}, split by hf_spam",
        license=about.license,
        language=about.language,
        task_categories=["text-classification"],
        size_categories=_size_category(total),
        tags=[*(["spam-detection", "sms"] if "spam" in names else []), "hf_spam"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": FILE.format(split=split)} for split in data],
            }
        ],
        dataset_info={
            "features": [
                {"name": "text", "dtype": "string"},
                {
                    "name": "label",
                    "dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}},
                },
            ]
        },
    )
    card = DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=metadata.pretty_name,
        source=about.text,
        repo_id=repo_id,
        names=[in_markdown(name) for name in names],
        splits=_statistics(data),
        total=total,
        protocol=protocol,
        seed=seed,
        made=PROTOCOLS[protocol],
        own_splits=about.own_splits and protocol == "full",
    )
    return str(card)


def _source(source: str | os.PathLike) -> Source:
    if source in SOURCES:
        return SOURCES[source]
    name = os.fspath(source)
    if suffix_of(name) or os.path.exists(name):
        # Of a local file the name alone: the way to it may tell what nobody else should know.
        name = re.sub(r"[^\w .()-]", "_", Path(name).name)
        return Source(f"{name}", f"The file `{name}`. Its licence and origin are for whoever has pushed it to name.")
    link = f"[`{name}`](https://huggingface.co/datasets/{name})"
    return Source(name, f"The Hub dataset {link}, the licence of which applies.", own_splits=True)


def _statistics(data: DatasetDict) -> dict[str, dict[str, int]]:
    """Of each split: messages, those of each label, and those that are (nearly) in the training split as well."""
    train, names = data["train"]["text"][:], label_names(data["train"])
    counts = {}
    for split, rows in data.items():
        exact, near = standing_in(rows["text"][:], train if split != "train" else [])
        counts[split] = {
            "messages": len(rows),
            "labels": np.bincount(rows["label"][:], minlength=len(names)).tolist(),
            "exact": int(exact.sum()),
            "near": int(near.sum()),
        }
    return counts


def _size_category(total: int) -> str:
    limits = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for limit, name in limits.items() if total < limit), "1M<n<10M")


def _parquet(rows: Dataset) -> bytes:
    out = io.BytesIO()
    rows.to_parquet(out)
    return out.getvalue()
