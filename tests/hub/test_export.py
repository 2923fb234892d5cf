"""An export is a complete folder with a certificate, or nothing is written."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from command_line import hf_spam
from tiny_models import build, save_tiny

from hf_spam.conversion import gpt2
from hf_spam.conversion.loading import load_classifier
from hf_spam.conversion.onnx import PACKAGES
from hf_spam.conversion.parity import LEFT_PADDED
from hf_spam.data.sources import read_texts
from hf_spam.files import hash_file
from hf_spam.hub.export import export_model, fold
from hf_spam.modeling.configuration_spam_gpt import decide


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> Path:
    """Return a file of three messages to compare on."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    path.write_text("label,text\nspam,Free entry! Txt WIN to 10010\nham,see you at home\nham,ok\n")
    return path


def test_an_onnx_export_is_compared_in_both_precisions(onnx_export):
    certificate = json.loads((onnx_export / "parity.json").read_text())
    runtimes = {(one["runtime"], one["precision"]): one for one in certificate["runtimes"]}
    for precision, tolerance in (("fp32", 1e-6), ("int8", 0.02)):
        one = runtimes["ONNX Runtime", precision]
        assert (one["labels_differ"], one["not_answered"], one["answered_differently"]) == (0, [], [])
        assert one["largest_score_difference"] < tolerance
    assert set(PACKAGES) <= set(certificate["versions"])


def test_the_certificate_says_what_was_compared(tmp_path, messages):
    source = save_tiny(tmp_path / "source")
    (source / "history.json").write_text('{"recipe": {"seed": 5}}')
    done = hf_spam("export", source, tmp_path / "out", "--format", "gpt2", "--data", messages, "--json")
    assert done.code == 0, done.err
    certificate = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert certificate == json.loads(done.out)
    weights = {"model.safetensors": hash_file(source / "model.safetensors")["sha256"]}
    assert certificate["model"] == {"name": "source", "weights": weights}
    assert (certificate["data"], certificate["messages"]) == ("few.csv", 3)
    described = ("parity.json", "README.md")  # hold the certificate themselves
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name not in described]
    names = {path.relative_to(tmp_path / "out").as_posix(): hash_file(path)["sha256"] for path in files}
    assert certificate["files"] == names and "model.safetensors" in names
    assert (tmp_path / "out" / "history.json").read_text() == '{"recipe": {"seed": 5}}'
    assert str(tmp_path) not in (tmp_path / "out" / "parity.json").read_text()


def test_the_table_names_each_runtime(tmp_path, messages):
    out = hf_spam("export", save_tiny(tmp_path / "tiny"), tmp_path / "out", "--format", "gpt2", "--data", messages).out
    assert "transformers" in out and "0 of 3" in out and "The export is in" in out


@pytest.mark.parametrize("spam", [0, 1])
def test_a_folded_threshold_is_obeyed_by_the_largest_logit(spam):
    names = ["not spam", "ham"]
    names[spam] = "spam"
    model = build(threshold=0.52, temperature=1.5, id2label=dict(enumerate(names)), label2id=None)
    ids = torch.randint(60, (500, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids, torch.ones_like(ids)).logits.softmax(-1)
        expected = decide(model.config, before)
        fold(model)
        after = model(ids, torch.ones_like(ids)).logits
    assert (before.argmax(-1) != expected).any() and 0 < expected.sum() < 500
    assert after.argmax(-1).tolist() == expected.tolist() and model.config.threshold is None
    shift = (after - before.log())[:, spam] - (after - before.log())[:, 1 - spam]
    assert shift.tolist() == pytest.approx([-math.log(0.52 / 0.48)] * 500, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "the threshold None"),
        ({"threshold": 1.0}, "the threshold 1.0"),
        ({"threshold": 0.9, "id2label": {0: "ad", 1: "spam", 2: "chat"}, "label2id": None}, "3 classes"),
    ],
)
def test_what_cannot_be_folded_is_one_clear_line(settings, found, tmp_path, messages):
    model = save_tiny(tmp_path / "model", **settings)
    done = hf_spam("export", model, tmp_path / "out", "--format", "onnx", "--fold-threshold", "--data", messages)
    assert done.code == 1 and done.err.splitlines()[-1] == (
        f"hf-spam: --fold-threshold needs two classes and a threshold below 1; the model has {found}."
    )
    assert not (tmp_path / "out").exists()


def test_an_export_with_other_answers_is_not_written(tmp_path, messages, monkeypatch):
    def write_biased(model, *where, write=gpt2.write_gpt2):
        biased = load_classifier("bundled").eval()
        with torch.no_grad():
            biased.out_head.bias[0] += 100
        return write(biased, *where)

    monkeypatch.setattr("hf_spam.hub.export.write_gpt2", write_biased)
    message = r"^The export was not written: in transformers \(fp32\), 1 of 3 messages get a different label, "
    with pytest.raises(ValueError, match=message):
        export_model("bundled", tmp_path / "out", format="gpt2", data=messages)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    hint = 'hf-spam: ONNX needs onnxruntime, which is not installed: pip install "hf-spam[onnx]"\n'
    assert hf_spam("export", "bundled", tmp_path / "out", "--format", "onnx").err == hint
    assert hf_spam("classify", "hi").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("format", "fold_threshold"), [("gpt2", False), ("onnx", False), ("onnx", True)])
def test_all_messages_of_the_sample_get_the_same_answers(format, fold_threshold, tmp_path):
    """None differs in fp32, and at most one in a thousand in int8.

    The stock tokenizer refuses lone surrogates, and the stock GPT-2 counts pads on the left as positions.
    """
    certificate = export_model("bundled", tmp_path / "out", format=format, fold_threshold=fold_threshold)
    results = {one["precision"]: one for one in certificate["runtimes"] if "Node.js" not in one["runtime"]}
    assert certificate["messages"] == len(read_texts("sample")) and certificate["folded_threshold"] == fold_threshold
    assert results["fp32"]["labels_differ"] == 0 and results["fp32"]["largest_score_difference"] < 1e-5
    if format == "onnx":
        assert results["int8"]["labels_differ"] <= certificate["messages"] / 1000
        assert results["int8"]["largest_score_difference"] < 0.02
    for one in results.values():
        awkward = (["lone surrogate"], [LEFT_PADDED]) if format == "gpt2" else ([], [])
        assert (one["not_answered"], one["answered_differently"]) == awkward
