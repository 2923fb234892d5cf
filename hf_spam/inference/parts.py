"""The pieces of an output that is being made: each is whole or not there, and all of them survive the process."""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..data.rows import merge
from ..files import flush, stamp, write_file
from ..text import short

RUN, END = "run.json", "end.json"


class Parts:
    """The folder `OUT.parts`, which holds the pieces of OUT until OUT is there.

    A piece's name holds a digest of what the run is, so that one run never takes a piece for its own that another made.

    Args:
        output: the file to be made.
        run: what the run is, by name; a run that agrees in all of it makes the same pieces.
        window_size: rows to a piece; the last may have fewer.
    """

    def __init__(self, output: Path, run: dict[str, Any], window_size: int):
        self.output, self.run, self.window_size = output, run, window_size
        self.folder = output.with_name(f"{output.name}.parts")
        self.mark = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:12]

    def finished(self) -> dict[str, Any] | None:
        """What `finish` has returned, where a run that agrees with this one was killed after it had made the output."""
        state = self._state()
        finished = state.get("finished")
        if state.get("run") == self.run and finished and self.output.exists():
            return finished["result"] if finished["file"] == stamp(self.output) else None
        return None

    def check(self, *, overwrite: bool) -> None:
        """Whether the output can be made.

        Raises:
            FileExistsError: it is there.
            ValueError: the folder holds pieces of another run, or files of somebody else.
        """
        if self.output.exists() and not overwrite:
            raise FileExistsError(f"{self.output} is there already; --overwrite replaces it.")
        state = self._state()
        if not state and any(not path.name.startswith(".") for path in self._files()):
            raise ValueError(f"{self.folder} is needed for pieces of the output, and holds something else.")
        if state and state["run"] != self.run and not overwrite:
            different = differences(state["run"], self.run)
            raise ValueError(
                f"{self.folder} holds what an earlier run has scored, and that one differs in {different}. Give what "
                "it had to go on with it, or --overwrite to discard it."
            )

    def begin(self, rows: int | None) -> None:
        """Makes the folder, or takes it over: what another run has left there stays unused until `remove`.

        Args:
            rows: of the input, if that is known.
        """
        self.folder.mkdir(exist_ok=True)
        self._write(RUN, {"run": self.run, "rows": rows})

    def is_begun(self) -> bool:
        """Whether the folder is that of a run which agrees with this one."""
        return self._state().get("run") == self.run

    def rows(self) -> int | None:
        """What `begin` was told."""
        return self._state()["rows"]

    def has(self, window: int) -> bool:
        """Whether the piece of a window is there."""
        return self._path(window).exists()

    def rows_there(self) -> int:
        """The rows of all pieces that are there, if none of them is the last."""
        return self.window_size * sum(path.name.endswith(self.mark) for path in self._files())

    def add(self, window: int, labels: list[str], piece: bytes) -> None:
        """Keeps the piece of a window, and counts its labels. Once this returns, it is on the disk."""
        about = {"rows": len(labels), "labels": Counter(labels)}
        write_file(self._path(window), json.dumps(about).encode() + b"\n" + piece)

    def end(self, rows: int) -> None:
        """Says how many rows there are, as every process finds out that reads the input to its end."""
        self._write(END, rows)

    def finish(self) -> dict[str, Any]:
        """Makes the output of all pieces.

        Returns:
            `rows` and `labels`, the number of rows and of each label.

        Raises:
            OSError: a piece is not there, or the output cannot be written.
        """
        rows = json.loads((self.folder / END).read_bytes())
        labels: Counter[str] = Counter()

        def pieces() -> Iterator[BinaryIO]:
            for window in range(max(1, -(-rows // self.window_size))):
                with self._path(window).open("rb") as piece:
                    labels.update(json.loads(piece.readline())["labels"])
                    yield piece

        merged = self.folder / f".merged-{uuid.uuid4().hex[:8]}"
        merge(pieces(), self.output.suffix.lower(), merged)
        if labels.total() != rows:
            raise OSError(
                f"{self.folder} holds {labels.total()} of {rows} rows; delete it and run the same command again."
            )
        flush(merged)
        result = {"rows": rows, "labels": dict(sorted(labels.items()))}
        state = {**self._state(), "finished": {"file": stamp(merged), "result": result}}
        self._write(RUN, state)  # for one that is killed between here and the end of `remove`
        os.replace(merged, self.output)
        flush(self.output.parent)
        return result

    def remove(self) -> None:
        """Deletes the folder; what tells what it is goes last."""
        for path in sorted(self._files(), key=lambda path: path.name == RUN):
            path.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rmdir()

    def _path(self, window: int) -> Path:
        return self.folder / f"{window:08d}-{self.mark}"

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / RUN).read_bytes())
        except FileNotFoundError:
            return {}

    def _write(self, name: str, value: Any) -> None:
        write_file(self.folder / name, json.dumps(value).encode())


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """In what two runs differ, in words."""
    return "; ".join(
        f"{name} ({short(there.get(name))} there, {short(value)} here)"
        for name, value in here.items()
        if there.get(name) != value
    )
