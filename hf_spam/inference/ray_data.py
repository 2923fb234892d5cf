"""Score messages on the machines of a Ray cluster, with Ray Data (https://docs.ray.io/en/latest/data/data.html).

`SpamScorer` adds labels and scores in a pipeline of your own. `score_with_ray` scores whole files: a task reads a file
as `score_file` does and yields windows of rows; actors, which load the model once, score them. Each window becomes a
part of the output, whose name and content depend on its place in the input alone. A part that Ray computes again, after
it has lost a process or a machine, replaces the first one, so no row is lost or doubled.
"""

import json
import logging
import math
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem
from tqdm.auto import tqdm

from ..data.formats import DataError
from ..data.rows import OUTPUTS
from ..data.windows import joined
from ..extras import import_extra
from ..text import first_line
from . import storage
from .quick import QuickClassifier
from .scoring import Classifier, ScoredFile, load_scorer, score_window, scoring_reading
from .unfinished import add_rows, no_rows

WINDOW_SIZE = 16_384


class SpamScorer:
    """Add the columns `label` and `score` to batches, for `map_batches` of Ray Data or any other loop over batches.

        actors = ray.data.ActorPoolStrategy(size=8)
        dataset.map_batches(SpamScorer, batch_size=4096, compute=actors)  # on a core each
        mine = {"fn_constructor_args": ["you/spam"], "num_gpus": 0.5}
        dataset.map_batches(SpamScorer, batch_size=4096, compute=actors, **mine)  # two on each of four GPUs

    Within a batch, messages of similar length are scored together. A message that is missing or empty gets no label,
    and no score (NaN in NumPy and pandas).

    Args:
        model: A folder or Hub id that every machine can read, a classifier, or `None` for the bundled model.
        text_column: Text column, as for `load_sms_spam`.
        prefix: Prefix for the names of the two new columns.
        **loading: `revision`, `dtype` and `device`, as for `load_scorer`.

    Raises:
        OSError, ValueError: The model cannot be loaded.
    """

    def __init__(
        self,
        model: "str | os.PathLike | Classifier | None" = None,
        *,
        text_column: str | None = None,
        prefix: str = "",
        **loading: Any,
    ):
        is_named = model is None or isinstance(model, str | os.PathLike)
        self.classifier = load_scorer(model, **loading) if is_named else _on_accelerator(model)
        self.reading = scoring_reading(prefix, {"text_column": text_column})

    def __call__(self, batch: Any) -> Any:
        """Return a batch with two more columns.

        Args:
            batch: A dict of NumPy arrays, a pandas `DataFrame` or a PyArrow `Table`.

        Raises:
            DataError: There is no text column, or a column called `label` or `score`.
            TypeError: A message is not a string.
        """
        names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        texts_at, _ = self.reading.find("the batch", names)
        columns = [batch[names[at]] for at in texts_at]
        texts = [
            (column if isinstance(batch, pa.Table) else pa.array(column, from_pandas=True)).to_pylist()
            for column in columns
        ]
        labels, scores = self.classifier.answers([joined(pieces) for pieces in zip(*texts, strict=True)])
        label, score = self.reading.added
        if isinstance(batch, pa.Table):
            batch = batch.append_column(label, pa.array(labels, pa.string()))
            return batch.append_column(score, pa.array(scores, pa.float32()))
        new = {label: np.array(labels, object), score: np.array(scores, np.float32)}
        return {**batch, **new} if isinstance(batch, dict) else batch.assign(**new)


def _on_accelerator(classifier: Classifier) -> Classifier:
    """Move a classifier to the accelerator if there is one; in ONNX Runtime, it stays on the CPU."""
    if not isinstance(classifier, QuickClassifier):
        import torch

        if isinstance(classifier.model, torch.nn.Module):
            classifier.model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return classifier


@dataclass(frozen=True)
class ScoredFiles(ScoredFile):
    """Summary of a scored file, folder or pattern."""

    files: int  # whose rows are in the output
    files_left_out: list[str]  # error message of each file that could not be read


def score_with_ray(
    classifier: Classifier,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    address: str | None = None,
    prefix: str = "",
    window_size: int = WINDOW_SIZE,
    num_processes: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **reading: Any,
) -> ScoredFiles:
    """Score the messages of files on a Ray cluster, and write their rows unchanged to the parts of a folder.

    Labels and scores are those of `score_file`, and so is what the formats can hold, with one exception: JSON lines can
    become Parquet, with the keys and types of the rows of a part. Sorted by name, the parts follow the input: files in
    the order of their names, rows in their order within each file. A file that cannot be read is left out as a whole,
    and the job goes on. `_SUCCESS` is written after the last part.

    Args:
        classifier: The classifier, which is sent to the machines: the name of the bundled model, the path of an ONNX
            export, or else the weights.
        source: A file as for `score_file`, a folder, or a pattern with `*`. Local, in a folder that all machines can
            read, or with a scheme that Arrow knows: s3, gs, hf. A machine copies a remote file to its disk to read it.
        output: A folder called .parquet, .csv, .tsv or .jsonl, which is the format of its parts.
        address: Address of a cluster. `None` for the one in RAY_ADDRESS or started by `ray start` on this machine;
            without one, Ray is started on this machine until the end.
        prefix: Prefix for the names of the two new columns.
        window_size: Rows per part.
        num_processes: Number of actors, which share the accelerators evenly. `None` for one per accelerator of the
            cluster or, if it has none or the model runs in ONNX Runtime, per core.
        overwrite: Whether to delete the parts of an earlier run.
        progress: Whether to show a progress bar.
        **reading: `text_column`, `encoding` and `skip_bad_rows`, as for `load_sms_spam`.

    Raises:
        DataError: There is no file, or none can be read.
        FileExistsError: The output exists.
        ValueError: A setting is invalid, or the model's weights are damaged.
        OSError: The cluster cannot be reached, or the output cannot be written.
    """
    start, ray = time.perf_counter(), _import_ray()
    if window_size < 1 or (num_processes is not None and num_processes < 1):
        raise ValueError("--window-size and --num-processes must be at least 1.")
    inputs, paths = storage.find_files(source)
    outputs, folder = storage.resolve(output)
    suffix = PurePosixPath(folder).suffix.lower()
    if suffix not in OUTPUTS:
        raise ValueError(f"{output}: unknown format; let the name of the folder end in one of {', '.join(OUTPUTS)}.")
    if inputs.equals(outputs) and any(f"{path}/".startswith(f"{folder}/") for path in paths):
        raise ValueError(f"{output} is the input; name another folder for the output.")
    earlier = storage.check_folder(outputs, folder, overwrite)
    read, write = (inputs, scoring_reading(prefix, reading), window_size, suffix), (classifier, outputs, folder, suffix)
    total, faults = no_rows(), {}
    with tqdm(desc="Scoring", unit="row", disable=not progress) as bar, _cluster(ray, address):
        storage.make_folder(outputs, folder, earlier)
        for summary in _summaries(ray, paths, read, write, num_processes):
            if "error" in summary:
                raise (ValueError if summary["invalid"] else OSError)(summary["error"])
            if "fault" in summary:
                faults[summary["file"]] = summary["fault"]
            else:
                add_rows(total, summary)
                bar.update(summary["rows"] + summary["left_out"])
    if isinstance(outputs, LocalFileSystem):
        for path in Path(folder).glob(".writing-*"):  # of processes that were killed
            path.unlink()
    left_out = [faults[file] for file in sorted(faults)]
    if len(left_out) == len(paths):
        raise DataError(left_out[0])
    files = {"files": len(paths) - len(left_out), "files_left_out": left_out}
    seconds = time.perf_counter() - start
    scored = ScoredFiles(str(output), **total, **files, resumed_rows=0, seconds=seconds)
    storage.write(outputs, f"{folder}/{storage.SUCCESS}", json.dumps(vars(scored)).encode())
    return scored


class WriteParts:
    """Score pickled windows, write each as a part, and return its summary in JSON, for `map` of Ray Data."""

    def __init__(self, classifier: Classifier, filesystem: FileSystem, folder: str, suffix: str):
        self.classifier = _on_accelerator(classifier)
        self.filesystem, self.folder, self.suffix = filesystem, folder, suffix

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        file, number, fault = row["file"], row["number"], row["fault"]
        try:
            if fault and number:  # the file has changed after the check
                raise DataError(fault)
            summary = {"file": file, "fault": fault} if fault else self.write(file, number, row["window"])
        except (ValueError, OSError) as error:
            summary = {"error": str(error), "invalid": isinstance(error, ValueError)}
        return {"summary": json.dumps(summary)}

    def write(self, file: int, number: int, window: bytes) -> dict[str, Any]:
        reader, rows = pickle.loads(window)
        summary, piece = score_window(self.classifier, reader, rows, self.suffix, first=True)
        summary["first_left_out"] = [f"{reader.name}, {fault}" for fault in summary["first_left_out"]]
        if self.suffix == ".parquet":
            sink = BytesIO()
            pq.write_table(pa.ipc.open_stream(piece).read_all(), sink)
            piece = sink.getvalue()
        name = storage.PART.format(file=file, number=number, suffix=self.suffix)
        storage.write(self.filesystem, f"{self.folder}/{name}", piece)
        return summary


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray", "ray", "--engine ray")
    import_extra("ray.data", "ray", "--engine ray")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, unless that was done before."""
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OSError(f"--address {address}: no Ray cluster ({first_line(error)}).") from error
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _summaries(
    ray: Any, paths: list[str], read: tuple[Any, ...], write: tuple[Any, ...], num_processes: int | None
) -> Iterator[dict[str, Any]]:
    """Read files and write parts on the cluster; yield a summary of each part, and of each file that has a fault.

    `read` and `write` are arguments of `read_windows` and `WriteParts`.
    """
    resources = ray.cluster_resources()
    gpus = 0 if isinstance(write[0], QuickClassifier) else resources.get("GPU", 0)
    actors = num_processes or int(gpus or resources.get("CPU", 1))
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # a window is a block, which is what Ray sends to an actor
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0  # keep actors while the first windows are read
    # If a machine is lost, an actor that becomes idle makes room for the one that must start again elsewhere.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
    with ray.data.DataContext.current(context):
        files = [{"file": file, "path": path} for file, path in enumerate(paths)]
        items = ray.data.from_items(files, override_num_blocks=min(len(files), 10_000))
        # Reading waits for the actors most of the time, so it reserves no core.
        readers = ray.data.TaskPoolStrategy(min(len(files), max(2, actors // 4)))
        windows = items.flat_map(storage.read_windows, fn_args=read, compute=readers, num_cpus=0)
        accelerator = {"num_gpus": 1 / math.ceil(actors / gpus)} if gpus else {}
        parts = windows.map(WriteParts, fn_constructor_args=write, compute=pool, num_cpus=1, **accelerator)
        try:
            for row in parts.iter_rows():
                yield json.loads(row["summary"])
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray failed: {first_line(error)}") from error
