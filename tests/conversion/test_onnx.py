"""An exported graph answers like the model it was made from, or is not written.

The graph includes padding, truncation and pooling, so it is compared with the PyTorch model on random batches.
"""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import hf_spam
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from small_data import MESSAGES
from tiny_models import build

from hf_spam import SpamClassifier, SpamGPTForSequenceClassification
from hf_spam.conversion import onnx as module
from hf_spam.conversion.loading import BUNDLED, save_classifier
from hf_spam.conversion.onnx import OnnxModel, export_onnx
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.files import hash_file
from hf_spam.modeling.configuration_spam_gpt import decide

TEXTS = ["", "Free entry! Txt WIN to 10010", "ok", "🙂", "win " * 1000, "lone \ud800 surrogate", "Running late, sorry"]
SAMPLE = read_messages(MESSAGES)["text"][:]
# Every pooling, with every pair of the other two settings. Thresholds are far from where the top class changes.
THREE_LABELS = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
READINGS = [
    {"pooling": "last", "padded_length": 12, "causal": True, "threshold": 0.9},
    {"pooling": "last_token", "padded_length": None, "causal": True, "temperature": 3.0},
    {"pooling": "first", "padded_length": 12, "causal": False, "threshold": 0.2, **THREE_LABELS},
    {"pooling": "mean", "padded_length": None, "causal": False, "threshold": 0.3, "temperature": 0.5},
]


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> Path:
    """Return a file of three messages to compare on."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    path.write_text("label,text\nspam,Free entry! Txt WIN to 10010\nham,see you at home\nham,ok\n")
    return path


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> tuple[Path, dict]:
    """Export the bundled model, without its threshold, in int8, like a large one; return the folder and the report."""
    model = tmp_path_factory.mktemp("model")
    copy_without_threshold(model)
    (model / "history.json").write_text('{"recipe": {"seed": 5}}')
    out = tmp_path_factory.mktemp("exports") / "int8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_INLINE_BYTES", 0)
        done = hf_spam("export", model, out, "--onnx", "--int8", "--data", MESSAGES, "--json")
    assert (done.code, done.err) == (0, "")
    return out, json.loads(done.out)


def copy_without_threshold(folder: Path) -> Path:
    """Copy the bundled model; near its threshold, int8 changes more labels than an export may."""
    shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "threshold": None}))
    return folder


def save_tiny(folder: Path, **settings) -> Path:
    """Save a classifier with large random weights, and a tokenizer that fits it."""
    model = build(vocab_size=300, pad_token_id=1, eos_token_id=0, **settings)
    save_classifier(model, train_tokenizer(SAMPLE[:100], 300), folder)
    return folder


def assert_same_answers(folder: Path, model: SpamGPTForSequenceClassification) -> None:
    """Compare a model with the bare graph, run without this package."""
    graph = onnxruntime.InferenceSession(folder / "model.onnx")

    @settings(max_examples=25, derandomize=True)
    @given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32 - 1))
    def check(B, T, seed):
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(300, (B, T), generator=generator)
        attention_mask = (torch.rand(B, T, generator=generator) < torch.rand(B, 1, generator=generator)).long()
        attention_mask[seed % B] = seed % 2  # only pads, or none
        if seed % 3 == 0:
            input_ids[:, -1] = 0  # a long message keeps its end-of-text token
        with torch.no_grad():
            expected = model(input_ids=input_ids, attention_mask=attention_mask).logits
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        logits, label = graph.run(["logits", "label"], inputs)
        assert logits == pytest.approx(expected.numpy(), abs=1e-5)
        assert label.tolist() == decide(model.config, expected.softmax(-1)).tolist()

    check()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(reading, marks=[pytest.mark.slow] * (i in (0, 2)), id=reading["pooling"])
        for i, reading in enumerate(READINGS)
    ],
)
def test_the_graph_reads_a_message_like_the_model(tmp_path, messages, settings):
    """With padding on either side, in between, nowhere or everywhere; with one token and with too many."""
    tiny = save_tiny(tmp_path / "tiny", **settings)
    report = export_onnx(tiny, tmp_path / "onnx", data=messages)
    assert (report["messages"], report["labels_differ"]) == (3, 0) and report["largest_score_difference"] < 1e-5
    exported, original = map(SpamClassifier.from_pretrained, (tmp_path / "onnx", tiny))
    assert isinstance(exported.model, OnnxModel)
    assert_same_answers(tmp_path / "onnx", original.model)
    assert np.allclose(exported.predict_proba(TEXTS), original.predict_proba(TEXTS), atol=1e-5)


def test_the_report_can_be_recomputed(int8):
    out, report = int8
    assert json.loads((out / "export.json").read_text()) == report
    exported, original = (SpamClassifier.from_pretrained(model).predict_proba(SAMPLE) for model in (out, None))
    assert report["messages"] == len(SAMPLE) and report["precision"] == "int8"
    assert report["labels_differ"] == (exported.argmax(-1) != original.argmax(-1)).sum() <= 1
    assert report["largest_score_difference"] == pytest.approx(np.abs(exported - original).max(), abs=1e-5)
    assert report["mean_score_difference"] == pytest.approx(np.abs(exported - original).mean(), abs=1e-5)
    assert 0 < report["mean_score_difference"] < 0.002
    assert report["weights"] == {"model.safetensors": hash_file(BUNDLED / "model.safetensors")}
    assert str(out.parent) not in (out / "export.json").read_text()


def test_int8_answers_depend_on_the_message_alone(int8):
    """Activation ranges are fixed: ranges per batch would make a score depend on the other messages."""
    out, _ = int8
    weights = [tensor for tensor in onnx.load(out / "model.onnx").graph.initializer if len(tensor.dims) == 2]
    types = [tensor.data_type for tensor in weights]
    assert types.count(onnx.TensorProto.INT8) == 6  # those of the single block
    assert types.count(onnx.TensorProto.FLOAT) == 3  # the two embeddings and the head
    classify = SpamClassifier.from_pretrained(out)
    alone = np.concatenate([classify.predict_proba([text]) for text in SAMPLE[:200]])
    assert np.allclose(classify.predict_proba(SAMPLE[:200]), alone, atol=1e-5)


def test_large_weights_get_their_own_file_and_the_history_is_copied(int8, tmp_path):
    """`evaluate` reads from `history.json` how the data were split."""
    out = shutil.copytree(int8[0], tmp_path / "copy")
    assert (out / "model.onnx").stat().st_size < 200_000 < (out / "model.onnx.data").stat().st_size
    assert (out / "history.json").read_text() == '{"recipe": {"seed": 5}}'
    assert set(OnnxModel(out).state_dict()) == {"model.onnx", "model.onnx.data"}
    (out / "model.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded: its model\.onnx is damaged"):
        SpamClassifier.from_pretrained(out)


def test_commands_accept_an_export_as_a_model(int8, tmp_path):
    out, _ = int8
    answer = json.loads(hf_spam("classify", "Free entry! Txt WIN to 10010", "--model", out, "--json").out)
    assert answer["label"] == "spam" and answer["score"] > 0.9
    exported, original = (
        json.loads(hf_spam("evaluate", *model, "--data", MESSAGES, "--json").out)["sets"]["messages.csv"]["model"]
        for model in ([out], [copy_without_threshold(tmp_path / "model")])
    )
    assert exported["accuracy"]["value"] == pytest.approx(original["accuracy"]["value"], abs=0.005)
    done = hf_spam("calibrate", tmp_path / "out", "--data", MESSAGES, "--model", out)
    assert done.code == 1 and "is an ONNX export: calibrate the model it was made from" in done.err
    done = hf_spam("export", out, tmp_path / "out", "--onnx")
    assert done.code == 1 and "there is no model.safetensors" in done.err and not (tmp_path / "out").exists()


def test_it_can_be_pickled_and_uses_as_many_threads_as_torch(int8):
    classify = SpamClassifier.from_pretrained(int8[0])
    assert pickle.loads(pickle.dumps(classify))(TEXTS) == classify(TEXTS)
    threads = torch.get_num_threads()
    try:
        for wanted in (1, 2, 1):
            torch.set_num_threads(wanted)
            classify(["hi"])
            assert classify.model._session.get_session_options().intra_op_num_threads == wanted
    finally:
        torch.set_num_threads(threads)


def test_a_graph_with_different_answers_is_not_written(int8, tmp_path, messages, monkeypatch):
    """Its head prefers one class, so the label of one message in three changes."""

    def write_biased_graph(model, path):
        graph = onnx.load(int8[0] / "model.onnx")
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("out_head.bias"))
        bias.CopyFrom(numpy_helper.from_array(np.float32([100, 0]), bias.name))
        onnx.save(graph, path)

    monkeypatch.setattr(module, "_write_graph", write_biased_graph)
    message = r"^The fp32 export was not written: 1 of 3 messages get a different label, more than 0\.1%\.$"
    with pytest.raises(ValueError, match=message):
        export_onnx(BUNDLED, tmp_path / "out", data=messages)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_install_command(int8, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    hint = "hf-spam: ONNX needs onnxruntime, which is not installed: pip install hf-spam[onnx]\n"
    assert hf_spam("export", "bundled", tmp_path / "out", "--onnx").err == hint
    assert hf_spam("classify", "hi", "--model", int8[0]).err == hint
    assert hf_spam("classify", "hi").code == 0
