"""Explanations are true: each number is a difference of two answers, and each span is a word of the message."""

import json
from dataclasses import asdict
from itertools import combinations

import pytest
import regex
import torch
from command_line import hf_spam
from small_data import MESSAGES
from tiny_models import build
from tricky_texts import tricky_texts

from hf_spam import SpamClassifier, terminal
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import encode, train_tokenizer
from hf_spam.inference.explain import MAX_SPANS, Explanation, Word, leave_out, split

CLASSIFIER = SpamClassifier.from_pretrained()
SPAM, HAM = "Free entry! Txt WIN to 10010 to claim your prize of £2000 now", "see you at home"
SAMPLE = read_messages(MESSAGES)["text"][:]
THREE = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
NO_SPAM = {"id2label": {0: "ad", 1: "news", 2: "chat"}, "label2id": {"ad": 0, "news": 1, "chat": 2}}


def tiny(**settings) -> SpamClassifier:
    settings = {"vocab_size": 300, "pad_token_id": 1, "eos_token_id": 0, **settings}
    return SpamClassifier(build(**settings), train_tokenizer(SAMPLE[:100], 300))


def log_odds(classifier: SpamClassifier, text: str, name: str) -> float:
    """Compute log-odds from the probabilities of a plain call."""
    found = classifier.logits(text).double().softmax(-1)[0]
    probabilities = {label: found[int(index)] for index, label in classifier.model.config.id2label.items()}
    p = probabilities.pop(name)
    return float(torch.log(p) - torch.log(sum(probabilities.values())))


def without(text: str, words: list[Word]) -> str:
    """Leave words out from the last to the first, each with the space before it."""
    for word in sorted(words, key=lambda word: -word.start):
        before = text[: word.start]
        text = (before[:-1] if before[-1:] in (" ", "\n", "\u3000") else before) + text[word.end :]
    return text


def check(classifier: SpamClassifier, explanation: Explanation) -> None:
    """Compare with plain calls: the answer, a few contributions, and the answer without the strongest words."""
    text, name = explanation.text, explanation.explained
    (answer,) = classifier(text)
    assert (explanation.label, explanation.score) == (answer["label"], pytest.approx(answer["score"], abs=1e-5))
    assert explanation.log_odds == pytest.approx(log_odds(classifier, text, name), abs=1e-3)
    words = explanation.words
    for word in words[:: max(1, len(words) // 5)] + words[-1:]:
        change = explanation.log_odds - log_odds(classifier, without(text, [word]), name)
        assert word.contribution == pytest.approx(change, abs=1e-3), text[word.start : word.end][:50]
    assert min(3, len(words)) - len(explanation.strongest) in (0, 1)  # 1: words that are not read are not among them
    rest = without(text, explanation.strongest)
    assert explanation.log_odds_without == pytest.approx(log_odds(classifier, rest, name), abs=1e-3)


def test_contributions_are_differences_of_two_answers():
    spam, ham = CLASSIFIER.explain([SPAM, HAM])
    assert (spam.label, ham.label, spam.explained, ham.explained) == ("spam", "not spam", "spam", "spam")
    assert [SPAM[word.start : word.end] for word in spam.words] == SPAM.split(" ")
    assert spam.log_odds_without < spam.log_odds and ham.log_odds_without > ham.log_odds  # both against the label
    for explanation in (spam, ham):
        check(CLASSIFIER, explanation)


WHITE_SPACE = regex.compile(r"\p{White_Space}*")
TEXTS = ["", " \n ", "hi", "🙂 👩‍👩‍👧‍👦 🏳️‍🌈", "מזל טוב! זכית בפרס. تهانينا لقد ربحت", "lone \ud800 surrogate"]
TEXTS += ["ยินดีด้วย คุณได้รับรางวัล 5000 บาท", "恭喜您中奖了,请点击链接领取", "こちらのリンクをクリック", "a\u3000b  c\nd"]
TEXTS += ["win a prize now " * 6_250, "a" * 100_000, "恭喜您中奖了" * 500]
TEXTS += ["\n\t" * 500 + "win", "see you at home " * 40 + "\ud83d\ude00" * 999]


def test_messages_of_any_length_and_script():
    """Every character but white space is in one word, and the words are in order."""
    texts = [*TEXTS, *(text for text in tricky_texts(60) if len(text) < 60)]
    for text, explanation in zip(texts, CLASSIFIER.explain(texts), strict=True):
        if text in TEXTS:
            check(CLASSIFIER, explanation)
        words = explanation.words
        assert len(words) <= MAX_SPANS + 1 and all(word.start < word.end for word in words)
        ends, starts = [0, *(word.end for word in words)], [*(word.start for word in words), len(text)]
        between = [text[end:start] for end, start in zip(ends, starts, strict=True)]
        assert starts == sorted(starts) and all(map(WHITE_SPACE.fullmatch, between)), text[:50]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_text_that_moves_in_is_kept_whatever_is_left_out(text):
    """Even if all words that were read are left out, the model reads the same as of the whole message."""
    tokenizer, length = CLASSIFIER.tokenizer, CLASSIFIER.model.config.max_tokens
    read, spans, _ = split(tokenizer, text, length)
    kept, whole = encode(tokenizer, [leave_out(read, spans), leave_out(text, spans)], length)
    assert kept == whole


def test_where_no_spaces_are_written_words_are_a_few_letters():
    text = "恭喜您中奖了,请点击 リンクをクリック5000บาท"
    words = [text[word.start : word.end] for word in CLASSIFIER.explain(text)[0].words]
    assert words == ["恭喜", "您中", "奖了", ",", "请点", "击", "リンク", "を", "クリック", "5000", "บาท"]


MODELS = {
    "three classes": {"pooling": "last_token", **THREE},
    "no class is spam": {"pooling": "mean", "causal": False, **NO_SPAM},
    "attended pads": {"pooling": "last", "padded_length": 12, "threshold": 0.2},
}


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_models_of_other_classes_and_layouts(settings):
    """Long messages too: when a word is left out, later words move into what the model reads."""
    classifier = tiny(**settings)
    for explanation in classifier.explain([*SAMPLE[:6], SAMPLE[0] * 20]):
        label, classes = explanation.label, classifier.model.config.id2label.values()
        assert explanation.explained == next((name for name in classes if name.lower() == "spam"), label)
        check(classifier, explanation)
        assert (explanation.log_odds_without < explanation.log_odds) == (label == explanation.explained)


@pytest.mark.slow
def test_an_onnx_export_explains_like_its_model(onnx_export):
    exported = SpamClassifier.from_pretrained(onnx_export).explain(SAMPLE[:3])
    for one, two in zip(exported, CLASSIFIER.explain(SAMPLE[:3]), strict=True):
        expected = [word.contribution for word in two.words]
        assert [word.contribution for word in one.words] == pytest.approx(expected, abs=1e-4)


def test_no_three_words_change_a_short_message_more_than_those_named():
    """Of six, by brute force. `scripts/measure_explanations.py` does the same for longer messages."""
    texts = [text for text in SAMPLE if 4 <= len(text.split()) <= 6][:12]
    assert len(texts) > 8
    for explanation in CLASSIFIER.explain(texts):
        sets = [without(explanation.text, words) for words in combinations(explanation.words, 3)]
        found = [log_odds(CLASSIFIER, text, "spam") for text in sets]
        best = min(found) if explanation.label == "spam" else max(found)
        assert explanation.log_odds_without == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("texts", [None, 1, b"spam", ["spam", None]])
def test_anything_but_text_raises_a_type_error(texts):
    with pytest.raises(TypeError, match=r"Expected a message|A message must be a string"):
        CLASSIFIER.explain(texts)
    assert CLASSIFIER.explain([]) == []


def test_command_line():
    done = hf_spam("classify", "--explain", SPAM, "\x1b[31m" + HAM, "")
    assert done.code == 0 and "\x1b" not in done.out
    (explanation, *_) = CLASSIFIER.explain(SPAM)
    first = max(explanation.words, key=lambda word: word.contribution)
    assert f"For: {SPAM[first.start : first.end]} {first.contribution:+.2f}" in done.out
    assert f"log-odds of spam {explanation.log_odds_without:+.2f} without: " in done.out and SPAM in done.out
    lines = hf_spam("classify", "--explain", "--json", SPAM, "", stdin="").out.splitlines()
    found, empty = map(json.loads, lines)
    assert list(found) == list(asdict(explanation)) and list(found)[:3] == ["text", "label", "score"]
    for one, two in zip(found["words"], map(asdict, explanation.words), strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    assert (empty["words"], empty["strongest"], empty["log_odds_without"]) == ([], [], empty["log_odds"])


def test_colours_in_a_terminal():
    """The words that speak for spam are red, and the numbers of the strongest are printed."""
    shown = terminal.explanation(asdict(CLASSIFIER.explain(SPAM)[0]))
    coloured = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans if span.style}
    strong = {SPAM[w.start : w.end] for w in CLASSIFIER.explain(SPAM)[0].words if w.contribution >= terminal.WEAK}
    assert {word for word, style in coloured.items() if "red" in style} == strong
    assert all(f"{word.contribution:+.2f}" in shown.plain for word in CLASSIFIER.explain(SPAM)[0].strongest)
