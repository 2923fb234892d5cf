"""Protects what an export needs for Transformers.js, and how it is found and run; its answers: tests/runtimes."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from hf_spam.conversion import transformers_js
from hf_spam.data.tokenization import train_tokenizer

find_library = importlib.reload(transformers_js).find_library  # the one that conftest.py hides


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def package(node_modules: Path) -> Path:
    folder = node_modules / "@huggingface" / "transformers"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "4.0.0"}')
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """Install an empty Transformers.js, and return the only folder of programs."""
    monkeypatch.setattr(transformers_js, "find_library", find_library)
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "global"))
    package(tmp_path / "global")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_the_library_is_found_as_node_finds_it(tmp_path, monkeypatch):
    (tmp_path / "project" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "sub")
    assert find_library() is None
    local = package(tmp_path / "project" / "node_modules")
    assert find_library() == local
    shared = package(tmp_path / "global")
    monkeypatch.setenv("NODE_PATH", f"{tmp_path}:{tmp_path / 'global'}")
    assert find_library() == shared


def test_what_is_missing_is_named_with_a_remedy(installed, monkeypatch):
    assert transformers_js.missing_in_node() == "needs Node.js, from version 18: https://nodejs.org"
    program(installed / "node", "echo v22.1.0")
    assert transformers_js.missing_in_node() is None
    assert transformers_js.version_in_node() == "4.0.0 (Node.js 22.1.0)"
    monkeypatch.setattr(transformers_js, "find_library", lambda: None)
    needs = "needs @huggingface/transformers: npm install --ignore-scripts @huggingface/transformers"
    assert transformers_js.missing_in_node() == needs


def test_answers_of_node_become_an_array_and_a_text_without_one_a_row_of_nan(installed, tmp_path):
    program(installed / "node", "echo a warning\necho '[[0.25, 0.75], [null, null]]'")
    found = transformers_js.run_in_node(tmp_path, ["a", "b"], precision="int8")
    np.testing.assert_array_equal(found, np.array([[0.25, 0.75], [np.nan, np.nan]], np.float32))


def test_an_error_in_node_is_one_line(installed, tmp_path):
    program(
        installed / "node", "echo 'file:///x.js:3' >&2\necho 'Error: no such file' >&2\necho '    at x' >&2\nexit 1"
    )
    with pytest.raises(ValueError, match=r"^Transformers.js in Node.js failed: Error: no such file$"):
        transformers_js.run_in_node(tmp_path, ["a"], precision="fp32")


def test_an_adapted_tokenizer_gives_the_same_tokens_in_python(tmp_path):
    """Its word pattern and the handling of lone surrogates are in the file, where JavaScript reads them."""
    texts = ["free\x85\x85prize  now!", "I'll  call you\n\n at 10:30", "wоn £1,000", " \x85!", "a\ufeffb"]
    train_tokenizer([*texts * 9, "you'll win"], vocab_size=300).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    before = Tokenizer.from_file(str(path))
    transformers_js.adapt_tokenizer(path)
    after = Tokenizer.from_file(str(path))
    assert [after.encode(text).ids for text in texts] == [before.encode(text).ids for text in texts]
    settings = json.loads(path.read_text())
    assert settings["normalizer"]["normalizers"][0]["pattern"] == {"Regex": r"\p{Cs}"}
    split, words = settings["pre_tokenizer"]["pretokenizers"]
    assert split["type"] == "Split" and words["use_regex"] is False
