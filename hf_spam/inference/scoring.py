"""Score the messages of a file on several processes, without losing or duplicating a row.

The input is read in windows of a fixed number of rows. Worker processes score them in turn, and this process appends
the results to an unfinished output, with which a killed run resumes (see `unfinished`). Windows do not depend on the
number of processes, and each process computes on one thread, so the output is the same on any number of processes, but
for the last digit of a few scores on processors with AVX-512.
"""

import json
import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from huggingface_hub import HfApi
from tqdm.auto import tqdm

from ..data.dialects import with_format
from ..data.formats import PLAIN_TEXT, DataError, DataFile, is_hub_id
from ..data.readers import LinesReader, open_file
from ..data.reading import Reading
from ..data.rows import OUTPUTS, check_input, check_output, format_rows
from ..data.windows import Reader, Window
from ..files import HISTORY, hash_file
from ..hub_errors import explained
from ..memory import keep_freed_memory
from ..text import printable
from .quick import QuickClassifier, find_graph, quick_classifier
from .unfinished import UnfinishedOutput, add_rows, no_rows
from .workers import count_cores, worker_context

if TYPE_CHECKING:
    from .classifier import SpamClassifier

Classifier: TypeAlias = "QuickClassifier | SpamClassifier"  # what can score the rows of a table

logger = logging.getLogger(__name__)

STANDARD = "-"  # standard input or output
WINDOW_SIZE = 4096
FEW_ROWS = 2 * WINDOW_SIZE  # not worth another process

Piece = tuple[dict[str, Any], bytes]
"""A summary of a window, and its rows as a piece of the output; see `score_window`."""


@dataclass(frozen=True)
class ScoredFile:
    """Summary of a scored file."""

    output: str
    rows: int
    labels: dict[str, int]  # number of rows with each label
    missing: int  # rows without a label and a score, because their text is missing or empty
    left_out: int  # rows that could not be read (`skip_bad_rows`)
    first_left_out: list[str]  # place and fault of the first three of them
    resumed_rows: int  # scored by an earlier run
    seconds: float  # duration of this run


def load_scorer(model: str | os.PathLike | None = None, **loading: Any) -> Classifier:
    """Load a classifier to score many messages.

    The bundled model and ONNX exports run in ONNX Runtime. Arguments and errors are those of
    `SpamClassifier.from_pretrained`; with a revision, a precision or a device other than "cpu", it runs in PyTorch.
    """
    if loading in ({}, {"device": "cpu"}) and (quick := quick_classifier(model or "bundled")):
        return quick
    from .classifier import SpamClassifier  # imports torch, which takes seconds

    keep_freed_memory()
    return SpamClassifier.from_pretrained(model, **loading)


def score_file(
    classifier: Classifier,
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

    Input and output formats are those of `hf-spam score`.

    Args:
        classifier: The classifier, such as one from `load_scorer`.
        source: A file, "-" for the lines of standard input, or a Hub dataset "owner/name".
        output: The file to write; its extension says the format.
        split: Split of a Hub dataset; `None` for "train".
        prefix: Prefix for the names of the two new columns.
        window_size: Rows per window.
        num_processes: Number of processes. `None` for one per core or accelerator, or just one if at most 8,192 rows
            are left to score.
        overwrite: Whether to replace an existing output, and discard the unfinished output of a different run.
        progress: Whether to show a progress bar.
        **reading: `text_column`, `encoding` and `skip_bad_rows`, as for `load_sms_spam`.

    Raises:
        ValueError: The input cannot be read (`DataError`) or a setting is invalid. No output is written.
        OSError: The output exists, a file cannot be read or written, or a process was killed.
    """
    start = time.perf_counter()
    if window_size < 1 or (num_processes is not None and num_processes < 1):
        raise ValueError("--window-size and --num-processes must be at least 1.")
    how = scoring_reading(prefix, reading)
    output = _check_output_path(Path(output), source, overwrite)
    with _open(source, how, split) as (reader, content):
        run = {
            "the input": content,
            "the model": classifier.fingerprint(),
            "the device": classifier.device_type,
            "the reading": [how.text_column, *how.remembered, *how.added, how.encoding, how.skip_bad_rows],
            "the window size": window_size,
            "the version": [version(name) for name in ("hf-spam", *classifier.packages)],
        }
        unfinished, suffix = UnfinishedOutput(output, run), output.suffix.lower()
        total = check_input(reader, window_size, suffix)
        if column := reader.columns[0]:
            details = "; ".join(filter(None, [f"texts from {column}", reader.note()]))
            logger.info("%s: %s", reader.name, printable(details))
        with unfinished.opened(overwrite=overwrite):
            scored = unfinished.state["total"]
            if resumed := scored["rows"] + scored["left_out"]:
                logger.info("Resuming: %d rows were scored by an earlier run.", resumed)
            if num_processes is None:
                num_processes = count_cores() if classifier.device_type == "cpu" else _count_accelerators()
                if total is not None and total - resumed <= FEW_ROWS:
                    num_processes = 1
            windows = islice(enumerate(reader.windows(window_size)), unfinished.state["windows"], None)
            with tqdm(total=total, initial=resumed, desc="Scoring", unit="row", disable=not progress) as bar:
                for summary, rows in _score_windows(classifier, reader, windows, suffix, num_processes):
                    if reader.file is not None:
                        reader.file.check_unchanged()
                    unfinished.add(summary, rows)
                    bar.update(summary["rows"] + summary["left_out"])
            unfinished.finish()
    seconds = time.perf_counter() - start
    return ScoredFile(str(output), **scored, resumed_rows=resumed, seconds=seconds)


def score_stream(
    classifier: Classifier,
    source: str | os.PathLike,
    file: BinaryIO,
    *,
    split: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
    **reading: Any,
) -> None:
    """Score messages and write them as JSON lines, window by window, for use in a pipe.

    Arguments and errors are those of `score_file`. If the input cannot be read, earlier windows have been written.
    """
    if window_size < 1:
        raise ValueError("--window-size must be at least 1.")
    total = no_rows()
    with _open(source, scoring_reading(prefix, reading), split, spool=False) as (reader, _):
        for number, window in enumerate(reader.windows(window_size)):
            summary, piece = score_window(classifier, reader, window, ".jsonl", first=number == 0)
            file.write(piece)
            file.flush()
            add_rows(total, summary)
    if left_out := total["left_out"]:
        logger.warning("%s: left out %d rows: %s", reader.name, left_out, "; ".join(total["first_left_out"]))


def trained_text_column(model: str | os.PathLike) -> str | None:
    """Return the name of the text column that a model was trained on, if its `history.json` has it."""
    if found := find_graph(model):
        path = found[0] / HISTORY
    else:
        from ..conversion.loading import find_file  # imports torch

        path = find_file(model, HISTORY)
    try:
        column = json.loads(path.read_bytes())["recipe"]["text_column"] if path else None
    except (OSError, ValueError, LookupError, TypeError):  # of any repository on the Hub
        return None
    return column if isinstance(column, str) else None


def scoring_reading(prefix: str, reading: dict[str, Any]) -> Reading:
    """Return how to read messages without labels that get two new columns."""
    return Reading(**reading, labelled=False, added=(f"{prefix}label", f"{prefix}score"))


def _check_output_path(output: Path, source: str | os.PathLike, overwrite: bool) -> Path:
    if output.suffix.lower() not in OUTPUTS:
        known = ", ".join(OUTPUTS)
        raise ValueError(f"{output}: unknown file extension; use one of {known}, or - to print JSON lines.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}.")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder.")
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise ValueError(f"{output} is the input; name another file for the output.")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} already exists; use --overwrite to replace it.")
    return output


@contextmanager
def _open(
    source: str | os.PathLike, reading: Reading, split: str | None, *, spool: bool = True
) -> Iterator[tuple[Reader, str]]:
    """Yield a reader of a source and an id of its content; `spool` first copies standard input to a file."""
    name = os.fspath(source)
    if name == STANDARD and not spool:
        file = DataFile(sys.stdin.fileno(), "standard input", PLAIN_TEXT)
        yield LinesReader(with_format(file, reading.encoding), reading), STANDARD
    elif name == STANDARD:
        with tempfile.NamedTemporaryFile(prefix="hf-spam-", suffix=PLAIN_TEXT) as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            spooled = with_format(DataFile.find(file.name, name="standard input"), reading.encoding)
            yield LinesReader(spooled, reading), hash_file(Path(file.name))["sha256"]
    elif is_hub_id(name):
        from datasets import load_dataset  # slow to import, and of the extra `train`

        from ..data.tables import DatasetReader

        split = split or "train"
        with explained(name, "dataset"):
            commit = HfApi().dataset_info(name).sha  # a resumed run reads the same data
            dataset = load_dataset(name, split=split, streaming=True, revision=commit)
        yield DatasetReader(f"{name}, {split}", dataset, reading), f"{name}, {split}, {commit}"
    else:
        file = DataFile.find(source)
        if split is not None:
            raise DataError(f"{name}: a file has no splits; --split is for Hub datasets")
        yield open_file(file, reading), f"{file.suffix} {hash_file(Path(source))['sha256']}"


def _count_accelerators() -> int:
    import torch

    return torch.accelerator.device_count()


def _score_windows(
    classifier: Classifier,
    reader: Reader,
    windows: Iterator[tuple[int, Window]],
    suffix: str,
    processes: int,
) -> Iterator[Piece]:
    """Yield the pieces of numbered windows, in their order."""
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        workers = _workers(classifier, reader, suffix, processes) if processes > 1 else nullcontext([])
        starting = thread.submit(stack.enter_context, workers)
        for number, window in windows:  # this process scores until the others have started, which takes seconds
            yield score_window(classifier, reader, window, suffix, first=number == 0)
            if processes > 1 and starting.done():
                break
        busy: deque[Connection] = deque()
        for worker, (_, window) in zip(cycle(starting.result()), windows):
            piece = _receive(busy.popleft()) if len(busy) == processes else None
            worker.send(window)  # before the piece is saved, so that the worker does not wait for that
            busy.append(worker)
            if piece is not None:
                yield piece
        for worker in busy:
            yield _receive(worker)


@contextmanager
def _workers(classifier: Classifier, reader: Reader, suffix: str, count: int) -> Iterator[list[Connection]]:
    """Start processes and yield a connection to each, which takes windows and gives their pieces."""
    context, connections, processes = worker_context(quick=isinstance(classifier, QuickClassifier)), [], []
    pickled = pickle.dumps(classifier)
    try:
        for rank in range(count):
            connection, other_end = context.Pipe()
            process = context.Process(target=_work, args=(other_end, pickled, reader, suffix, rank), daemon=True)
            process.start()
            other_end.close()  # so that reading fails once the process has ended
            connections.append(connection)
            processes.append(process)
        yield connections
    except (EOFError, ConnectionError) as error:
        message = "A process was killed or failed. Nothing is lost: run the same command again to resume."
        raise OSError(message) from error
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(connection: Connection, pickled: bytes, reader: Reader, suffix: str, rank: int) -> None:
    """Score windows until the connection is closed, or the process at its other end has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
    tqdm.set_lock(threading.RLock())  # the default is a semaphore, which a killed process leaks
    classifier = pickle.loads(pickled)
    if not isinstance(classifier, QuickClassifier):
        keep_freed_memory()
    if classifier.device_type != "cpu":
        classifier.model.to(f"{classifier.device_type}:{rank % _count_accelerators()}")
    with suppress(EOFError, ConnectionError):
        while True:
            window = connection.recv()
            try:
                connection.send(score_window(classifier, reader, window, suffix, first=False))
            except (ValueError, OSError) as error:
                connection.send(error)


def _receive(worker: Connection) -> Piece:
    result = worker.recv()
    if isinstance(result, Exception):
        raise result
    return result


def score_window(classifier: Classifier, reader: Reader, window: Window, suffix: str, *, first: bool) -> Piece:
    """Return a summary of a window, see `no_rows`, and its rows as a piece of the output."""
    messages = reader.messages(window)
    table = reader.table(messages.window)
    if first:
        check_output(reader.name, table, suffix)
    labels, scores = classifier.answers(messages.texts)
    name = f"{reader.place(window, 0)} and after" if len(window) else reader.name
    summary = {
        "rows": len(labels),
        "labels": dict(Counter(label for label in labels if label is not None)),
        "missing": labels.count(None),
        "left_out": len(messages.left_out),
        "first_left_out": messages.left_out[:3],
    }
    return summary, format_rows(name, table, reader.reading.added, labels, scores, suffix, first=first)
