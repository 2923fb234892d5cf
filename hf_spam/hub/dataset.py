"""Push the splits of a source to a dataset on the Hub: Parquet files and a card, in one commit."""

import io
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.duplicates import find_duplicates
from ..data.formats import suffix_of
from ..data.labels import label_names
from ..data.names import Source, Sources, source_name, sources_of
from ..data.sources import load_sms_spam
from ..text import in_markdown
from .card import PLACEHOLDER
from .repository import MAIN, push

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
FILE = "data/{split}-00000-of-00001.parquet"  # the paths used by `Dataset.push_to_hub`
SOURCES = {  # the template describes them
    "uci": {"name": "SMS Spam Collection", "license": "cc-by-4.0", "language": "en"},
    "sample": {"name": "Sample messages of hf_spam", "license": "mit", "language": "multilingual"},
    "marketing": {"name": "Marketing messages of hf_spam", "license": "mit", "language": "multilingual"},
}


def push_dataset(
    source: Sources,
    repo_id: str,
    *,
    protocol: Literal["book", "full"] = "full",
    seed: int = 123,
    private: bool = False,
    revision: str = MAIN,
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
    title = f"{_title(source)}, protocol {protocol}, seed {seed}"
    where = {"repo_type": "dataset", "private": private, "revision": revision}
    return str(push(repo_id, {"README.md": card.encode(), **files}, title=title, **where).commit_url)


def render_dataset_card(data: DatasetDict, source: Sources, *, protocol: str = "full", seed: int = 123) -> str:
    """Return the text of the dataset card, with sizes and duplicates counted in `data`."""
    sources, names = [_describe(one) for one in sources_of(source)], label_names(data["train"])
    licenses, languages = ({one.get(key) for one in sources} for key in ("license", "language"))
    files = [{"split": split, "path": FILE.format(split=split)} for split in data]
    metadata = DatasetCardData(
        pretty_name=f"{_title(source)}, split by hf_spam",
        license=licenses.pop() if len(licenses) == 1 else None,
        language=languages.pop() if len(languages) == 1 else None,
        task_categories=["text-classification"],
        tags=[*(["spam-detection", "sms"] if "spam" in names else []), "hf_spam"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    card = DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=metadata.pretty_name,
        sources=sources,
        repo_id=PLACEHOLDER,
        names=[in_markdown(name) for name in names],
        splits=_statistics(data),
        total=sum(map(len, data.values())),
        protocol=protocol,
        seed=seed,
    )
    return str(card)


def _title(source: Sources) -> str:
    return ", ".join(_describe(one)["name"] for one in sources_of(source))


def _describe(source: Source) -> dict[str, str]:
    """Return the kind of a source and its name; its license and language are there if they are known."""
    if isinstance(source, str) and source in SOURCES:
        return {"kind": source, **SOURCES[source]}
    name = source_name([source])
    if not isinstance(source, str | os.PathLike):
        return {"kind": "memory", "name": name}
    if suffix_of(name) or os.path.exists(name):
        return {"kind": "file", "name": re.sub(r"[^\w .()-]", "_", Path(name).name)}  # the path may be private
    return {"kind": "dataset", "name": name}


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
