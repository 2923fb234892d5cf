"""Many messages, from a file to a file: over several processes, and no row lost or doubled when one is killed.

The input is cut into windows of so many rows. A window is what one process scores at a time, and its rows with their
answers are kept as a piece beside the output, in `OUT.parts`; the output is made of all pieces at the end and takes its
name in one step. So a run that was killed goes on with the windows that have no piece, on however many processes.

Window k is scored by process k mod n of n, here and on every machine. (`split_dataset_by_node` would give a process
every n-th row, or whole files where their number is a multiple of n: then it would depend on n which messages make a
batch, and with that the last digits of their scores.) Each process reads the input for itself, and passes over what
the others score. So two machines that share a folder score a file together with

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr first -m hf_spam score in.csv out.csv
    torchrun --nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr first -m hf_spam score in.csv out.csv

the first line on the machine `first`, the second on the other: sixteen processes, of which process 0 checks the input
before, and makes the output after all of them have done their windows. Every process computes on one thread, since the
number of threads can change a score's last digit; so the output is the same, byte for byte, whatever the number.
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import datasets
import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes
from tqdm.auto import tqdm

from .. import __version__
from ..data.formats import DataError, is_hub_id
from ..data.rows import (
    DELIMITERS,
    INPUTS,
    JSON_LINES,
    OUTPUTS,
    Columns,
    DelimitedFile,
    HubSplit,
    LinesFile,
    ParquetFile,
    Rows,
    Source,
    check_output,
    written,
)
from ..files import hash_file, stamp
from ..hub_errors import explained
from ..text import first_line
from .classifier import SpamClassifier
from .parts import Parts, differences

logger = logging.getLogger(__name__)

STANDARD = "-"  # standard input, or output
WINDOW_SIZE = 4096
ALONE = 10.0  # seconds; starting other processes takes about as long
AGAIN = "Nothing is lost: run the same command again, and it goes on from there."

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """What has been scored.

    Args:
        output: the file.
        rows: how many it has.
        labels: how many of each label.
        resumed_rows: how many of the rows were there from an earlier run.
        seconds: what it took this time.
    """

    output: str
    rows: int
    labels: dict[str, int]
    resumed_rows: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What each process has to know.

    Args:
        source: the rows.
        columns: those to be read and added.
        parts: where the pieces go.
        file: the source's, if it is one.
        stamp: of that file, by which one that is changed meanwhile is noticed.
    """

    source: Source
    columns: Columns
    parts: Parts
    file: Path | None
    stamp: list[int] | None


def score_file(
    classifier: SpamClassifier,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    text_column: str = "text",
    split: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
    num_processes: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Scored:
    """Scores the messages of a file, and writes its rows, as they are and in their order, with `label` and `score`.

    The whole of a file is checked before the first message is scored. Memory holds a window for each process, whatever
    the number of rows. Under `torchrun` each of its processes calls this. A script that calls it with more processes
    than one has to be guarded by `if __name__ == "__main__"`, as `multiprocessing` asks for.

    Args:
        classifier: what gives the answers.
        source: a .csv or .tsv file (its first line names the columns), .jsonl or .json (JSON lines), .parquet, .txt (a
            message a line), "-" (standard input, likewise), or a Hub dataset id "owner/name", which is streamed.
        output: a .jsonl or .parquet file; .csv and .tsv take what has columns and no types. JSON lines stay such.
        text_column: the column, or key, of the messages.
        split: of a dataset on the Hub. None: "train".
        prefix: what the names of the two new columns begin with.
        window_size: rows to a window.
        num_processes: on this machine. None: this one alone for ten seconds, then, if there is more to do, one for each
            core or accelerator.
        overwrite: whether an output that is there is replaced, and what is left of a run on something else discarded.
        progress: whether to show a bar.

    Raises:
        DataError: the input cannot be read, or not be written in the output's format. Nothing is at `output`.
        FileExistsError: `output` is there.
        ValueError: what is left of an earlier run is of another one, or a setting cannot be.
        OSError: a file cannot be read or written, the Hub does not answer, or a process was killed.
    """
    start = time.perf_counter()
    team = _Team()
    if window_size < 1 or (num_processes is not None and num_processes < 1):
        raise ValueError("A window needs at least one row, and the work at least one process.")
    if team.size > 1 and (num_processes is not None or source == STANDARD):
        raise ValueError("Under torchrun there is no standard input, and the number of processes is torchrun's to say.")
    columns = Columns(text_column, f"{prefix}label", f"{prefix}score")
    output = _checked_output(Path(output), source)
    with _spooled() if source == STANDARD else nullcontext(source) as source:
        rows, content = _open(source, columns, split)
        file = None if isinstance(rows, HubSplit) else Path(source)
        file_stamp = file and stamp(file)
        run = {
            "the input": f"{content} {hash_file(file)['sha256']}" if file else content,
            "the model": _digest(classifier),
            "the device": classifier.model.device.type,
            "the columns": [columns.text, columns.label, columns.score],
            "the window size": window_size,
            "the version": f"hf_spam {__version__}, torch {torch.__version__}",
        }
        parts = Parts(output, run, window_size)
        job = Job(rows, columns, parts, file, file_stamp)
        finished, total, resumed, theirs = team.first(lambda: (*_prepare(job, overwrite=overwrite), run))
        if theirs != run:
            raise ValueError(f"Process {team.rank} differs from process 0 in its work: {differences(theirs, run)}.")
        if team.rank == 0 and resumed:
            logger.info("Going on: %d rows are there from an earlier run.", resumed)
        if not finished:
            shown = progress and team.rank == 0
            with tqdm(total=total, initial=resumed, desc="Scoring", unit="row", disable=not shown) as bar:

                def update() -> None:
                    bar.update(_rows_there(parts, total) - bar.n)

                if team.size > 1:
                    _to_device(classifier, team.local_rank)
                    _score_windows(job, classifier, team.rank, team.size, update)
                else:
                    _score_on(num_processes, job, classifier, update)
            team.wait()
            finished = team.first(parts.finish)
        if team.rank == 0:
            parts.remove()
    return Scored(output=str(output), **finished, resumed_rows=resumed, seconds=time.perf_counter() - start)


def score_stream(
    classifier: SpamClassifier,
    source: str | os.PathLike,
    file: BinaryIO,
    *,
    text_column: str = "text",
    split: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
) -> int:
    """Scores messages, and writes them as JSON lines as soon as a window is full: for pipes.

    Args:
        classifier: what gives the answers.
        source: as for `score_file`.
        file: where the lines go.
        text_column, split, prefix, window_size: as for `score_file`.

    Returns:
        The number of rows.

    Raises:
        DataError: the input cannot be read, or not be written as JSON; what is before that is written.
        OSError: a file cannot be read or written, or the Hub does not answer.
    """
    columns = Columns(text_column, f"{prefix}label", f"{prefix}score")
    if source == STANDARD:
        rows: Source = LinesFile(sys.stdin.fileno(), columns, json_lines=False)
    else:
        rows, _ = _open(source, columns, split)
    first = 0
    with _one_thread():
        for window in rows.windows(window_size):
            texts, parsed = rows.parse(first, window)
            if not first:
                check_output(rows.name, parsed, ".jsonl", has_types=rows.has_types)
            file.write(_piece(rows, columns, classifier, first, texts, parsed, ".jsonl")[1])
            file.flush()
            first += len(window)
    return first


class _Team:
    """The processes that `torchrun` has started; without it, this one alone."""

    def __init__(self) -> None:
        self.rank, self.local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1:
            # One that dies is noticed at once, however long one may take that is on a slower machine.
            PartialState(cpu=True, timeout=timedelta(weeks=1))

    def first(self, work: Callable[[], T]) -> T:
        """Does something in process 0 and tells the others what came out, once they come here."""
        result = work() if self.rank == 0 else None
        if self.size > 1:
            with self._together():
                result = broadcast_object_list([result])[0]
        return result

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            with self._together():
                PartialState().wait_for_everyone()

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise OSError(f"Process {self.rank} waited for another one, which has ended. {AGAIN}") from error


def _checked_output(output: Path, source: str | os.PathLike) -> Path:
    if output.suffix.lower() not in OUTPUTS:
        raise ValueError(f"{output}: unknown extension; known: {', '.join(OUTPUTS)}, or - for JSON lines as they come.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}.")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder.")
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise ValueError(f"{output} is the input; name another file for the output.")
    return output


@contextmanager
def _spooled() -> Iterator[Path]:
    """Standard input as a file, which several processes can read, and this one twice."""
    with tempfile.NamedTemporaryFile(prefix="hf-spam-", suffix=".txt") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


def _open(source: str | os.PathLike, columns: Columns, split: str | None) -> tuple[Source, str]:
    """The source, and in words what it is that is read, but for a file's content."""
    name, path = os.fspath(source), Path(source)
    suffix = path.suffix.lower()
    if is_hub_id(name) and suffix not in INPUTS:
        with explained(name, "dataset"):
            commit = HfApi().dataset_info(name).sha
        return HubSplit(name, split or "train", columns, commit), f"{name}, {split or 'train'}, {commit}"
    if not path.is_file():
        raise DataError(f"{name}: no such file (nor a Hub dataset id 'owner/name')")
    if suffix not in INPUTS:
        raise DataError(f"{name}: unknown extension; known: {', '.join(INPUTS)}")
    if split is not None:
        raise DataError(f"{name}: a file has no splits; --split is for a dataset on the Hub")
    if suffix in DELIMITERS:
        return DelimitedFile(path, columns, DELIMITERS[suffix]), suffix
    if suffix == ".parquet":
        return ParquetFile(path, columns), suffix
    return LinesFile(path, columns, json_lines=suffix in JSON_LINES), suffix


def _digest(classifier: SpamClassifier) -> str:
    """A digest of all that an answer depends on."""
    config = {key: value for key, value in classifier.model.config.to_dict().items() if key != "_name_or_path"}
    tokenizer = json.loads(classifier.tokenizer.backend_tokenizer.to_str())
    for set_by_each_call in ("truncation", "padding"):
        tokenizer.pop(set_by_each_call)
    digest = hashlib.sha256(json.dumps([config, tokenizer], sort_keys=True, default=str).encode())
    for name, tensor in classifier.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_unchanged(job: Job) -> None:
    if job.file is not None and (not job.file.exists() or stamp(job.file) != job.stamp):
        raise DataError(f"{job.source.name}: was changed while it was read; run the command again")


def _prepare(job: Job, *, overwrite: bool) -> tuple[dict[str, Any] | None, int | None, int]:
    """What an earlier run has finished, if it has; the number of rows, if it is known; how many of them are there."""
    parts = job.parts
    if finished := parts.finished():
        return finished, finished["rows"], finished["rows"]
    parts.check(overwrite=overwrite)
    if not parts.is_begun():
        parts.begin(_checked_rows(job))
    return None, parts.rows(), _rows_there(parts, parts.rows())


def _checked_rows(job: Job) -> int | None:
    """Reads a file to its end, or the first window of what is on the Hub: errors then come before the work.

    Raises:
        DataError: a row cannot be read, or not be written in the output's format.
    """
    rows, source = 0, job.source
    for window in source.windows(job.parts.window_size):
        _, parsed = source.parse(rows, window)
        check_output(source.name, parsed, job.parts.output.suffix.lower(), has_types=source.has_types)
        if job.file is None:
            return source.total
        rows += len(window)
    _check_unchanged(job)
    return rows


def _rows_there(parts: Parts, total: int | None) -> int:
    return min(parts.rows_there(), sys.maxsize if total is None else total)


def _score_on(count: int | None, job: Job, classifier: SpamClassifier, update: Callable[[], None]) -> None:
    """Scores what is not there yet, in this process or in so many others; None: as for `score_file`."""
    if count is None:
        if _score_windows(job, classifier, 0, 1, update, seconds=ALONE):
            return
        count = _cores() if classifier.model.device.type == "cpu" else torch.accelerator.device_count()
    if count == 1:
        _score_windows(job, classifier, 0, 1, update)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])  # imported once, not by each
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells which process it ends
    failures, failed = context.Pipe(duplex=False)
    arguments = (count, job, pickle.dumps(classifier), failed)
    workers = start_processes(_work, arguments, count, join=False, daemon=True, start_method=method)
    try:
        while not workers.join(timeout=0.2):
            update()
    except (ProcessExitedException, ProcessRaisedException) as error:
        if failures.poll():
            raise OSError(failures.recv()) from error
        raise OSError(f"A process was killed, or has failed ({first_line(error)}). {AGAIN}") from error
    update()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(rank: int, size: int, job: Job, classifier: bytes, failed: Connection) -> None:
    """What one of several processes does. It ends when the one that started it does."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, of which one that is killed leaves something behind
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    try:
        loaded = pickle.loads(classifier)
        _to_device(loaded, rank)
        _score_windows(job, loaded, rank, size)
    except (ValueError, OSError) as error:
        failed.send(str(error))
        raise


def _to_device(classifier: SpamClassifier, local_rank: int) -> None:
    """Shares out the accelerators of a machine among its processes."""
    kind = classifier.model.device.type
    if kind != "cpu":
        classifier.model.to(torch.device(kind, local_rank % torch.accelerator.device_count()))


def _score_windows(
    job: Job,
    classifier: SpamClassifier,
    rank: int,
    size: int,
    update: Callable[[], None] | None = None,
    seconds: float = math.inf,
) -> bool:
    """Scores those windows of process `rank` of `size` that have no piece yet; False: it has run out of time."""
    deadline = time.perf_counter() + seconds
    parts, source = job.parts, job.source
    rows = 0
    with _one_thread():
        for number, window in enumerate(source.windows(parts.window_size)):
            if number % size == rank and not parts.has(number):
                if time.perf_counter() > deadline:
                    return False
                texts, parsed = source.parse(rows, window)
                suffix = parts.output.suffix.lower()
                labels, piece = _piece(source, job.columns, classifier, rows, texts, parsed, suffix)
                _check_unchanged(job)
                parts.add(number, labels, piece)
                if update is not None:
                    update()
            rows += len(window)
    _check_unchanged(job)
    parts.end(rows)
    return True


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads can change the last digit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _piece(
    source: Source,
    columns: Columns,
    classifier: SpamClassifier,
    first: int,
    texts: list[str],
    rows: Rows,
    suffix: str,
) -> tuple[list[str], bytes]:
    """The labels of a window whose first row has this number, and its rows as they are written."""
    labels, scores = [], np.zeros(0, np.float32)
    if texts:
        labels, answered = classifier.decide(classifier.probabilities(texts))
        scores = answered.numpy()
    where = f"{source.name}, rows {first + 1} to {first + len(texts)}"
    return labels, written(where, rows, columns, labels, scores, suffix, first == 0)
