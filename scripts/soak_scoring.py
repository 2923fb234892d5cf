"""Score files for minutes while processes are killed and inputs are cut off, and compare every byte of the output.

    OMP_NUM_THREADS=1 python scripts/soak_scoring.py --minutes 10

Each round scores a file in one of three formats on one to three processes, and repeats the command until it succeeds.
At a random moment of each attempt, the command or a worker is killed, the input is cut off and restored afterwards, or
nothing happens. After each attempt the output must either not exist or equal that of an undisturbed run. In the end no
other file may be left.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = ("none", "command killed", "worker killed", "input cut")
WINDOW = 16


def write_inputs(folder: Path, rows: int) -> list[Path]:
    """Write the same numbered rows with awkward texts as CSV, JSON lines and Parquet."""
    odd = ["", "007", "NA", 'a "quote", a comma', "two\nlines", "cr\r", "\x00", "🙂 スパム"]
    records = [{"id": f"{i:06d}", "text": f"{'WIN a FREE prize ' * (i % 9)}{odd[i % 8]}"} for i in range(rows)]
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text"], quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), folder / "in.parquet", row_group_size=100)
    return [folder / f"in{suffix}" for suffix in (".csv", ".jsonl", ".parquet")]


def start(source: Path, output: Path, processes: int) -> psutil.Popen:
    command = [sys.executable, "-m", "hf_spam", "score", str(source), str(output), "--window-size", str(WINDOW)]
    return psutil.Popen([*command, "--num-processes", str(processes)], stderr=subprocess.PIPE, text=True)


def wait_for_windows(run: psutil.Popen, output: Path, count: int) -> None:
    state = output.with_name(f"{output.name}.unfinished.json")
    while run.poll() is None and not output.exists():
        with suppress(FileNotFoundError):
            if json.loads(state.read_bytes())["windows"] >= count:
                return
        time.sleep(0.002)


def disturb(run: psutil.Popen, fault: str, source: Path) -> None:
    if fault == "command killed":
        run.kill()
    elif fault == "worker killed":
        workers = run.children(recursive=True)
        if workers:
            random.choice(workers).kill()
    elif fault == "input cut":
        # In the middle of a cell; otherwise it would be a valid, shorter file.
        os.truncate(source, source.read_bytes().rfind(b'"0', 0, source.stat().st_size // random.randint(1, 9)) + 2)


def attempt(source: Path, whole: bytes, output: Path, processes: int, windows: int) -> tuple[str, int, str]:
    """Run the command once; return the fault, the exit code and standard error."""
    fault = random.choice(FAULTS)
    with start(source, output, processes) as run:
        wait_for_windows(run, output, random.randint(0, windows))
        time.sleep(random.random() * 0.02)
        family = run.children(recursive=True) if run.poll() is None else []
        if run.poll() is None:
            disturb(run, fault, source)
        _, said = run.communicate(timeout=300)
    if psutil.wait_procs(family, timeout=30)[1]:
        raise click.ClickException(f"Processes outlive the command ({fault}).")
    if source.read_bytes() != whole:
        source.write_bytes(whole)
    return fault, run.returncode, said


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Minutes to run.")
@click.option("--rows", default=1000, show_default=True, help="Rows per input.")
@click.option("--seed", default=0, show_default=True, help="Seed for the faults and their timing.")
def main(minutes: float, rows: int, seed: int) -> None:
    """Print the number of rounds, attempts and faults; fail at the first wrong byte."""
    random.seed(seed)
    faults: Counter[str] = Counter()
    rounds, end = 0, time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_inputs(folder, rows)
        expected: dict[Path, bytes] = {}
        while time.monotonic() < end or not rounds:
            source = random.choice(sources)
            whole, undisturbed = source.read_bytes(), folder / f"expected{source.suffix}"
            if source not in expected:
                if start(source, undisturbed, 1).wait() != 0:
                    raise click.ClickException(f"{source.name} cannot be scored at all.")
                expected[source] = undisturbed.read_bytes()
            right, names = expected[source], {path.name for path in folder.iterdir()}
            output, code, attempts = folder / f"out{source.suffix}", 1, 0
            while code != 0:
                fault, code, said = attempt(source, whole, output, random.randint(1, 3), -(-rows // WINDOW))
                faults[fault] += 1
                attempts += 1
                if output.exists() and output.read_bytes() != right:
                    raise click.ClickException(f"Round {rounds}, {source.name}, {fault}: the output is wrong.")
                if code == 0 and not output.exists():
                    raise click.ClickException(f"Round {rounds}, {source.name}, {fault}: success without an output.")
                if code not in (0, -9) and (said.count("\n") > 1 + ("Resuming" in said) or "hf-spam: " not in said):
                    raise click.ClickException(f"Round {rounds}, {source.name}, {fault}: not one line: {said}")
                if code == 1 and fault == "none":
                    raise click.ClickException(f"Round {rounds}, {source.name}: failed without a fault: {said}")
            output.unlink()
            if left := {path.name for path in folder.iterdir()} - names:
                raise click.ClickException(f"Round {rounds}, {source.name}: left behind: {left}")
            rounds += 1
            click.echo(f"{source.name}: correct after {attempts} attempts", err=True)
    met = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
    click.echo(f"{rounds} rounds of {rows} rows, {faults.total()} attempts ({met}): no row lost, doubled or changed.")


if __name__ == "__main__":
    main()
