"""Scoring files: no value changed, no row lost, doubled or moved, whatever the format, whoever is killed, and where.

The reference is the classifier itself on the list of texts, and Python's own readers on what was written.
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
import zipfile
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_spam import SpamClassifier
from hf_spam.cli import main
from hf_spam.data.formats import DataError
from hf_spam.inference import parts, scoring
from hf_spam.inference.scoring import score_file

CLASSIFIER = SpamClassifier.from_pretrained()
NASTY = [
    "",
    " ",
    "007",
    "NA",
    "null",
    'a "quoted" cell',
    "two\nlines",
    "cr\rcr",
    "lf\r\n",
    "a,b\t;",
    "\x00\x1b[31m",
    "🙂スパム",
    "\u2028",
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(NASTY)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # halves of surrogate pairs, too
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30).filter(
    lambda t: not t.endswith("\r")
)


def messages(count: int) -> list[str]:
    return [
        f"{i} {'WIN a FREE prize, call 0906' if i % 3 else 'see you at home'} {NASTY[i % len(NASTY)]}"
        for i in range(count)
    ]


def answers(texts: list[str]) -> list[tuple[str, float]]:
    return [(answer["label"], answer["score"]) for answer in CLASSIFIER(texts)]


def write_csv(path: Path, rows: list[list[str]], header: tuple[str, ...] = ("text",)) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    return path


def read_csv(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter, strict=True))


def read_csv_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hf_spam", "score", *map(str, arguments)]


def run_main(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The command line in this process, to save the seconds of an import: exit code, and what was printed."""
    monkeypatch.setattr(sys, "argv", ["hf-spam", "score", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    printed = capsys.readouterr()
    return exit.value.code, printed.out, printed.err


def same_answers(found: list[tuple[str, float]], texts: list[str]) -> bool:
    expected = answers(texts)
    return [label for label, _ in found] == [label for label, _ in expected] and [
        float(score) for _, score in found
    ] == pytest.approx([score for _, score in expected], abs=1e-6)


# Values


@settings(max_examples=20)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=9),
    size=st.integers(1, 4),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_cells_of_a_csv_come_back_as_they_were(tmp_path_factory, rows, size, suffix):
    """Whatever is in them: quotes, line ends of all kinds, nothing, digits with zeros in front, NUL."""
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
KEY = st.text(max_size=4).filter(lambda key: key not in ("label", "score"))


@settings(max_examples=20)
@given(rows=st.lists(st.tuples(ANY_TEXT, st.dictionaries(KEY, VALUE, max_size=3), st.booleans()), max_size=9))
def test_a_json_line_comes_back_character_for_character(tmp_path_factory, rows):
    """Order of keys, numbers of any length, nulls, absent keys, escapes (halves of surrogate pairs, too)."""
    folder = tmp_path_factory.mktemp("json")
    objects = [
        {**others, "text": text} if last else {"text": None, **others, **{"text": text}} for text, others, last in rows
    ]
    lines = [json.dumps(values, ensure_ascii=True) for values in objects]
    (folder / "in.jsonl").write_text("".join(f" {line}\r\n" for line in lines) + "\n\n", encoding="utf-8", newline="")
    score_file(CLASSIFIER, folder / "in.jsonl", folder / "out.jsonl", window_size=4)
    found = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [line[: len(kept) - 1] for line, kept in zip(found, lines, strict=True)] == [line[:-1] for line in lines]
    new = [json.loads(line) for line in found]
    assert same_answers([(values["label"], values["score"]) for values in new], [values["text"] for values in objects])


def test_json_that_python_would_not_write_the_same(tmp_path):
    lines = ['{"n":1.10,"big":123456789012345678901234567890,"text":"a","e":1E5,"text" : "b" }', '{"text":"ü\\u00fc"}']
    lines.append('{"digits":' + "9" * 5000 + ',"text":""}')
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    score_file(CLASSIFIER, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line.startswith(kept[:-1].rstrip() + ', "label": ') for line, kept in zip(found, lines, strict=True)] == [
        True
    ] * 3


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


def test_parquet_of_a_dataset_is_one_again_and_can_be_json_lines(tmp_path):
    Dataset.from_dict({"text": messages(9), "n": [[i, None] for i in range(9)]}).to_parquet(tmp_path / "in.parquet")
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.parquet", window_size=4)
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.jsonl", window_size=4)
    rows = load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train").to_list()
    assert [list(row) for row in rows] == [["text", "n", "label", "score"]] * 9
    assert [dict(row, score=pytest.approx(row["score"])) for row in read_lines(tmp_path / "out.jsonl")] == rows


@settings(max_examples=20)
@given(
    st.lists(LINE, max_size=9),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([".csv", ".jsonl", ".parquet"]),
)
def test_a_line_of_plain_text_is_a_message(tmp_path_factory, lines, end, last_end, suffix):
    folder = tmp_path_factory.mktemp("txt")
    text = end.join(lines) + (end if lines and (last_end or not lines[-1]) else "")
    (folder / "in.txt").write_bytes(text.encode())
    out = folder / f"out{suffix}"
    score_file(CLASSIFIER, folder / "in.txt", out, text_column="sms", window_size=3)
    if suffix == ".parquet":
        found = pq.read_table(out).to_pylist()
    else:
        found = (
            read_lines(out)
            if suffix == ".jsonl"
            else [dict(zip(("sms", "label", "score"), row, strict=True)) for row in read_csv(out)[1:]]
        )
    first = lines[:1] and [lines[0].removeprefix("\ufeff")]  # the mark of UTF-8 is not of the text
    assert [row["sms"] for row in found] == [*first, *lines[1:]]
    assert same_answers([(row["label"], row["score"]) for row in found], [row["sms"] for row in found])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_no_rows_are_no_rows_with_two_more_columns(tmp_path, suffix):
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


def test_the_mark_of_utf8_is_not_of_the_text(tmp_path):
    for name, data in (("in.txt", "\ufeffhi\n\ufeffho\n"), ("in.csv", "\ufefftext\nhi\n\ufeffho\n")):
        (tmp_path / name).write_text(data, encoding="utf-8")
        score_file(CLASSIFIER, tmp_path / name, tmp_path / f"{name}.csv")
        assert [row[0] for row in read_csv(tmp_path / f"{name}.csv")] == ["text", "hi", "\ufeffho"]


def test_a_dataset_on_the_hub_is_streamed(tmp_path, hub, monkeypatch):
    """The commit that is newest at the start is read to the end."""
    from huggingface_hub import HfApi

    texts = messages(30)
    api = HfApi()
    api.create_repo("alice/inbox", repo_type="dataset")
    Dataset.from_dict({"text": texts, "id": range(30)}).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    api.upload_file(
        path_or_fileobj=tmp_path / "test-00000-of-00001.parquet",
        path_in_repo="data/test-00000-of-00001.parquet",
        repo_id="alice/inbox",
        repo_type="dataset",
    )
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
    """A CSV of 600 rows, in 38 windows of 16, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("inbox")
    source = write_csv(folder / "in.csv", [[f"{i:04d}", text] for i, text in enumerate(messages(600))], ("id", "text"))
    score_file(CLASSIFIER, source, folder / "out.csv", window_size=16, num_processes=1)
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "out.csv"]
    return source, (folder / "out.csv").read_bytes()


def pieces(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.parts").glob("0*")))


def wait_for_pieces(output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while pieces(output) < count:
        assert time.monotonic() < deadline, f"{pieces(output)} of {count} pieces after a minute"
        time.sleep(0.002)


def test_rows_are_in_order_and_answers_are_the_classifiers(inbox):
    found = read_csv_of(inbox[1])
    assert [row[:2] for row in found[1:]] == [[f"{i:04d}", text] for i, text in enumerate(messages(600))]
    assert same_answers([(row[2], row[3]) for row in found[1:]], messages(600))


@pytest.mark.parametrize("count", [2, 3, None])
def test_the_same_bytes_on_any_number_of_processes(tmp_path, inbox, monkeypatch, count):
    """None: alone at first, then on all cores."""
    monkeypatch.setattr(scoring, "SECONDS_ALONE", 0.01)
    monkeypatch.setattr(scoring, "available_cores", lambda: 2)
    scored = score_file(CLASSIFIER, inbox[0], tmp_path / "out.csv", window_size=16, num_processes=count)
    assert (tmp_path / "out.csv").read_bytes() == inbox[1]
    assert scored.rows == 600 and sum(scored.labels.values()) == 600
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_killed_worker_ends_the_run_and_the_next_goes_on(tmp_path, inbox):
    """Once with each of two, at another moment; nothing is at the output before the end."""
    output = tmp_path / "out.csv"

    def kill(number: int, after: int) -> None:
        wait_for_pieces(output, after)
        os.kill(sorted(child.pid for child in multiprocessing.active_children())[number], signal.SIGKILL)

    score_file(CLASSIFIER, inbox[0], tmp_path / "whole.csv", window_size=4, num_processes=1)
    for number in (0, 1):
        after = pieces(output) + 3
        killer = threading.Thread(target=kill, args=(number, after))
        killer.start()
        with pytest.raises(OSError, match=r"A process was killed.* Nothing is lost: run the same command again"):
            score_file(CLASSIFIER, inbox[0], output, window_size=4, num_processes=2)
        killer.join()
        assert not output.exists() and pieces(output) >= after
    there = pieces(output)
    scored = score_file(CLASSIFIER, inbox[0], output, window_size=4, num_processes=1)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes() and scored.resumed_rows == 4 * there
    assert scored.rows == 600 and sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "whole.csv"]


def test_a_killed_command_leaves_no_process_and_the_next_goes_on(tmp_path, inbox, caplog):
    output = tmp_path / "out.csv"
    arguments = command(inbox[0], output, "--window-size", 16, "--num-processes", 2)
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        wait_for_pieces(output, 5)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert family and not alive
    there = pieces(output)
    assert there >= 5 and not output.exists()
    caplog.set_level("INFO", "hf_spam")
    assert score_file(CLASSIFIER, inbox[0], output, window_size=16).resumed_rows == min(600, 16 * there)
    assert "rows were scored by an earlier run" in caplog.text
    assert output.read_bytes() == inbox[1] and [path.name for path in tmp_path.iterdir()] == ["out.csv"]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package catches it."""


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_run_killed_before_any_change_on_the_disk_goes_on(tmp_path, monkeypatch, old):
    """The same command then ends well, and all rows are there. An output to be overwritten is that, or the new one."""
    output, expected = tmp_path / "out.csv", tmp_path / "expected.csv"
    source = write_csv(tmp_path / "in.csv", [[text] for text in messages(5)])
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
            patched.setattr(os, "replace", counted(os.replace))
            patched.setattr(Path, "mkdir", counted(Path.mkdir))
            patched.setattr(Path, "unlink", counted(Path.unlink))
            patched.setattr(Path, "rmdir", counted(Path.rmdir))
            patched.setattr(parts, "merge_pieces", counted(parts.merge_pieces))
            try:
                score_file(CLASSIFIER, source, output, window_size=2, overwrite=bool(old))
            except Killed:
                pass
            else:
                break
        assert (output.read_bytes() if output.exists() else None) in (old, expected.read_bytes())
        try:
            score_file(CLASSIFIER, source, output, window_size=2, overwrite=bool(old))
        except FileExistsError:  # all but the empty folder was gone: the output is said to be there, and it is
            output.with_name("out.csv.parts").rmdir()
        assert output.read_bytes() == expected.read_bytes(), step
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.csv", "in.csv", "out.csv"], step
    assert step > 18


@pytest.mark.slow
def test_the_soak_finds_nothing():
    """One round of `scripts/soak_scoring.py`, which goes on for minutes by hand."""
    script = Path(__file__).parents[2] / "scripts" / "soak_scoring.py"
    soak = [sys.executable, str(script), "--minutes", "0", "--rows", "200", "--seed", "3"]
    done = subprocess.run(soak, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("1 rounds of 200 rows, "), done.stderr
    assert done.stdout.endswith("no row lost, doubled or changed.\n")


# Going on


@pytest.fixture
def begun(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """An input, and an output of which two windows of three are there."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"
    stop_after(monkeypatch, 2)
    with pytest.raises(Killed):
        score_file(CLASSIFIER, source, output, window_size=2)
    monkeypatch.undo()
    assert pieces(output) == 2
    return source, output


def stop_after(monkeypatch, count: int) -> None:
    add = parts.Parts.add

    def stopping(self, window, *rest):
        if window == count:
            raise Killed
        add(self, window, *rest)

    monkeypatch.setattr(parts.Parts, "add", stopping)


def test_what_is_there_is_not_scored_again(begun, monkeypatch):
    source, output = begun
    seen = []
    classify = SpamClassifier.__call__
    monkeypatch.setattr(SpamClassifier, "__call__", lambda self, texts: seen.extend(texts) or classify(self, texts))
    assert score_file(CLASSIFIER, source, output, window_size=2).resumed_rows == 4
    assert seen == messages(6)[4:]


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
        (lambda source: {"prefix": "pred_"}, "the columns"),
        (lambda source: {"window_size": 3}, r"the window size \(2 there, 3 now\)"),
    ],
)
def test_another_run_does_not_go_on_with_what_is_there(begun, change, what):
    """Refused, with what differs; --overwrite discards it, and what then comes out is all the other run's."""
    source, output = begun
    settings = {"classifier": CLASSIFIER, "window_size": 2, **change(source)}
    with pytest.raises(ValueError, match=f"{output.name}.parts holds .* differs in {what}.*--overwrite"):
        score_file(source=source, output=output, **settings)
    assert pieces(output) == 2 and not output.exists()
    score_file(source=source, output=output, overwrite=True, **settings)
    score_file(source=source, output=output.with_name("anew.csv"), **settings)
    assert output.read_bytes() == output.with_name("anew.csv").read_bytes()


def test_overwriting_goes_on_as_well_and_replaces_only_at_the_end(begun):
    source, output = begun
    output.write_text("old")
    with pytest.raises(FileExistsError, match="already exists; use --overwrite"):
        score_file(CLASSIFIER, source, output, window_size=2)
    assert output.read_text() == "old" and pieces(output) == 2
    assert score_file(CLASSIFIER, source, output, window_size=2, overwrite=True).resumed_rows == 4
    assert len(read_csv(output)) == 7


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    source = write_csv(tmp_path / "in.csv", [["a"]])
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.doc").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        score_file(CLASSIFIER, source, tmp_path / "out.csv", overwrite=True)
    assert (tmp_path / "out.csv.parts" / "thesis.doc").read_text() == "mine"


def test_an_input_that_is_changed_meanwhile_is_noticed(tmp_path, monkeypatch):
    """And what was read of it is not kept for a piece of what it was."""
    source, output = write_csv(tmp_path / "in.csv", [[text] for text in messages(6)]), tmp_path / "out.csv"
    before, classify = source.read_bytes(), SpamClassifier.__call__

    def changing(self, texts):
        source.write_bytes(before.replace(b"FREE", b"DEAR"))
        return classify(self, texts)

    with monkeypatch.context() as patched:
        patched.setattr(SpamClassifier, "__call__", changing)
        with pytest.raises(DataError, match=r"in\.csv: the file changed while it was read"):
            score_file(CLASSIFIER, source, output, window_size=2)
    assert pieces(output) == 0 and not output.exists()
    source.write_bytes(before)
    score_file(CLASSIFIER, source, output, window_size=2)
    assert [row[0] for row in read_csv(output)[1:]] == messages(6)


# The command line


def test_standard_input_and_output(tmp_path, monkeypatch):
    """Lines in, JSON lines out, in one pipe, more than a window of them; and from a pipe into a file."""
    texts = [text for text in messages(50) if "\n" not in text and "\r" not in text]
    stdin = "\n".join(texts).encode()
    done = subprocess.run(command("-", "-", "--window-size", 7), input=stdin, capture_output=True, timeout=120)
    found = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert done.returncode == 0 and done.stderr == b"" and [row["text"] for row in found] == texts
    assert same_answers([(row["label"], row["score"]) for row in found], texts)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    assert score_file(CLASSIFIER, "-", tmp_path / "out.jsonl", window_size=7).rows == len(texts)
    assert [row["text"] for row in read_lines(tmp_path / "out.jsonl")] == texts


def test_a_pipe_ends_at_the_first_bad_row(tmp_path, monkeypatch, capsys):
    """What is before the window of that row has been written."""
    (tmp_path / "in.jsonl").write_text('{"text":"a"}\n' * 5 + "{}\n")
    code, out, err = run_main(monkeypatch, capsys, tmp_path / "in.jsonl", "-", "--window-size", 2)
    assert code == 1 and len(out.splitlines()) == 4 and "in.jsonl, line 6: there is no text column" in err


def test_what_is_said_of_a_run(tmp_path, monkeypatch, capsys):
    source = write_csv(tmp_path / "in.csv", [[text] for text in messages(20)])
    code, out, err = run_main(monkeypatch, capsys, source, tmp_path / "out.parquet", "--json")
    summary = json.loads(out)
    labels = [label for label, _ in answers(messages(20))]
    assert code == 0 and summary["rows"] == 20 and summary["output"] == str(tmp_path / "out.parquet")
    assert summary["labels"] == {label: labels.count(label) for label in sorted(set(labels))} and summary["seconds"] > 0
    assert err.startswith("20 rows (") and "out.parquet" in err and "rows/s" in err and err.count("\n") == 1


def test_a_column_of_that_name_is_not_overwritten(tmp_path, monkeypatch, capsys):
    source = write_csv(tmp_path / "in.csv", [["ham", "hello"]], ("label", "sms"))
    code, _, err = run_main(monkeypatch, capsys, source, tmp_path / "out.csv", "--text-column", "sms")
    assert code == 1 and "there is a column 'label' already; --prefix pred_ makes it 'pred_label'" in err
    code, _, _ = run_main(
        monkeypatch, capsys, source, tmp_path / "out.csv", "--text-column", "sms", "--prefix", "pred_"
    )
    assert code == 0 and read_csv(tmp_path / "out.csv")[0] == ["label", "sms", "pred_label", "pred_score"]


def parquet(table: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


BROKEN_TEXT = parquet({"text": pa.array([b"\xff"], pa.binary()).cast(pa.string(), safe=False)})
GOOD = parquet({"text": messages(2000)})
BAD_INPUTS = [  # beside those of `data/test_formats.py`, which are read by the same readers
    ("none.csv", None, "out.csv", "none.csv: no such file, and not a Hub dataset id such as 'owner/name'"),
    (
        *("in.doc", b"", "out.csv"),
        "in.doc: unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, .zip, .txt",
    ),
    (
        *("in.txt", b"a", "out.doc"),
        "out.doc: unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, or - to print JSON lines.",
    ),
    ("in.txt", b"a", "no/out.csv", "no/out.csv: there is no folder no."),
    (
        *("in.csv", b"v1,body\nham,hi\n", "out.csv"),
        "in.csv, line 1 (the header): there is no text column (text, message, sms, v2); found: ['v1', 'body']; "
        "name it with --text-column",
    ),
    ("in.csv", b"text,n\na,1\n\nb\n", "out.csv", "in.csv, line 3: the line is empty; remove it"),
    ("in.txt", b"ok\n\xff\n", "out.csv", "in.txt, line 2: not UTF-8 (byte 0xff); save the file as UTF-8"),
    ("in.jsonl", b'{"text":"a"}\n{"text":null}', "out.jsonl", "in.jsonl, line 2: the text is missing"),
    (
        *("in.jsonl", b'{"text":"a"}\n{"text":"b","score":1}', "out.jsonl"),
        "in.jsonl, line 2: there is a column 'score' already; --prefix pred_ makes it 'pred_score'",
    ),
    (
        "in.parquet",
        b"PAR1 and no more",
        "out.parquet",
        "in.parquet: broken Parquet file (Parquet magic bytes",
    ),
    ("in.parquet", GOOD[:-2000], "out.parquet", "in.parquet: broken Parquet file ("),
    ("in.parquet", GOOD[:100] + bytes(2000) + GOOD[2100:], "out.parquet", "in.parquet: "),
    ("in.parquet", BROKEN_TEXT, "out.parquet", "in.parquet: damaged, or not UTF-8 ("),
    # What an output format cannot hold
    (
        *("in.csv", b"text,n,n\na,1,2\n", "out.jsonl"),
        "in.csv: .jsonl cannot hold two columns called 'n'; write .csv",
    ),
    (
        *("in.jsonl", b'{"text":"a"}', "out.csv"),
        "in.jsonl: JSON lines may differ in their keys, which .csv cannot hold; write .jsonl",
    ),
    (
        *("in.parquet", parquet({"text": ["a"], "n": [1]}), "out.csv"),
        "in.parquet: .csv cannot hold types and nulls; write .parquet or .jsonl",
    ),
    (
        *("in.parquet", parquet({"text": ["a"], "b": [b"x"]}), "out.jsonl"),
        "in.parquet: Object of type bytes is not JSON serializable, so it cannot be written as JSON; write .parquet",
    ),
    (
        *("in.parquet", parquet({"text": ["a"], "x": [float("nan")]}), "out.jsonl"),
        "in.parquet: Out of range float values are not JSON compliant",
    ),
]


@pytest.mark.parametrize(("name", "data", "output", "message"), BAD_INPUTS)
def test_a_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, name, data, output, message):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path(name).write_bytes(data)
    code, out, err = run_main(monkeypatch, capsys, name, output, "--window-size", 2)
    assert code == 1 and out == "" and err.count("\n") == 1 and err.startswith(f"hf-spam: {message}"), err
    assert [path.name for path in tmp_path.iterdir()] == [name] * (data is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv", "in.csv", "--overwrite"], "in.csv is the input; name another file for the output."),
        (["in.csv", "out.csv", "--split", "test"], "in.csv: a file has no splits; --split is for Hub datasets"),
        (["in.csv", "out.csv", "--window-size", "0"], "--window-size and --num-processes must be at least 1."),
        (["in.csv", "-", "--json"], "--json, --overwrite and --num-processes cannot be used with OUT -"),
        (["in.csv", "."], ".: unknown file extension"),
        (["in.csv", "out.csv", "--model", "no/where"], "No model in a local folder or a Hub repository named"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("in.csv"), [["a"]])
    code, out, err = run_main(monkeypatch, capsys, *arguments)
    assert code and out == "" and err.count("\n") == 1 and err.startswith(f"hf-spam: {message}"), err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_whatever_training_reads_is_scored_too(tmp_path):
    """The header-less UCI file, Kaggle's Latin-1 copy and a zip, whose columns need not be named."""
    uci = b'ham\tHe said "ok", then\nspam\tWIN \xc2\xa3100\n'
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("SMSSpamCollection", uci)
    (tmp_path / "SMSSpamCollection").write_bytes(uci)
    (tmp_path / "spam.csv").write_bytes(b'v1,v2,,\nham,"He said ""ok""", then,\nspam,WIN \xa3100,,\n')
    for name, columns in (("in.zip", 2), ("SMSSpamCollection", 2), ("spam.csv", 4)):
        score_file(CLASSIFIER, tmp_path / name, tmp_path / f"{name}.out.csv", prefix="pred_")
        found = read_csv(tmp_path / f"{name}.out.csv")
        assert [row[1] for row in found[1:]] in (['He said "ok", then', "WIN £100"], ['He said "ok"', "WIN £100"])
        scores = [(row[columns], row[columns + 1]) for row in found[1:]]
        assert same_answers(scores, ['He said "ok", then', "WIN £100"]), name


MEASURED = """
import re, sys
from pathlib import Path
from hf_spam import SpamClassifier
from hf_spam.inference.scoring import score_file

classifier = SpamClassifier.from_pretrained()
SpamClassifier.__call__ = lambda self, texts: [{"label": "spam", "score": 0.5}] * len(texts)
for name in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # what loading has taken is not counted
    score_file(classifier, name, f"{name}.parquet", window_size=100, num_processes=1)
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, which counts the peak anew")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Ten windows, then two hundred: the peak grows by less than half of what the input does."""
    names = [str(tmp_path / f"{count}.txt") for count in (1_000, 20_000)]
    for name in names:
        Path(name).write_text("".join(f"{'x' * 5000} {i}\n" for i in range(int(Path(name).stem))))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *names], capture_output=True, text=True, timeout=120, check=True
    )
    few, many = map(int, done.stdout.split())  # in KiB
    assert many - few < 50_000, (few, many)
