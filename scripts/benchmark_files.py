"""Contenders of `benchmark.py` that score a file: one process, one per core, and Ray Data on this machine.

Loading the model and starting Ray, which a cluster does once, are not timed; starting processes and actors is. Memory
is that of all processes, with what they share counted once, every half second.
"""

import csv
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROWS_CSV = "rows.csv"


def write_rows(folder: Path, count: int) -> None:
    """Write the sample to a CSV file again and again, until the file has so many rows."""
    from hf_spam.data.sources import read_messages

    texts = read_messages("sample")["text"][:]
    with (folder / ROWS_CSV).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows((i, texts[i % len(texts)]) for i in range(count))


class Memory(threading.Thread):
    """Measure the memory of this process and its descendants, in MB, until the end of the `with` block."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done, self.values = threading.Event(), []

    def run(self) -> None:
        me = psutil.Process()
        while not self.done.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it has ended
                    continue
            self.values.append(total / 2**20)

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.join()

    def growth(self) -> str:
        """Describe the medians of the second and the last quarter of the time; the first is that of the start."""
        size = max(1, len(self.values) // 4)
        early, late = (statistics.median(part or [0]) for part in (self.values[size : 2 * size], self.values[-size:]))
        return f"{early:,.0f}, later {late:,.0f} MB"


def _result(memory: Memory, parts: list[Path], rows: int) -> dict[str, Any]:
    scores = []
    for part in parts:
        with part.open(encoding="utf-8", newline="") as file:
            scores += [float(s) if label == "spam" else 1 - float(s) for *_, label, s in list(csv.reader(file))[1:]]
    assert len(scores) == rows, (len(scores), rows)
    return {"scores": scores, "memory": max(memory.values, default=0), "growth": memory.growth()}


def score_alone(folder: Path, work: dict[str, Any], count: int | None = None) -> Callable[[], dict[str, Any]]:
    from hf_spam.inference.scoring import load_scorer, score_file

    classifier, output = load_scorer(), folder / "alone.csv"

    def run() -> dict[str, Any]:
        with Memory() as memory:
            score_file(classifier, folder / ROWS_CSV, output, num_processes=count, overwrite=True)
        return lambda: _result(memory, [output], work["rows"])

    return run


def score_on_ray(folder: Path, work: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    import ray

    from hf_spam.inference.ray_data import score_with_ray
    from hf_spam.inference.scoring import load_scorer

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    output = folder / "ray.csv"

    def run() -> dict[str, Any]:
        with Memory() as memory:
            score_with_ray(load_scorer(), folder / ROWS_CSV, output, overwrite=True)
        return lambda: _result(memory, sorted(output.glob("part-*")), work["rows"])

    return run


FILES = {
    "one process per core": score_alone,
    "one process": lambda *job: score_alone(*job, count=1),
    "Ray Data": score_on_ray,
}
