"""`handler.py` beside an export answers an Inference Endpoint's requests like the model, without this package.

It is loaded and called as huggingface-inference-toolkit does: from its file, with the folder.
"""

import json
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from tiny_models import build
from transformers import pipeline

from hf_spam import SpamClassifier
from hf_spam.conversion.endpoint_handler import EndpointHandler
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.hub.export import write_files

NEEDS = {"export-gpt2": {"torch", "transformers"}, "export-onnx": {"onnxruntime"}}
PACKAGES = {"hf_spam", "onnxruntime", "torch", "transformers"}
SPAM, HAM = "Free entry! Txt WIN to 10010 to claim", "Running late, start without me"
UNSURE = "Reply now to claim it"  # more likely spam than not, but below the threshold
TEXTS = [
    SPAM,
    HAM,
    UNSURE,
    "",
    "win " * 25_000,
    "🙂🙂",
    "nul \0 inside",
    "lone \ud800 surrogate",
    "لقد ربحت جائزة",
    "\u200b",
]
PARAMETERS = [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}, {"function_to_apply": "sigmoid"}]
PARAMETERS += [{"function_to_apply": "none", "top_k": None}, {"truncation": True}]
MISTAKES = [
    ({}, "inputs must be a message or a list of messages"),
    ({"inputs": ["a", None]}, "inputs must be a message or a list of messages"),
    ({"inputs": {"text": "a"}}, "inputs must be a message or a list of messages"),
    ({"inputs": "a", "parameters": ["top_k"]}, "parameters must be an object, such as {'top_k': 1}"),
    ({"inputs": "a", "parameters": {"top_k": 0}}, "top_k must be a whole number from 1, or null for all labels"),
    ({"inputs": "a", "parameters": {"function_to_apply": "max"}}, "must be softmax, sigmoid or none, got 'max'"),
    ({"inputs": "a", "parameters": {"topk": 1, "k": 2}}, "Unknown parameters topk, k; known are top_k"),
]


@pytest.fixture(scope="module", params=["gpt2_export", "onnx_export"])
def folder(request) -> Path:
    """An export of the bundled model."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def ask(folder) -> Callable[[dict], list]:
    """Ask an export's handler, in JSON; it starts and answers where packages that it must not need are missing."""
    spec = spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for package in PACKAGES - NEEDS[folder.name]:
            patch.setitem(sys.modules, package, None)
        spec.loader.exec_module(module)
        handler = module.EndpointHandler(str(folder))
        handler({"inputs": SPAM})
    return lambda request: json.loads(json.dumps(handler(json.loads(json.dumps(request)))))


def shape(answers: list) -> list:
    """Return answers without their scores."""
    return [answer["label"] if isinstance(answer, dict) else shape(answer) for answer in answers]


def scores(answers: list) -> list[float]:
    """Return the scores of answers, or of lists of them."""
    return [
        score for answer in answers for score in ([answer["score"]] if isinstance(answer, dict) else scores(answer))
    ]


def test_answers_are_those_of_the_model(ask):
    """Alone and in a list: empty, long, invisible, lone surrogates; and between one half and the threshold."""
    answers, expected = ask({"inputs": TEXTS}), SpamClassifier.from_pretrained()(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert expected[2]["label"] == "not spam" and expected[2]["score"] < 0.5
    np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-5)
    for text, answer in zip(TEXTS, answers, strict=True):
        (alone,) = ask({"inputs": text})
        assert alone == {"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-6)}


def test_parameters_are_those_of_the_pipeline(ask, gpt2_export):
    """Where the threshold does not matter, answers have the shape and values of the stock pipeline's."""
    classify = pipeline("text-classification", model=str(gpt2_export))
    for parameters in PARAMETERS:
        for inputs in (SPAM, [HAM, SPAM], [SPAM]):
            answers = ask({"inputs": inputs, "parameters": parameters})
            expected = classify(inputs, **parameters)
            assert shape(answers) == shape(expected), parameters
            np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-4, err_msg=str(parameters))


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_explained(ask, mistake, message):
    with pytest.raises(ValueError, match=message):
        ask(mistake)


def test_requirements_beside_the_handler(folder):
    """Exactly the packages that it imports."""
    names = {line.split(">=")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    assert names == {"numpy", "tokenizers"} | NEEDS[folder.name]


@pytest.mark.parametrize("format", ["gpt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_message_without_tokens(format, tmp_path):
    """GPT-2's own tokenizer has none for an empty message, of which the model reads a pad."""
    tokenizer = train_tokenizer([SPAM, HAM], 300)
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer("")["input_ids"] == []
    model = build(vocab_size=300, pooling="last_token", pad_token_id=tokenizer.pad_token_id)
    write_files(model, tokenizer, tmp_path, format)
    answers = EndpointHandler(str(tmp_path))({"inputs": ["", "a", "win a prize"]})
    expected = SpamClassifier(model, tokenizer)(["", "a", "win a prize"])
    np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-5)
