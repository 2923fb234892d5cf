"""Pieces of an unfinished output on disk. Each is complete or missing, and survives a killed process."""

import fcntl
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..data.rows import merge_pieces
from ..files import flush, stamp, write_file
from ..text import short

RUN, NEXT, END = "run.json", "next-", "end.json"


class Parts:
    """Folder `OUT.parts`, which holds a piece of OUT for each window of the input until OUT is written.

    Piece names contain a hash of the run, which is everything that the pieces depend on, by name. So a run never uses
    the pieces of another.
    """

    def __init__(self, output: Path, run: dict[str, Any], window_size: int):
        self.output, self.run, self.window_size = output, run, window_size
        self.folder = output.with_name(f"{output.name}.parts")
        self.suffix = output.suffix.lower()
        self.hash = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:12]

    def finished(self) -> dict[str, Any] | None:
        """Return the result of `finish` if this run was killed after it wrote the output, else `None`."""
        state = self._state()
        finished = state.get("finished") if state.get("run") == self.run else None
        if finished and self.output.exists() and finished["file"] == stamp(self.output):
            return finished["result"]
        return None

    def begin(self, count_rows: Callable[[], int | None], *, overwrite: bool) -> None:
        """Create the folder, or reuse it if this run was interrupted.

        `count_rows` returns the number of input rows, or `None`; it is not called if this run resumes. `overwrite`
        replaces an existing output and discards another run, whose pieces `remove` deletes.

        Raises:
            FileExistsError: The output exists.
            ValueError: The folder holds the pieces of another run, or unrelated files.
        """
        if self.output.exists() and not overwrite:
            raise FileExistsError(f"{self.output} already exists; use --overwrite to replace it.")
        state = self._state()
        if not state and any(not path.name.startswith(".") for path in self._files()):
            raise ValueError(f"{self.folder} is needed for unfinished output, but holds other files; move them away.")
        if state.get("run") != self.run:
            if state and not overwrite:
                raise ValueError(
                    f"{self.folder} holds the unfinished output of a run that differs in "
                    f"{_differences(state['run'], self.run)}. Finish it with its own command, or use --overwrite."
                )
            rows = count_rows()
            self.folder.mkdir(exist_ok=True)
            self._write(RUN, {"run": self.run, "rows": rows})
        for path in self.folder.glob(f"{NEXT}*"):  # processes of an earlier run, if there are still some, then stop
            path.unlink()
        self.next = self.folder / f"{NEXT}{uuid.uuid4().hex[:8]}"
        write_file(self.next, b"0")

    def total_rows(self) -> int | None:
        """Return the number of input rows, if known."""
        return self._state()["rows"]

    def rows_done(self) -> int:
        """Return the number of rows scored so far."""
        rows = self.window_size * sum(path.name.endswith(self.hash) for path in self._files())
        total = self.total_rows()
        return rows if total is None else min(rows, total)  # the last piece may be shorter

    def take(self) -> int | None:
        """Return the number of the first window that no process of this run has taken; `None` if the run has ended."""
        try:
            with self.next.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed or this process is killed
                number = int(file.read())
                file.seek(0)
                file.write(b"%d" % (number + 1))
        except FileNotFoundError:
            return None
        return number

    def has(self, window: int) -> bool:
        """Return whether the piece of a window is there."""
        return self._path(window).exists()

    def add(self, window: int, summary: dict[str, Any], piece: bytes) -> None:
        """Write the piece of a window to disk, with a summary: the rows `read`, and what `finish` returns."""
        write_file(self._path(window), json.dumps(summary).encode() + b"\n" + piece)

    def record_rows(self, rows: int) -> None:
        """Record the number of input rows, which a process knows after reading the whole input."""
        self._write(END, rows)

    def finish(self) -> dict[str, Any]:
        """Merge the pieces into the output, and return the fields of `ScoredFile` that describe the rows."""
        rows = json.loads((self.folder / END).read_bytes())
        labels: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        first_left_out: list[str] = []

        def pieces() -> Iterator[BinaryIO]:
            for window in range(max(1, -(-rows // self.window_size))):
                with self._path(window).open("rb") as piece:
                    summary = json.loads(piece.readline())
                    labels.update(summary.pop("labels"))
                    first_left_out.extend(summary.pop("first_left_out"))
                    sums.update(summary)
                    yield piece

        merged = self.folder / f".merged-{uuid.uuid4().hex[:8]}"
        merge_pieces(pieces(), self.suffix, merged)
        if sums["read"] != rows:
            raise OSError(f"{self.folder} holds {sums['read']} of {rows} rows; delete it and run the command again.")
        flush(merged)
        result = {
            "rows": labels.total() + sums["missing"],
            "labels": dict(sorted(labels.items())),
            "missing": sums["missing"],
            "left_out": sums["left_out"],
            "first_left_out": first_left_out[:3],
        }
        # In case this process is killed before `remove` is done.
        self._write(RUN, {**self._state(), "finished": {"file": stamp(merged), "result": result}})
        os.replace(merged, self.output)
        flush(self.output.parent)
        return result

    def remove(self) -> None:
        """Delete the folder, and last its `run.json`, which identifies the run."""
        for path in sorted(self._files(), key=lambda path: path.name == RUN):
            path.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rmdir()

    def _path(self, window: int) -> Path:
        return self.folder / f"{window:08d}-{self.hash}"

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / RUN).read_bytes())
        except FileNotFoundError:
            return {}

    def _write(self, name: str, value: Any) -> None:
        write_file(self.folder / name, json.dumps(value).encode())


def _differences(other: dict[str, Any], ours: dict[str, Any]) -> str:
    """Describe how two runs differ."""
    return "; ".join(
        f"{name} ({short(other.get(name))} there, {short(value)} now)"
        for name, value in ours.items()
        if other.get(name) != value
    )
