"""Score the messages of a file on several processes, without losing or duplicating a row.

The input is read in windows of a fixed number of rows. A process scores one window at a time and saves the result as a
piece next to the output, in `OUT.parts` (see `parts`). At the end, the pieces are merged into the output, which appears
in one step. A killed run resumes with the windows that have no piece, on any number of processes.

Every process reads the whole input, and takes the next window that no other has taken. Batches do not depend on the
number of processes, and each process computes on one thread, so the output is identical byte for byte on any number of
processes.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import torch
import transformers
from huggingface_hub import HfApi
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes
from tqdm.auto import tqdm

from ..conversion.loading import history_file
from ..data.dialects import find_encoding
from ..data.formats import PLAIN_TEXT, DataError, DataFile, is_hub_id, suffix_of
from ..data.readers import LinesReader, open_file
from ..data.reading import Reading
from ..data.rows import OUTPUTS, check_input, check_output, format_rows
from ..data.windows import Reader, Window
from ..files import hash_file, versions
from ..hub_errors import explained
from ..text import first_line, printable
from .classifier import SpamClassifier, one_thread
from .parts import Parts

logger = logging.getLogger(__name__)

STANDARD = "-"  # standard input or output
WINDOW_SIZE = 4096
FEW_ROWS = 2 * WINDOW_SIZE  # not worth another process
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass(frozen=True)
class ScoredFile:
    """Summary of a scored file."""

    output: str
    rows: int
    labels: dict[str, int]
    """Number of rows with each label."""
    missing: int
    """Number of rows without a label and a score, because their text is missing or empty."""
    left_out: int
    """Number of rows left out, which could not be read (`skip_bad_rows`)."""
    first_left_out: list[str]
    """Place and fault of the first three of them."""
    resumed_rows: int
    """Number of rows scored by an earlier run."""
    seconds: float
    """Duration of this run."""


def score_file(
    classifier: SpamClassifier,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    split: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
    num_processes: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **reading: Any,
) -> ScoredFile:
    """Score the messages of a file, and write its rows unchanged and in order, with columns `label` and `score` added.

    Rows whose text is missing or empty get neither. The whole file is checked before the first message is scored. Each
    process holds one window in memory. A script that uses several processes must be guarded by
    `if __name__ == "__main__"`, as `multiprocessing` requires.

    Args:
        classifier: The classifier.
        source: A .csv, .tsv, .jsonl, .json, .parquet or .txt file (a table, or a message per line), also in a .zip or
            .gz, "-" for the lines of standard input, or a Hub dataset id "owner/name", which is streamed.
        output: A .jsonl or .parquet file, or a .csv or .tsv file if all input values are strings. JSON lines can only
            be written as JSON lines.
        split: Split of a Hub dataset; `None` for "train".
        prefix: Prefix for the names of the two new columns.
        window_size: Rows per window.
        num_processes: Number of processes. `None` for one per core or accelerator, or just one if at most 8,192 rows
            are left to score.
        overwrite: Whether to replace an existing output, and discard the unfinished output of a different run.
        progress: Whether to show a progress bar.
        **reading: `text_column`, `encoding` and `skip_bad_rows`, as for `load_sms_spam`.

    Raises:
        DataError: The input cannot be read, or cannot be written in the output format. No output is written.
        FileExistsError: The output exists.
        ValueError: A different run was left unfinished, or a setting is invalid.
        OSError: A file cannot be read or written, the Hub does not answer, or a process was killed.
    """
    start = time.perf_counter()
    if window_size < 1 or (num_processes is not None and num_processes < 1):
        raise ValueError("--window-size and --num-processes must be at least 1.")
    how = _reading(prefix, reading)
    output = _check_output_path(Path(output), source)
    processes = num_processes or _most_processes(classifier)
    if processes > 1 and os.path.isfile(source) and os.path.getsize(source) > 2**20:  # rarely few rows
        _begin_imports()
    with _open(source, how, split) as (reader, content):
        run = {
            "the input": content,
            "the model": _model_hash(classifier),
            "the device": classifier.model.device.type,
            "the reading": [how.text_column, *how.remembered, *how.added, how.encoding, how.skip_bad_rows],
            "the window size": window_size,
            "the version": [versions()["hf-spam"], versions()["torch"]],
        }
        parts = Parts(output, run, window_size)
        if result := parts.finished():
            resumed = result["rows"]
        else:
            parts.begin(lambda: check_input(reader, window_size, parts.suffix), overwrite=overwrite)
            if column := reader.columns[0]:
                details = "; ".join(filter(None, [f"texts from {column}", reader.note()]))
                logger.info("%s: %s", reader.name, printable(details))
            resumed, total = parts.rows_done(), parts.total_rows()
            if num_processes is None and total is not None and total - resumed <= FEW_ROWS:
                processes = 1
            if resumed:
                logger.info("Resuming: %d rows were scored by an earlier run.", resumed)
            with tqdm(total=total, initial=resumed, desc="Scoring", unit="row", disable=not progress) as bar:
                _score(processes, reader, parts, classifier, lambda: bar.update(parts.rows_done() - bar.n))
            result = parts.finish()
        parts.remove()
    return ScoredFile(str(output), **result, resumed_rows=resumed, seconds=time.perf_counter() - start)


def score_stream(
    classifier: SpamClassifier,
    source: str | os.PathLike,
    file: BinaryIO,
    *,
    split: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
    **reading: Any,
) -> int:
    """Score messages and write them as JSON lines, window by window, for use in a pipe; return the number of rows.

    Arguments and errors are those of `score_file`. If the input cannot be read, earlier windows have been written.
    """
    rows, left_out, first_left_out = 0, 0, []
    with _open(source, _reading(prefix, reading), split, spool=False) as (reader, _), one_thread():
        for number, window in enumerate(reader.windows(window_size)):
            summary, piece = score_window(classifier, reader, window, ".jsonl", first=number == 0)
            file.write(piece)
            file.flush()
            rows += sum(summary["labels"].values()) + summary["missing"]
            left_out, first_left_out = left_out + summary["left_out"], first_left_out + summary["first_left_out"]
    if left_out:
        logger.warning("%s: left out %d rows: %s", reader.name, left_out, "; ".join(first_left_out[:3]))
    return rows


def trained_text_column(model: str | os.PathLike | None) -> str | None:
    """Return the name of the text column that a model was trained on, if its `history.json` has it."""
    path = None if model in (None, "bundled") else history_file(model)
    try:
        column = json.loads(path.read_bytes())["recipe"]["text_column"] if path else None
    except (OSError, ValueError, LookupError, TypeError):  # of any repository on the Hub
        return None
    return column if isinstance(column, str) else None


def _reading(prefix: str, reading: dict[str, Any]) -> Reading:
    return Reading(**reading, labelled=False, added=(f"{prefix}label", f"{prefix}score"))


def _check_output_path(output: Path, source: str | os.PathLike) -> Path:
    if output.suffix.lower() not in OUTPUTS:
        known = ", ".join(OUTPUTS)
        raise ValueError(f"{output}: unknown file extension; use one of {known}, or - to print JSON lines.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}.")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder.")
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise ValueError(f"{output} is the input; name another file for the output.")
    return output


@contextmanager
def _open(
    source: str | os.PathLike, reading: Reading, split: str | None, *, spool: bool = True
) -> Iterator[tuple[Reader, str]]:
    """Yield a reader of a source and an id of its content; `spool` first copies standard input to a file."""
    name = os.fspath(source)
    if name == STANDARD and not spool:
        file = DataFile(sys.stdin.fileno(), "standard input", PLAIN_TEXT)
        yield LinesReader(file, reading, find_encoding(file, reading.encoding)), STANDARD
    elif name == STANDARD:
        with tempfile.NamedTemporaryFile(prefix="hf-spam-", suffix=PLAIN_TEXT) as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            spooled = DataFile.find(file.name, name="standard input")
            lines = LinesReader(spooled, reading, find_encoding(spooled, reading.encoding))
            yield lines, hash_file(Path(file.name))["sha256"]
    elif is_hub_id(name) and not suffix_of(name):
        from datasets import load_dataset  # slow to import, and of the extra `train`

        from ..data.tables import DatasetReader

        split = split or "train"
        with explained(name, "dataset"):
            commit = HfApi().dataset_info(name).sha  # all processes and resumed runs read the same data
            dataset = load_dataset(name, split=split, streaming=True, revision=commit)
        yield DatasetReader(f"{name}, {split}", dataset, reading), f"{name}, {split}, {commit}"
    else:
        file = DataFile.find(source)
        if split is not None:
            raise DataError(f"{name}: a file has no splits; --split is for Hub datasets")
        yield open_file(file, reading), f"{file.suffix} {hash_file(Path(source))['sha256']}"


def _model_hash(classifier: SpamClassifier) -> str:
    """Return a hash of everything that a classifier's answers depend on."""
    config = {key: value for key, value in classifier.model.config.to_dict().items() if key != "_name_or_path"}
    tokenizer = json.loads(classifier.tokenizer.backend_tokenizer.to_str())
    for set_by_each_call in ("truncation", "padding"):
        tokenizer.pop(set_by_each_call)
    digest = hashlib.sha256(json.dumps([config, tokenizer], sort_keys=True, default=str).encode())
    for name, tensor in classifier.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _begin_imports() -> None:
    """Import this module for all processes at once, while this one goes on, where the system has a fork server."""
    if METHOD == "forkserver":
        multiprocessing.set_forkserver_preload([__name__])
        forkserver.ensure_running()


def _score(count: int, reader: Reader, parts: Parts, classifier: SpamClassifier, update: Callable[[], None]) -> None:
    """Score the windows that have no piece yet, on `count` processes; call `update` regularly.

    This process scores until the others have started, which takes seconds, and does not wait for them if nothing is
    left by then.
    """
    if count == 1:
        _score_windows(reader, parts, classifier, update)
        return
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    _begin_imports()
    failures, failed = multiprocessing.get_context(METHOD).Pipe(duplex=False)
    arguments = (reader, parts, pickle.dumps(classifier), failed)
    starting: Future = Future()

    def start() -> None:
        try:
            starting.set_result(start_processes(_work, arguments, count, join=False, daemon=True, start_method=METHOD))
        except Exception as error:
            starting.set_exception(error)

    threading.Thread(target=start, daemon=True).start()
    try:
        if not _score_windows(reader, parts, classifier, update, until=starting.done):
            while not starting.result().join(timeout=0.2):
                update()
    except (ProcessExitedException, ProcessRaisedException, EOFError, ConnectionError) as error:
        if failures.poll():
            raise OSError(failures.recv()) from error
        message = f"A process was killed or failed ({first_line(error)})."
        raise OSError(f"{message} Nothing is lost: run the same command again to resume.") from error
    finally:
        starting.add_done_callback(_stop)
    update()


def _stop(started: Future) -> None:
    """Stop processes that this one no longer waits for, once they have started."""
    if not started.exception():
        for process in started.result().processes:
            process.terminate()


def _most_processes(classifier: SpamClassifier) -> int:
    """Return the number of cores, or of accelerators if the model is on one."""
    return available_cores() if classifier.model.device.type == "cpu" else torch.accelerator.device_count()


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(rank: int, reader: Reader, parts: Parts, classifier: bytes, failed: Connection) -> None:
    """Run process `rank`."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # the default is a semaphore, which a killed process leaks
    transformers.utils.logging.set_verbosity_error()
    try:
        loaded = pickle.loads(classifier)
        if (kind := loaded.model.device.type) != "cpu":
            loaded.model.to(torch.device(kind, rank % torch.accelerator.device_count()))
        _score_windows(reader, parts, loaded)
    except (ValueError, OSError) as error:
        failed.send(str(error))
        raise


def _exit_with_parent() -> None:
    """Exit when the parent process ends, even if it was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _score_windows(
    reader: Reader,
    parts: Parts,
    classifier: SpamClassifier,
    update: Callable[[], None] = lambda: None,
    until: Callable[[], bool] = lambda: False,
) -> bool:
    """Score windows that no other process has taken, until all are or `until` says so; return whether it took all."""
    rows, taken, all_windows = 0, -1, True
    with one_thread():
        for number, window in enumerate(reader.windows(parts.window_size)):
            if number > taken:
                if until() or (taken := parts.take()) is None:
                    return False
                all_windows = all_windows and taken == number
            if number == taken and not parts.has(number):
                summary, piece = score_window(classifier, reader, window, parts.suffix, first=number == 0)
                _check_unchanged(reader)
                parts.add(number, summary, piece)
                update()
            rows += len(window)
    _check_unchanged(reader)
    if taken <= number:  # otherwise another process has taken the last window
        parts.record_rows(rows)
    return all_windows


def _check_unchanged(reader: Reader) -> None:
    if reader.file is not None:
        reader.file.check_unchanged()


def score_window(
    classifier: SpamClassifier, reader: Reader, window: Window, suffix: str, *, first: bool
) -> tuple[dict[str, Any], bytes]:
    """Return a summary of a window for `Parts.add`, and its rows as a piece of the output."""
    messages = reader.messages(window)
    table = reader.table(messages.window)
    if first:
        check_output(reader.name, table, suffix, has_types=reader.has_types)
    labels, scores = classifier.answers(messages.texts)
    name = f"{reader.place(window, 0)} and after" if len(window) else reader.name
    summary = {
        "read": len(window),
        "labels": Counter(label for label in labels if label is not None),
        "missing": labels.count(None),
        "left_out": len(messages.left_out),
        "first_left_out": messages.left_out[:3],
    }
    return summary, format_rows(name, table, reader.reading.added, labels, scores, suffix, first=first)
