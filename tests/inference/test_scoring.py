"""Scoring changes no value and loses, duplicates or moves no row, in any format and whatever is killed.

Expected answers come from the classifier itself, and outputs are read with Python's own readers.
"""

import csv
import io
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from blocking_classifier import BlockingClassifier
from command_line import hf_spam
from datasets import Dataset, load_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_data import delimited
from tiny_models import save_tiny
from transformers import ByT5Tokenizer

from hf_spam import SpamClassifier
from hf_spam.cli import main
from hf_spam.data.formats import DataError
from hf_spam.inference import scoring
from hf_spam.inference.quick import QuickClassifier
from hf_spam.inference.scoring import load_scorer, score_file, score_stream

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


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: tuple[str, ...] = ("text",)) -> Path:
    path.write_bytes(delimited([header, *rows], quoting=csv.QUOTE_ALL))
    return path


def parquet(table: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


def read(path: Path) -> tuple[list[str], list[list]]:
    """Return the columns of a file, those of the first row for JSON lines, and the rows."""
    if path.suffix in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        return header, rows
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return table.column_names, [list(row.values()) for row in table.to_pylist()]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return list(rows[0]) if rows else [], [list(row.values()) for row in rows]


def check(output: Path, rows: Sequence[Sequence], texts: Sequence[str | None]) -> None:
    """Check that an output has the rows with the answers of the classifier; those without a text have none."""
    found = read(output)[1]
    assert [row[:-2] for row in found] == [list(row) for row in rows]
    answers = iter(CLASSIFIER([text for text in texts if text and not text.isspace()]))
    for (*_, label, score), text in zip(found, texts, strict=True):
        if text and not text.isspace():
            answer = next(answers)
            assert label == answer["label"] and float(score) == pytest.approx(answer["score"], abs=1e-6), text
        else:
            assert (label, score) in (("", ""), (None, None)), text


def acting(act: Callable[[list[str]], object]) -> SpamClassifier:
    """Return a classifier that calls a function with the texts of each window before it answers."""

    class Acting(SpamClassifier):
        def __call__(self, texts: list[str]) -> list:
            act(texts)
            return super().__call__(texts)

    return Acting(CLASSIFIER.model, CLASSIFIER.tokenizer)


# Values


@settings(max_examples=10)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=9), st.integers(1, 4), st.sampled_from([".csv", ".tsv"]))
def test_csv_cells_stay_unchanged(tmp_path_factory, rows, size, suffix):
    """They may hold quotes, line ends of all kinds, leading zeros, NUL, or nothing."""
    folder, names = tmp_path_factory.mktemp("csv"), ("a", "text", "a")
    source, output = write_csv(folder / "in.csv", rows, names), folder / f"out{suffix}"
    score_file(CLASSIFIER, source, output, window_size=size)
    assert read(output)[0] == [*names, "label", "score"]
    check(output, rows, [text for _, text, _ in rows])


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)
KEYS = ("label", "score", "text", "message", "sms", "v2")
KEY = st.text(max_size=4).filter(lambda key: key.strip().lower() not in KEYS)


OTHER_JSON = [  # which Python would write differently
    '{"n":1.10,"big":123456789012345678901234567890,"text":"a","e":1E5,"text" : "b" }',
    '{"text":"ü\\u00fc"}',
]


@example([("", {"": True})])  # a key without a name is no part of a text
@settings(max_examples=10)
@given(st.lists(st.tuples(ANY_TEXT, st.dictionaries(KEY, VALUE, max_size=3)), max_size=9))
def test_json_lines_keep_every_character(tmp_path_factory, rows):
    """Including the order of keys, long numbers, nulls, absent keys and escapes, even of lone surrogates."""
    folder = tmp_path_factory.mktemp("json")
    lines = [*OTHER_JSON, *(json.dumps({"text": text, **others}) for text, others in rows)]
    (folder / "in.jsonl").write_text("".join(f" {line}\r\n" for line in lines) + "\n\n", encoding="utf-8", newline="")
    score_file(CLASSIFIER, folder / "in.jsonl", folder / "out.jsonl", window_size=4)
    found = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert all(line.startswith(kept[:-1].rstrip()) for line, kept in zip(found, lines, strict=True))
    objects = [json.loads(line) for line in lines]
    check(folder / "out.jsonl", [list(values.values()) for values in objects], [values["text"] for values in objects])


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
    check(tmp_path / "out.parquet", read(tmp_path / "in.parquet")[1], texts)


def test_parquet_of_a_dataset_loads_as_a_dataset_and_can_become_json_lines(tmp_path):
    Dataset.from_dict({"text": messages(9), "n": [[i, None] for i in range(9)]}).to_parquet(tmp_path / "in.parquet")
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.parquet", window_size=4)
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.jsonl", window_size=4)
    rows = load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train").to_list()
    assert [list(row) for row in rows] == [["text", "n", "label", "score"]] * 9
    check(tmp_path / "out.jsonl", read(tmp_path / "in.parquet")[1], messages(9))


@settings(max_examples=10)
@given(st.lists(LINE, max_size=9), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["csv", "jsonl"]))
def test_a_line_of_plain_text_is_a_message(tmp_path_factory, lines, end, last_end, suffix):
    """A byte order mark at the start is not part of the text; elsewhere it is."""
    folder = tmp_path_factory.mktemp("txt")
    text = "\ufeff" + end.join(lines) + (end if lines and (last_end or not lines[-1]) else "")
    (folder / "in.txt").write_bytes(text.encode())
    output = folder / f"out.{suffix}"
    score_file(CLASSIFIER, folder / "in.txt", output, text_column="sms", window_size=3)
    assert read(output)[0] in (["sms", "label", "score"], [])
    check(output, [[line] for line in lines], lines)


EMPTY = {"csv": b"text\n", "tsv": b"text\n", "jsonl": b"", "txt": b""}
EMPTY["parquet"] = parquet({"text": pa.array([], pa.string())})


@pytest.mark.parametrize("suffix", EMPTY)
def test_an_empty_input_gives_an_empty_output_with_two_more_columns(tmp_path, suffix):
    source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix.replace('txt', 'csv')}"
    source.write_bytes(EMPTY[suffix])
    assert score_file(CLASSIFIER, source, output).rows == 0
    assert read(output) == ([] if suffix == "jsonl" else ["text", "label", "score"], [])


def test_a_dataset_on_the_hub_is_streamed(tmp_path, hub):
    from huggingface_hub import HfApi

    (tmp_path / "repository").mkdir()
    texts, repository = messages(30), {"repo_id": "alice/inbox", "repo_type": "dataset"}
    Dataset.from_dict({"text": texts, "id": range(30)}).to_parquet(tmp_path / "repository" / "test.parquet")
    HfApi().create_repo(**repository)
    HfApi().upload_folder(**repository, folder_path=tmp_path / "repository")
    how = {"split": "test", "window_size": 8, "num_processes": 1}
    scored = score_file(CLASSIFIER, "alice/inbox", tmp_path / "out.parquet", **how)
    assert scored.rows == 30 and read(tmp_path / "out.parquet")[0] == ["text", "id", "label", "score"]
    check(tmp_path / "out.parquet", list(zip(texts, range(30), strict=True)), texts)
    with pytest.raises(OSError, match="alice/inbox"):
        score_file(CLASSIFIER, "alice/inbox", tmp_path / "out2.parquet", split="nonesuch")
    with pytest.raises(OSError, match="alice/nothing: dataset not found on the Hub"):
        score_file(CLASSIFIER, "alice/nothing", tmp_path / "out2.parquet")


# Processes


@pytest.fixture(scope="module")
def inbox(tmp_path_factory) -> tuple[Path, bytes]:
    """Return a CSV of 600 rows (38 windows of 16) and the output of one process."""
    folder = tmp_path_factory.mktemp("inbox")
    rows = [(f"{i:04d}", text) for i, text in enumerate(messages(600))]
    source = write_csv(folder / "in.csv", rows, ("id", "text"))
    score_file(CLASSIFIER, source, folder / "out.csv", window_size=16, num_processes=1)
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "out.csv"]
    check(folder / "out.csv", rows, messages(600))
    return source, (folder / "out.csv").read_bytes()


def unfinished(output: Path, suffix: str = "") -> Path:
    return output.with_name(f"{output.name}.unfinished{suffix}")


def windows_done(output: Path) -> int:
    state = unfinished(output, ".json")
    return json.loads(state.read_bytes())["windows"] if state.exists() else 0


@pytest.mark.parametrize("count", [3, None])
def test_the_same_bytes_on_any_number_of_processes(tmp_path, inbox, monkeypatch, count):
    """`None` is one per core."""
    monkeypatch.setattr(scoring, "FEW_ROWS", 599)
    monkeypatch.setattr(scoring, "count_cores", lambda: 2)
    scored = score_file(CLASSIFIER, inbox[0], tmp_path / "out.csv", window_size=16, num_processes=count)
    assert (tmp_path / "out.csv").read_bytes() == inbox[1]
    assert scored.rows == 600 and sum(scored.labels.values()) == 600
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


class WaitingClassifier(QuickClassifier):
    """Answers when two other processes have started, in which it is a `QuickClassifier`."""

    answered = 0

    def __call__(self, texts: list[str]) -> list:
        if texts != [""]:  # which it answers when it is loaded
            self.answered += 1
            while len(multiprocessing.active_children()) < 2:
                time.sleep(0.01)
            time.sleep(0.1)  # until they get windows; a few of the 38 at most
        return super().__call__(texts)


def test_processes_that_load_a_graph_give_the_same_bytes(tmp_path, inbox):
    classifier = WaitingClassifier("bundled")
    score_file(classifier, inbox[0], tmp_path / "two.csv", window_size=16, num_processes=2)
    score_file(load_scorer(), inbox[0], tmp_path / "one.csv", window_size=16, num_processes=1)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert classifier.answered < 38


@pytest.mark.parametrize(
    ("error", "message"),
    [(None, r"A process was killed.* Nothing is lost: run the same command again"), (ValueError("damaged"), "damaged")],
)
def test_a_failing_worker_ends_the_run_and_the_next_run_resumes(tmp_path, inbox, error, message):
    """When both workers have scored two windows, one is killed or raises an error. No output appears before the end."""
    output, classifier = tmp_path / "out.csv", BlockingClassifier.from_pretrained()
    classifier.error = error

    def kill() -> None:
        while windows_done(output) < 4:
            time.sleep(0.01)
        first = min(multiprocessing.active_children(), key=lambda process: process.pid)
        os.kill(first.pid, signal.SIGKILL)

    if error is None:
        threading.Thread(target=kill, daemon=True).start()
    with pytest.raises((OSError, ValueError), match=message):
        score_file(classifier, inbox[0], output, window_size=16, num_processes=2)
    assert not output.exists() and not multiprocessing.active_children()
    scored = score_file(CLASSIFIER, inbox[0], output, window_size=16, num_processes=1)
    assert 64 <= scored.resumed_rows < 600 and scored.rows == 600
    assert output.read_bytes() == inbox[1] and [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, caplog):
    source = write_csv(tmp_path / "in.csv", [[text] for text in messages(5)])
    answers = QuickClassifier.answers

    def interrupted(self, texts):
        if len(texts) < 2:
            raise KeyboardInterrupt
        return answers(self, texts)

    with monkeypatch.context() as patched:
        patched.setattr(QuickClassifier, "answers", interrupted)
        done = hf_spam("score", source, tmp_path / "out.csv", "--window-size", 2)
    assert done.code == 130
    assert done.err.endswith("hf-spam: interrupted: 4 rows are done; run the same command again to resume\n")
    done = hf_spam("score", source, tmp_path / "out.csv", "--window-size", 2)
    assert done.code == 0 and "Resuming: 4 rows were scored by an earlier run." in caplog.text


def test_two_commands_cannot_write_the_same_output(tmp_path):
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"

    def second(texts: list[str]) -> None:
        with pytest.raises(OSError, match=r"out\.csv is being written by another process"):
            score_file(CLASSIFIER, source, output, overwrite=True)

    score_file(acting(second), source, output, window_size=2)
    check(output, [[text] for text in messages(6)], messages(6))


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
def begun(tmp_path) -> tuple[Path, Path]:
    """Return an input and its unfinished output with two of three windows."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"

    def kill(texts: list[str]) -> None:
        if windows_done(output) == 2:
            raise Killed

    with pytest.raises(Killed):
        score_file(acting(kill), source, output, window_size=2)
    return source, output


def test_windows_are_not_scored_again(begun):
    """The same with --overwrite, which replaces an existing output only at the end."""
    source, output = begun
    output.write_text("old")
    with pytest.raises(FileExistsError, match="already exists; use --overwrite"):
        score_file(CLASSIFIER, source, output, window_size=2)
    assert output.read_text() == "old" and windows_done(output) == 2
    seen: list[str] = []
    assert score_file(acting(seen.extend), source, output, window_size=2, overwrite=True).resumed_rows == 4
    assert seen == messages(6)[4:]
    check(output, [[text] for text in messages(6)], messages(6))


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
    with pytest.raises(ValueError, match=f"{output.name}.unfinished belongs to .* differs in {what}\\. .*--overwrite"):
        score_file(source=source, output=output, **settings)
    assert windows_done(output) == 2 and not output.exists()
    score_file(source=source, output=output, overwrite=True, **settings)
    score_file(source=source, output=output.with_name("anew.csv"), **settings)
    assert output.read_bytes() == output.with_name("anew.csv").read_bytes()


@pytest.mark.parametrize("content", ["{", "[]", '{"run": {}, "windows": 1, "bytes": 9, "read": 2}'])
def test_a_state_that_cannot_be_used_is_named_and_can_be_overwritten(begun, content):
    source, output = begun
    state = output.with_name(f"{output.name}.unfinished.json")
    state.write_text(content)
    advice = "is damaged, or of another version; use --overwrite to start again"
    with pytest.raises(ValueError, match=f"{state.name} {advice}"):
        score_file(CLASSIFIER, source, output, window_size=2)
    assert score_file(CLASSIFIER, source, output, window_size=2, overwrite=True).rows == 6


def test_a_state_without_its_rows_is_not_used(begun):
    source, output = begun
    os.truncate(unfinished(output), 9)
    assert score_file(CLASSIFIER, source, output, window_size=2).resumed_rows == 0


def test_an_input_that_changes_during_the_run_is_noticed(tmp_path):
    """No row of the changed file is kept."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"
    changed = source.read_bytes().replace(b"FREE", b"DEAR")
    with pytest.raises(DataError, match=r"in\.csv: the file changed while it was read"):
        score_file(acting(lambda texts: source.write_bytes(changed)), source, output, window_size=2)
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
    assert exit.value.code == 0 and printed.err == b""
    (tmp_path / "printed.jsonl").write_bytes(printed.out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
    assert score_file(CLASSIFIER, "-", tmp_path / "out.jsonl", window_size=7).rows == len(texts)
    for name in ("printed.jsonl", "out.jsonl"):
        check(tmp_path / name, [[text] for text in texts], texts)


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


BROKEN_TEXT = parquet({"text": pa.array([b"\xff"], pa.binary()).cast(pa.string(), safe=False)})
GOOD = parquet({"text": messages(2000)})
NUMBER, BYTES, NAN = (parquet({"text": ["a"], "n": [value]}) for value in (1, b"x", float("nan")))
BAD_INPUTS = [  # in addition to those of `data/test_formats.py`, which uses the same readers
    ("none.csv", None, "out.csv", "none.csv: no such file, and not a Hub dataset id such as 'owner/name'"),
    ("in.txt", b"a", "out.doc", "out.doc: unknown file extension; use one of .csv, .tsv, .jsonl, .json"),
    ("in.txt", b"a", "no/out.csv", "no/out.csv: there is no folder no."),
    ("in.txt", b"a", ".", ".: unknown file extension"),
    ("in.csv", b"text\na\n", "in.csv", "in.csv is the input; name another file for the output."),
    ("in.csv", b"label,SMS\nham,a\n", "out.csv", "in.csv, line 1 (the header): column 'label' already exists; write "),
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
        score_file(CLASSIFIER, name, output, window_size=2, overwrite=True)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name] * (data is not None)


def test_settings_that_cannot_be_used(tmp_path):
    source = write_csv(tmp_path / "in.csv", [["a"]])
    with pytest.raises(ValueError, match=r"in\.csv: a file has no splits; --split is for Hub datasets"):
        score_file(CLASSIFIER, source, tmp_path / "out.csv", split="test")
    with pytest.raises(ValueError, match="--window-size and --num-processes must be at least 1"):
        score_file(CLASSIFIER, source, tmp_path / "out.csv", window_size=0)
    with pytest.raises(ValueError, match="--window-size must be at least 1"):
        score_stream(CLASSIFIER, source, io.BytesIO(), window_size=0)


def test_the_bundled_model_scores_in_onnx_runtime_with_the_same_answers():
    """It is faster there than in PyTorch, but not if it is to run in another precision or on another device."""
    texts = [*messages(300), None, " "]
    (labels, scores), (expected, close) = load_scorer().answers(texts), CLASSIFIER.answers(texts)
    assert labels == expected and scores[:300] == pytest.approx(close[:300], abs=2e-6)
    assert scores[300:] == [None, None] and scores[0].dtype == np.float32
    assert all(isinstance(load_scorer(**where), QuickClassifier) for where in ({}, {"device": "cpu"}))
    assert isinstance(load_scorer("bundled", dtype=torch.bfloat16), SpamClassifier)


def test_a_model_with_a_slow_tokenizer_scores_files(tmp_path):
    source = write_csv(tmp_path / "in.csv", [["hello"]])
    classifier = SpamClassifier.from_pretrained(save_tiny(tmp_path / "byt5", ByT5Tokenizer(extra_ids=0)))
    assert score_file(classifier, source, tmp_path / "out.csv").rows == 1


def test_half_a_surrogate_pair_in_an_array_is_kept(tmp_path):
    (tmp_path / "in.json").write_text('[{"text": "hi \\ud83c"}]')
    score_file(CLASSIFIER, tmp_path / "in.json", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith('{"text": "hi \\ud83c", "label"')


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
    """From 10 to 200 windows, the peak grows by about half of the growth of the input at most."""
    names = [str(tmp_path / f"{count}.txt") for count in (1_000, 20_000)]
    for name in names:
        Path(name).write_text("".join(f"{'x' * 5000} {i}\n" for i in range(int(Path(name).stem))))
    done = subprocess.run([sys.executable, "-c", MEASURED, *names], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())  # in KiB
    assert many - few < 50_000, (few, many)
