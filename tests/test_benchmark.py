"""The benchmark runs to the end in its short form, and what it compares is equal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.mark.parametrize("table", ["fine-tuning", pytest.param("scoring, pocket", marks=pytest.mark.slow)])
def test_short_form(table, gpt2_tokenizer_dir, tmp_path):
    """Not the times, which a test cannot judge, but that they are there, and that the numbers agree."""
    small = ("--shape", "tiny", "--messages", "60", "--epochs", "1", "--repeats", "1", "--only", table)
    left_out = ("--without", "Trainer", "--without", "hf_spam, last token, no padding")
    sources = ("--data", "sample", "--tokenizer", gpt2_tokenizer_dir, "--output", tmp_path / "report.json")
    command = [sys.executable, SCRIPT, *small, *left_out, *sources]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "report.json").read_text())["tables"][table]["runs"]
    peer, ours = runs["the book's loop" if table == "fine-tuning" else "pipeline"], runs["hf_spam"]
    for name in ("losses", "final") if table == "fine-tuning" else ("scores",):
        assert len(peer[0][name]) > 1 and ours[0][name] == pytest.approx(peer[0][name], abs=1e-5), name
    for run in (peer[0], ours[0]):
        assert run["seconds"] > 0 and run["memory"] > 100
    header, _, first, second, *_ = done.stdout.strip().splitlines()
    assert header.startswith(f"| {table} | seconds |") and "| 1.0x |" in first and "hf_spam" in second
