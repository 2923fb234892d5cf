"""Protects exports in Transformers.js, in Node.js and in a real browser: same tokens, labels and scores as here."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import run_in_page, skip_without_chromium
from tricky_texts import tricky_texts

from hf_spam import SpamClassifier
from hf_spam.conversion import parity
from hf_spam.conversion.parity import NEWER, Runtime
from hf_spam.conversion.transformers_js import (
    DTYPES,
    LIBRARY,
    SCRIPT,
    find_library,
    missing_in_node,
    run_in_node,
)
from hf_spam.data.sources import read_texts
from hf_spam.data.tokenization import encode
from hf_spam.modeling.configuration_spam_gpt import decide

pytestmark = pytest.mark.runtimes

GUIDE = Path(__file__).parents[2] / "docs" / "runtimes.md"
IN_NODE = """
import { readFileSync } from "node:fs";
const read = async (name) => JSON.parse(readFileSync(name));
process.stdout.write(JSON.stringify(await (async () => { %s })()));
"""
IN_PAGE = """
const read = async (name) => (await fetch(name)).json();
%s
"""


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return read_texts("sample")


@pytest.fixture(scope="module")
def classifier() -> SpamClassifier:
    return SpamClassifier.from_pretrained("bundled")


@pytest.fixture(scope="module")
def expected(classifier, messages) -> np.ndarray:
    return classifier.predict_proba(messages)


@pytest.fixture(params=["Node.js", "Chromium"])
def program(request) -> str:
    """The name of a program that is installed."""
    if request.param == "Chromium":
        skip_without_chromium()
    elif reason := missing_in_node():
        pytest.skip(f"Transformers.js in Node.js {reason}")
    return request.param


@pytest.fixture
def run(program, tmp_path) -> Callable[[str, Path, dict[str, bytes]], Any]:
    """Return a function that runs the body of an asynchronous function and returns what it returns.

    It finds an export in `./models/mine-onnx`, and files under their names; `read` parses one in JSON.
    """

    def run(script: str, export: Path, files: dict[str, bytes]) -> Any:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "mine-onnx").symlink_to(export)
        if program == "Chromium":
            return run_in_page(IN_PAGE % script, {"models": tmp_path / "models"}, files)
        (tmp_path / "node_modules" / LIBRARY).parent.mkdir(parents=True)
        (tmp_path / "node_modules" / LIBRARY).symlink_to(find_library())
        for name, content in {"run.mjs": (IN_NODE % script).encode(), **files}.items():
            (tmp_path / name).write_bytes(content)
        done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def classify_in_page(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Return the probability of each class for each text, as `run_in_node` does."""
    request = {"model": "/model", "dtype": DTYPES[precision], "texts": list(texts)}
    files = {"run.mjs": SCRIPT.read_bytes(), "request.json": json.dumps(request).encode("ascii")}
    script = """
        const library = await import("@huggingface/transformers");
        const { probabilities } = await import("/run.mjs");
        return probabilities(library, await read("request.json"));
    """
    return np.array(run_in_page(IN_PAGE % script, {"model": folder}, files), np.float32)


@pytest.mark.parametrize(("precision", "labels_differ", "difference"), [("fp32", 0, 1e-5), ("int8", 21, 0.1)])
def test_answers_are_those_of_the_model(
    program, precision, labels_differ, difference, onnx_export, messages, classifier, expected, tmp_path, monkeypatch
):
    """For all messages of the sample, and awkward ones."""
    classify = partial(run_in_node if program == "Node.js" else classify_in_page, precision=precision)
    monkeypatch.setattr(parity, "RUNTIMES", [Runtime(program, "onnx", precision, lambda: "", classify)])
    folder = shutil.copytree(onnx_export, tmp_path / "my export")
    config, labels = classifier.model.config, decide(classifier.model.config, torch.from_numpy(expected)).numpy()

    def answer(texts: Sequence[str]) -> np.ndarray:
        return expected if texts is messages else classifier.predict_proba(texts)

    (result,) = parity.compare_runtimes(folder, "onnx", config, answer, messages, labels)["runtimes"]
    print(json.dumps(result))
    assert result["labels_differ"] <= labels_differ and result["largest_score_difference"] < difference
    assert not result["not_answered"] and set(result["answered_differently"]) <= {NEWER}


def test_every_text_is_read_as_the_same_tokens(program, run, onnx_export, messages, classifier):
    texts = [*messages[:: 1 if program == "Node.js" else 10], *tricky_texts(5000)]
    found = run(
        """
        const { AutoTokenizer, env } = await import("@huggingface/transformers");
        env.allowLocalModels = true;
        const tokenizer = await AutoTokenizer.from_pretrained("./models/mine-onnx");
        const found = [];
        for (const text of await read("texts.json")) {
          if (found.length % 100 === 0) await new Promise((resume) => setTimeout(resume));
          found.push(tokenizer(text, { return_tensor: false }).input_ids);
        }
        return found;
        """,
        onnx_export,
        {"texts.json": json.dumps(texts).encode("ascii")},
    )
    expected = encode(classifier.tokenizer, texts, 10**6)
    wrong = [text for text, ids, others in zip(texts, expected, found, strict=True) if ids != others]
    assert not wrong, f"{len(wrong)} texts, such as {wrong[:3]!r}"


def test_the_lines_of_the_guide_run(run, onnx_export):
    lines = re.search(r"```js\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    shown = run(
        """
        const shown = [];
        console.log = (...words) => shown.push(words.join(" "));
        await import("./guide.mjs");
        return shown;
        """,
        onnx_export,
        {"guide.mjs": lines.encode()},
    )
    assert shown == ["spam 0.99 WINNER! Call 09061701461 to claim your prize", "not spam 0.02 See you at lunch"]


def test_a_folder_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path):
    if reason := missing_in_node():
        pytest.skip(f"Transformers.js in Node.js {reason}")
    with pytest.raises(ValueError, match=r"^Transformers.js in Node.js failed: .*config\.json"):
        run_in_node(tmp_path, ["a"], precision="fp32")
