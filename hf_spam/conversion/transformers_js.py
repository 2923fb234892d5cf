"""Adapt an exported folder to Transformers.js, and run it there, under Node.js."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import write_json
from ..text import one_line

LIBRARY = "@huggingface/transformers"
SCRIPT = Path(__file__).with_suffix(".mjs")
DTYPES = {"fp32": "fp32", "int8": "q8"}  # what Transformers.js calls a precision
# The words of GPT-2, as in the library tokenizers.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def adapt_tokenizer(path: Path) -> None:
    """Change a `tokenizer.json` so that Transformers.js gives a text the same tokens as Python, where nothing changes.

    A word pattern in the file is translated to JavaScript; the one that Transformers.js has takes U+0085 for a symbol.
    A lone surrogate becomes U+FFFD before the normalizer may join it to another one.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words, normalizer = tokenizer["pre_tokenizer"] or {}, tokenizer["normalizer"]
    if words.get("type") == "ByteLevel" and words["use_regex"] and not words["add_prefix_space"]:
        split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, words | {"use_regex": False}]}
    if normalizer:
        replace = {"type": "Replace", "pattern": {"Regex": r"\p{Cs}"}, "content": "\ufffd"}
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [replace, normalizer]}
    write_json(path, tokenizer)


def find_library() -> Path | None:
    """Return the folder of Transformers.js: in `NODE_PATH`, or in a `node_modules` here or in a folder above."""
    places = [Path(path) for path in os.environ.get("NODE_PATH", "").split(os.pathsep) if path]
    places += [folder / "node_modules" for folder in (Path.cwd(), *Path.cwd().parents)]
    return next((place / LIBRARY for place in places if (place / LIBRARY / "package.json").is_file()), None)


def missing_in_node() -> str | None:
    """Return what Transformers.js needs to run under Node.js, with a remedy, or `None` if it is all there."""
    if not shutil.which("node"):
        return "needs Node.js, from version 18: https://nodejs.org"
    if not find_library():
        return f"needs {LIBRARY}: npm install --ignore-scripts {LIBRARY}"
    return None


def version_in_node() -> str:
    """Return the version of Transformers.js and that of Node.js."""
    library = json.loads((find_library() / "package.json").read_text(encoding="utf-8"))
    node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    return f"{library['version']} (Node.js {node.lstrip('v')})"


def run_in_node(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Return the probability of each class for each text, (N, num_labels); a row of NaN where Transformers.js fails.

    A folder that it cannot load raises a `ValueError`.
    """
    command = ["node", SCRIPT, find_library() / "dist" / "transformers.node.mjs"]
    request = {"model": os.fspath(folder.absolute()), "dtype": DTYPES[precision], "texts": list(texts)}
    request = json.dumps(request)  # escapes lone surrogates
    done = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Error:" in line), done.stderr)
        raise ValueError(f"Transformers.js in Node.js failed: {one_line(ValueError(reason))}")
    return np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)  # null becomes NaN
