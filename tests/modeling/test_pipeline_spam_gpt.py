"""Temperature and threshold: whoever asks a model gets the same scores, and from us the same labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_spam import SpamClassifier, SpamGPTConfig, SpamGPTForSequenceClassification, SpamPipeline, classify_text
from hf_spam.conversion.export import export_onnx
from hf_spam.conversion.loading import save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.hub.push import push_folder
from hf_spam.inference.classifier import POCKET
from hf_spam.inference.scoring import score_file
from hf_spam.modeling.configuration_spam_gpt import decide

# Of the bundled model's scores of these, at temperature 3, some lie on either side of the threshold and of one half.
TEXTS = ["", "🙂", "win " * 25_000, *read_messages("sample")["text"][:40]]
TEMPERATURE, THRESHOLD = 3.0, 0.88


def save_pocket(folder: Path, **changes) -> Path:
    """The bundled model with another configuration."""
    classifier = SpamClassifier.from_pretrained()
    for name, value in changes.items():
        setattr(classifier.model.config, name, value)
    classifier.model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> Path:
    return save_pocket(tmp_path_factory.mktemp("model"), temperature=TEMPERATURE, threshold=THRESHOLD)


@pytest.fixture(scope="module")
def expected() -> list[dict]:
    """The answers, by hand, from the logits of the model as it is bundled."""
    scores = (SpamClassifier.from_pretrained().logits(TEXTS) / TEMPERATURE).softmax(-1)
    spam = scores[:, 1] >= THRESHOLD
    assert 5 < spam.sum() < (scores[:, 1] > 0.5).sum() < len(TEXTS) - 5
    return [
        {"label": "spam" if is_spam else "not spam", "score": pytest.approx(score[int(is_spam)].item(), abs=1e-6)}
        for is_spam, score in zip(spam, scores, strict=True)
    ]


PROBABILITIES = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(2**-10, 1, width=32), min_size=n, max_size=n), min_size=1, max_size=8)
)


@given(PROBABILITIES, st.floats(0.01, 1), st.data())
def test_what_is_spam_by_the_threshold(rows, threshold, data):
    """Of any number of classes: spam from the threshold on, else the likeliest other one; without one the likeliest.

    At one half, and two classes, both are the same but for ties.
    """
    probabilities = torch.tensor(rows) / torch.tensor(rows).sum(-1, keepdim=True)
    spam = data.draw(st.integers(0, len(rows[0]) - 1))
    names = {i: "spam" if i == spam else f"kind {i}" for i in range(len(rows[0]))}
    config = SpamGPTConfig(id2label=names, threshold=threshold)
    others = [i for i in names if i != spam]
    for row, given_class in zip(probabilities.tolist(), decide(config, probabilities).tolist(), strict=True):
        assert given_class == (spam if row[spam] >= threshold else max(others, key=row.__getitem__))
    config.threshold = None
    assert torch.equal(decide(config, probabilities), probabilities.argmax(-1))
    config.threshold = 0.5
    if len(names) == 2 and (probabilities[:, 0] != probabilities[:, 1]).all():
        assert torch.equal(decide(config, probabilities), probabilities.argmax(-1))


def test_a_threshold_that_float32_cannot_hold():
    """It lies between two neighbouring scores; rounded it would be one of them."""
    below = torch.tensor(0.75)
    above = torch.nextafter(below, torch.tensor(1.0))
    scores = torch.stack([torch.stack([1 - below, below]), torch.stack([1 - above, above])])
    config = SpamGPTConfig(threshold=(below.double() + above.double()).item() / 2)
    assert decide(config, scores).tolist() == [0, 1]


def test_logits_are_divided_and_nothing_else_is():
    """Also with labels; and at temperature 1 there is no division, in the graph of an export as little as here."""
    torch.manual_seed(0)
    config = SpamGPTConfig(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=16, pad_token_id=0)
    model = SpamGPTForSequenceClassification(config).eval()
    ids = torch.randint(1, 64, (3, 9))
    plain = model(ids)
    config.temperature = 2.5
    cooled = model(ids, labels=torch.tensor([0, 1, 1]))
    assert torch.equal(cooled.logits, plain.logits / 2.5)
    assert cooled.loss == torch.nn.functional.cross_entropy(plain.logits / 2.5, torch.tensor([0, 1, 1]))

    def operators(temperature: float) -> list:
        config.temperature = temperature
        graph = torch.export.export(model, (ids,)).graph
        return [node.target for node in graph.nodes if node.op == "call_function"]

    assert len(operators(2.5)) == len(operators(1.0)) + 1


def test_every_way_to_ask_in_python(calibrated, expected):
    classify = SpamClassifier.from_pretrained(calibrated)
    assert classify(TEXTS) == expected
    model = AutoModelForSequenceClassification.from_pretrained(calibrated)
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    assert (model.config.temperature, model.config.threshold) == (TEMPERATURE, THRESHOLD)
    assert [classify_text(text, model, tokenizer) for text in TEXTS] == [answer["label"] for answer in expected]


def test_our_pipeline_and_the_stock_one(calibrated, expected):
    """By name, in batches, with `top_k`; the stock one has the same scores, of the likeliest label."""
    ours = pipeline("spam-classification", model=str(calibrated))
    assert type(ours) is SpamPipeline
    assert ours(TEXTS) == expected and ours(TEXTS, batch_size=4) == expected
    assert ours(TEXTS[5]) == [expected[5]] and ours(TEXTS, top_k=1) == [[answer] for answer in expected]
    lone = ["half of \ud83c an emoji", "\udc00", "NUL \0 too"]
    assert ours(lone) == [
        {**answer, "score": pytest.approx(answer["score"], abs=1e-6)}
        for answer in SpamClassifier.from_pretrained(calibrated)(lone)
    ]
    stock = pipeline("text-classification", model=str(calibrated))
    all_labels = stock(TEXTS, top_k=None)
    assert all(answer["score"] >= 0.5 for answer in stock(TEXTS))
    for rows, theirs, answer in zip(ours(TEXTS, top_k=None), all_labels, expected, strict=True):
        assert rows[0] == answer and sorted(rows, key=str) == sorted(theirs, key=str)
    by_score = [
        "spam" if next(r["score"] for r in rows if r["label"] == "spam") >= THRESHOLD else "not spam"
        for rows in all_labels
    ]
    assert by_score == [answer["label"] for answer in expected] != [rows[0]["label"] for rows in all_labels]


def test_without_a_threshold_our_pipeline_is_the_stock_one():
    ours, stock = (pipeline(f"{kind}-classification", model=str(POCKET)) for kind in ("spam", "text"))
    assert ours(TEXTS) == stock(TEXTS) and ours(TEXTS, top_k=2) == stock(TEXTS, top_k=2)
    assert ours(TEXTS[3], function_to_apply="none") == stock(TEXTS[3], function_to_apply="none")


def test_scored_files_and_the_exported_graph(calibrated, expected, tmp_path):
    """The graph holds the temperature, and the configuration beside it the threshold."""
    report = export_onnx(calibrated, tmp_path / "onnx")
    assert report["labels_differ"] <= 1 and report["largest_score_difference"] < 1e-4
    for source in (calibrated, tmp_path / "onnx"):
        classifier = SpamClassifier.from_pretrained(source)
        assert [answer["label"] for answer in classifier(TEXTS)] == [answer["label"] for answer in expected]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        score_file(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", overwrite=True)
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [row["label"] for row in rows] == [answer["label"] for answer in expected]
        assert [row["score"] for row in rows] == pytest.approx([a["score"].expected for a in expected], abs=1e-5)


STRANGER = """
import json, sys
sys.modules["hf_spam"] = None  # as on a machine that does not have it
from transformers import pipeline
texts, model = json.loads(sys.argv[1]), sys.argv[2]
stock = pipeline("text-classification", model, trust_remote_code=True)(texts, top_k=None)
pipe = pipeline("spam-classification", model, trust_remote_code=True)
if len(sys.argv) > 3:
    pipe.model.save_pretrained(sys.argv[3])
    pipe.tokenizer.save_pretrained(sys.argv[3])
print(json.dumps([stock, pipe(texts), type(pipe).__module__]))
"""


def check_as_a_stranger(model: str, expected: list[dict], home: Path, *save_to: str) -> None:
    """In a process without the package a model has the expected answers to all but the first three texts."""
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(TEXTS[3:]), model, *save_to],
        env={**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stock, ours, module = json.loads(done.stdout)
    assert module.startswith("transformers_modules.") and ours == expected[3:]
    for rows, answer in zip(stock, expected[3:], strict=True):
        assert {"label": answer["label"], "score": answer["score"]} in rows


@pytest.mark.parametrize("saved_as", ["pipeline", "model"])
@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
def test_a_pushed_model_runs_without_the_package(saved_as, calibrated, expected, hub, tmp_path):
    """It takes its code along, the pipeline's too; temperature and threshold come in both ways."""
    folder = calibrated
    if saved_as == "pipeline":
        pipeline("spam-classification", model=str(calibrated)).save_pretrained(folder := tmp_path / "pipeline")
    push_folder(folder, "alice/spam")
    check_as_a_stranger("alice/spam", expected, tmp_path / "home")


def test_a_folder_runs_without_the_package(calibrated, expected, tmp_path):
    """As training and calibration leave it; and what a stranger has saved again runs as well."""
    folder = tmp_path / "folder"
    classifier = SpamClassifier.from_pretrained(calibrated)
    folder.mkdir()
    save_classifier(classifier.model, classifier.tokenizer, folder)
    check_as_a_stranger(str(folder), expected, tmp_path / "home", str(tmp_path / "again"))
    check_as_a_stranger(str(tmp_path / "again"), expected, tmp_path / "home")
    # With the package, no code of the folder is needed, nor asked for.
    ours = pipeline("spam-classification", model=str(tmp_path / "again"))
    assert type(ours) is SpamPipeline and ours(TEXTS) == expected
