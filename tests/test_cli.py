"""The command line from end to end, as a person types it: real processes, what they print, what they leave."""

import json
import subprocess
import sys

import pytest
from processes import run_processes
from transformers import GPT2Config, GPT2LMHeadModel

from hf_spam import RECIPES, load_sms_spam
from hf_spam.cli import main
from hf_spam.terminal import fitted, show

SMALL = ["--recipe", "pocket", "--data", "sample", "--max-steps", "30", "--n-embd", "16", "--vocab-size", "300"]


def hf_spam(*arguments, stdin: str | bytes = "", code: int = 0) -> subprocess.CompletedProcess:
    """Runs `hf-spam` in a process of its own; the exit code must be `code`, and there is never a traceback."""
    stdin = stdin.encode() if isinstance(stdin, str) else stdin
    command = [sys.executable, "-m", "hf_spam", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, input=stdin, timeout=300)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained from the command line, and what was printed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    return out, hf_spam("train", *SMALL, "--output-dir", out)


def test_train_prints_progress_results_and_where_the_files_are(trained):
    out, done = trained
    for words in ("Before training: train acc", "Epoch 1, step 000000: train loss", "Epoch 1: train acc", "val acc"):
        assert words in done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics) == ["train", "validation", "test"]
    assert f"{metrics['test']['f1']:.4f}" in done.stdout and str(out) in done.stdout.replace("\n", "")
    for suffix, magic in {"png": b"\x89PNG", "pdf": b"%PDF"}.items():
        for name in ("loss", "accuracy"):
            assert (out / f"{name}-plot.{suffix}").read_bytes().startswith(magic)


def test_evaluate_agrees_with_training(trained):
    """The same splits, the same metrics, from the saved files alone."""
    out, _ = trained
    saved = json.loads((out / "metrics.json").read_text())
    report = json.loads(hf_spam("evaluate", out, "--data", "sample", "--json").stdout)
    found = {
        split: {name: estimate["value"] for name, estimate in measured["model"].items()}
        for split, measured in report["sets"].items()
    }
    assert found == {split: pytest.approx(metrics, abs=1e-5) for split, metrics in saved.items()}
    assert report["closer"]["set"] == "test" and report["training_messages"] == 700


def test_evaluate_writes_a_report_of_any_file(trained, tmp_path):
    """Two messages of one label, of which one stands in training; nothing is written that is not asked for."""
    out, _ = trained
    text = load_sms_spam("sample")["train"]["text"][0]
    path = tmp_path / "mine.tsv"
    path.write_text(f"ham\t{text}\nham\t\x1b[31m<script>\n")
    done = hf_spam("evaluate", out, "--data", path, "--train-data", "sample", "--output-dir", tmp_path / "report")
    assert "word for word" in done.stdout and "\x1b" not in done.stdout and "report.html" in done.stdout
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["duplicates"] == {"mine.tsv": {"training": {"exact": 1, "near": 1}}}
    assert "<script>" not in (tmp_path / "report" / "report.html").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.tsv", "report"]


def test_the_card_of_a_run_names_the_winner(trained):
    """As `evaluate` finds it with the same baseline."""
    out, _ = trained
    report = json.loads(hf_spam("evaluate", out, "--data", "sample", "--split", "test", "--json").stdout)
    baseline = report["sets"]["test"]["baseline"]["f1"]["value"]
    card = (out / "README.md").read_text()
    assert f"On test, the baseline is ahead of the model, F1 {baseline:.4f} against " in card
    assert any(line.startswith("| test, baseline |") and f"{baseline:.4f}" in line for line in card.splitlines())


def test_train_json_and_overrides(tmp_path):
    flags = ["--seed", "5", "--max-grad-norm", "none", "--padded-length", "40", "--no-causal", "--pooling", "mean"]
    done = hf_spam("train", *SMALL, *flags, "--output-dir", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["metrics"]["train"]["accuracy"] > 0
    recipe = json.loads((tmp_path / "out" / "history.json").read_text())["recipe"]
    expected = {"seed": 5, "max_grad_norm": None, "padded_length": 40, "causal": False, "pooling": "mean"}
    assert {name: recipe[name] for name in expected} == expected
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["padded_length"], config["causal"], config["pooling"]) == (40, False, "mean")


def test_classify_answers_at_once_with_the_bundled_model():
    done = hf_spam("classify", "Congratulations! You won a FREE prize, call now to claim", "see you at home", "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert list(first) == ["text", "label", "score"] and first["label"] == "spam" and first["score"] > 0.5
    assert second == {"text": "see you at home", "label": "not spam", "score": pytest.approx(1, abs=0.5)}
    assert "spam" in hf_spam("classify", "see you at home").stdout


def test_classify_reads_lines_whatever_is_in_them():
    """Empty lines, emoji, NUL, bytes that are no UTF-8, and a very long line: an answer each, in order."""
    lines = ["", "🙂🙂", "nul \0 inside", "win " * 25_000, "last"]
    stdin = "\n".join(lines).encode().replace(b"last", b"last \xff\xfe")
    answers = [json.loads(line) for line in hf_spam("classify", "--json", stdin=stdin).stdout.splitlines()]
    assert [answer["text"] for answer in answers[:4]] == lines[:4] and len(answers) == 5
    assert len(hf_spam("classify", stdin=stdin).stdout.splitlines()) > 5


def test_classify_with_another_model(trained):
    out, _ = trained
    assert json.loads(hf_spam("classify", "hello", "--model", out, "--json").stdout)["label"] in ("spam", "not spam")


def test_recipes():
    listed = json.loads(hf_spam("recipes", "--json").stdout)
    assert {recipe["name"] for recipe in listed} == set(RECIPES)
    assert listed[0]["learning_rate"] == 5e-5 and listed[0]["padded_length"] == "longest"
    published = {recipe["name"]: recipe["published"] for recipe in listed}
    assert published["xl"] == {"row": 8, "train": 99.81, "validation": None, "test": 98.33}
    assert published["pocket"] is None
    lines = hf_spam("recipes").stdout.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in RECIPES)
    assert any("2  " in line and "first-token" in line and "78.46 80.54 75.00" in line for line in lines)
    assert any("shuffle the messages once more" in line for line in lines)


def test_recipes_side_by_side():
    """The book's settings first; of another recipe only what differs is spelled out."""
    lines = [line.split() for line in hf_spam("recipes", "accumulation", "book", "head-only").stdout.splitlines()]
    assert ["book", "accumulation", "head-only"] in lines
    assert ["trainable", "last_block", "·", "head"] in lines and ["padded_length", "longest", "none", "·"] in lines
    assert ["learning_rate", "5e-05", "·", "·"] in lines
    settings = {line[0] for line in lines if len(line) == 4}
    assert settings >= set(RECIPES["book"].__dataclass_fields__) - {"name", "summary", "base"}
    listed = json.loads(hf_spam("recipes", "lora", "--json").stdout)
    assert [recipe["name"] for recipe in listed] == ["lora"] and listed[0]["lora_r"] == 16


def test_import_weights_and_train_on_them(tmp_path, gpt2_tokenizer_dir):
    """A GPT-2 from a folder, imported, then the base of a run with GPT-2's tokenizer files."""
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64)).save_pretrained(tmp_path / "gpt2")
    done = hf_spam("import-weights", tmp_path / "gpt2", tmp_path / "base")
    assert "SpamGPTModel" in done.stdout
    common = ["--data", "sample", "--max-steps", "5", "--eval-freq", "1000", "--tokenizer", gpt2_tokenizer_dir]
    for base in (tmp_path / "base", tmp_path / "gpt2"):  # imported before, and on the way
        hf_spam("train", "--base", base, *common, "--output-dir", tmp_path / f"out-{base.name}")
    one, two = (json.loads((tmp_path / f"out-{name}" / "metrics.json").read_text()) for name in ("base", "gpt2"))
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "nonesuch"], "Invalid value for '--recipe': 'nonesuch' is not one of"),
        (["train", "--padded-length", "long"], "Invalid value for '--padded-length': 'long' is not INT|longest|none."),
        (["train", "--dropout", "1.5"], "Recipe 'book': dropout must lie in [0, 1), got 1.5."),
        (["train", "--recipe", "pocket", "--data", "none.csv"], "none.csv: no such file"),
        (["train", "--data", "sample", "--base", "no/where"], "no/where"),
        (["train", "--data", "sample", "--base", "random"], "Recipe 'book': base random needs a tokenizer"),
        (["classify", "hi", "--model", "no/where"], "no/where"),
        (["classify", "hi", "--model", "."], "config.json"),
        (["evaluate", "--data", "none.csv"], "none.csv: no such file"),
        (["evaluate"], "Missing option '--data'."),
        (
            ["evaluate", "no/where", "--data", "sample"],
            "No model in a local folder or a Hub repository named 'no/where'",
        ),
        (["evaluate", "--data", "sample", "--split", "test"], "there is no split 'test'; there is: sample"),
        (["crossval", "--data", "sample", "--folds", "1"], "at least 2 folds are needed, not 1"),
        (["crossval", "--repeats", "0"], "repeats must be at least 1, got 0."),
        (["import-weights", "none.pth", "out"], "none.pth"),
        (["nonesuch"], "No such command 'nonesuch'."),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message, tmp_path, monkeypatch, capsys):
    """In this process, to save the seconds of an import each; nothing is printed but that line, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hf-spam", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code != 0
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line]
    assert printed.out == "" and len(lines) == 1 and lines[0].startswith("hf-spam: ") and message in lines[0], lines
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_output_of_an_earlier_run_is_not_overwritten(trained):
    out, _ = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "is not empty" in hf_spam("train", *SMALL, "--output-dir", out, code=1).stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_only_one_process_of_two_speaks_and_writes(tmp_path):
    done = run_processes(2, "-m", "hf_spam", "train", *SMALL, "--output-dir", tmp_path / "out")
    assert done.stderr.count("Before training:") == 1 and done.stdout.count(" accuracy ") == 1
    assert (tmp_path / "out" / "metrics.json").exists()


def test_the_reader_may_leave_and_the_terminal_stays_the_readers(trained):
    """`| head -1` is no error worth a traceback; control characters of a message do not reach the terminal."""
    out, _ = trained
    command = [sys.executable, "-m", "hf_spam", "classify", "--model", str(out), "--json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, stderr = process.communicate(b"hello\n" * 20_000, timeout=120)
    assert b"Traceback" not in stderr and b"BrokenPipe" not in stderr
    shown = hf_spam(
        "classify", "--model", out, stdin="\x1b[31mred\x07 " + "\ud800".encode("utf-8", "surrogatepass").hex()
    )
    assert "\x1b" not in shown.stdout and "\x07" not in shown.stdout and "[31mred" in shown.stdout


def test_help_lists_every_setting_of_a_recipe():
    text = hf_spam("train", "--help").stdout
    for field in RECIPES["book"].__dataclass_fields__:
        assert field in ("name", "summary") or f"--{field.replace('_', '-')}" in text


def test_training_data_of_ones_own(tmp_path):
    rows = load_sms_spam("sample")["train"].select(range(120))
    path = tmp_path / "mine.csv"
    rows.to_csv(path, index=False)
    hf_spam("train", *SMALL[:2], "--data", path, *SMALL[4:], "--output-dir", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_that_is_too_wide_breaks_texts_and_headings_but_no_number(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["label", "messages", "precision", "95 %", "recall", "95 %", "alarms and such"]
    rows = [
        ["billing question", "1,234", "0.9993", "0.600-0.730", "1.0000", "0.972-1.000", "12,345"],
        ["\x1b[31mdelivery\ncomplaint", "9", "0.6683", "0.501-0.988", "0.1234", "0.111-0.222", "98,765"],
    ]
    show(fitted("Labels", columns, rows))
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    for row in rows:
        assert all(f" {number} " in shown for number in row[1:])
    assert ("alarms and such" in shown) == ("billing question" in shown) == (width == 120) and "\x1b" not in shown
