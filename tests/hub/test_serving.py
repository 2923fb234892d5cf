"""The guide docs/serving.md is right about exports; what each server reads of one is tested with the conversions."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from hf_spam import SpamClassifier

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
TEXTS = ["Free entry! Txt WIN to 10010", "Running late, start without me"]  # sent by all examples of the guide


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


def test_answers_shown_in_the_guide():
    scores = SpamClassifier.from_pretrained().predict_proba(TEXTS)
    shown = re.findall(r'"score": ([\d.]+)|"probs": \[([\d.]+), ([\d.]+)\]', GUIDE)
    shown = {number for numbers in shown for number in numbers if number}
    assert shown == {f"{score:.4f}" for score in scores.flatten()}
