"""Loading a model and calling it: the same answer for the same message, and an answer for every message."""

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_spam import SpamClassifier, classify_text
from hf_spam.inference.classifier import POCKET

BOOKS_EXAMPLE = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
ORDINARY = "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"
STRANGE = [
    "",
    " ",
    "🙂🎉🙂",
    "\x00\x00",
    "lone \ud800 surrogate",
    "a" * 100_000,
    "win " * 25_000,
    "<|endoftext|>",
    "スパム",
]

CLASSIFIER = SpamClassifier.from_pretrained()


def test_the_bundled_model_tells_the_books_example_from_an_ordinary_message():
    assert [answer["label"] for answer in CLASSIFIER([BOOKS_EXAMPLE, ORDINARY])] == ["spam", "not spam"]
    assert classify_text(BOOKS_EXAMPLE, CLASSIFIER.model, CLASSIFIER.tokenizer) == "spam"
    assert classify_text(ORDINARY, CLASSIFIER.model, CLASSIFIER.tokenizer) == "not spam"


def test_the_name_bundled_is_the_bundled_model_s():
    assert torch.equal(SpamClassifier.from_pretrained("bundled").logits([ORDINARY]), CLASSIFIER.logits([ORDINARY]))


def test_the_bundled_model_is_small_and_says_what_it_is():
    assert sum(file.stat().st_size for file in POCKET.iterdir()) <= 3_000_000
    config = json.loads((POCKET / "config.json").read_text())
    assert config["id2label"] == {"0": "not spam", "1": "spam"} and config["model_type"] == "spam_gpt"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=12), st.randoms(), st.integers(1, 200))
def test_scores_depend_on_the_message_only(texts, random, batch_tokens):
    """Alone, among others, in another order, in batches of another size."""
    alone = torch.cat([CLASSIFIER.probabilities([text]) for text in texts])
    order = random.sample(range(len(texts)), len(texts))
    together = CLASSIFIER.probabilities([texts[i] for i in order], batch_tokens=batch_tokens)
    assert torch.allclose(together, alone[order], atol=1e-5)


def test_answers_that_are_not_numbers_are_none():
    """Of weights that were damaged in memory, say: whoever asks, from one message to logits, is told."""
    model = copy.deepcopy(CLASSIFIER.model)
    with torch.no_grad():
        model.out_head.bias[0] = torch.nan
    for ask in (SpamClassifier(model, CLASSIFIER.tokenizer), SpamClassifier(model, CLASSIFIER.tokenizer).logits):
        with pytest.raises(ValueError, match="The model's answers are not numbers: its weights are damaged"):
            ask([ORDINARY])


def test_every_text_gets_an_answer():
    for text, answer in zip(STRANGE, CLASSIFIER(STRANGE), strict=True):
        assert answer["label"] in ("spam", "not spam") and 0.5 <= answer["score"] <= 1, text[:20]
    assert CLASSIFIER([]) == []


@pytest.mark.parametrize("text", [None, 1, 2.5, b"spam", ["spam"]])
def test_what_is_not_text_gets_a_type_error_that_says_so(text):
    with pytest.raises(TypeError, match="A message must be a string, got"):
        classify_text(text, CLASSIFIER.model, CLASSIFIER.tokenizer)
    for single in ("a single string", None, 5):
        with pytest.raises(TypeError, match=f"Give a list of messages, not a single {type(single).__name__}"):
            CLASSIFIER(single)


def test_messages_may_be_in_anything_that_holds_them():
    """A column of a table, an array, a generator: none of them is a list, and some have no truth value."""
    texts = [BOOKS_EXAMPLE, ORDINARY]
    for holder in (tuple(texts), pd.Series(texts), np.array(texts), Dataset.from_dict({"text": texts})["text"]):
        assert CLASSIFIER(holder) == CLASSIFIER(texts)
    assert CLASSIFIER(text for text in texts) == CLASSIFIER(texts) and CLASSIFIER(()) == []


def test_auto_classes_and_the_stock_pipeline_agree_with_ours():
    """With the package imported, without remote code; empty and very long messages included."""
    assert type(AutoConfig.from_pretrained(POCKET)).__name__ == "SpamGPTConfig"
    assert type(AutoModel.from_pretrained(POCKET)).__name__ == "SpamGPTModel"
    assert type(AutoModelForSequenceClassification.from_pretrained(POCKET)).__name__.startswith("SpamGPTFor")
    assert AutoTokenizer.from_pretrained(POCKET)("hi")["input_ids"]
    texts = [BOOKS_EXAMPLE, ORDINARY, "", "🙂", "win " * 25_000]
    ours = CLASSIFIER(texts)
    stock = pipeline("text-classification", model=str(POCKET))
    for answers in (stock(texts), stock(texts, batch_size=3)):
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in ours]
        assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in ours], abs=1e-6)


@pytest.mark.parametrize(
    "first",
    [
        "import hf_spam",
        "import hf_spam, transformers.models.gpt2.modeling_gpt2",
        "import transformers.models.gpt2.modeling_gpt2, hf_spam",
        "import hf_spam; hf_spam.SpamGPTForSequenceClassification",
        "import hf_spam; hf_spam.SpamPipeline",
        "import transformers.pipelines, hf_spam",
    ],
)
def test_registration_whatever_is_imported_first(first):
    """The libraries import one another in circles: each way in has to lead to registered classes."""
    code = (
        f"{first}; from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification as Classifier;"
        "c = AutoConfig.for_model('spam_gpt', n_layer=1, n_embd=8, n_head=2);"
        "from transformers.pipelines import check_task;"
        "print(type(AutoModel.from_config(c)).__name__, type(Classifier.from_config(c)).__name__);"
        "print(check_task('spam-classification')[1]['impl'].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["SpamGPTModel", "SpamGPTForSequenceClassification", "SpamPipeline"], done.stderr


def test_importing_the_package_loads_no_heavy_library():
    """Nor does whoever only classifies wait for what reads tables."""
    code = (
        "import sys, hf_spam; print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)));"
        "hf_spam.SpamClassifier; print(sorted({'pandas', 'pyarrow', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["[]", "[]"], done.stdout + done.stderr


def test_what_is_not_a_whole_classifier_is_refused(tmp_path):
    """A base without a head would answer by chance, a model of another kind not at all."""
    from transformers import GPT2Config

    base = type(CLASSIFIER.model.gpt).from_pretrained(POCKET)
    base.save_pretrained(tmp_path / "base")
    CLASSIFIER.tokenizer.save_pretrained(tmp_path / "base")
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    for name in ("damaged", "unfitting"):
        shutil.copytree(POCKET, tmp_path / name)
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = tmp_path / "unfitting" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_inner": 100}))
    for source, error, message in (
        (tmp_path / "base", ValueError, r"train it first: it lacks out_head\.bias, out_head\.weight"),
        (tmp_path / "gpt2", ValueError, "holds a 'gpt2' model, not a SpamGPT classifier"),
        (tmp_path / "damaged", ValueError, "cannot be loaded"),
        (
            tmp_path / "unfitting",
            ValueError,
            r"does not fit its config.json: .* is of shape \(512,\), expected \(100,\)",
        ),
        (tmp_path, OSError, r"No model in .*: there is no config\.json"),
        ("no/where", OSError, "No model in a local folder or a Hub repository named 'no/where'"),
    ):
        with pytest.raises(error, match=message) as caught:
            SpamClassifier.from_pretrained(source)
        assert "\n" not in str(caught.value)
