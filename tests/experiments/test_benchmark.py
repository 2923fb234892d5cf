"""The benchmark: the suite never changes unnoticed, obfuscation does what it says, and figures fit their messages."""

import json
import random

import numpy as np
import pytest
from command_line import hf_spam
from small_data import MESSAGES
from small_models import save_small

from hf_spam import SpamClassifier
from hf_spam.data import obfuscation
from hf_spam.data.duplicates import find_duplicates
from hf_spam.data.tokenization import encode
from hf_spam.evaluation.candidates import Candidate
from hf_spam.evaluation.intervals import proportions
from hf_spam.evaluation.models import load_candidate
from hf_spam.experiments import benchmark as module
from hf_spam.experiments.benchmark import FEW, OBFUSCATIONS, benchmark, benchmark_row, make_variants, markdown

FINGERPRINT = "fe6697dadb3ea754a577eb803f1ac54e8b8353742b29d95f80576bc9ecf482ef"


@pytest.fixture(scope="module")
def split():
    return module.split_sample()


@pytest.fixture
def small(split, monkeypatch):
    """Let the benchmark train on a 48th of the messages and measure on a 40th."""
    train, held_out = (part.select(range(0, len(part), every)) for part, every in zip(split, (48, 40), strict=True))
    monkeypatch.setattr(module, "split_sample", lambda: (train, held_out))
    return train, held_out


@pytest.fixture
def collection(tmp_path):
    """A file of 200 messages that stands for the SMS Spam Collection."""
    path = tmp_path / "collection.csv"
    path.write_text("".join(MESSAGES.read_text().splitlines(keepends=True)[:201]))
    return str(path)


def reader(texts: list[str], **attributes) -> Candidate:
    """Return a classifier that finds links and capitals, and keeps a list of the texts that it has read."""

    def run(given, progress):
        texts.extend(given)
        spam = np.array([0.2 + 0.5 * ("http" in text or "www" in text) + 0.2 * text.isupper() for text in given])
        return np.stack([1 - spam, spam], axis=1), (spam > 0.5).astype(int)

    about = {"name": "reader", "source": "", "kind": "Reader", "size": 2_000_000, "parameters": 3, **attributes}
    return Candidate(labels=("not spam", "spam"), spam=(1,), run=run, **about)


def test_the_suite_is_pinned(split):
    """The fingerprint was computed in another process; nothing in it is in the messages that may be trained on.

    Very long messages are messages of the suite after genuine ones.
    """
    train, held_out = split
    variants = make_variants(held_out)
    found = module.fingerprint(held_out, variants)
    assert found == FINGERPRINT, "if this is on purpose, raise the number of SUITE, and measure all again"
    assert (len(held_out), sum(held_out["label"][:]), len(train)) == (3874, 1459, 38480 - 3874)
    assert not find_duplicates(held_out["text"][:], train["text"][:])[1].any()
    assert not {*held_out["group"][:]} & {*train["group"][:]}  # a message and its twin are on the same side
    for texts, rows in variants.values():
        assert len(texts) == len(rows)
    ham = {row["text"] for row in held_out if row["label"] == 0}
    for text, row in zip(*variants["length", module.VERY_LONG], strict=True):
        before = text.removesuffix("\n" + held_out[int(row)]["text"])
        assert 2000 <= len(before) < len(text) and any(before.startswith(one) for one in ham)


def test_obfuscations_by_hand():
    always = random.Random(0).random
    text = "Win cash, at a www.x.co"
    assert obfuscation.leet(text, 1, always) == "W1n c45h, 47 4 www.x.c0"
    assert obfuscation.spacing(text, 1, always) == text
    assert obfuscation.spacing("a free iPad", 1, always) == "a f r e e i P a d"
    assert obfuscation.swapped_case(text, 1, always) == text.swapcase()
    assert obfuscation.capitals(text, 1, always) == text.upper()
    assert obfuscation.full_width("a b!", 1, always) == "\uff41 \uff42\uff01"
    assert obfuscation.homoglyphs("I ace", 1, lambda: 0) == "I a\u0441\u0435"  # the first letter of a word is kept
    assert obfuscation.zero_width("ab", 1, lambda: 0) == "a\u200bb\u200b"
    for change, _ in OBFUSCATIONS.values():
        assert change(text, 0, always) == text and change("", 1, always) == ""


def test_the_tokenizer_undoes_what_is_only_drawn_differently(split):
    """The bundled model reads homoglyphs, zero-width and full-width characters as plain ones."""
    messages, tokenizer = split[1].select(range(0, 2161, 5)), SpamClassifier.from_pretrained().tokenizer
    variants, plain = make_variants(messages), encode(tokenizer, messages["text"][:], 10**6)
    for name in ("homoglyphs", "zero-width", "full-width"):
        texts, _ = variants["obfuscated", f"{name}, 30%"]
        assert encode(tokenizer, texts, 10**6) == plain, name
        assert sum(map(str.__eq__, texts, messages["text"][:])) < len(texts) / 5


def test_every_figure_is_that_of_its_messages(small, collection):
    _, messages = small
    seen: list[str] = []
    candidate = reader(seen, train=tuple(messages["text"][-7:]))
    values = benchmark(candidate, uci=collection)
    variants, labels = make_variants(messages), np.array(messages["label"][:])

    def check(figures, texts, chosen):
        alone = candidate.predictions(texts, labels[chosen])
        assert {name: figure["value"] for name, figure in figures.items()} == pytest.approx(
            {name: alone.metrics()[name] for name in figures}
        )
        assert (figures["recall"]["low"], figures["recall"]["high"]) == proportions(alone)["recall"]

    parts = {(part["section"], part["name"]): part for part in values["parts"]}
    everything = np.arange(len(labels))
    check(values["figures"], messages["text"][:], everything)
    for name, (texts, rows) in variants.items():
        if len(rows) >= FEW:
            check(parts[name]["figures"], texts, rows)
    chosen = np.flatnonzero([40 < len(text) <= 160 for text in messages["text"][:]])
    check(parts["length", "41 to 160"]["figures"], [messages["text"][int(row)] for row in chosen], chosen)
    assert sum(part["messages"] for part in values["parts"] if part["section"] == "category") == len(labels)
    assert {part["figures"] is None for part in parts.values() if part["messages"] < FEW} == {True}
    assert values["suite"]["seen"] == find_duplicates(messages["text"][:], messages["text"][-7:])[1].sum() >= 7
    assert values["suite"] | {"seen": 0} == {
        "name": module.SUITE, "fingerprint": module.fingerprint(messages, variants), "messages": len(labels),
        "spam": labels.sum(), "seen": 0,
    }  # fmt: skip
    assert values["uci"]["how"] == "not seen" and values["uci"]["messages"] == 200
    assert {*seen} >= {*variants["length", module.VERY_LONG][0]}
    row = benchmark_row(values)
    worst = min(part["figures"]["roc_auc"]["value"] for (section, _), part in parts.items() if section == "obfuscated")
    assert row[0] == f"reader (has seen {values['suite']['seen']})" and row[6].startswith(f"{worst:.3f} (")
    assert row[5] != "-" and row[7] == "2.0 MB"
    assert len(markdown([values, values]).splitlines()) == 4


@pytest.mark.slow
def test_the_collection_is_measured_on_messages_not_seen_if_it_can_be(small, collection, monkeypatch):
    """By cross-validation for a baseline and a recipe; a model of ours that was trained on it is marked."""
    baseline = benchmark(load_candidate(f"baseline={collection}"), uci=collection)["uci"]
    assert baseline["how"] == "5 folds" and 0.8 < baseline["figures"]["f1"]["value"] < 1
    fold = {"recall": 0.5, "false_positive_rate": 0.01, "recall_at_fpr_0.01": 0.5, "roc_auc": 0.9, "f1": 0.7}
    results = {"pooled": {"model": fold}, "spread": {"model": {"f1": 0.02}}}
    monkeypatch.setattr(module, "cross_validate", lambda recipe, data: results)
    values = benchmark(reader([]), recipe="pocket", uci=collection)
    assert values["uci"]["how"] == "5 folds" and values["uci"]["spread"] == 0.02
    assert values["uci"]["figures"]["f1"] == {"value": 0.7, "low": None, "high": None}


@pytest.mark.slow
def test_bundled_model_on_the_command_line(split, small, collection, tmp_path):
    """It has not seen the suite, though it was trained on the rest of the sample."""
    done = hf_spam("benchmark", "bundled", "--uci", collection, "--output", tmp_path / "new/row.json")
    assert done.code == 0, done.err
    values = json.loads((tmp_path / "new/row.json").read_text())
    assert values["suite"]["seen"] == 0 and values["uci"]["how"].startswith("seen")
    assert done.out.splitlines()[-1] == markdown([values]).splitlines()[-1]
    assert "Messages of the suite that the model was trained on: 0" in done.out and "Too few" in done.out


def test_model_of_unknown_training_on_the_command_line(small, tmp_path):
    save_small(tmp_path / "model")
    values = json.loads(hf_spam("benchmark", tmp_path / "model", "--json").out)
    assert values["suite"]["seen"] is None and values["uci"]["figures"] is None and "--uci" in values["uci"]["how"]
    assert benchmark_row(values)[5] == "-"
    done = hf_spam("benchmark", tmp_path / "missing")
    assert done.code == 1 and len(done.err.strip().splitlines()) == 1


def test_a_missing_collection_is_noticed_before_the_work(small, monkeypatch):
    monkeypatch.setattr(module, "load_candidate", lambda *_, **__: pytest.fail("a model was loaded"))
    done = hf_spam("benchmark", "bundled", "--uci", "gone.csv")
    assert done.code == 1 and done.err.startswith("hf-spam: gone.csv: not a file")
