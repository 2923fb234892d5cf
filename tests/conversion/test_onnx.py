"""Exported models answer as the models they were made of, or are not exported.

What a message is read as (pads on any side, padding, cutting, pooling) is inside the graph: it is compared with the
PyTorch model on whatever batches hypothesis thinks of.
"""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from hf_spam import SpamClassifier, SpamGPTConfig, SpamGPTForSequenceClassification
from hf_spam.cli import main
from hf_spam.conversion import export
from hf_spam.conversion.export import export_onnx
from hf_spam.conversion.onnx import OnnxModel
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.inference.classifier import POCKET
from hf_spam.modeling.configuration_spam_gpt import decide

TEXTS = ["", "Free entry! Txt WIN to 10010", "ok", "🙂", "win " * 1000, "lone \ud800 surrogate", "Running late, sorry"]
SAMPLE = read_messages("sample")["text"][:]
# Each pooling, and each pair of the two others. Batches are longer than `n_positions`, which is above `padded_length`.
# With a threshold so far from where the likeliest class changes that it decides many of the labels.
SPAM_OF_THREE = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
READINGS = [
    {"pooling": "last", "padded_length": 12, "causal": True, "threshold": 0.9},
    {"pooling": "last_token", "padded_length": None, "causal": True, "temperature": 3.0},
    {"pooling": "first", "padded_length": 12, "causal": False, "threshold": 0.2, **SPAM_OF_THREE},
    {"pooling": "mean", "padded_length": None, "causal": False, "threshold": 0.3, "temperature": 0.5},
]


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> Path:
    """A few messages to compare on, which take no time."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    path.write_text("label,text\nspam,Free entry! Txt WIN to 10010\nham,see you at home\nham,ok\n")
    return path


def save_tiny(folder: Path, **settings) -> Path:
    """A classifier with large random weights, and a tokenizer that fits it."""
    torch.manual_seed(0)
    ids = {name: 0 for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = {"vocab_size": 300, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = SpamGPTForSequenceClassification(SpamGPTConfig(**shape, **ids, **settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    train_tokenizer(SAMPLE[:100], 300).save_pretrained(folder)
    return folder


def assert_same_answers(folder: Path, model: SpamGPTForSequenceClassification) -> None:
    """The bare graph's, run without this package."""
    graph = onnxruntime.InferenceSession(folder / "model.onnx")
    batches = st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32 - 1))

    @settings(max_examples=25, derandomize=True)
    @given(batches)
    def check(batch):
        B, T, seed = batch
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(300, (B, T), generator=generator)
        attention_mask = (torch.rand(B, T, generator=generator) < torch.rand(B, 1, generator=generator)).long()
        attention_mask[seed % B] = seed % 2  # all pads, or none
        with torch.no_grad():
            expected = model(input_ids=input_ids, attention_mask=attention_mask).logits
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        logits, label = graph.run(["logits", "label"], inputs)
        assert logits == pytest.approx(expected.numpy(), abs=1e-5)
        assert label.tolist() == decide(model.config, expected.softmax(-1)).tolist()

    check()


@pytest.mark.parametrize("settings", READINGS, ids=lambda settings: settings["pooling"])
def test_the_graph_reads_a_message_as_the_model_does_and_names_its_class(tmp_path, messages, settings):
    """Pads on the left, on the right and between, none, nothing but pads, one token, and more than are read."""
    tiny = save_tiny(tmp_path / "tiny", **settings)
    report = export_onnx(tiny, tmp_path / "onnx", data=messages)
    assert (report["messages"], report["labels_differ"]) == (3, 0) and report["largest_score_difference"] < 1e-5
    exported, original = map(SpamClassifier.from_pretrained, (tmp_path / "onnx", tiny))
    assert isinstance(exported.model, OnnxModel)
    assert_same_answers(tmp_path / "onnx", original.model)
    assert torch.allclose(exported.probabilities(TEXTS), original.probabilities(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_weights_in_a_file_of_their_own_more_classes_and_what_goes_with_a_model(tmp_path, messages, monkeypatch):
    """As for a large model; `history.json` says how the data were split, `evaluate` asks it."""
    monkeypatch.setattr(export, "INLINE", 0)
    monkeypatch.setattr(export, "TOLERANCE", 1.0)  # what int8 makes of random weights is not the question here
    tiny = save_tiny(tmp_path / "tiny", num_labels=5)
    (tiny / "history.json").write_text('{"recipe": {"seed": 5}}')
    for int8 in (False, True):
        out = tmp_path / f"onnx-{int8}"
        export_onnx(tiny, out, int8=int8, data=messages)
        files = {file.name: file.stat().st_size for file in out.iterdir()}
        assert files["model.onnx.data"] > 10_000 and (out / "history.json").read_text() == '{"recipe": {"seed": 5}}'
        exported = SpamClassifier.from_pretrained(out)
        assert exported.probabilities(TEXTS).shape == (7, 5)
        assert exported.model.state_dict()["model.onnx.data"].shape == (files["model.onnx.data"],)
    (out / "model.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded, its model\.onnx is damaged"):
        SpamClassifier.from_pretrained(out)


# Through the command line


@pytest.fixture
def hf_spam(capsys, monkeypatch) -> Callable[..., tuple[str, str]]:
    """Runs the command line in this process, which has the libraries loaded; returns what went to each stream."""

    def run(*arguments, fails: bool = False) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["hf-spam", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        printed = capsys.readouterr()
        assert bool(exit.value.code) == fails, printed.err
        return printed

    return run


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> tuple[Path, dict]:
    """The bundled model in int8, and the report that was printed."""
    out = tmp_path_factory.mktemp("exports") / "int8"
    command = [sys.executable, "-m", "hf_spam", "export", POCKET, out, "--onnx", "--int8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return out, json.loads(done.stdout)


def test_the_report_holds_what_anyone_can_recompute(int8):
    out, report = int8
    assert json.loads((out / "export.json").read_text()) == report
    exported, original = (SpamClassifier.from_pretrained(model).probabilities(SAMPLE) for model in (out, None))
    assert report["messages"] == len(SAMPLE) and report["precision"] == "int8"
    assert report["labels_differ"] == (exported.argmax(-1) != original.argmax(-1)).sum() <= 1
    assert report["largest_score_difference"] == pytest.approx((exported - original).abs().max().item(), abs=1e-5)
    assert report["mean_score_difference"] == pytest.approx((exported - original).abs().mean().item(), abs=1e-5)
    assert 0 < report["mean_score_difference"] < 0.002
    assert report["weights"] == {"model.safetensors": export.hash_file(POCKET / "model.safetensors")}
    assert not (out / "manifest.json").exists()  # which is for what nobody is to change
    assert str(out.parent) not in (out / "export.json").read_text()


def test_int8_weights_are_in_8_bits_and_answers_depend_on_the_message_only(int8):
    """The scales of activations are fixed: those that follow the batch would make a score depend on its neighbours."""
    out, _ = int8
    weights = [tensor for tensor in onnx.load(out / "model.onnx").graph.initializer if len(tensor.dims) == 2]
    kinds = [tensor.data_type for tensor in weights]
    assert kinds.count(onnx.TensorProto.INT8) == 6  # of the one block; embeddings and head are as they were
    assert kinds.count(onnx.TensorProto.FLOAT) == 3
    classify = SpamClassifier.from_pretrained(out)
    together = classify.probabilities(SAMPLE[:200])
    alone = torch.cat([classify.probabilities([text]) for text in SAMPLE[:200]])
    assert torch.allclose(together, alone, atol=1e-5)


def test_commands_take_the_folder_for_a_model(int8, hf_spam):
    out, _ = int8
    answer = json.loads(hf_spam("classify", "Free entry! Txt WIN to 10010", "--model", out, "--json")[0])
    assert answer["label"] == "spam" and answer["score"] > 0.9
    exported, original = (
        json.loads(hf_spam("evaluate", *model, "--data", "sample", "--json")[0])["sets"]["sample"]["model"]
        for model in ([out], [])
    )
    assert exported["accuracy"]["value"] == pytest.approx(original["accuracy"]["value"], abs=0.005)


def test_it_goes_to_another_process_and_its_threads_are_those_of_torch(int8):
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


# What is refused


def test_an_export_that_answers_otherwise_is_refused(int8, tmp_path, messages, monkeypatch):
    """A graph whose head leans to one side: one message in three is lost, and nothing is written."""

    def leaning(model, path):
        graph = onnx.load(int8[0] / "model.onnx")
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("out_head.bias"))
        bias.CopyFrom(numpy_helper.from_array(np.float32([100, 0]), bias.name))
        onnx.save(graph, path)

    monkeypatch.setattr(export, "_write_graph", leaning)
    message = r"Not exported: in fp32 1 of 3 messages, more than 0\.1%, get another label than from the model\."
    with pytest.raises(ValueError, match=message):
        export_onnx(POCKET, tmp_path / "out", data=messages)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("differ", "refused"), [(1, False), (2, True)])
def test_one_label_in_a_thousand_may_differ(int8, tmp_path, monkeypatch, differ, refused):
    agreement = export._agreement
    monkeypatch.setattr(export, "_agreement", lambda *both: agreement(*both) | {"labels_differ": differ})
    monkeypatch.setattr(export, "_write_graph", lambda model, path: shutil.copy(int8[0] / "model.onnx", path))
    assert len(SAMPLE) == 1000
    if refused:
        with pytest.raises(ValueError, match="2 of 1000 messages"):
            export_onnx(POCKET, tmp_path / "out")
    else:
        assert export_onnx(POCKET, tmp_path / "out")["labels_differ"] == 1
    assert (tmp_path / "out").exists() != refused


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, int8, hf_spam):
    (tmp_path / "there").mkdir()
    for arguments, message in (
        ([POCKET, tmp_path / "there", "--onnx"], f"{tmp_path / 'there'} exists: name a folder that does not."),
        ([POCKET, tmp_path / "out"], "Missing option '--onnx'"),
        ([tmp_path / "none", tmp_path / "out", "--onnx"], f"'{tmp_path / 'none'}'"),
        ([POCKET, tmp_path / "out", "--onnx", "--data", "none.csv"], "none.csv: no such file"),
        ([int8[0], tmp_path / "out", "--onnx"], "there is no model.safetensors"),
    ):
        (line,) = hf_spam("export", *arguments, fails=True)[1].splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()


def test_what_an_export_is_not_for_is_said_in_one_line(tmp_path, int8, hf_spam):
    arguments = ["calibrate", tmp_path / "out", "--data", "sample", "--model", int8[0]]
    (line,) = hf_spam(*arguments, fails=True)[1].splitlines()
    assert "is an ONNX export: calibrate the model it was made of" in line
    assert not list(tmp_path.iterdir())


def test_a_damaged_graph_or_another_model_is_said_in_one_line(tmp_path, int8, hf_spam):
    for name in ("graph", "config", "kind"):
        shutil.copytree(int8[0], tmp_path / name)
    graph = tmp_path / "graph" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    (tmp_path / "config" / "config.json").unlink()
    (tmp_path / "kind" / "config.json").write_text('{"model_type": "bert"}')
    for name, message in (
        ("graph", "cannot be loaded, its model.onnx is damaged: "),
        ("config", "there is no config.json"),
        ("kind", "holds a model of type 'bert', not 'spam_gpt'."),
    ):
        (line,) = hf_spam("classify", "hi", "--model", tmp_path / name, fails=True)[1].splitlines()
        assert message in line


def test_a_missing_package_is_named_with_what_to_do(int8, tmp_path, hf_spam, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    hint = "hf-spam: ONNX needs onnxruntime, which is not installed: pip install hf-spam[onnx]\n"
    assert hf_spam("export", POCKET, tmp_path / "out", "--onnx", fails=True) == ("", hint)
    assert hf_spam("classify", "hi", "--model", int8[0], fails=True) == ("", hint)
    assert SpamClassifier.from_pretrained()(["hi"])
