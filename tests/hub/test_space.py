"""The page of a demo answers like the model inside it, in every respect a user can see, and asks nothing of a network.

The JavaScript of the page itself runs in Node.js here, and in Chromium in a slow test.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import hf_spam
from small_data import MESSAGES
from tiny_models import save_tiny
from tokenizers import normalizers, pre_tokenizers
from tricky_texts import tricky_texts

from hf_spam import SpamClassifier
from hf_spam.conversion import parity
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import encode, replace_lone_surrogates, train_tokenizer
from hf_spam.hub.space import EXAMPLES, render_demo

SAMPLE = read_messages(MESSAGES)["text"][:]
AWKWARD = [  # and those on which exports are compared
    *parity.AWKWARD.values(),
    " \t\r\n ",
    "a" * 100_000,
    "lone \ud800 and \udc00\ud83d, and free \ud83d\u200b\ude00",
    "controls of direction: abc\u202edef\u2066x\u2069 \u200fy",
    "<|endoftext|>a <|pad|> b<|endoftext|>",
    "newer than the tokenizer's Unicode: \U0001fbf3 \U0001ccd6 \u32ff a\u0301\u0897\u0323",
    "patterns: $& $1 \\u0041 ^ [a] {2}",
    *tricky_texts(60),
]
# With words that are found in other ways.
EXPLAINED = ["", "a\u0085b\ufeffc\u00a0 \u3000 d\u2028\u2029 e  f\n\n g", "恭喜您中奖了,请点击链接领取", "x" * 300]
EXPLAINED += ["ยินดีด้วย คุณได้รับรางวัล", "こちらのリンクを、クリック!", "Win מזל טוב! זכית בפרס. تهانينا لقد ربحت"]
EXPLAINED += [text for _, text in EXAMPLES] + [replace_lone_surrogates(text) for text in AWKWARD if len(text) < 40]
THREE_LABELS = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
OTHER_LABELS = {"id2label": {0: "a</script><b>", 1: "b", 2: "c"}, "label2id": {"a</script><b>": 0, "b": 1, "c": 2}}
GPT2_IDS = {"pad_token_id": 50256, "eos_token_id": 50256}
SETTINGS = {
    "last_token": {"pooling": "last_token", "threshold": 0.9, "temperature": 3.0},
    "attended pads": {"pooling": "last", "padded_length": 12, "threshold": 0.2},
    "pads that are not read": {"pooling": "last_token", "padded_length": 12, "qkv_bias": False},
    "no pads": {"pooling": "last", "n_inner": 50, "n_layer": 1, **THREE_LABELS, "threshold": 0.3},
    "labels without spam": {"pooling": "last_token", "n_head": 1, "n_layer": 3, **OTHER_LABELS},
    # It has no normalizer, and ends no text with a token: an empty message is one pad.
    "GPT-2's tokenizer": {"pooling": "last_token", "vocab_size": 50257, "n_embd": 8, "n_head": 2, **GPT2_IDS},
}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: node is not on the PATH")


@pytest.fixture(scope="module")
def bundled_page(tmp_path_factory) -> Path:
    """Return the page of the bundled model, as the command line writes it."""
    path = tmp_path_factory.mktemp("page") / "new" / "demo.html"
    done = hf_spam("demo", path)
    assert (done.code, done.err) == (0, "") and "open it in a browser" in done.out
    return path


def assert_same_answers(page: Path, source: Path | str, messages: list[str], *, close_call: float = 0) -> None:
    """Compare a page in Node.js with its model: tokens, scores, labels, and the effects of words.

    Labels may differ for scores within `close_call` of the threshold, and effects by what rounding the weights changes.
    """
    texts = [*EXPLAINED, *AWKWARD, *messages]
    done = subprocess.run(
        ["node", Path(__file__).with_name("run_page.js"), page],
        input=json.dumps({"texts": texts, "explained": len(EXPLAINED)}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    classifier = SpamClassifier.from_pretrained(source)
    config = classifier.model.config
    length = config.padded_length if config.pooling == "last" and config.padded_length else 1
    expected_ids = encode(classifier.tokenizer, texts, config.max_tokens)
    padded = [ids + [config.pad_token_id] * (length - len(ids)) for ids in expected_ids]
    assert [answer["ids"] for answer in answers] == padded
    probabilities = classifier.predict_proba(texts)
    found = np.array([answer["probabilities"] for answer in answers])
    assert np.abs(found - probabilities).max() < 1e-3
    labels, _ = classifier.decide(torch.from_numpy(probabilities))
    is_clear = np.abs(probabilities[:, 1] - (config.threshold or 0.5)) > close_call
    assert np.array([answer["label"] for answer in answers])[is_clear].tolist() == np.array(labels)[is_clear].tolist()
    assert all(answer["score"] == answer["probabilities"][answer["index"]] for answer in answers)
    for answer, ids, explanation in zip(answers, expected_ids, classifier.explain(EXPLAINED), strict=False):
        if len(ids) == config.max_tokens:
            continue  # Python takes words that are not read together
        text = explanation.text
        assert config.id2label[answer["explained"]] == explanation.explained
        assert answer["log_odds"] == pytest.approx(explanation.log_odds, abs=0.02), text
        assert answer["words"] == [text[word.start : word.end] for word in explanation.words]
        assert answer["effects"] == pytest.approx([word.contribution for word in explanation.words], abs=0.02), text


@needs_node
def test_the_bundled_model_answers_alike(bundled_page):
    assert_same_answers(bundled_page, "bundled", SAMPLE[::4], close_call=1e-4)


@needs_node
@pytest.mark.parametrize("name", SETTINGS)
def test_other_models_answer_alike(name, tmp_path, request):
    """Whatever their size, labels, padding and tokenizer. Small models keep 16 bits of every weight."""
    tokenizer = load_tokenizer(request.getfixturevalue("gpt2_tokenizer_dir")) if name == "GPT-2's tokenizer" else None
    model = save_tiny(tmp_path / "tiny", tokenizer, n_positions=64, **SETTINGS[name])
    (tmp_path / "demo.html").write_text(render_demo(model), encoding="utf-8")
    assert_same_answers(tmp_path / "demo.html", model, SAMPLE[:50])


NORMALIZES = "its tokenizer normalizes texts in another way than those of hf_spam"
SPLITS = "its tokenizer does not split texts into words as GPT-2's does"


@pytest.mark.parametrize(
    ("settings", "parts", "reason"),
    [
        ({"pooling": "mean"}, {}, "it does not read the last position of a message (pooling is 'mean')"),
        ({"causal": False}, {}, "its positions see later ones (causal is false)"),
        ({}, {"normalizer": normalizers.Lowercase()}, NORMALIZES),
        ({}, {"pre_tokenizer": pre_tokenizers.Whitespace()}, SPLITS),
        ({}, {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, SPLITS),
    ],
)
def test_models_that_the_page_cannot_run_are_refused_in_one_line(tmp_path, settings, parts, reason):
    """The `parts` are of the tokenizer."""
    tokenizer = train_tokenizer(["win a prize now"] * 9, 300)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    tiny = save_tiny(tmp_path / "tiny", tokenizer, **{"pooling": "last_token", **settings})
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


def test_a_page_is_at_most_a_megabyte_larger_than_its_weights_in_8_bits(bundled_page):
    """It uses that megabyte for more bits, so that scores differ less than by int8 alone."""
    parameters = sum(tensor.numel() for tensor in SpamClassifier.from_pretrained().model.state_dict().values())
    assert parameters * 4 / 3 + 500_000 < bundled_page.stat().st_size < parameters * 4 / 3 + 1_000_000
