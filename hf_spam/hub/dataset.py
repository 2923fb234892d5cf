"""Push the splits of a source to a dataset on the Hub: Parquet files and a card, in one commit."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.duplicates import find_duplicates
from ..data.formats import suffix_of
from ..data.labels import label_names
from ..data.names import Sources, sources_of
from ..data.sources import load_sms_spam
from ..files import versions
from ..hub_errors import explained
from ..text import in_markdown
from .card import PLACEHOLDER
from .repository import push_files

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
FILE = "data/{split}-00000-of-00001.parquet"  # the paths used by `Dataset.push_to_hub`
PROTOCOLS = {
    "book": "As in the book, the classes are balanced by sampling from the larger ones, and the messages are shuffled "
    "and divided 70/10/20, regardless of duplicates.",
    "full": "If the source has its own train, validation and test splits, they are used. Otherwise, all messages are "
    "kept and divided 70/10/20, stratified by label. Near-duplicates, which differ only in digits, case, punctuation "
    "or white space, are in the same split.",
}


@dataclass(frozen=True)
class Source:
    """Origin of the messages, as the card describes it."""

    name: str
    text: str
    license: str | None = None
    language: str | None = None


SOURCES = {
    "uci": Source(
        "SMS Spam Collection",
        "The [SMS Spam Collection v.1](https://doi.org/10.24432/C5CC84) by Tiago A. Almeida and José María Gómez "
        "Hidalgo, from the UCI Machine Learning Repository, licensed under "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). The messages are unchanged; the splits are new. "
        "Please cite: T. A. Almeida, J. M. Gómez Hidalgo and A. Yamakami, “Contributions to the Study of SMS Spam "
        "Filtering: New Collection and Results”, DocEng 2011.",
        license="cc-by-4.0",
        language="en",
    ),
    "sample": Source(
        "Sample messages of hf_spam",
        "The sample messages included in hf_spam, under its license (MIT). They were written for it, most of them by "
        "language models, as text messages read between 2006 and 2026; none was collected from anyone's phone. Six in "
        "ten are in English, the others in some forty languages. Spam is what is deceptive, or unsolicited and of no "
        "use to the person who gets it; marketing of firms to their customers is not included.\n\n"
        "Limits: names and domains of genuine firms were written from memory; people, numbers and hosts of spam are "
        "invented. Real inboxes are more repetitive and hold far less spam, so results on these messages do not show "
        "how a model does on real ones.",
        license="mit",
        language="multilingual",
    ),
    "marketing": Source(
        "Marketing messages of hf_spam",
        "The marketing messages included in hf_spam, under its license (MIT), labelled not spam. They were written for "
        "it as firms write to their own customers, which may be spam or not.",
        license="mit",
        language="multilingual",
    ),
}


def push_dataset(
    source: Sources,
    repo_id: str,
    *,
    protocol: Literal["book", "full"] = "full",
    seed: int = 123,
    private: bool | None = None,
    revision: str | None = None,
    **reading: Any,
) -> str:
    """Push the splits of a source to the Hub, so that `load_sms_spam(repo_id)` loads the same splits.

    The messages are read as by `load_sms_spam`. Load the splits back with protocol "full" in either case, which keeps
    the splits of a Hub dataset. Everything goes into one commit, whose URL is returned, so nobody can load half of it.
    If nothing has changed, no commit is made. An existing card is merged with the new one, see `merge_card`.
    """
    data = load_sms_spam(source, protocol=protocol, seed=seed, **reading)
    card = render_dataset_card(data, source, protocol=protocol, seed=seed)
    files = {FILE.format(split=split): _parquet(messages) for split, messages in data.items()}
    with explained(repo_id, "dataset"):
        commit = push_files(
            repo_id,
            {"README.md": card.encode(), **files},
            title=f"{_describe(source).name}, protocol {protocol}, seed {seed}",
            repo_type="dataset",
            private=private,
            revision=revision,
            commit_description=f"Pushed by hf_spam {versions()['hf-spam']}",
        )
    return str(commit.commit_url)


def render_dataset_card(data: DatasetDict, source: Sources, *, protocol: str = "full", seed: int = 123) -> str:
    """Return the text of the dataset card, with sizes and duplicates counted in `data`."""
    about, names = _describe(source), label_names(data["train"])
    files = [{"split": split, "path": FILE.format(split=split)} for split in data]
    metadata = DatasetCardData(
        pretty_name=f"{about.name}, split by hf_spam",
        license=about.license,
        language=about.language,
        task_categories=["text-classification"],
        tags=[*(["spam-detection", "sms"] if "spam" in names else []), "hf_spam"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    card = DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=metadata.pretty_name,
        source=about.text,
        repo_id=PLACEHOLDER,
        names=[in_markdown(name) for name in names],
        splits=_statistics(data),
        total=sum(map(len, data.values())),
        protocol=protocol,
        seed=seed,
        method=PROTOCOLS[protocol],
    )
    return str(card)


def _describe(source: Sources) -> Source:
    parts = [_describe_one(one) for one in sources_of(source)]
    if len(parts) == 1:
        return parts[0]
    licenses = {part.license for part in parts}
    return Source(
        ", ".join(part.name for part in parts),
        "\n\n".join(part.text for part in parts),
        license=licenses.pop() if len(licenses) == 1 else None,
    )


def _describe_one(source: str | os.PathLike) -> Source:
    if source in SOURCES:
        return SOURCES[source]
    name = os.fspath(source)
    if suffix_of(name) or os.path.exists(name):
        name = re.sub(r"[^\w .()-]", "_", Path(name).name)  # not the path, which may be private
        return Source(name, f"The file `{name}`. Its license and origin are not known to hf_spam.")
    link = f"[`{name}`](https://huggingface.co/datasets/{name})"
    return Source(name, f"The Hub dataset {link}. Its license applies.")


def _statistics(data: DatasetDict) -> dict[str, dict[str, int | list[int]]]:
    """Count messages, labels, and duplicates of training messages in each split."""
    train, names = data["train"]["text"][:], label_names(data["train"])
    counts = {}
    for split, messages in data.items():
        exact, near = find_duplicates(messages["text"][:], train if split != "train" else [])
        counts[split] = {
            "messages": len(messages),
            "labels": np.bincount(messages["label"][:], minlength=len(names)).tolist(),
            "exact": int(exact.sum()),
            "near": int(near.sum()),
        }
    return counts


def _parquet(messages: Dataset) -> bytes:
    out = io.BytesIO()
    messages.to_parquet(out)
    return out.getvalue()
