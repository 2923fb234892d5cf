"""Output of a run on disk until it is complete. It survives a killed process, and the same run resumes with it."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..files import flush


def no_rows() -> dict[str, Any]:
    """Return the summary of no rows: the fields of `ScoredFile` that describe rows."""
    return {"rows": 0, "labels": {}, "missing": 0, "left_out": 0, "first_left_out": []}


def add_rows(total: dict[str, Any], summary: dict[str, Any]) -> None:
    """Add the summary of further rows to that of earlier ones."""
    for name in ("rows", "missing", "left_out"):
        total[name] += summary[name]
    total["labels"] = dict(sorted((Counter(total["labels"]) + Counter(summary["labels"])).items()))
    total["first_left_out"] = [*total["first_left_out"], *summary["first_left_out"]][:3]


class UnfinishedOutput:
    """The scored rows of OUT in `OUT.unfinished`, and the state of the run in `OUT.unfinished.json`.

    A window is added in two steps: its rows are flushed to disk, then the state, which has the size of all rows. If the
    process is killed in between, the rows beyond that size are cut off when the run resumes. The `state` is what the
    run depends on, by name (`run`), the numbers of windows and bytes so far, and the summary of all rows (`total`).
    """

    def __init__(self, output: Path, run: dict[str, Any]):
        self.output = output
        self.rows_file = output.with_name(f"{output.name}.unfinished")
        self.state_file = output.with_name(f"{output.name}.unfinished.json")
        self.lock_file = output.with_name(f"{output.name}.unfinished.lock")
        self.state: dict[str, Any] = {"run": run, "windows": 0, "bytes": 0, "total": no_rows()}

    @contextmanager
    def opened(self, *, overwrite: bool) -> Iterator[None]:
        """Open the files for `add` and `finish`, with the state of this run if it was interrupted."""
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(self.lock_file, timeout=0))
            except Timeout:
                raise OSError(f"{self.output} is being written by another process.") from None
            self.file = stack.enter_context(self.rows_file.open("ab"))
            earlier = self._read_state(overwrite)
            if earlier and earlier["bytes"] <= self.file.tell():
                run = self.state["run"]
                different = ", ".join(name for name in run if earlier["run"].get(name) != run[name])
                if not different:
                    self.state = earlier
                elif not overwrite:
                    advice = "Resume that run with its own command, or use --overwrite."
                    raise ValueError(f"{self.rows_file} belongs to a run that differs in {different}. {advice}")
            self._save()
            self.file.truncate(self.state["bytes"])
            try:
                yield
            except KeyboardInterrupt:
                total = self.state["total"]
                done = f"{total['rows'] + total['left_out']:,} rows are done"
                raise KeyboardInterrupt(f"interrupted: {done}; run the same command again to resume") from None

    def _read_state(self, overwrite: bool) -> dict[str, Any] | None:
        if not self.state_file.exists():
            return None
        with suppress(ValueError, AttributeError):
            state = json.loads(self.state_file.read_bytes())
            if state.keys() == self.state.keys():
                return state
        if overwrite:
            return None
        raise ValueError(f"{self.state_file} is damaged, or of another version; use --overwrite to start again.")

    def add(self, summary: dict[str, Any], rows: bytes) -> None:
        """Append the rows of the next window; `score_window` returns both arguments."""
        self.file.write(rows)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.state["windows"] += 1
        self.state["bytes"] += len(rows)
        add_rows(self.state["total"], summary)
        self._save()

    def finish(self) -> None:
        """Turn the rows into the output, which appears in one step, and delete the state."""
        complete = self.rows_file
        if self.output.suffix.lower() == ".parquet":
            complete = self.output.with_name(f"{self.output.name}.unfinished.parquet")
            self._write_parquet(complete)
            flush(complete)
        os.replace(complete, self.output)
        flush(self.output.parent)
        self.state_file.unlink()
        self.rows_file.unlink(missing_ok=True)
        self.lock_file.unlink(missing_ok=True)

    def _write_parquet(self, path: Path) -> None:
        """Write the rows, an Arrow stream for each window, as Parquet; only one window is in memory at a time."""
        from pyarrow import ipc, parquet

        with self.rows_file.open("rb") as file:
            table = ipc.open_stream(file).read_all()
            with parquet.ParquetWriter(path, table.schema) as writer:
                writer.write_table(table)
                for _ in range(1, self.state["windows"]):
                    writer.write_table(ipc.open_stream(file).read_all())

    def _save(self) -> None:
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps(self.state), encoding="utf-8")
        flush(new)
        os.replace(new, self.state_file)
