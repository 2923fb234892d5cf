"""Protects exports in Transformers.js under Node.js: same tokens, labels and scores, and the guide's lines work."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from tricky_texts import tricky_texts

from hf_spam.conversion import transformers_js
from hf_spam.conversion.parity import NEWER
from hf_spam.data.tokenization import encode

pytestmark = pytest.mark.runtimes

GUIDE = Path(__file__).parents[2] / "docs" / "runtimes.md"


@pytest.fixture
def node(tmp_path):
    """Return a function that runs JavaScript in Node.js, and returns what it prints."""
    if reason := transformers_js.missing_in_node():
        pytest.skip(f"Transformers.js in Node.js {reason}")
    scope = tmp_path / "node_modules" / "@huggingface"
    scope.mkdir(parents=True)
    (scope / "transformers").symlink_to(transformers_js.find_library())

    def run(script: str, *arguments: Path) -> str:
        (tmp_path / "run.mjs").write_text(script, encoding="utf-8")
        done = subprocess.run(["node", "run.mjs", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("precision", "labels_differ", "difference"), [("fp32", 0, 1e-5), ("int8", 21, 0.1)])
def test_node_answers_like_the_model(agreement, runtimes, precision, labels_differ, difference):
    result = agreement(runtimes["Transformers.js in Node.js", precision])
    assert result["labels_differ"] <= labels_differ and result["largest_score_difference"] < difference
    assert not result["not_answered"] and set(result["answered_differently"]) <= {NEWER}


def test_node_reads_every_text_as_the_same_tokens(node, exports, messages, classifier, tmp_path):
    texts = [*messages, *tricky_texts(5000)]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="ascii")
    found = node(
        """
        import { readFileSync } from "node:fs";
        import { AutoTokenizer } from "@huggingface/transformers";

        const tokenizer = await AutoTokenizer.from_pretrained(process.argv[2]);
        const texts = JSON.parse(readFileSync("texts.json"));
        console.log(JSON.stringify(texts.map((text) => tokenizer(text, { return_tensor: false }).input_ids)));
        """,
        exports("onnx"),
    )
    expected = encode(classifier.tokenizer, texts, 10**6)
    wrong = [text for text, ids, others in zip(texts, expected, json.loads(found), strict=True) if ids != others]
    assert not wrong, f"{len(wrong)} texts, such as {wrong[:3]!r}"


def test_the_lines_of_the_guide_run_in_node(node, exports, tmp_path):
    lines = re.search(r"```js\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine-onnx").symlink_to(exports("onnx"))
    assert node(lines).splitlines() == [
        "spam 0.97 WINNER! Call 09061701461 to claim your prize",
        "not spam 0.02 See you at lunch",
    ]


def test_a_folder_that_cannot_be_loaded_is_refused_with_the_reason(exports, tmp_path):
    if reason := transformers_js.missing_in_node():
        pytest.skip(f"Transformers.js in Node.js {reason}")
    with pytest.raises(ValueError, match=r"^Transformers.js in Node.js failed: .*config\.json"):
        transformers_js.run_in_node(tmp_path, ["a"], precision="fp32")
