"""Fingerprints of data: a report recognises the messages that a model was trained on."""

from datasets import Dataset

from hf_spam import load_sms_spam
from hf_spam.data.labels import features_of
from hf_spam.data.splits import digest, fingerprints


def test_a_digest_depends_on_texts_labels_their_names_and_the_order():
    """And on any further columns that are passed, such as token ids."""

    def of(texts=("a secret", "b"), labels=(0, 1), names=("x", "y"), columns=()) -> str:
        messages = Dataset.from_dict({"text": list(texts), "label": list(labels)}, features=features_of(names))
        return digest(messages, *columns)

    same = of()
    assert same == of() and len(same) == 64 and int(same, 16)
    others = [of(texts=("b", "a secret")), of(labels=(1, 1)), of(names=("y", "x")), of(columns=([[1], [2]],))]
    assert len({same, *others}) == 5


def test_fingerprints_count_and_digest_each_split():
    data = load_sms_spam("sample")
    found = fingerprints(data)
    assert {split: part["messages"] for split, part in found.items()} == {"train": 700, "validation": 100, "test": 200}
    assert found["test"]["sha256"] == digest(data["test"])
