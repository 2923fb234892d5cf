"""The embedded messages: well-formed, without near-duplicates, and not to be told apart by their surface."""

import re
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from hf_spam.data.sources import EMBEDDED, read_messages

LINK = re.compile(r"(https?://)?((?:[\w-]+\.)+([a-z]{2,}))(/\S*)?", re.IGNORECASE)
SIMILAR = 0.7  # Jaccard similarity of two near-duplicates


@pytest.fixture(scope="module")
def messages():
    return read_messages("sample").to_pandas()


def test_every_message_is_annotated(messages):
    assert len(messages) == 38_480 and 0.25 < messages["label"].mean() < 0.5
    assert messages["category"].str.fullmatch("[a-z-]{2,}").all()
    assert messages["language"].str.fullmatch("[a-z]{2}").all() and messages["language"].nunique() >= 36
    assert not (messages["category"] == "marketing").any(), "marketing is a source of its own"
    marketing = read_messages("marketing", allow_single_label=True).to_pandas()
    assert len(marketing) == 994 and set(marketing["category"]) == {"marketing"} and not marketing["label"].any()


def test_files_hold_one_kind_each():
    """Files of genuine messages hold no spam and the reverse; twins alternate between both labels."""
    for path in EMBEDDED.glob("*.tsv"):
        labels = read_messages(path, allow_single_label=True)["label"][:]
        if path.stem == "twins":
            assert all(sorted(pair) == [0, 1] for pair in zip(labels[::2], labels[1::2], strict=True))
        else:
            assert set(labels) == {path.stem in ("phishing", "offers")}, path


@pytest.mark.slow
def test_no_message_nearly_repeats_another(messages):
    """A tenth of the messages is compared with all, by character 5-grams with digits as 0."""
    # Bare codes and bare links may be alike.
    messages = messages[
        (messages["text"].str.count("[^\\W\\d_]") >= 10) & messages["text"].str.contains(r"\s")
    ].reset_index()
    texts = messages["text"].str.lower().str.replace(r"\d", "0", regex=True)
    grams = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, dtype=np.int32).fit_transform(texts)
    chosen = np.random.default_rng(0).choice(len(texts), len(texts) // 10, replace=False)
    shared, sizes = (grams[chosen] @ grams.T).tocoo(), grams.sum(axis=1).A1
    union = sizes[chosen][shared.row] + sizes[shared.col] - shared.data
    twins = np.abs(chosen[shared.row] - shared.col) <= 1  # also the message itself; a fake may read like its twin
    similar = (shared.data / union >= SIMILAR) & ~twins
    pairs = [(texts[chosen[a]], texts[b]) for a, b in zip(shared.row[similar], shared.col[similar], strict=True)]
    assert not pairs, pairs[:3]


def test_the_surface_does_not_give_the_label_away(messages):
    """Links, digits, lengths, punctuation and the language alone must not be enough to find spam."""
    surface = [describe(*row) for row in zip(messages["text"], messages["language"], strict=True)]
    labels, groups = messages["label"].to_numpy(), messages["group"]
    classifier = make_pipeline(
        DictVectorizer(), MaxAbsScaler(), LogisticRegression(class_weight="balanced", max_iter=500)
    )
    answers = cross_val_predict(classifier, surface, labels, groups=groups, cv=GroupKFold(3))
    assert balanced_accuracy_score(labels, answers) < 0.77


def describe(text: str, language: str) -> dict[str, float]:
    """Return what can be seen without reading: the features of the test above."""
    link = LINK.search(text)
    scheme, host, domain, path = link.groups("") if link else ("", "", "", "")
    shapes = {
        "length": len(text),
        "log length": np.log(len(text)),
        "lines": text.count("\n"),
        "digits": sum(map(str.isdigit, text)),
        "capitals": sum(map(str.isupper, text)) / len(text),
        "no link": not link,
        "scheme": bool(scheme),
        "host length": len(host),
        "host digits": sum(map(str.isdigit, host)),
        "host hyphens": host.count("-"),
        "host dots": host.count("."),
        "path length": len(path),
    }
    marks = Counter(character for character in text if not character.isalnum() and character.isascii())
    return shapes | {f"mark {mark}": n for mark, n in marks.items()} | {f"domain {domain}": 1, f"in {language}": 1}
