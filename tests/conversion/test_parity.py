"""An export passes if at most one label in a thousand differs in every runtime, and in fp32 no score does."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_spam.conversion import parity
from hf_spam.conversion.parity import AWKWARD, RUNTIMES, Runtime, compare_runtimes
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig

TEXTS = [f"message {i}" for i in range(1000)]


def probabilities(texts, spam=0.2) -> np.ndarray:
    return np.float32([[1 - spam, spam]] * len(texts))


def certify(monkeypatch, tmp_path: Path, change, *, texts=TEXTS, precision="fp32", missing=None, threshold=None):
    """Compare a model that always answers 0.2 with a runtime whose answers are passed through `change`."""

    def run(folder: Path, texts: list[str]) -> np.ndarray:
        answers = probabilities(texts)
        left = json.loads((folder / "tokenizer_config.json").read_text()).get("padding_side") == "left"
        change(answers, texts, left)
        return answers

    runtime = Runtime("a runtime", "onnx", precision, lambda: "1.0", run, lambda: missing)
    monkeypatch.setattr(parity, "RUNTIMES", [runtime])
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "tokenizer_config.json").write_text('{"model_max_length": 8}')
    config, labels = SpamGPTConfig(threshold=threshold), np.zeros(len(texts), int)
    result = compare_runtimes(tmp_path / "export", "onnx", config, probabilities, texts, labels)
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "tokenizer_config.json"]
    return result


def spam(count: int, score: float = 0.9):
    def change(answers, texts, left):
        if texts[0] == TEXTS[0]:
            answers[:count] = (1 - score, score)

    return change


def unanswered(answers, texts, left):
    answers[:2] = np.nan


@pytest.mark.parametrize("differ", [0, 1])
def test_one_label_in_a_thousand_may_differ(differ, monkeypatch, tmp_path):
    result = certify(monkeypatch, tmp_path, spam(differ), precision="int8")
    assert result["messages"] == 1000 and result["runtimes"][0]["labels_differ"] == differ


TOO_MANY = r"^in a runtime \({}\), {} messages get a different label, more than 0\.1%\.$"
DISAGREEMENTS = {
    "two in a thousand": (spam(2), {"precision": "int8"}, TOO_MANY.format("int8", "2 of 1000")),
    "one in fewer": (spam(1), {"texts": TEXTS[:999], "precision": "int8"}, TOO_MANY.format("int8", "1 of 999")),
    "no answers": (unanswered, {}, TOO_MANY.format("fp32", "2 of 1000")),
    "by the threshold": (spam(2, 0.3), {"precision": "int8", "threshold": 0.25}, "2 of 1000 messages"),
    "a score in fp32": (spam(1, 0.201), {}, r"^in a runtime \(fp32\), a score differs by 0\.001, more than 1e-04\.$"),
}


@pytest.mark.parametrize("disagreement", DISAGREEMENTS)
def test_a_runtime_that_disagrees_is_refused(disagreement, monkeypatch, tmp_path):
    change, settings, message = DISAGREEMENTS[disagreement]
    with pytest.raises(ValueError, match=message):
        certify(monkeypatch, tmp_path, change, **settings)


def test_awkward_messages_are_told_apart(monkeypatch, tmp_path):
    """They are not answered, or answered as no other runtime does, which is said."""

    def change(answers, texts, left):
        for answer, text in zip(answers, texts, strict=True):
            if text in ("", AWKWARD["lone surrogate"]):
                answer[:] = np.nan
            if text == AWKWARD["NUL"] or left:
                answer[:] = 0.5

    (result,) = certify(monkeypatch, tmp_path, change)["runtimes"]
    assert result == {
        **{"runtime": "a runtime", "precision": "fp32", "version": "1.0"},
        **{"labels_differ": 0, "largest_score_difference": 0.0},
        "not_answered": ["empty message", "lone surrogate"],
        "answered_differently": ["left-padded batch", "NUL"],
    }


def test_a_runtime_that_is_missing_is_named(monkeypatch, tmp_path):
    result = certify(monkeypatch, tmp_path, None, missing="needs a thing: pip install thing")
    assert result == {"messages": 1000, "runtimes": [], "not_run": {"a runtime": "needs a thing: pip install thing"}}


def test_a_text_that_fails_does_not_fail_its_batch(monkeypatch):
    class Pipeline:
        model = SimpleNamespace(config=SpamGPTConfig())

        def __call__(self, texts):
            if "" in texts:
                raise RuntimeError("empty")
            return [[{"label": "spam", "score": 0}, {"label": "not spam", "score": len(text)}] for text in texts]

    monkeypatch.setattr("transformers.pipeline", lambda *_, **__: Pipeline())
    found = RUNTIMES[0].probabilities(Path(), ["four", "", *["a"] * 50])
    assert found[0].tolist() == [4, 0] and np.isnan(found[1]).all() and (found[2:, 0] == 1).all()
