"""The benchmark runs to the end in a short form, and the compared results agree."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_data import MESSAGES

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.mark.parametrize("table", ["fine-tuning", pytest.param("scoring, bundled", marks=pytest.mark.slow)])
def test_benchmark_runs(table, gpt2_tokenizer_dir, tmp_path, monkeypatch):
    """Times are reported but not judged here; the results must agree."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "in_a_process", benchmark.do_job)  # saves the imports of a process
    command = ["--shape", "tiny", "--messages", "60", "--epochs", "1", "--repeats", "1", "--only", table]
    command += ["--without", "Trainer", "--without", "hf_spam, last token, no padding"]
    command += ["--without", "hf_spam, ONNX Runtime", "--without", "hf_spam, ONNX Runtime, int8"]
    command += ["--data", MESSAGES, "--tokenizer", gpt2_tokenizer_dir, "--output", tmp_path / "report.json"]
    done = CliRunner().invoke(benchmark.main, list(map(str, command)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    runs = json.loads((tmp_path / "report.json").read_text())["tables"][table]
    (peer,), (ours,) = runs["the book's loop" if table == "fine-tuning" else "pipeline"], runs["hf_spam"]
    for name in ("losses", "final") if table == "fine-tuning" else ("scores",):
        assert len(peer[name]) > 1 and ours[name] == pytest.approx(peer[name], abs=1e-5), name
    assert all(run["seconds"] > 0 and run["memory"] > 100 for run in (peer, ours))
    header, _, first, second, *_ = done.stdout.strip().splitlines()
    assert header.startswith(f"| {table} | seconds |") and "| 1.0x |" in first and "hf_spam" in second


@pytest.mark.slow
def test_gpu_check_runs_on_a_cpu(gpt2_tokenizer_dir):
    """Every row of the table is measured; its operations are counted, and agree between precisions."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT.with_name("gpu_check.py"))
    gpu_check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_check)
    command = ["--no-tests", "--no-compiled", "--shape", "tiny", "--epochs", "1", "--messages", "16"]
    command += ["--data", MESSAGES, "--tokenizer", gpt2_tokenizer_dir]
    done = CliRunner().invoke(gpu_check.main, list(map(str, command)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    header, _, *rows = done.stdout.strip().splitlines()
    names = ["book, float32", "book, bfloat16", "scoring, float32", "scoring, bfloat16"]
    assert header.startswith("| CPU, ") and [row.split(" | ")[0].removeprefix("| ") for row in rows] == names
    assert all(float(row.split(" | ")[1]) >= 0 for row in rows)


def test_a_file_is_scored_alike_by_all_contenders(tmp_path, monkeypatch):
    """Ray is left out, which takes half a minute."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "in_a_process", benchmark.do_job)
    command = ["--only", "scoring a file", "--rows", "300", "--repeats", "1", "--without", "Ray Data"]
    done = CliRunner().invoke(benchmark.main, [*command, "--output", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    runs = json.loads((tmp_path / "report.json").read_text())["tables"]["scoring a file"]
    assert list(runs) == ["one process per core", "one process"] and "100.00% of labels" in done.stdout
    assert runs["one process"][0]["scores"] == runs["one process per core"][0]["scores"]
    assert len(runs["one process"][0]["scores"]) == 300
