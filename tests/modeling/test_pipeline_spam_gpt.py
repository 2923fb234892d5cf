"""A calibrated model gives the same scores and labels through our classes, through pipelines, and as remote code on a
machine without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_data import MESSAGES
from transformers import GPT2Config, GPT2Model, pipeline

from hf_spam import SpamClassifier, SpamPipeline
from hf_spam.conversion.import_weights import import_weights
from hf_spam.conversion.loading import load_classifier, load_tokenizer, save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.hub.push import push_folder

# At temperature 3, the bundled model's scores of these lie on either side of the threshold and of one half.
TEXTS = ["", "🙂", "win " * 25_000, *read_messages(MESSAGES)["text"][:40]]
TEMPERATURE, THRESHOLD = 3.0, 0.7


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> str:
    return bundled_with(tmp_path_factory.mktemp("model"), TEMPERATURE, THRESHOLD)


def bundled_with(folder: Path, temperature: float, threshold: float | None) -> str:
    """Save a copy of the bundled model with another calibration."""
    classifier = SpamClassifier.from_pretrained()
    classifier.model.config.temperature, classifier.model.config.threshold = temperature, threshold
    classifier.model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def probabilities() -> torch.Tensor:
    """The calibrated probabilities, computed from the logits of the bundled model."""
    classifier = SpamClassifier.from_pretrained()
    found = (classifier.logits(TEXTS) * classifier.model.config.temperature / TEMPERATURE).softmax(-1)
    assert 5 < (found[:, 1] >= THRESHOLD).sum() < (found[:, 1] > 0.5).sum() < len(TEXTS) - 5
    return found


@pytest.fixture(scope="module")
def expected(probabilities) -> list[dict]:
    """The answers that follow from the threshold."""
    return [
        {"label": "spam" if row[1] >= THRESHOLD else "not spam", "score": pytest.approx(row[int(row[1] >= THRESHOLD)])}
        for row in probabilities.tolist()
    ]


def test_our_pipeline_and_the_stock_one(calibrated, expected):
    """By name, in batches, with `top_k`; the stock pipeline has the same scores, but the most likely label."""
    ours = pipeline("spam-classification", model=calibrated)
    assert type(ours) is SpamPipeline and SpamClassifier.from_pretrained(calibrated)(TEXTS) == expected
    assert ours(TEXTS) == expected and ours(TEXTS, batch_size=4) == expected
    assert ours(TEXTS[5]) == [expected[5]] and ours(TEXTS, top_k=1) == [[answer] for answer in expected]
    lone = ["half of \ud83c an emoji", "\udc00", "NUL \0 too"]
    answers = SpamClassifier.from_pretrained(calibrated)(lone)
    assert ours(lone) == [{**answer, "score": pytest.approx(answer["score"])} for answer in answers]
    stock = pipeline("text-classification", model=calibrated)
    assert all(answer["score"] >= 0.5 for answer in stock(TEXTS))
    for rows, theirs, answer in zip(ours(TEXTS, top_k=None), stock(TEXTS, top_k=None), expected, strict=True):
        assert rows[0] == answer and sorted(rows, key=str) == sorted(theirs, key=str)


def test_without_a_threshold_our_pipeline_is_the_stock_one(tmp_path):
    model = bundled_with(tmp_path, 1.0, None)
    ours, stock = (pipeline(f"{kind}-classification", model=model) for kind in ("spam", "text"))
    answers = SpamClassifier.from_pretrained(model)(TEXTS)
    scores = [{**answer, "score": pytest.approx(answer["score"])} for answer in answers]
    assert ours(TEXTS) == stock(TEXTS) == scores and stock(TEXTS, batch_size=3) == scores
    assert ours(TEXTS, top_k=2) == stock(TEXTS, top_k=2)
    assert ours(TEXTS[3], function_to_apply="none") == stock(TEXTS[3], function_to_apply="none")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, onnx_export) -> Path:
    """A folder of each kind that has a tokenizer: saved by training, imported, and exported."""
    folder, classifier = tmp_path_factory.mktemp("folders"), SpamClassifier.from_pretrained()
    save_classifier(classifier.model, classifier.tokenizer, folder / "trained")
    shape = {"vocab_size": len(classifier.tokenizer), "n_embd": 8, "n_layer": 1, "n_head": 1}
    GPT2Model(GPT2Config(**shape)).save_pretrained(folder / "gpt2")
    import_weights(folder / "gpt2", folder / "imported", tokenizer=classifier.tokenizer)
    (folder / "exported").symlink_to(onnx_export)
    return folder


def test_nothing_is_asked_when_a_pipeline_is_loaded(folders, hub, monkeypatch):
    """A question on standard input stops a program that nobody watches."""
    push_folder(folders / "trained", "alice/spam")
    monkeypatch.chdir(folders)
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(question))
    for task, name in ("text-classification", "trained"), ("spam-classification", "alice/spam"):
        assert pipeline(task, name)("See you at home")[0]["label"] == "not spam"


LOADED = ("trained", "imported", "exported", "alice/spam")
STRANGER = """
import json, sys
sys.modules["hf_spam"] = None  # what a machine without the package does on import
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers import PreTrainedTokenizerFast

report = {"tokenizers": {}, "answers": {}}
for name in sys.argv[1:5]:
    # The Hub has code, for which the library asks where it does not know the type of the model.
    settings = {"trust_remote_code": False} if name == "alice/spam" else {}
    for loaded in AutoTokenizer.from_pretrained(name, **settings), PreTrainedTokenizerFast.from_pretrained(name):
        found = [loaded(["win", ""], padding=True).input_ids, loaded.model_max_length]
        report["tokenizers"].setdefault(name, []).append(found)
texts, (folder, again, *others) = json.load(open("texts.json")), sys.argv[5:]
trust = {"trust_remote_code": True}
config, base = AutoConfig.from_pretrained(folder, **trust), AutoModel.from_pretrained(folder, **trust)
model = AutoModelForSequenceClassification.from_pretrained(folder, **trust)
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
with torch.no_grad():
    logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    ids = tokenizer(texts[-1], return_tensors="pt").input_ids
    assert torch.equal(base(ids).last_hidden_state, model.gpt(ids).last_hidden_state)
model.save_pretrained(again)
tokenizer.save_pretrained(again)
report["by hand"] = logits.softmax(-1).tolist()
modules = {type(each).__module__ for each in (config, base, model)}
for source in (folder, again, *others):
    pipe = pipeline("spam-classification", source, **trust)
    modules.add(type(pipe).__module__)
    report["answers"][source] = pipe(texts)
stock = pipeline("text-classification", folder, top_k=None, **trust)
for name, found in (("one by one", [stock([t])[0] for t in texts]), ("in batches", stock(texts, batch_size=3))):
    report[name] = [[p for _, p in sorted((config.label2id[r["label"]], r["score"]) for r in rows)] for rows in found]
assert all(module.startswith("transformers_modules.") for module in modules), modules
print("REPORT" + json.dumps(report))
"""


def test_without_the_package(calibrated, probabilities, expected, folders, hub):
    """Protects `trust_remote_code=True`, for models saved in Python, by a pipeline and again, and on the Hub.

    There, they come from our folders, which have no code, or from `push_to_hub`. Auto classes and pipelines answer any
    message in any batch, also the empty one and one of 100,000 characters. Tokenizers load without code, and nothing is
    asked: the process, whose input is an idle pipe, ends.
    """
    pipeline("spam-classification", model=calibrated).save_pretrained(folders / "pipeline")
    model, tokenizer = load_classifier(calibrated), load_tokenizer(calibrated)
    save_classifier(model, tokenizer, folders / "calibrated")
    push_folder(folders / "calibrated", "alice/spam")
    for each in (load_classifier(folders / "calibrated"), tokenizer):
        each.push_to_hub("alice/python")
    (folders / "texts.json").write_text(json.dumps(TEXTS))
    sources = [calibrated, "again", "alice/spam", "alice/python", "pipeline"]
    environment = {**os.environ, "HF_HOME": str(folders / "home"), "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", STRANGER, *LOADED, *sources]
    with subprocess.Popen(command, cwd=folders, env=environment, text=True, **pipes) as process:
        out, err = process.stdout.read(), process.stderr.read()  # the input stays open
    assert process.returncode == 0, err
    assert "Do you wish to run" not in out + err
    report = json.loads(out.split("REPORT")[1])
    loaded = [tokenizer(["win", ""], padding=True).input_ids, tokenizer.model_max_length]
    assert report.pop("tokenizers") == {name: [loaded] * 2 for name in LOADED}
    assert list(report["answers"]) == sources
    for source, answers in report.pop("answers").items():
        assert answers == expected, source
    for way, found in report.items():
        torch.testing.assert_close(torch.tensor(found), probabilities, atol=1e-6, rtol=0, msg=way)
    configs = [json.loads(Path(folder, "config.json").read_text()) for folder in (calibrated, folders / "again")]
    assert configs[0] == configs[1] and len(configs[1]["auto_map"]) == 3
    # With the package installed, the code in the folder is not needed.
    ours = pipeline("spam-classification", model=str(folders / "again"))
    assert type(ours) is SpamPipeline and ours(TEXTS) == expected
