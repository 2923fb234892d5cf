"""torch.compile changes the time only: the same answers, one compilation for batches of all sizes, clear refusals.

The compiler proper runs once; elsewhere `aot_eager` stands in for it, which sees the same graphs and writes no C++.
"""

import copy
import json
import pickle
import sys
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor.exc import TritonMissing

from hf_spam import SpamClassifier, SpamGPTConfig, SpamGPTForSequenceClassification, load_sms_spam
from hf_spam.cli import main
from hf_spam.data.tokenization import train_tokenizer

SAMPLE = load_sms_spam("sample", protocol="full")["train"]["text"][:200]
TEXTS = ["", "a", *SAMPLE[:40], "win " * 1000]
TOKENIZER = train_tokenizer(SAMPLE, 300)


@pytest.fixture(autouse=True)
def fresh_counts():
    torch._dynamo.reset()
    counters.clear()


def tiny(**settings) -> SpamGPTForSequenceClassification:
    """Large random weights, and messages longer than `n_positions`."""
    torch.manual_seed(0)
    ids = {name: 0 for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = {"vocab_size": 300, "n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = SpamGPTForSequenceClassification(SpamGPTConfig(**{**shape, **ids, **settings}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def pair(backend: str | Callable | None, **settings) -> tuple[SpamClassifier, SpamClassifier]:
    """One classifier plain, one compiled."""
    plain = SpamClassifier(tiny(**settings), TOKENIZER)
    compiled = SpamClassifier(copy.deepcopy(plain.model), TOKENIZER, torch_compile=True)
    if backend is not None:
        compiled.model.base_model.compile(dynamic=True, backend=backend)
    return plain, compiled


def assert_same_and_compiled_once(plain: SpamClassifier, compiled: SpamClassifier) -> None:
    """Over batches of many sizes, of one message and of one token among them."""
    expected = plain.probabilities(TEXTS)
    for count in (len(TEXTS), 7, 1):
        for batch_tokens in (None, 1, 30, 100):
            found = compiled.probabilities(TEXTS[-count:], batch_tokens=batch_tokens)
            torch.testing.assert_close(found, expected[-count:], atol=1e-5, rtol=0)
    compiled.probabilities(["a", "b"]), compiled.probabilities([""])
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize(
    ("pooling", "padded_length", "causal"),
    [
        ("mean", None, False),
        pytest.param("last", 12, True, marks=pytest.mark.slow),
        pytest.param("first", 12, False, marks=pytest.mark.slow),
    ],
)
def test_every_reading_is_compiled_once(pooling, padded_length, causal):
    settings = {"pooling": pooling, "padded_length": padded_length, "causal": causal, "n_layer": 2}
    assert_same_and_compiled_once(*pair("aot_eager", **settings))


def test_the_compilers_code_answers_alike_and_so_does_another_process(tmp_path, monkeypatch, capsys):
    """Through the command line too, where windows of many sizes, on one thread, need no code but the first."""
    plain, compiled = pair(None, pooling="last_token")
    assert_same_and_compiled_once(plain, compiled)
    sent = pickle.loads(pickle.dumps(compiled))
    assert sent.torch_compile and sent.model.base_model._compiled_call_impl is not None
    torch.testing.assert_close(sent.probabilities(TEXTS), plain.probabilities(TEXTS), atol=1e-5, rtol=0)
    plain.model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    arguments = [tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--model", tmp_path / "model", "--window-size", "9"]
    monkeypatch.setattr(sys, "argv", ["hf-spam", "score", *map(str, arguments), "--torch-compile"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0, capsys.readouterr().err
    rows, expected = [json.loads(line) for line in (tmp_path / "out.jsonl").open()], plain(TEXTS)
    assert [row["label"] for row in rows] == [answer["label"] for answer in expected]
    assert [row["score"] for row in rows] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
    assert counters["stats"]["unique_graphs"] <= 3  # the three models', not the batches'


def test_without_a_compiler_it_is_one_line_that_names_one():
    with (
        inductor_config.patch({"cpp.cxx": (None, "/nowhere/g++"), "fx_graph_cache": False}),
        pytest.raises(
            ValueError, match=r"torch\.compile cannot compile for cpu, .* such as g\+\+.*/nowhere/g\+\+"
        ) as e,
    ):
        pair(None)[1](TEXTS)
    assert "\n" not in str(e.value)


def test_without_triton_it_is_one_line_that_names_it():
    """Which on a GPU is asked for, and is an error of another kind."""

    def backend(graph, inputs):
        raise TritonMissing(None)

    with pytest.raises(ValueError, match=r"on a GPU Triton\): Cannot find a working triton installation.*$"):
        pair(backend)[1](TEXTS)
