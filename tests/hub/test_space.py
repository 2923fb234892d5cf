"""The page of a demo answers like the model inside it, in every respect a user can see, and asks nothing of a network.

The JavaScript of the page itself runs in Node.js here, and in Chromium in a slow test.
"""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import hf_spam
from small_data import MESSAGES
from tiny_models import build
from transformers import PreTrainedTokenizerFast
from tricky_texts import tricky_texts

from hf_spam import SpamClassifier
from hf_spam.conversion.loading import load_tokenizer, save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import encode, replace_lone_surrogates, train_tokenizer
from hf_spam.hub.space import EXAMPLES, render_demo, space_files

SAMPLE = read_messages(MESSAGES)["text"][:]
AWKWARD = {
    "empty": "",
    "only spaces": " \t\r\n ",
    "100,000 letters": "a" * 100_000,
    "100,000 characters in words": "win a prize now " * 6_250,
    "emoji": "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 ☎️",
    "NUL": "NUL \0 in it\0",
    "lone surrogates": "lone \ud800 and \udc00\ud83d",
    "surrogates with an invisible character between": "free \ud83d\u200b\ude00",
    "right to left": "מזל טוב! זכית בפרס. تهانينا لقد ربحت",
    "look-alikes": "Frее prіzе, сlаіm nоw at рayрal; Привет, Αθήνα",
    "controls of direction": "abc\u202edef\u2066x\u2069 \u200fy",
    "invisible": "f\u00adr\u200be\u2060e \U000e0041\ufe0f",
    "special tokens": "<|endoftext|>a <|pad|> b<|endoftext|>",
    "full-width, circled, bold": "Ｆｒｅｅ ①②③ ﬁ 𝐅𝐫𝐞𝐞 ㎏ Å",
    "newer than the tokenizer's Unicode": "\U0001fbf3 \U0001ccd6 \u32ff a\u0301\u0897\u0323",
    "combining marks": "e\u0301 \u1e9b\u0323 q\u0307\u0323 \u1112\u1161\u11ab",
    "white space": "a\u0085b\ufeffc\u00a0 \u3000 d\u2028\u2029 e  f\n\n g",
    "contractions": "don't I'LL we've 'tis it’s 12th ½ ² _x_",
    "patterns": "$& $1 \\u0041 ^ [a] {2}",
    "Thai": "ยินดีด้วย คุณได้รับรางวัล",
    "Chinese": "恭喜您中奖了,请点击链接领取",
}
THREE_LABELS = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
OTHER_LABELS = {"id2label": {0: "a</script><b>", 1: "b", 2: "c"}, "label2id": {"a</script><b>": 0, "b": 1, "c": 2}}
SETTINGS = {
    "last_token": {"pooling": "last_token", "threshold": 0.9, "temperature": 3.0},
    "attended pads": {"pooling": "last", "padded_length": 12, "threshold": 0.2},
    "pads that are not read": {"pooling": "last_token", "padded_length": 12, "qkv_bias": False},
    "no pads": {"pooling": "last", "n_inner": 50, "n_layer": 1, **THREE_LABELS, "threshold": 0.3},
    "labels without spam": {"pooling": "last_token", "n_head": 1, "n_layer": 3, **OTHER_LABELS},
}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: node is not on the PATH")


def save_tiny(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **settings) -> Path:
    """Save a classifier with large random weights, and a tokenizer that fits it."""
    settings = {"vocab_size": 300, "pad_token_id": 1, "eos_token_id": 0, **settings}
    save_classifier(build(**settings), tokenizer or train_tokenizer(SAMPLE[:100], 300), folder)
    return folder


def answers_in_node(page: Path, texts: list[str], explained: int = 0) -> list[dict]:
    """Return what the page answers, with the effects of words for the first texts."""
    command = ["node", Path(__file__).with_name("run_page.js"), page]
    done = subprocess.run(
        command, input=json.dumps({"texts": texts, "explained": explained}), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same_answers(answers: list[dict], source: Path | str, texts: list[str], close_call: float = 0) -> None:
    """Compare a page with the model: tokens, scores, and labels but for scores within `close_call` of the threshold."""
    classifier = SpamClassifier.from_pretrained(source)
    config, pad = classifier.model.config, classifier.model.config.pad_token_id
    expected_ids = encode(classifier.tokenizer, texts, config.max_tokens)
    length = config.padded_length if config.pooling == "last" and config.padded_length else 1
    padded = [ids + [pad] * (length - len(ids)) for ids in expected_ids]
    different = [text[:40] for text, ids, answer in zip(texts, padded, answers, strict=True) if ids != answer["ids"]]
    assert not different
    probabilities = classifier.predict_proba(texts)
    found = np.array([answer["probabilities"] for answer in answers])
    assert np.abs(found - probabilities).max() < 1e-3
    labels, _ = classifier.decide(torch.from_numpy(probabilities))
    distance = np.abs(probabilities[:, 1] - (config.threshold or 0.5))
    wrong = [
        text
        for text, label, answer, far in zip(texts, labels, answers, distance > close_call, strict=True)
        if far and (label != answer["label"] or answer["score"] != answer["probabilities"][answer["index"]])
    ]
    assert not wrong


@needs_node
def test_the_bundled_model_gives_the_same_tokens_scores_and_labels(tmp_path):
    done = hf_spam("demo", tmp_path / "new" / "demo.html")
    assert (done.code, done.err) == (0, "") and "open it in a browser" in done.out
    texts = [*SAMPLE[::4], *AWKWARD.values(), *(text for _, text in EXAMPLES)]
    assert_same_answers(answers_in_node(tmp_path / "new" / "demo.html", texts), "bundled", texts, close_call=1e-4)


@needs_node
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_other_models_too(tmp_path, settings):
    """Whatever their size, labels and padding. Small models keep 16 bits of every weight."""
    tiny, texts = save_tiny(tmp_path / "tiny", **settings), [*SAMPLE[:50], *AWKWARD.values()]
    (tmp_path / "demo.html").write_text(render_demo(tiny), encoding="utf-8")
    answers = answers_in_node(tmp_path / "demo.html", texts)
    assert_same_answers(answers, tiny, texts)
    classifier = SpamClassifier.from_pretrained(tiny)
    index = 0 if settings.get("id2label") is OTHER_LABELS["id2label"] else 1
    expected = classifier.predict_proba(texts)[:, index].astype(float)
    found = [1 / (1 + math.exp(-answer["log_odds"])) for answer in answers]
    assert found == pytest.approx(expected.tolist(), abs=1e-3)


@needs_node
def test_gpt2s_tokenizer(tmp_path, gpt2_tokenizer_dir):
    """It has no normalizer, and ends no text with a token: an empty message is one pad."""
    tokenizer = load_tokenizer(gpt2_tokenizer_dir)
    settings = {"vocab_size": 50257, "n_embd": 8, "n_head": 2, "pad_token_id": 50256, "eos_token_id": 50256}
    gpt2, texts = save_tiny(tmp_path / "gpt2", tokenizer, pooling="last_token", **settings), [*AWKWARD.values()]
    (tmp_path / "demo.html").write_text(render_demo(gpt2), encoding="utf-8")
    texts += SAMPLE[::2]
    answers = answers_in_node(tmp_path / "demo.html", texts)
    assert answers[0]["ids"] == [50256]
    assert_same_answers(answers, gpt2, texts)


@needs_node
def test_words_are_what_a_reader_would_leave_out(tmp_path):
    """A word goes with the space before it. Where no spaces are written, the browser finds the words."""
    (tmp_path / "demo.html").write_text(render_demo(save_tiny(tmp_path / "tiny", pooling="last_token")))
    spaced, thai, empty = answers_in_node(tmp_path / "demo.html", ["Win a FREE prize!", AWKWARD["Thai"], ""])
    assert spaced["words"] == ["Win", "a", "FREE", "prize!"] and empty["words"] == []
    assert spaced["without"] == [" a FREE prize!", "Win FREE prize!", "Win a prize!", "Win a FREE"]
    assert len(thai["words"]) > 4 and "".join(thai["words"]) == AWKWARD["Thai"].replace(" ", "")


@needs_node
def test_words_have_the_effect_that_python_finds(tmp_path):
    """The same words, and the same change of the log-odds but for rounded weights."""
    (tmp_path / "demo.html").write_text(render_demo("bundled"), encoding="utf-8")
    texts = [EXAMPLES[0][1], EXAMPLES[6][1], AWKWARD["Thai"], AWKWARD["Chinese"], AWKWARD["right to left"]]
    texts += [AWKWARD["white space"], "こちらのリンクを、クリック! " + "x" * 300]
    explained = len(texts)
    texts += [replace_lone_surrogates(text) for text in tricky_texts(60) if len(text) < 40]
    answers = answers_in_node(tmp_path / "demo.html", texts, explained)
    explanations = SpamClassifier.from_pretrained().explain(texts)
    for text, answer, explanation in zip(texts, answers, explanations, strict=True):
        assert answer["words"] == [text[word.start : word.end] for word in explanation.words]
        expected = [word.contribution for word in explanation.words]
        assert not answer["effects"] or answer["effects"] == pytest.approx(expected, abs=0.02), text
    assert all(answer["effects"] for answer in answers[:explained])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pooling": "mean"}, "it does not read the last position of a message (pooling is 'mean')"),
        ({"causal": False, "pooling": "last_token"}, "its positions see later ones (causal is false)"),
    ],
)
def test_models_that_the_page_cannot_run_are_refused_in_one_line(tmp_path, settings, reason):
    tiny = save_tiny(tmp_path / "tiny", **settings)
    done = hf_spam("demo", tmp_path / "demo.html", "--model", tiny)
    assert (done.code, done.out) == (1, "") and not (tmp_path / "demo.html").exists()
    assert done.err == f"hf-spam: The page cannot run the model 'tiny': {reason}.\n"


def test_the_page_allows_only_its_own_scripts_and_no_connection(tmp_path):
    page = render_demo(save_tiny(tmp_path / "tiny", pooling="last_token", **OTHER_LABELS))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["form-action"] == rules["base-uri"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    for element, count in (("script", 2), ("style", 1)):
        texts = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert rules[f"{element}-src"].split() == [f"'sha256-{digest}'" for digest in digests] and len(texts) == count
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "a</script>" not in page


def test_a_page_is_at_most_a_megabyte_larger_than_its_weights_in_8_bits():
    """It uses that megabyte for more bits, so that scores differ less than by int8 alone."""
    page = render_demo("bundled")
    parameters = sum(tensor.numel() for tensor in SpamClassifier.from_pretrained().model.state_dict().values())
    assert parameters * 4 / 3 + 500_000 < len(page.encode()) < parameters * 4 / 3 + 1_000_000


def test_the_same_model_gives_the_same_page(tmp_path):
    tiny = save_tiny(tmp_path / "tiny", pooling="last_token")
    assert render_demo(tiny) == render_demo(tiny)


def test_the_files_of_a_space(tmp_path):
    tiny = save_tiny(tmp_path / "tiny", pooling="last_token")
    (tiny / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    files = {name: content.decode() for name, content in space_files(tiny, model_id="me/mine").items()}
    assert sorted(files) == ["README.md", "index.html"]
    about = yaml.safe_load(files["README.md"].split("---")[1])
    assert about.items() >= {"sdk": "static", "pinned": False, "license": "apache-2.0", "models": ["me/mine"]}.items()
    assert about["title"] and about["emoji"] and len(about["short_description"]) <= 60
    assert 'href="https://huggingface.co/me/mine"' in files["index.html"]
