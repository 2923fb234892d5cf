"""The benchmark runs to the end in a short form, and the compared results agree."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_data import MESSAGES

SCRIPTS = Path(__file__).parents[1] / "scripts"


def output_of(script: str, *arguments: object) -> str:
    """Run a script in this process, which saves the imports of a new one; return what it prints."""
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if script == "benchmark":
        module.in_a_process = module.do_job
    done = CliRunner().invoke(module.main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def tiny(gpt2_tokenizer_dir) -> list[object]:
    """Arguments for a short run with a tiny network."""
    return ["--shape", "tiny", "--epochs", 1, "--data", MESSAGES, "--tokenizer", gpt2_tokenizer_dir]


@pytest.mark.parametrize("table", ["fine-tuning", pytest.param("scoring, bundled", marks=pytest.mark.slow)])
def test_benchmark_runs(table, tiny, tmp_path):
    """Times are reported but not judged here; the results must agree."""
    others = ["Trainer", "hf_spam, last token, no padding", "hf_spam, ONNX Runtime", "hf_spam, ONNX Runtime, int8"]
    without = [word for name in others for word in ("--without", name)]
    report = tmp_path / "report.json"
    shown = output_of("benchmark", *tiny, *without, "--messages=60", "--repeats=1", "--only", table, "--output", report)
    runs = json.loads(report.read_text())["tables"][table]
    (peer,), (ours,) = runs["the book's loop" if table == "fine-tuning" else "pipeline"], runs["hf_spam"]
    for name in ("losses", "final") if table == "fine-tuning" else ("scores",):
        assert len(peer[name]) > 1 and ours[name] == pytest.approx(peer[name], abs=1e-5), name
    assert all(run["seconds"] > 0 and run["memory"] > 100 for run in (peer, ours))
    header, _, first, second, *_ = shown.strip().splitlines()
    assert header.startswith(f"| {table} | seconds |") and "| 1.0x |" in first and "hf_spam" in second


@pytest.mark.slow
def test_gpu_check_runs_on_a_cpu(tiny):
    """Every row of the table is measured and printed."""
    shown = output_of("gpu_check", *tiny, "--no-tests", "--no-compiled", "--messages=16")
    header, _, *rows = shown.strip().splitlines()
    names = ["book, float32", "book, bfloat16", "scoring, float32", "scoring, bfloat16"]
    assert header.startswith("| CPU, ") and [row.split(" | ")[0].removeprefix("| ") for row in rows] == names


def test_a_file_is_scored_alike_by_all_contenders(tmp_path):
    """Ray is left out, which takes half a minute."""
    report = tmp_path / "report.json"
    flags = ["--only", "scoring a file", "--rows=300", "--repeats=1", "--without", "Ray Data", "--output", report]
    assert "100.00% of labels" in output_of("benchmark", *flags)
    runs = json.loads(report.read_text())["tables"]["scoring a file"]
    assert list(runs) == ["one process per core", "one process"]
    assert runs["one process"][0]["scores"] == runs["one process per core"][0]["scores"]
    assert len(runs["one process"][0]["scores"]) == 300
