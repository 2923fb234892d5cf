"""An exported graph answers like the model it was made from, in any program that runs standard ONNX operators.

The graph includes padding, truncation and pooling, so it is compared with the PyTorch model on random batches.
"""

import json
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import hf_spam
from huggingface_hub import HfApi
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from small_data import MESSAGES
from tiny_models import build

from hf_spam import SpamClassifier
from hf_spam.conversion import onnx as module
from hf_spam.conversion.loading import load_classifier
from hf_spam.conversion.onnx import GRAPHS, OnnxModel, is_onnx, write_onnx
from hf_spam.data.sources import read_messages
from hf_spam.evaluation.models import load_candidate
from hf_spam.hub.export import save_tokenizer
from hf_spam.inference.quick import QuickClassifier, quick_classifier
from hf_spam.inference.scoring import trained_text_column

TEXTS = ["", "Free entry! Txt WIN to 10010", "ok", "🙂", "win " * 1000, "lone \ud800 surrogate", "Running late, sorry"]
SAMPLE = read_messages(MESSAGES)["text"][:200]
# Every pooling, with every pair of the other two settings.
THREE_LABELS = {"id2label": {0: "ad", 1: "Spam", 2: "chat"}, "label2id": {"ad": 0, "Spam": 1, "chat": 2}}
READINGS = {
    "last": {"padded_length": 12, "causal": True},
    "last_token": {"padded_length": None, "causal": True, "temperature": 3.0, "eos_token_id": 0},
    "first": {"padded_length": 12, "causal": False, **THREE_LABELS},
    "mean": {"padded_length": None, "causal": False, "temperature": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, onnx_export) -> Path:
    """Write the bundled model's graphs like those of a large one, with weights in files of their own.

    The graph is not traced again.
    """
    folder, classifier = tmp_path_factory.mktemp("onnx"), SpamClassifier.from_pretrained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_INLINE_BYTES", 0)
        patch.setattr(module, "_trace", lambda _: onnx.load(onnx_export / GRAPHS["fp32"]))
        write_onnx(load_classifier("bundled", attn_implementation="sdpa").eval(), folder)
    save_tokenizer(classifier.tokenizer, folder, classifier.model.config.max_tokens)
    return folder


@pytest.mark.parametrize("reading", ["bundled", *[pytest.param(each, marks=pytest.mark.slow) for each in READINGS]])
def test_the_graph_reads_a_message_like_the_model(reading, onnx_export, tmp_path):
    """With no token, one, and too many; padded on either side, in between, nowhere and everywhere.

    If the tokenizer ends every text with a token, the last one that is read becomes this token, since Transformers.js
    cuts a text after its tokenizer has added it.
    """
    if reading == "bundled":
        model, end, folder = load_classifier("bundled").eval(), 0, onnx_export
    else:
        model = build(vocab_size=300, pad_token_id=1, pooling=reading, **READINGS[reading])
        end, folder = 3 if reading in ("last_token", "mean") else None, tmp_path
        write_onnx(model, folder, end_token_id=end)
    graph, limit = onnxruntime.InferenceSession(folder / GRAPHS["fp32"]), model.config.max_tokens

    @settings(max_examples=40, derandomize=True)
    @given(st.integers(1, 4), st.integers(0, 8) | st.integers(limit - 4, limit + 4), st.integers(0, 2**32 - 1))
    def check(B, T, seed):
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(300, (B, T), generator=generator)
        attention_mask = (torch.rand(B, T, generator=generator) < torch.rand(B, 1, generator=generator)).long()
        attention_mask[seed % B] = seed % 2  # only pads, or none
        if seed % 3 == 0:
            input_ids[:, -1:] = 0  # a long message keeps its end-of-text token
        whole = input_ids.clone()
        if end is not None:
            whole[attention_mask.bool() & (attention_mask.cumsum(1) == limit)] = end
        with torch.no_grad():
            expected = model(input_ids=whole, attention_mask=attention_mask).logits
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (logits,) = graph.run(None, inputs)
        assert logits == pytest.approx(expected.numpy(), abs=1e-5)
        for i in range(B):  # no message depends on the others of its batch
            (alone,) = graph.run(None, {name: array[i : i + 1] for name, array in inputs.items()})
            assert alone == pytest.approx(logits[i : i + 1], abs=1e-5)

    check()


@pytest.mark.parametrize("precision", GRAPHS)
def test_graphs_need_no_new_or_special_runtime(folder, precision):
    """Text Embeddings Inference pins ONNX Runtime 1.22, which reads opset 22 and version 10 of the format."""
    graph = onnx.load(folder / GRAPHS[precision])
    onnx.checker.check_model(graph, full_check=True)
    assert [(one.domain, one.version <= 21) for one in graph.opset_import] == [("", True)] and graph.ir_version <= 10
    assert "Attention" not in {node.op_type for node in graph.graph.node} and not graph.functions
    inputs, outputs = (
        [(one.name, one.type.tensor_type.elem_type) for one in part] for part in (graph.graph.input, graph.graph.output)
    )
    assert inputs == [("input_ids", TensorProto.INT64), ("attention_mask", TensorProto.INT64)]
    assert outputs == [("logits", TensorProto.FLOAT)]
    assert b"/" not in b"".join(prop.value.encode() for node in graph.graph.node for prop in node.metadata_props)


def test_int8_changes_scores_little_and_stores_large_weights_in_a_byte(folder):
    tensors = onnx.load(folder / GRAPHS["int8"]).graph.initializer
    sizes = {kind: sum(int(np.prod(one.dims)) for one in tensors if one.data_type == kind) for kind in (1, 3)}
    assert sizes[TensorProto.INT8] > 20 * sizes[TensorProto.FLOAT]
    exported, original = map(SpamClassifier.from_pretrained, (folder / GRAPHS["int8"], None))
    scores = exported.predict_proba(SAMPLE)
    assert 1e-6 < np.abs(scores - original.predict_proba(SAMPLE)).max() < 0.02
    assert exported.predict(SAMPLE) == original.predict(SAMPLE)
    alone = np.concatenate([exported.predict_proba([text]) for text in SAMPLE[:50]])
    assert np.allclose(scores[:50], alone, atol=1e-5)


def test_other_programs_find_what_they_look_for(folder):
    """The rules of Text Embeddings Inference (router/src/lib.rs) and Transformers.js for a folder with an ONNX model.

    To the former, a field under two names, such as n_positions as well, is an error.
    """
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("config.json", "tokenizer.json", "tokenizer_config.json"),
        *("onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "distilbert"
    assert all(name.endswith("ForSequenceClassification") for name in config["architectures"])
    assert config["id2label"] == {"0": "not spam", "1": "spam"} and config["label2id"] == {"not spam": 0, "spam": 1}
    own = config["spam_gpt"]
    sizes = {"hidden_size": own["n_embd"], "num_hidden_layers": own["n_layer"], "max_position_embeddings": 192}
    assert config.items() >= {**sizes, "pad_token_id": 1}.items()
    assert not {"n_positions", "n_embd", "n_layer", "n_head"} & config.keys()
    has_data_file = {"model.onnx": True, "model_quantized.onnx": True}
    assert config["transformers.js_config"]["use_external_data_format"] == has_data_file
    assert "auto_map" not in json.dumps(config) and "custom_pipelines" not in json.dumps(config)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert (tokenizer["tokenizer_class"], tokenizer["model_max_length"]) == ("PreTrainedTokenizerFast", 192)
    assert tokenizer.get("padding_side", "right") == "right"


def test_large_weights_have_their_own_file(folder, tmp_path):
    assert all((folder / name).stat().st_size < 100_000 for name in GRAPHS.values())
    assert len({path.stat().st_mode for path in folder.rglob("*.onnx*")}) == 1  # all are readable for the same people
    assert set(OnnxModel(folder).state_dict()) == {"model.onnx", "model.onnx_data"}
    assert set(OnnxModel(folder / GRAPHS["int8"]).state_dict()) == {"model_quantized.onnx", "model_quantized.onnx_data"}
    for name in (*GRAPHS.values(), "config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.link(folder / name, tmp_path / name)
    assert is_onnx(tmp_path) and is_onnx(tmp_path / GRAPHS["int8"]) and not is_onnx("bundled")
    with pytest.raises(ValueError, match=r"model\.onnx' cannot be loaded: "):
        OnnxModel(tmp_path)


@pytest.mark.parametrize("precision", GRAPHS)
def test_commands_accept_a_folder_and_a_graph_as_a_model(folder, precision, tmp_path):
    model = folder if precision == "fp32" else folder / GRAPHS[precision]
    answer = hf_spam("classify", "Free entry! Txt WIN to 10010", "--model", model, "--json")
    assert json.loads(answer.out)["score"] > 0.9
    small = tmp_path / "small.csv"
    small.write_text("label,text\nspam,Free entry! Txt WIN to 10010\nham,Running late\nham,ok\n")
    done = hf_spam("evaluate", model, "--data", small, "--json")
    assert json.loads(done.out)["sets"]["small.csv"]["model"]["accuracy"]["value"] == 1, done.err
    done = hf_spam("score", small, tmp_path / "out.csv", "--model", model, "--prefix", "p_")
    assert done.code == 0 and "p_label" in (tmp_path / "out.csv").read_text()
    done = hf_spam("calibrate", tmp_path / "out", "--data", MESSAGES, "--model", model)
    assert done.code == 1 and "is an ONNX export: calibrate the model it was made from" in done.err


def test_a_folder_may_be_called_like_a_graph(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine.onnx")
    for name in (tmp_path / "mine.onnx", tmp_path / "mine.onnx" / GRAPHS["fp32"]):
        assert SpamClassifier.from_pretrained(name)(TEXTS) == SpamClassifier.from_pretrained(folder)(TEXTS)
        assert quick_classifier(name)(["hi"]) and load_candidate(name).size > 1000


def test_a_graph_may_lie_beside_its_configuration(folder, tmp_path):
    """Here in the folder of another export, whose settings are not read."""
    outer = shutil.copytree(folder, tmp_path / "outer")
    flat = outer / "flat"
    flat.mkdir()
    for file in (*folder.glob("*.json"), *(folder / "onnx").iterdir()):
        shutil.copyfile(file, flat / file.name)
    graph = flat / "model_quantized.onnx"
    (flat / "history.json").write_text('{"recipe": {"text_column": "body"}}')
    (outer / "config.json").write_text("{}")
    answers, expected = QuickClassifier(graph)(TEXTS), SpamClassifier.from_pretrained(graph)(TEXTS)
    assert [each["score"] for each in answers] == pytest.approx([each["score"] for each in expected], abs=1e-6)
    assert trained_text_column(graph) == "body"


def test_an_export_is_loaded_from_the_hub(folder, hub):
    api = HfApi()
    api.create_repo("alice/spam-onnx")
    api.upload_folder(repo_id="alice/spam-onnx", folder_path=folder)
    classify = SpamClassifier.from_pretrained("alice/spam-onnx")
    assert isinstance(classify.model, OnnxModel)
    assert classify(TEXTS) == SpamClassifier.from_pretrained(folder)(TEXTS)


def test_it_can_be_pickled_and_uses_as_many_threads_as_torch(folder):
    classify = SpamClassifier.from_pretrained(folder)
    assert pickle.loads(pickle.dumps(classify))(TEXTS) == classify(TEXTS)
    threads = torch.get_num_threads()
    try:
        for wanted in (1, 2, 1):
            torch.set_num_threads(wanted)
            classify(["hi"])
            assert classify.model._session.get_session_options().intra_op_num_threads == wanted
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("graph", [None, "", *GRAPHS.values()])
def test_classify_answers_quickly_and_like_the_classifier(folder, graph):
    """With the bundled model, a folder, and each of its graphs."""
    model = "bundled" if graph is None else folder / graph
    texts, classify = [*TEXTS, *SAMPLE], quick_classifier(model)
    for quick in (classify, pickle.loads(pickle.dumps(classify))):
        answers, expected = quick(texts), SpamClassifier.from_pretrained(model)(texts)
        assert [each["label"] for each in answers] == [each["label"] for each in expected]
        assert [each["score"] for each in answers] == pytest.approx([each["score"] for each in expected], abs=1e-6)
        assert quick([]) == [] and quick.fingerprint() == classify.fingerprint()
    with pytest.raises(TypeError, match="A message must be a string, got int"):
        classify([5])
    assert classify("hi") == classify(text for text in ["hi"])


def test_the_fingerprint_tells_models_apart(folder, tmp_path):
    """By their graphs, weights, tokenizers and thresholds, wherever they are."""
    models = ["bundled", folder, folder / GRAPHS["int8"]]
    models += [shutil.copytree(folder, tmp_path / name) for name in ("threshold", "tokenizer", "weights")]
    assert len({QuickClassifier(model).fingerprint() for model in models[1:2] + models[3:]}) == 1
    config, tokenizer, weights = (
        models[3] / "config.json",
        models[4] / "tokenizer.json",
        models[5] / f"{GRAPHS['fp32']}_data",
    )
    config.write_text(config.read_text().replace('"threshold": 0.', '"threshold": 0.1'))
    tokenizer.write_text(f"{tokenizer.read_text()}\n")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert len({QuickClassifier(model).fingerprint() for model in models}) == 6


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", b'"spam_gpt"', b'"not_ours"'),
        ("config.json", b'"threshold": 0.', b'"threshold": 2.'),
        ("config.json", b"{", b"["),
        ("config.json", b'"vocab_size": 8000', b'"vocab_size": 7999'),
        ("tokenizer.json", b'"vocab"', b'"vocap"'),
        ("onnx/model.onnx", b"MatMul", b"NatMul"),
    ],
)
def test_an_unusable_export_is_left_to_the_classifier(folder, tmp_path, name, old, new):
    """Which reports what is wrong."""
    broken = shutil.copytree(folder, tmp_path / "broken", copy_function=os.link)
    content = (broken / name).read_bytes()
    (broken / name).unlink()
    assert quick_classifier(broken) is None
    (broken / name).write_bytes(content.replace(old, new))
    assert old in content and quick_classifier(broken) is None
    with pytest.raises((ValueError, OSError)):
        SpamClassifier.from_pretrained(broken)


def test_answers_that_are_no_numbers_are_an_error(folder, tmp_path):
    """Here, only the empty message that is tried at first has a finite one."""
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    graph = onnx.load(damaged / GRAPHS["fp32"])
    config = json.loads((damaged / "config.json").read_text())
    (embeddings,) = [each for each in graph.graph.initializer if each.dims and each.dims[0] == config["vocab_size"]]
    values = onnx.numpy_helper.to_array(embeddings).copy()
    values[2:] = math.nan  # all but the end of the text and the pad
    embeddings.CopyFrom(onnx.numpy_helper.from_array(values, embeddings.name))
    onnx.save(graph, damaged / GRAPHS["fp32"])
    with pytest.raises(ValueError, match="NaN or infinite logits: its weights are damaged"):
        quick_classifier(damaged)(["see you at home"])
