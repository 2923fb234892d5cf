"""Exports fit the servers of docs/serving.md, which tests cannot run: their files are what each server reads.

The rules are from the source code of text-embeddings-inference (router/src/lib.rs, backends/ort/src/lib.rs) and vLLM
(vllm/model_executor/models/gpt2.py), and from Triton's documentation.
"""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, GPT2ForSequenceClassification

from hf_spam import SpamClassifier

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
TEXTS = [
    "Free entry! Txt WIN to 10010",
    "Running late, start without me",
    "win " * 1000,
    "ok",
    "🙂🙂 لقد ربحت",
    "\u200b",
]


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_text_embeddings_inference_reads_the_config(onnx_export):
    """Its parser wants each of these once: a field with two names, such as n_positions as well, is an error."""
    config = read_config(onnx_export)
    assert any(name.endswith("Classification") for name in config["architectures"]) and config["model_type"]
    for names in (
        ("max_position_embeddings", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("pad_token_id",),
    ):
        found = [config[name] for name in names if name in config]
        assert len(found) == 1 and type(found[0]) is int and found[0] >= 0, names
    assert not {"num_key_value_heads", "n_head"} <= config.keys()
    labels = config["id2label"]
    assert len(labels) > 1 and {label: int(index) for index, label in labels.items()} == config["label2id"]
    assert json.loads((onnx_export / "tokenizer_config.json").read_text()).get("padding_side", "right") == "right"


def test_text_embeddings_inference_runs_the_graph(onnx_export):
    """As its ONNX Runtime backend does: batches of up to 8, padded on the right, a mask of int64, `logits` in fp32."""
    config = read_config(onnx_export)
    tokenizer = Tokenizer.from_file(str(onnx_export / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config["max_position_embeddings"])
    ids = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    assert all(ids)
    width = max(map(len, ids))
    padded = np.array([row + [config["pad_token_id"]] * (width - len(row)) for row in ids], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids], dtype=np.int64)
    session = onnxruntime.InferenceSession(onnx_export / "onnx" / "model.onnx")
    (logits,) = session.run(["logits"], {"input_ids": padded, "attention_mask": mask})
    assert logits.dtype == np.float32
    expected = SpamClassifier.from_pretrained().predict_proba(TEXTS)
    np.testing.assert_allclose(torch.tensor(logits).softmax(-1), expected, atol=1e-5)


def test_triton_finds_the_tensors_of_the_guide(onnx_export):
    """Their names, types and shapes; the first dimension is the batch, which the configuration leaves out."""
    (configuration,) = re.findall(r"```protobuf\n(.*?)```", GUIDE, re.DOTALL)
    tensors = re.findall(r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (-?\d+) \]', configuration)
    assert [name for name, _, _ in tensors] == ["input_ids", "attention_mask", "logits"]
    session = onnxruntime.InferenceSession(onnx_export / "onnx" / "model.onnx")
    types = {"INT64": "tensor(int64)", "FP32": "tensor(float)"}
    found = {tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_outputs())}
    assert found.keys() == {name for name, _, _ in tensors}
    for name, kind, size in tensors:
        batch, length = found[name].shape
        assert found[name].type == types[kind] and isinstance(batch, str), name
        assert isinstance(length, str) if size == "-1" else length == int(size), name


def test_triton_answers_as_in_the_guide(onnx_export):
    """The request of the guide, with the ids of its tokenizer."""
    (ids,) = re.findall(r'"input_ids".*?"data": \[([\d, ]+)\]', GUIDE)
    (logits,) = re.findall(r'"logits".*?"data": \[([-\d., ]+)\]', GUIDE)
    ids = [int(number) for number in ids.split(",")]
    assert ids == Tokenizer.from_file(str(onnx_export / "tokenizer.json")).encode("Hi").ids
    session = onnxruntime.InferenceSession(onnx_export / "onnx" / "model.onnx")
    inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}
    np.testing.assert_allclose(session.run(["logits"], inputs)[0][0], [float(x) for x in logits.split(",")], atol=1e-3)


def test_vllm_reads_the_checkpoint(gpt2_export):
    """Its GPT-2 has a head without a bias, takes only tensors that it knows, and asserts these settings."""
    config = read_config(gpt2_export)
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["model_type"] == "gpt2"
    assert not any(config[name] for name in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"))
    assert not config["reorder_and_upcast_attn"] and config["activation_function"] in ("gelu_new", "gelu_pytorch_tanh")
    assert "auto_map" not in config
    with safe_open(gpt2_export / "model.safetensors", "pt") as file:
        names = set(file.keys())
    with torch.device("meta"):
        stock = GPT2ForSequenceClassification(AutoConfig.from_pretrained(gpt2_export))
    assert names == stock.state_dict().keys() and "score.bias" not in names
    assert all(name.startswith("transformer.") or name == "score.weight" for name in names)


def test_vllm_gets_a_token_of_every_message(gpt2_export):
    """vLLM refuses a prompt without tokens."""
    tokenizer = Tokenizer.from_file(str(gpt2_export / "tokenizer.json"))
    assert all(tokenizer.encode(text).ids for text in ("", *TEXTS))


def test_answers_shown_in_the_guide():
    """Of the two messages that all examples send."""
    scores = SpamClassifier.from_pretrained().predict_proba(TEXTS[:2])
    shown = re.findall(r'"score": ([\d.]+)|"probs": \[([\d.]+), ([\d.]+)\]', GUIDE)
    shown = {number for numbers in shown for number in numbers if number}
    assert shown == {f"{score:.4f}" for score in scores.flatten()}
