"""Protects exports in Transformers.js in a real browser: same tokens, labels and scores, and the guide's lines work."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from chromium import run_in_page, skip_without_chromium
from tricky_texts import tricky_texts

from hf_spam.conversion.parity import NEWER, Runtime
from hf_spam.conversion.transformers_js import DTYPES, SCRIPT, to_array
from hf_spam.data.tokenization import encode

pytestmark = pytest.mark.runtimes

GUIDE = Path(__file__).parents[2] / "docs" / "runtimes.md"


CLASSIFY = """
const library = await import("@huggingface/transformers");
const { probabilities } = await import("/run.mjs");
return probabilities(library, await (await fetch("/request.json")).json());
"""


@pytest.fixture(autouse=True)
def _chromium():
    skip_without_chromium()


def classify(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Return the probability of each class for each text."""
    request = {"model": "/model", "dtype": DTYPES[precision], "texts": list(texts)}
    files = {"run.mjs": SCRIPT.read_bytes(), "request.json": json.dumps(request).encode("ascii")}
    return to_array(folder, run_in_page(CLASSIFY, {"model": folder}, files))


@pytest.mark.parametrize(("precision", "labels_differ", "difference"), [("fp32", 0, 1e-5), ("int8", 21, 0.1)])
def test_chromium_answers_like_the_model(agreement, precision, labels_differ, difference):
    run = partial(classify, precision=precision)
    result = agreement(Runtime("Transformers.js in Chromium", "onnx", precision, lambda: "", run))
    assert result["labels_differ"] <= labels_differ and result["largest_score_difference"] < difference
    assert not result["not_answered"] and set(result["answered_differently"]) <= {NEWER}


def test_chromium_reads_every_text_as_the_same_tokens(exports, messages, classifier):
    texts = [*messages[::10], *tricky_texts(5000)]
    found = run_in_page(
        """
        const { AutoTokenizer, env } = await import("@huggingface/transformers");
        env.allowLocalModels = true;
        const tokenizer = await AutoTokenizer.from_pretrained("/model");
        const texts = await (await fetch("/texts.json")).json();
        const found = [];
        for (const text of texts) {
          if (found.length % 100 === 0) await new Promise((resume) => setTimeout(resume));
          found.push(tokenizer(text, { return_tensor: false }).input_ids);
        }
        return found;
        """,
        {"model": exports("onnx")},
        {"texts.json": json.dumps(texts).encode("ascii")},
    )
    expected = encode(classifier.tokenizer, texts, 10**6)
    wrong = [text for text, ids, others in zip(texts, expected, found, strict=True) if ids != others]
    assert not wrong, f"{len(wrong)} texts, such as {wrong[:3]!r}"


def test_the_lines_of_the_guide_run_in_chromium(exports):
    lines = re.search(r"```js\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    shown = run_in_page(
        """
        const shown = [];
        console.log = (...words) => shown.push(words.join(" "));
        await import("/guide.mjs");
        return shown;
        """,
        {"models": exports("onnx").parent},
        {"guide.mjs": lines.replace("mine-onnx", exports("onnx").name).encode()},
    )
    assert shown == ["spam 0.97 WINNER! Call 09061701461 to claim your prize", "not spam 0.02 See you at lunch"]
