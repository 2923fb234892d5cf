"""A classifier gives every message an answer, and the same message always the same answer."""

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_spam import SpamClassifier, classify_text
from hf_spam.inference.classifier import BUNDLED

BOOKS_EXAMPLE = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
ORDINARY = "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"
STRANGE = ["", " ", "🙂🎉🙂", "\0\0", "lone \ud800 surrogate", "a" * 100_000, "win " * 25_000, "<|endoftext|>"]
STRANGE += ["スパム"]

CLASSIFIER = SpamClassifier.from_pretrained()


def test_the_bundled_model_tells_the_books_example_from_an_ordinary_message():
    assert CLASSIFIER.predict([BOOKS_EXAMPLE, ORDINARY]) == ["spam", "not spam"]
    assert classify_text(BOOKS_EXAMPLE, CLASSIFIER.model, CLASSIFIER.tokenizer) == "spam"
    assert classify_text(ORDINARY, CLASSIFIER.model, CLASSIFIER.tokenizer) == "not spam"


def test_the_bundled_model_is_small_and_has_a_name():
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) <= 8_000_000
    named = SpamClassifier.from_pretrained("bundled")
    assert torch.equal(named.logits([ORDINARY]), CLASSIFIER.logits([ORDINARY]))


def test_every_method_gives_the_same_answer():
    """Calls, `predict`, `predict_proba`, `logits` and `decide` agree. A string is a list of one, as in a pipeline."""
    texts = [BOOKS_EXAMPLE, ORDINARY]
    answers, probabilities = CLASSIFIER(texts), CLASSIFIER.predict_proba(texts)
    assert probabilities.shape == (2, 2) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(1), 1)
    assert [answer["label"] for answer in answers] == CLASSIFIER.predict(texts)
    assert [answer["score"] for answer in answers] == [probabilities[0, 1], probabilities[1, 0]]
    assert torch.equal(CLASSIFIER.logits(texts).softmax(-1), torch.tensor(probabilities))
    labels, scores = CLASSIFIER.decide(torch.tensor(probabilities))
    assert [{"label": label, "score": score.item()} for label, score in zip(labels, scores, strict=True)] == answers
    assert CLASSIFIER(ORDINARY) == CLASSIFIER([ORDINARY]) and CLASSIFIER.predict(ORDINARY) == ["not spam"]
    assert CLASSIFIER([]) == [] and CLASSIFIER.predict_proba([]).shape == (0, 2)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=12), st.randoms())
def test_an_answer_depends_on_the_message_only(texts, random):
    """Other messages and their order do not matter."""
    alone = np.concatenate([CLASSIFIER.predict_proba(text) for text in texts])
    order = random.sample(range(len(texts)), len(texts))
    assert np.allclose(CLASSIFIER.predict_proba([texts[i] for i in order]), alone[order], atol=1e-5)


def test_every_text_gets_an_answer():
    """It is spam if its score reaches the threshold, and the score is that of the label."""
    threshold, probabilities = CLASSIFIER.model.config.threshold, CLASSIFIER.predict_proba(STRANGE)
    for text, answer, (ham, spam) in zip(STRANGE, CLASSIFIER(STRANGE), probabilities, strict=True):
        expected = ("spam", spam) if spam >= threshold else ("not spam", ham)
        assert (answer["label"], answer["score"]) == expected and 0 <= spam <= 1, text[:20]


@pytest.mark.parametrize(
    "text", [None, 1, 2.5, b"spam", ["spam"], {"text": ["spam"]}, pd.DataFrame({"text": ["spam"]})]
)
def test_anything_but_text_raises_a_clear_type_error(text):
    with pytest.raises(TypeError, match="A message must be a string, got"):
        classify_text(text, CLASSIFIER.model, CLASSIFIER.tokenizer)
    if not isinstance(text, list):
        with pytest.raises(TypeError, match=f"Expected a message or a list of messages, got {type(text).__name__}"):
            CLASSIFIER(text)


def test_the_pad_token_is_the_models():
    """The tokenizer of the book's GPT-2 has none."""
    tokenizer = copy.deepcopy(CLASSIFIER.tokenizer)
    tokenizer.pad_token = None
    assert SpamClassifier(CLASSIFIER.model, tokenizer)(["hi", "win a prize"]) == CLASSIFIER(["hi", "win a prize"])


def test_messages_may_be_in_any_iterable():
    """Table columns, arrays and generators work too, although some have no truth value."""
    texts = [BOOKS_EXAMPLE, ORDINARY]
    for holder in (tuple(texts), pd.Series(texts), np.array(texts), Dataset.from_dict({"text": texts})["text"]):
        assert CLASSIFIER(holder) == CLASSIFIER(texts)
    assert CLASSIFIER(text for text in texts) == CLASSIFIER(texts)


REGISTERED = """
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import check_task
config = AutoConfig.for_model("spam_gpt", n_layer=1, n_embd=8, n_head=2, vocab_size=9, n_positions=4)
for auto in (AutoModel, AutoModelForSequenceClassification):
    print(type(auto.from_config(config)).__name__, end=" ")
print(check_task("spam-classification")[1]["impl"].__name__)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import hf_spam; hf_spam.SpamPipeline; import transformers.models.gpt2.modeling_gpt2",
        "import transformers.pipelines, transformers.models.gpt2.modeling_gpt2, hf_spam",
    ],
)
def test_classes_are_registered_in_any_order_of_imports(imports):
    """The libraries import each other in circles, and every order must register the classes."""
    done = subprocess.run([sys.executable, "-c", imports + REGISTERED], capture_output=True, text=True)
    assert done.stdout == "SpamGPTModel SpamGPTForSequenceClassification SpamPipeline\n", done.stderr
