"""Scoring with Ray Data gives the rows and answers of one machine, whatever is killed.

The quick tests run the stages of the pipeline in this process, without Ray. The slow ones start a cluster of several
nodes and kill a worker and a node in the middle of the work.
"""

import gzip
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from blocking_classifier import GatedClassifier
from command_line import hf_spam
from small_data import delimited

from hf_spam import SpamClassifier
from hf_spam.data.formats import DataError
from hf_spam.inference import ray_data
from hf_spam.inference.ray_data import SpamScorer, WriteParts, score_with_ray
from hf_spam.inference.scoring import score_file
from hf_spam.inference.storage import find_files, read_windows

CLASSIFIER = SpamClassifier.from_pretrained()
TEXTS = ["WIN a FREE prize, call 0906", None, "see you at home " * 9, "", " \n", "🙂 ok", 'two\nlines, and "more"']


def summaries(ray, paths, read, write, num_processes):
    """Do the work of `ray_data._summaries` in this process, every part twice, as after a retry."""
    stage = WriteParts(*write)
    for file, path in enumerate(paths):
        for row in read_windows({"file": file, "path": path}, *read):
            once, again = stage(row), stage(row)
            assert once == again
            yield json.loads(once["summary"])


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr(ray_data, "_import_ray", lambda: None)
    monkeypatch.setattr(ray_data, "_cluster", lambda ray, address: threading.Lock())
    monkeypatch.setattr(ray_data, "_summaries", summaries)


def joined(*paths: Path) -> bytes:
    """Return files, such as the parts of a folder, as one; those of CSV repeat the header."""
    parts = [path.read_bytes() for path in paths]
    if paths[0].suffix in (".csv", ".tsv"):
        header = parts[0][: parts[0].index(b"\n") + 1]
        parts = [parts[0], *(part.removeprefix(header) for part in parts[1:])]
    return b"".join(parts)


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


# SpamScorer

BATCHES = {
    "numpy": lambda columns: {name: np.array(values, object) for name, values in columns.items()},
    "pandas": pd.DataFrame,
    "pandas with NaN": lambda columns: pd.DataFrame(columns, dtype=object).replace({None: float("nan")}),
    "pyarrow": pa.table,
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_get_the_answers_of_the_classifier_and_keep_their_columns(kind):
    batch = BATCHES[kind]({"id": list(range(7)), "SMS": TEXTS})
    scored = SpamScorer(prefix="new_")(batch)
    assert type(scored) is type(batch)
    frame = scored.to_pandas() if kind == "pyarrow" else pd.DataFrame(scored)
    assert list(frame) == ["id", "SMS", "new_label", "new_score"] and list(frame["id"]) == list(range(7))
    there = [bool(text and text.strip()) for text in TEXTS]
    expected = CLASSIFIER([text for text in TEXTS if text and text.strip()])
    assert list(frame["new_label"].notna()) == list(frame["new_score"].notna()) == there
    assert list(frame["new_label"][there]) == [answer["label"] for answer in expected]
    assert list(frame["new_score"][there]) == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    assert frame["new_score"].dtype == np.float32
    nothing = SpamScorer(CLASSIFIER)(BATCHES[kind]({"id": np.array([], int), "SMS": np.array([], object)}))
    assert list(nothing.column_names if kind == "pyarrow" else nothing)[2:] == ["label", "score"]


def test_columns_that_cannot_be_used_are_named():
    with pytest.raises(DataError, match=r"^the batch: column 'label' already exists; write another one with --prefix"):
        SpamScorer(CLASSIFIER)({"text": np.array(["a"]), "label": np.array(["b"])})
    with pytest.raises(DataError, match=r"^the batch: there is no text column 'body'; found: \['text'\]"):
        SpamScorer(CLASSIFIER, text_column="body")({"text": np.array(["a"])})
    with pytest.raises(TypeError):
        SpamScorer(CLASSIFIER)({"text": np.array([5])})
    both = SpamScorer(CLASSIFIER, text_column="a,b")({"a": np.array(["WIN"]), "b": np.array(["a prize"])})
    assert both["score"][0] == pytest.approx(CLASSIFIER("WIN\na prize")[0]["score"], abs=1e-6)


# Files

LINES = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(TEXTS))
ROWS = [[str(i), text or ""] for i, text in enumerate(TEXTS)]
FILES = {  # with the dialects that only our readers find out
    "a.csv": delimited([["id", "text"], *ROWS]),
    "semicolons, cp1252.csv": 'id;text\n1;"wünsche; Grüße"\n2;schön\n'.encode("cp1252"),
    "utf-16.tsv": delimited([["id", "text"], *ROWS], "\t").decode().encode("utf-16"),
    "lines.jsonl": LINES.encode(),
    "messages.txt": b"hello\n\nWIN a prize\n",
    "x.csv.gz": gzip.compress(b"text\nhi\n"),
    "z/broken.csv": b'text\nok\n"open\n',
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_parts_are_the_output_of_one_machine(tmp_path, no_ray, suffix):
    """Byte for byte, and so are the counts. Files and parts are in a store of objects; every part is computed twice.

    A file that cannot be read is left out as a whole, and named.
    """
    memory, output, counted, faults = fsspec.filesystem("memory"), tmp_path / f"out{suffix}", Counter(), []
    memory.store.clear()
    for name, data in {**FILES, "_x.csv": b"text\na\n", ".x.csv": b"text\na\n"}.items():
        memory.pipe(f"/inbox/{name}", data)
    scored = score_with_ray(CLASSIFIER, "fsspec+memory://inbox", f"fsspec+memory://{output.name}", window_size=2)
    memory.get(f"/{output.name}", str(output), recursive=True)
    for number, name in enumerate(sorted(FILES)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES[name])
        expected, parts = tmp_path / f"{number}{suffix}", sorted(output.glob(f"part-{number:05d}-*"))
        try:
            alone = score_file(CLASSIFIER, tmp_path / name, expected, window_size=2)
        except DataError as error:
            faults.append(str(error).replace(str(tmp_path), "/inbox"))
            assert not parts
            continue
        assert joined(*parts) == expected.read_bytes()
        counted.update(alone.labels, rows=alone.rows, missing=alone.missing, files=1)
    assert scored.files_left_out == faults and any("/z/broken.csv, line 3: broken quotes" in fault for fault in faults)
    assert Counter(scored.labels, rows=scored.rows, missing=scored.missing, files=scored.files) == counted
    assert json.loads((output / "_SUCCESS").read_text())["rows"] == scored.rows
    matching = find_files("fsspec+memory://inbox/**/*.csv")[1]
    assert [Path(path).name for path in matching] == ["a.csv", "semicolons, cp1252.csv", "broken.csv"]


def test_parquet_keeps_its_schema_and_json_lines_can_become_parquet(tmp_path, no_ray):
    table = pa.table({"n": pa.array(range(7), pa.uint8()), "text": TEXTS, "tags": [["a", None]] * 7})
    pq.write_table(table.replace_schema_metadata({"whose": "mine"}), tmp_path / "in.parquet", row_group_size=3)
    score_file(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "expected.parquet", window_size=2)
    score_with_ray(CLASSIFIER, tmp_path / "in.parquet", tmp_path / "out.parquet", window_size=2)
    parts = [pq.read_table(path) for path in parts_of(tmp_path / "out.parquet")]
    assert pa.concat_tables(parts).equals(pq.read_table(tmp_path / "expected.parquet"), check_metadata=True)
    (tmp_path / "in.jsonl").write_text(LINES + '{"text": "hi", "more": [1]}\n')
    score_with_ray(CLASSIFIER, tmp_path / "in.jsonl", tmp_path / "out2.parquet")
    rows = pq.read_table(tmp_path / "out2.parquet").to_pylist()
    assert [row["text"] for row in rows] == [*TEXTS, "hi"] and [row["more"] for row in rows] == [None] * 7 + [[1]]
    assert list(rows[0]) == ["text", "n", "more", "label", "score"] and rows[0]["label"] == "spam"


def test_user_errors_are_one_clear_line(tmp_path, monkeypatch, no_ray):
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\na\n")
    Path("bad.csv").write_text('text\n"a\n')
    score_with_ray(CLASSIFIER, "in.csv", "done.csv")
    Path("mine.csv").mkdir()
    Path("mine.csv/thesis.doc").write_text("mine")
    for source, output, message in [
        ("none.csv", "out.csv", "none.csv: no such file"),
        ("a/b", "out.csv", "a/b: no such file; write hf://datasets/a/b for"),
        ("in.csv", "out", "out: unknown format"),
        ("in.csv", "none/out.csv", ".*none/out.csv: there is no folder"),
        ("in.csv", "done.csv", ".*done.csv already exists; use --overwrite"),
        ("done.csv", "done.csv", "done.csv is the input; name another folder"),
        ("in.csv", "bad.csv", ".*bad.csv is a file; name a folder"),
        ("bad.csv", "out.csv", ".*bad.csv, line 2: broken quotes"),
        ("what://a/in.csv", "out.csv", "what://a/in.csv: "),
    ]:
        with pytest.raises((ValueError, OSError), match=f"^{message}") as caught:
            score_with_ray(CLASSIFIER, source, output)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"mine\.csv holds other files"):
        score_with_ray(CLASSIFIER, "in.csv", "mine.csv", overwrite=True)
    assert score_with_ray(CLASSIFIER, "in.csv", "done.csv", overwrite=True).rows == 1


def test_a_cluster_that_cannot_be_reached_costs_no_result(tmp_path, monkeypatch, no_ray):
    @contextmanager
    def unreachable(*_):
        raise OSError("--address auto: no Ray cluster.")
        yield

    (tmp_path / "in.csv").write_text("text\na\n")
    score_with_ray(CLASSIFIER, tmp_path / "in.csv", tmp_path / "out.csv")
    files = sorted((tmp_path / "out.csv").iterdir())
    monkeypatch.setattr(ray_data, "_cluster", unreachable)
    with pytest.raises(OSError, match="no Ray cluster"):
        score_with_ray(CLASSIFIER, tmp_path / "in.csv", tmp_path / "out.csv", overwrite=True)
    assert files == sorted((tmp_path / "out.csv").iterdir()) and len(files) == 2


def test_rows_left_out_are_named_with_their_file(tmp_path, no_ray):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"id,text\n1,{name}\n2\n")
    scored = score_with_ray(CLASSIFIER, f"{tmp_path}/*.csv", tmp_path / "out.jsonl", skip_bad_rows=True)
    assert [re.sub(", line.*", "", one) for one in sorted(scored.first_left_out)] == [
        str(tmp_path / name) for name in ("a.csv", "b.csv")
    ]


def test_what_ends_a_job_is_said_in_one_line(tmp_path, monkeypatch, no_ray):
    """Damaged weights, and a file that changes while it is read."""
    (tmp_path / "in.txt").write_text("a\nb\nc\n")
    damaged = SpamClassifier.from_pretrained()
    with torch.no_grad():
        next(damaged.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^The model returned NaN or infinite logits: its weights are damaged\.$"):
        score_with_ray(damaged, tmp_path / "in.txt", tmp_path / "out.csv")
    write, part = ray_data.storage.write, tmp_path / "out.csv" / "part-00000-000000.csv"

    def changing(filesystem, path, data):
        (tmp_path / "in.txt").write_text("a\nb\nother\n")
        write(filesystem, path, data)

    monkeypatch.setattr(ray_data.storage, "write", changing)
    with pytest.raises(ValueError, match=r"in\.txt: the file changed while it was read; run the command again$"):
        score_with_ray(CLASSIFIER, tmp_path / "in.txt", tmp_path / "out.csv", window_size=2)
    assert part.exists() and not part.with_name("_SUCCESS").exists()


def test_the_command_line_says_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text\na\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = hf_spam("score", tmp_path / "in.csv", tmp_path / "out.csv", "--engine", "ray")
    assert code == 1 and err == 'hf-spam: --engine ray needs ray, which is not installed: pip install "hf-spam[ray]"\n'
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    code, _, err = hf_spam("score", tmp_path / "in.csv", tmp_path / "out.csv", "--address", "auto")
    assert code == 2 and "--address needs --engine ray" in err


# A cluster


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of a head without cores, which runs the driver, and two nodes of one core each."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # with a token, Ray writes to the home directory
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.work = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["a worker", "a node"])
def test_what_is_killed_loses_and_doubles_no_row(tmp_path, cluster, killed):
    """In the middle: each actor has written two parts, and waits in its third until something has been killed."""
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv"):
        rows = [[f"{name} {i:03d}", text or ""] for i, text in enumerate(TEXTS * 20)]
        (tmp_path / "in" / name).write_bytes(delimited([["id", "text"], *rows]))
    expected = [
        score_file(CLASSIFIER, tmp_path / "in" / name, tmp_path / name, window_size=10) for name in ("a.csv", "b.csv")
    ]
    (tmp_path / "gate").mkdir()
    gated = GatedClassifier.from_pretrained()
    gated.gate, output = tmp_path / "gate", tmp_path / "out.csv"

    def kill() -> None:
        while len(parts_of(output)) < 4:
            time.sleep(0.01)
        if killed == "a node":
            cluster.remove_node(cluster.work[0], allow_graceful=False)
        else:
            os.kill(int(next(gated.gate.glob("pid-*")).name.removeprefix("pid-")), signal.SIGKILL)
        (gated.gate / "open").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    scored = score_with_ray(gated, tmp_path / "in", output, address=cluster.address, window_size=10)
    killer.join()
    assert joined(*parts_of(output)) == joined(tmp_path / "a.csv", tmp_path / "b.csv")
    assert scored.rows == sum(one.rows for one in expected) == 280
    assert scored.missing == sum(one.missing for one in expected) and scored.files_left_out == []
    assert {path.name for path in output.iterdir()} == {"_SUCCESS", *(path.name for path in parts_of(output))}


@pytest.mark.slow
def test_spam_scorer_in_a_pipeline(cluster):
    import ray

    ray.init(cluster.address, log_to_driver=False)
    messages = ray.data.from_arrow(pa.table({"id": range(70), "text": TEXTS * 10}))
    actors = ray.data.ActorPoolStrategy(size=2)
    rows = messages.map_batches(SpamScorer, batch_size=8, compute=actors).sort("id").take_all()
    expected = SpamScorer(CLASSIFIER)(pa.table({"text": TEXTS})).to_pylist() * 10
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    scores = [[float("nan") if row["score"] is None else row["score"] for row in some] for some in (rows, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)
