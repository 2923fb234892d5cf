"""`handler.py` beside an export answers an Inference Endpoint's requests like the model, without this package.

A process of its own loads and calls it as huggingface-inference-toolkit does: from its file, with the folder.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import hf_spam
from tiny_models import build
from transformers import pipeline

from hf_spam import SpamClassifier
from hf_spam.conversion.endpoint_handler import EndpointHandler
from hf_spam.conversion.loading import save_classifier
from hf_spam.data.tokenization import train_tokenizer

FORMATS = {"gpt2": ("hf_spam", "onnxruntime"), "onnx": ("hf_spam", "torch", "transformers")}  # what it must not need
SPAM, HAM = "Free entry! Txt WIN to 10010 to claim", "Running late, start without me"
UNSURE = "Call now to claim it"  # more likely spam than not, but below the threshold
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
REQUESTS = [{"inputs": text, "parameters": each} for each in PARAMETERS for text in (SPAM, [HAM, SPAM], [SPAM])]
MISTAKES = {
    "{}": "inputs must be a message or a list of messages",
    '{"inputs": ["a", null]}': "inputs must be a message or a list of messages",
    '{"inputs": {"text": "a"}}': "inputs must be a message or a list of messages",
    '{"inputs": "a", "parameters": {"top_k": 0}}': "top_k must be a whole number from 1, or null for all labels, got 0",
    '{"inputs": "a", "parameters": {"function_to_apply": "max"}}': "must be softmax, sigmoid or none, got 'max'",
    '{"inputs": "a", "parameters": {"topk": 1, "k": 2}}': "Unknown parameters topk, k; known are top_k",
}
STOCK = "what stock transformers loads"
SERVER = """
import importlib.util, json, sys
folder, *missing = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing))  # importing them fails
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder + "/handler.py")
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
for line in sys.stdin:
    try:
        print(json.dumps(handler(json.loads(line))))
    except ValueError as error:  # any other would end this process
        print(json.dumps(str(error)))
if "transformers" not in missing:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
    loaded = [each.from_pretrained(folder) for each in (AutoConfig, AutoModelForSequenceClassification)]
    batches = [each.from_pretrained(folder)("win<|pad|>") for each in (AutoTokenizer, PreTrainedTokenizerFast)]
    print(json.dumps([[type(each).__name__ for each in loaded], *(dict(batch) for batch in batches)]))
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A file of two messages to compare an export on."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    path.write_text(f"label,text\nspam,{SPAM}\nham,okay\n")
    return path


@pytest.fixture(scope="module", params=FORMATS)
def served(request) -> tuple[Path, dict]:
    """An export of the bundled model, and its handler's answers by request."""
    folder = request.getfixturevalue(f"{request.param}_export")
    lines = [json.dumps(each) for each in ({"inputs": TEXTS}, *({"inputs": text} for text in TEXTS), *REQUESTS)]
    lines += MISTAKES
    stock = [STOCK] if request.param == "gpt2" else []
    command = [sys.executable, "-c", SERVER, folder, *FORMATS[request.param]]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, cwd=folder.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    return folder, dict(zip([*lines, *stock], map(json.loads, done.stdout.splitlines()), strict=True))


def shape(answers: list) -> list:
    """Return answers without their scores."""
    return [answer["label"] if isinstance(answer, dict) else shape(answer) for answer in answers]


def scores(answers: list) -> list[float]:
    """Return the scores of answers, or of lists of them."""
    return [
        score for answer in answers for score in ([answer["score"]] if isinstance(answer, dict) else scores(answer))
    ]


def test_answers_are_those_of_the_model(served):
    """Alone and in a list: empty, long, invisible, lone surrogates; and between one half and the threshold."""
    answers = served[1][json.dumps({"inputs": TEXTS})]
    expected = SpamClassifier.from_pretrained()(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert expected[2]["label"] == "not spam" and expected[2]["score"] < 0.5
    np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-5)
    for text, answer in zip(TEXTS, answers, strict=True):
        (alone,) = served[1][json.dumps({"inputs": text})]
        assert alone == {"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-6)}


def test_parameters_are_those_of_the_pipeline(served, gpt2_export):
    """Where the threshold does not matter, answers have the shape and values of the stock pipeline's."""
    classify = pipeline("text-classification", model=str(gpt2_export))
    for request in REQUESTS:
        answers, expected = served[1][json.dumps(request)], classify(request["inputs"], **request["parameters"])
        assert shape(answers) == shape(expected), request
        np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-4, err_msg=str(request))


def test_mistakes_are_explained(served):
    for line, message in MISTAKES.items():
        assert message in served[1][line]


def test_stock_transformers_loads_it_without_this_package_and_without_a_question(served):
    if served[0].name == "export-onnx":  # which needs other programs
        return
    classes, *batches = served[1][STOCK]
    assert classes == ["GPT2Config", "GPT2ForSequenceClassification"]
    assert batches[0] == batches[1] and set(batches[0]) == {"input_ids", "attention_mask"}


def test_requirements_beside_the_handler(served):
    """Exactly the packages that it imports."""
    names = {line.split(">=")[0] for line in (served[0] / "requirements.txt").read_text().splitlines()}
    runtime = {"torch", "transformers"} if served[0].name == "export-gpt2" else {"onnxruntime"}
    assert names == {"numpy", "tokenizers"} | runtime


@pytest.mark.parametrize("format", ["gpt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_message_without_tokens(format, few, tmp_path):
    """GPT-2's own tokenizer has none for an empty message, of which the model reads a pad."""
    tokenizer = train_tokenizer([SPAM, HAM], 300)
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer("")["input_ids"] == []
    model = build(vocab_size=300, pooling="last_token", pad_token_id=tokenizer.pad_token_id)
    save_classifier(model, tokenizer, tmp_path / "model")
    assert hf_spam("export", tmp_path / "model", tmp_path / "out", "--format", format, "--data", few).code == 0
    answers = EndpointHandler(str(tmp_path / "out"))({"inputs": ["", "a", "win a prize"]})
    expected = SpamClassifier.from_pretrained(tmp_path / "model")(["", "a", "win a prize"])
    np.testing.assert_allclose(scores(answers), scores(expected), atol=1e-5)
