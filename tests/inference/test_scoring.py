"""Scoring changes no value and loses, duplicates or moves no row, in any format and whatever is killed.

Expected answers come from the classifier itself, and outputs are read with Python's own readers.
"""

import csv
import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from blocking_classifier import BlockingClassifier
from command_line import hf_spam
from datasets import Dataset, load_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from local_hub import both_transports
from small_data import delimited

from hf_spam import SpamClassifier
from hf_spam.cli import main
from hf_spam.data.formats import DataError
from hf_spam.inference import scoring
from hf_spam.inference.scoring import score_file
from hf_spam.inference.unfinished import UnfinishedOutput

CLASSIFIER = SpamClassifier.from_pretrained()
NASTY = ["", " ", "007", "NA", "null", 'a "quoted" cell', "two\nlines", "cr\rcr", "lf\r\n", "a,b\t;", "\x00\x1b[31m"]
NASTY += ["🙂スパム", "\u2028"]
TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(NASTY)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # including halves of surrogate pairs
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30).filter(
    lambda t: not t.endswith("\r")
)


def messages(count: int) -> list[str]:
    return [
        f"{i} {'WIN a FREE prize, call 0906' if i % 3 else 'see you at home'} {NASTY[i % len(NASTY)]}"
        for i in range(count)
    ]


def write_csv(path: Path, rows: list[list[str]], header: tuple[str, ...] = ("text",)) -> Path:
    path.write_bytes(delimited([header, *rows], quoting=csv.QUOTE_ALL))
    return path


def read_csv(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter, strict=True))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def parquet(table: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


def same_answers(found: list[tuple[str, float]], texts: list[str]) -> bool:
    """Return whether labels and scores are those of the classifier; rows without a text have neither."""
    answered = [pair for pair, text in zip(found, texts, strict=True) if text and not text.isspace()]
    expected = CLASSIFIER([text for text in texts if text and not text.isspace()])
    return (
        {pair for pair in found if pair not in answered} <= {("", ""), (None, None)}
        and [label for label, _ in answered] == [answer["label"] for answer in expected]
        and [float(score) for _, score in answered] == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    )


# Values


@settings(max_examples=10)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=9), st.integers(1, 4), st.sampled_from([".csv", ".tsv"]))
def test_csv_cells_stay_unchanged(tmp_path_factory, rows, size, suffix):
    """They may hold quotes, line ends of all kinds, leading zeros, NUL, or nothing."""
    folder = tmp_path_factory.mktemp("csv")
    source, header = write_csv(folder / "in.csv", [list(row) for row in rows], ("a", "text", "a")), ["a", "text", "a"]
    score_file(CLASSIFIER, source, folder / f"out{suffix}", window_size=size)
    first, *found = read_csv(folder / f"out{suffix}", {".csv": ",", ".tsv": "\t"}[suffix])
    assert first == [*header, "label", "score"] and [row[:3] for row in found] == [list(row) for row in rows]
    assert same_answers([(row[3], row[4]) for row in found], [text for _, text, _ in rows])


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)
KEYS = ("label", "score", "text", "message", "sms", "v2")
KEY = st.text(max_size=4).filter(lambda key: key.strip().lower() not in KEYS)


@example([("", {"": True}, False)])  # a key without a name is no part of a text
@settings(max_examples=10)
@given(st.lists(st.tuples(ANY_TEXT, st.dictionaries(KEY, VALUE, max_size=3), st.booleans()), max_size=9))
def test_json_lines_keep_every_character(tmp_path_factory, rows):
    """Including the order of keys, long numbers, nulls, absent keys and escapes, even of lone surrogates."""
    folder = tmp_path_factory.mktemp("json")
    objects = [{"text": None, **others, "text": text} for text, others, _ in rows]  # noqa: F601
    lines = [json.dumps(values, ensure_ascii=True) for values in objects]
    (folder / "in.jsonl").write_text("".join(f" {line}\r\n" for line in lines) + "\n\n", encoding="utf-8", newline="")
    score_file(CLASSIFIER, folder / "in.jsonl", folder / "out.jsonl", window_size=4)
    found = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [line[: len(kept) - 1] for line, kept in zip(found, lines, strict=True)] == [line[:-1] for line in lines]
    new = [json.loads(line) for line in found]
    assert same_answers([(values["label"], values["score"]) for values in new], [values["text"] for values in objects])


def test_json_that_python_would_write_differently(tmp_path):
    lines = ['{"n":1.10,"big":123456789012345678901234567890,"text":"a","e":1E5,"text" : "b" }', '{"text":"ü\\u00fc"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    score_file(CLASSIFIER, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(kept[:-1].rstrip() + ', "label": ') for line, kept in zip(found, lines, strict=True))


def test_parquet_keeps_its_schema_and_metadata(tmp_path):
    texts = messages(25)
    table = pa.table(
        {
            "id": pa.array(range(25), pa.uint16()),
            "text": pa.array(texts, pa.large_string()),
            "at": pa.array([None, *range(24)], pa.timestamp("ns", "Europe/Berlin")),
            "amount": pa.array([None] * 25, pa.decimal128(20, 3)),
            "tags": pa.array([["a", None]] * 25, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            "raw": pa.array([b"\xff"] * 25, pa.binary()),
        }
    ).replace_schema_metadata({"whose": "mine"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.parquet", window_size=10)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns(["label", "score"]).equals(pq.read_table(tmp_path / "in.parquet"), check_metadata=True)
    assert found.schema.field("score").type == pa.float32()
    assert same_answers(list(zip(found["label"].to_pylist(), found["score"].to_pylist(), strict=True)), texts)


def test_parquet_of_a_dataset_loads_as_a_dataset_and_can_become_json_lines(tmp_path):
    Dataset.from_dict({"text": messages(9), "n": [[i, None] for i in range(9)]}).to_parquet(tmp_path / "in.parquet")
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.parquet", window_size=4)
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.jsonl", window_size=4)
    rows = load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train").to_list()
    assert [list(row) for row in rows] == [["text", "n", "label", "score"]] * 9
    assert [dict(row, score=pytest.approx(row["score"])) for row in read_lines(tmp_path / "out.jsonl")] == rows


@settings(max_examples=10)
@given(st.lists(LINE, max_size=9), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["csv", "jsonl"]))
def test_a_line_of_plain_text_is_a_message(tmp_path_factory, lines, end, last_end, suffix):
    """A byte order mark at the start is not part of the text; elsewhere it is."""
    folder = tmp_path_factory.mktemp("txt")
    text = "\ufeff" + end.join(lines) + (end if lines and (last_end or not lines[-1]) else "")
    (folder / "in.txt").write_bytes(text.encode())
    out = folder / f"out.{suffix}"
    score_file(CLASSIFIER, folder / "in.txt", out, text_column="sms", window_size=3)
    if suffix == "jsonl":
        found = [list(row.values()) for row in read_lines(out)]
    else:
        header, *found = read_csv(out)
        assert header == ["sms", "label", "score"]
    assert [row[0] for row in found] == lines
    assert same_answers([(row[1], row[2]) for row in found], lines)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_an_empty_input_gives_an_empty_output_with_two_more_columns(tmp_path, suffix):
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix.replace('.txt', '.csv')}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        source.write_text("text\n" if suffix in (".csv", ".tsv") else "")
    assert score_file(CLASSIFIER, source, output).rows == 0
    if suffix == ".parquet":
        assert pq.read_table(output).to_pydict() == {"text": [], "label": [], "score": []}
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        assert output.read_text() == ("" if suffix == ".jsonl" else delimiter.join(["text", "label", "score"]) + "\n")


@both_transports
def test_a_dataset_on_the_hub_is_streamed(tmp_path, hub):
    from huggingface_hub import HfApi

    texts, name = messages(30), "test-00000-of-00001.parquet"
    api = HfApi()
    api.create_repo("alice/inbox", repo_type="dataset")
    Dataset.from_dict({"text": texts, "id": range(30)}).to_parquet(tmp_path / name)
    upload = {"path_or_fileobj": tmp_path / name, "path_in_repo": f"data/{name}"}
    api.upload_file(**upload, repo_id="alice/inbox", repo_type="dataset")
    scored = score_file(CLASSIFIER, "alice/inbox", tmp_path / "out.parquet", split="test", window_size=8)
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert scored.rows == 30 and found["text"] == texts and found["id"] == list(range(30))
    assert same_answers(list(zip(found["label"], found["score"], strict=True)), texts)
    with pytest.raises(OSError, match="alice/inbox"):
        score_file(CLASSIFIER, "alice/inbox", tmp_path / "out2.parquet", split="nonesuch")
    with pytest.raises(OSError, match="alice/nothing: dataset not found on the Hub"):
        score_file(CLASSIFIER, "alice/nothing", tmp_path / "out2.parquet")


# Processes


@pytest.fixture(scope="module")
def inbox(tmp_path_factory) -> tuple[Path, bytes]:
    """Return a CSV of 600 rows (38 windows of 16) and the output of one process."""
    folder = tmp_path_factory.mktemp("inbox")
    source = write_csv(folder / "in.csv", [[f"{i:04d}", text] for i, text in enumerate(messages(600))], ("id", "text"))
    score_file(CLASSIFIER, source, folder / "out.csv", window_size=16, num_processes=1)
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "out.csv"]
    found = read_csv(folder / "out.csv")[1:]
    assert [row[:2] for row in found] == [[f"{i:04d}", text] for i, text in enumerate(messages(600))]
    assert same_answers([(row[2], row[3]) for row in found], messages(600))
    return source, (folder / "out.csv").read_bytes()


def unfinished(output: Path, suffix: str = "") -> Path:
    return output.with_name(f"{output.name}.unfinished{suffix}")


def windows_done(output: Path) -> int:
    state = unfinished(output, ".json")
    return json.loads(state.read_bytes())["windows"] if state.exists() else 0


@pytest.mark.parametrize("count", [2, 3, None])
def test_the_same_bytes_on_any_number_of_processes(tmp_path, inbox, monkeypatch, count):
    """`None` is one per core."""
    monkeypatch.setattr(scoring, "FEW_ROWS", 599)
    monkeypatch.setattr(scoring, "_most_processes", lambda classifier: 2)
    scored = score_file(CLASSIFIER, inbox[0], tmp_path / "out.csv", window_size=16, num_processes=count)
    assert (tmp_path / "out.csv").read_bytes() == inbox[1]
    assert scored.rows == 600 and sum(scored.labels.values()) == 600
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_killed_worker_ends_the_run_and_the_next_run_resumes(tmp_path, inbox):
    """One of two is killed after both have scored two windows; no output appears before the end."""
    output = tmp_path / "out.csv"

    def kill() -> None:
        while windows_done(output) < 4:
            time.sleep(0.01)
        first = min(multiprocessing.active_children(), key=lambda process: process.pid)
        os.kill(first.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(OSError, match=r"A process was killed.* Nothing is lost: run the same command again"):
        score_file(BlockingClassifier.from_pretrained(), inbox[0], output, window_size=16, num_processes=2)
    assert not output.exists() and not multiprocessing.active_children()
    scored = score_file(CLASSIFIER, inbox[0], output, window_size=16, num_processes=1)
    assert 64 <= scored.resumed_rows < 600 and scored.rows == 600
    assert output.read_bytes() == inbox[1] and [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_an_error_of_a_worker_is_raised(tmp_path, inbox):
    damaged = SpamClassifier.from_pretrained()
    torch.nn.init.constant_(next(damaged.model.parameters()), torch.nan)
    with pytest.raises(ValueError, match=r"NaN or infinite logits: its weights are damaged\.$"):
        score_file(damaged, inbox[0], tmp_path / "out.csv", num_processes=2)
    assert not multiprocessing.active_children()


def test_two_commands_cannot_write_the_same_output(tmp_path, inbox):
    output = tmp_path / "out.csv"

    class Second(SpamClassifier):
        def __call__(self, texts: list[str]) -> list:
            with pytest.raises(OSError, match=r"out\.csv is being written by another process"):
                score_file(CLASSIFIER, inbox[0], output, window_size=16, overwrite=True)
            return super().__call__(texts)

    score_file(Second(CLASSIFIER.model, CLASSIFIER.tokenizer), inbox[0], output, window_size=16)
    assert output.read_bytes() == inbox[1] and [path.name for path in tmp_path.iterdir()] == ["out.csv"]


class Killed(BaseException):
    """Simulate the end of the process; nothing in the package catches this."""


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_run_killed_before_any_change_on_disk_resumes(tmp_path, monkeypatch, old):
    """The same command then completes with all rows. An overwritten output is either the old or the new one."""
    output, expected = tmp_path / "out.csv", tmp_path / "expected.csv"
    source = write_csv(tmp_path / "in.csv", [[text] for text in messages(3)])
    score_file(CLASSIFIER, source, expected, window_size=2)
    for step in itertools.count():
        output.unlink(missing_ok=True)
        if old:
            output.write_bytes(old)
        left = [step]

        def counted(function, left=left):
            def change(*arguments, **settings):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return function(*arguments, **settings)

            return change

        with monkeypatch.context() as patched:
            for place, name in ((os, "replace"), (os, "fsync"), (Path, "open"), (Path, "unlink")):
                patched.setattr(place, name, counted(getattr(place, name)))
            try:
                score_file(CLASSIFIER, source, output, window_size=2, overwrite=bool(old))
            except Killed:
                pass
            else:
                break
        assert (output.read_bytes() if output.exists() else None) in (old, expected.read_bytes())
        try:
            score_file(CLASSIFIER, source, output, window_size=2, overwrite=bool(old))
        except FileExistsError:  # the output is complete, and only the state or the lock was left
            for suffix in (".json", ".lock"):
                unfinished(output, suffix).unlink(missing_ok=True)
        assert output.read_bytes() == expected.read_bytes(), step
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.csv", "in.csv", "out.csv"], step
    assert step > 12


# Resuming


@pytest.fixture
def begun(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Return an input and its unfinished output with two of three windows."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"
    add = UnfinishedOutput.add

    def stopping(self, *window):
        if self.state["windows"] == 2:
            raise Killed
        add(self, *window)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(UnfinishedOutput, "add", stopping)
        score_file(CLASSIFIER, source, output, window_size=2)
    assert windows_done(output) == 2
    return source, output


def test_windows_are_not_scored_again(begun, monkeypatch):
    """The same with --overwrite, which replaces an existing output only at the end."""
    source, output = begun
    output.write_text("old")
    with pytest.raises(FileExistsError, match="already exists; use --overwrite"):
        score_file(CLASSIFIER, source, output, window_size=2)
    assert output.read_text() == "old" and windows_done(output) == 2
    seen, classify = [], SpamClassifier.__call__
    monkeypatch.setattr(SpamClassifier, "__call__", lambda self, texts: seen.extend(texts) or classify(self, texts))
    assert score_file(CLASSIFIER, source, output, window_size=2, overwrite=True).resumed_rows == 4
    assert seen == messages(6)[4:] and len(read_csv(output)) == 7


def other_weights() -> SpamClassifier:
    other = SpamClassifier.from_pretrained()
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-3
    return other


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda source: write_csv(source, [["another message"]] * 6) and {}, "the input"),
        (lambda source: {"classifier": other_weights()}, "the model"),
        (lambda source: {"prefix": "pred_"}, "the reading"),
        (lambda source: {"window_size": 3}, "the window size"),
    ],
)
def test_a_different_run_does_not_use_the_rows(begun, change, what):
    """The error names the difference; --overwrite discards the rows, and only the new run is in the output."""
    source, output = begun
    settings = {"classifier": CLASSIFIER, "window_size": 2, **change(source)}
    with pytest.raises(ValueError, match=f"{output.name}.unfinished is .* differs in {what}\\. .*--overwrite"):
        score_file(source=source, output=output, **settings)
    assert windows_done(output) == 2 and not output.exists()
    score_file(source=source, output=output, overwrite=True, **settings)
    score_file(source=source, output=output.with_name("anew.csv"), **settings)
    assert output.read_bytes() == output.with_name("anew.csv").read_bytes()


def test_a_state_without_its_rows_is_not_used(begun):
    source, output = begun
    os.truncate(unfinished(output), 9)
    assert score_file(CLASSIFIER, source, output, window_size=2).resumed_rows == 0


def test_an_input_that_changes_during_the_run_is_noticed(tmp_path, monkeypatch):
    """No row of the changed file is kept."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"
    before, classify = source.read_bytes(), SpamClassifier.__call__

    def changing(self, texts):
        source.write_bytes(before.replace(b"FREE", b"DEAR"))
        return classify(self, texts)

    with monkeypatch.context() as patched:
        patched.setattr(SpamClassifier, "__call__", changing)
        with pytest.raises(DataError, match=r"in\.csv: the file changed while it was read"):
            score_file(CLASSIFIER, source, output, window_size=2)
    assert windows_done(output) == 0 and not output.exists()


# The command line


def test_standard_input_and_output(tmp_path, monkeypatch, capfdbinary):
    """A pipe of several windows of lines gives JSON lines, in a pipe or in a file."""
    texts = [text for text in messages(50) if "\n" not in text and "\r" not in text]
    (tmp_path / "stdin").write_text("\n".join(texts), encoding="utf-8")
    with (tmp_path / "stdin").open() as stdin, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", stdin)
        patched.setattr(sys, "argv", ["hf-spam", "score", "-", "-", "--window-size", "7"])
        with pytest.raises(SystemExit) as exit:
            main()
    printed = capfdbinary.readouterr()
    found = [json.loads(line) for line in printed.out.decode().split("\n")[:-1]]
    assert exit.value.code == 0 and printed.err == b"" and [row["text"] for row in found] == texts
    assert same_answers([(row["label"], row["score"]) for row in found], texts)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
    assert score_file(CLASSIFIER, "-", tmp_path / "out.jsonl", window_size=7).rows == len(texts)
    assert [row["text"] for row in read_lines(tmp_path / "out.jsonl")] == texts


def test_a_pipe_ends_at_the_first_bad_row(tmp_path):
    """Earlier windows have been written."""
    (tmp_path / "in.jsonl").write_text('{"text":"a"}\n' * 5 + "5\n")
    code, out, err = hf_spam("score", tmp_path / "in.jsonl", "-", "--window-size", 2)
    assert code == 1 and len(out.splitlines()) == 4 and "in.jsonl, line 6: not a JSON object: '5'" in err
    code, out, err = hf_spam("score", tmp_path / "in.jsonl", "-", "--json")
    assert code == 2 and not out and "--json, --overwrite and --num-processes cannot be used with OUT -" in err


def test_the_summary_of_a_run(tmp_path):
    source = write_csv(tmp_path / "in.csv", [[text] for text in messages(20)])
    code, out, err = hf_spam("score", source, tmp_path / "out.parquet", "--json")
    summary = json.loads(out)
    labels = CLASSIFIER.predict(messages(20))
    assert code == 0 and summary["rows"] == 20 and summary["output"] == str(tmp_path / "out.parquet")
    assert summary["labels"] == {label: labels.count(label) for label in sorted(set(labels))} and summary["seconds"] > 0
    assert err.startswith("20 rows (") and "out.parquet" in err and "rows/s" in err and err.count("\n") == 1


def test_an_existing_column_is_not_overwritten(tmp_path):
    source = write_csv(tmp_path / "in.csv", [["ham", "hello"]], ("label", "SMS"))
    code, _, err = hf_spam("score", source, tmp_path / "out.csv")
    assert code == 1 and "column 'label' already exists; write another one with --prefix" in err
    code, _, _ = hf_spam("score", source, tmp_path / "out.csv", "--prefix", "pred_")
    assert code == 0 and read_csv(tmp_path / "out.csv")[0] == ["label", "SMS", "pred_label", "pred_score"]


BROKEN_TEXT = parquet({"text": pa.array([b"\xff"], pa.binary()).cast(pa.string(), safe=False)})
GOOD = parquet({"text": messages(2000)})
NUMBER, BYTES, NAN = (parquet({"text": ["a"], "n": [value]}) for value in (1, b"x", float("nan")))
BAD_INPUTS = [  # in addition to those of `data/test_formats.py`, which uses the same readers
    ("none.csv", None, "out.csv", "none.csv: no such file, and not a Hub dataset id such as 'owner/name'"),
    ("in.doc", b"", "out.csv", "in.doc: unknown file extension; save it as CSV, or use one of .csv, .tsv, .txt"),
    ("in.txt", b"a", "out.doc", "out.doc: unknown file extension; use one of .csv, .tsv, .jsonl, .json"),
    ("in.txt", b"a", "no/out.csv", "no/out.csv: there is no folder no."),
    ("in.txt", b"ok\n\x81\n", "out.csv", "in.txt, line 2: not UTF-8 (byte 0x81); name the encoding"),
    ("in.jsonl", b'{"text":"a"}\n{"text":5}', "out.jsonl", "in.jsonl, line 2: the text is not a string: 5"),
    ("in.jsonl", b'{"text":"a"}\n{"text":"b","score":1}', "out.jsonl", "in.jsonl, line 2: column 'score' already"),
    ("in.parquet", GOOD[:-2000], "out.parquet", "in.parquet: broken Parquet file ("),
    ("in.parquet", GOOD[:100] + bytes(2000) + GOOD[2100:], "out.parquet", "in.parquet: "),
    ("in.parquet", BROKEN_TEXT, "out.parquet", "in.parquet: damaged, or not UTF-8 ("),
    # Values that an output format cannot hold
    ("in.csv", b"text,n,n\na,1,2\n", "out.jsonl", "in.csv: .jsonl cannot hold two columns called 'n'; write .csv"),
    ("in.jsonl", b'{"text":"a"}', "out.csv", "in.jsonl: JSON lines may have different keys, which .csv cannot hold; "),
    ("in.parquet", NUMBER, "out.csv", "in.parquet: .csv cannot hold types and nulls; write .parquet or .jsonl"),
    ("in.parquet", BYTES, "out.jsonl", "in.parquet: Object of type bytes is not JSON serializable"),
    ("in.parquet", NAN, "out.jsonl", "in.parquet: Out of range float values are not JSON compliant"),
]


@pytest.mark.parametrize(("name", "data", "output", "message"), BAD_INPUTS)
def test_a_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch, name, data, output, message):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises((ValueError, OSError)) as caught:
        score_file(CLASSIFIER, name, output, window_size=2)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name] * (data is not None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "in.csv", "overwrite": True}, "in.csv is the input; name another file for the output."),
        ({"split": "test"}, "in.csv: a file has no splits; --split is for Hub datasets"),
        ({"window_size": 0}, "--window-size and --num-processes must be at least 1."),
        ({"output": "."}, ".: unknown file extension"),
    ],
)
def test_user_errors_are_one_clear_line(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("in.csv"), [["a"]])
    with pytest.raises((ValueError, OSError), match=f"^{re.escape(message)}"):
        score_file(CLASSIFIER, "in.csv", **{"output": "out.csv", **settings})
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


MEASURED = """
import re, sys
from pathlib import Path
from hf_spam import SpamClassifier
from hf_spam.inference.scoring import score_file

SpamClassifier.__call__ = lambda self, texts: [{"label": "spam", "score": 0.5}] * len(texts)
classifier = SpamClassifier.from_pretrained()
for name in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # do not count the peak while loading
    score_file(classifier, name, f"{name}.parquet", window_size=100, num_processes=1)
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, which can reset the peak")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """From 10 to 200 windows, the peak grows by less than half of the growth of the input."""
    names = [str(tmp_path / f"{count}.txt") for count in (1_000, 20_000)]
    for name in names:
        Path(name).write_text("".join(f"{'x' * 5000} {i}\n" for i in range(int(Path(name).stem))))
    done = subprocess.run([sys.executable, "-c", MEASURED, *names], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())  # in KiB
    assert many - few < 50_000, (few, many)
