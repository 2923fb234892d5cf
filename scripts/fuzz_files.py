"""Damage model folders at random, run `classify` on them, and check that errors are clear.

    python scripts/fuzz_files.py --cases 500

In each case the weights, the configuration or the tokenizer is changed. A case fails on a traceback, a crash, more than
3 GiB or a minute, an error of more than one line or 1,000 characters, or an invalid answer. (A damaged model may still
be a valid one, which gives other answers.) For data files see `mutate_files.py`.
"""

import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

MESSAGES = ["Free entry! Txt WIN to 10010 now", "see you at home tonight", "", "call 0800 for your prize"]
MODEL_FILES = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
ODD = [None, True, 0, -1, 3, 10**9, 10**18, -(10**30), 0.5, 1e308, math.nan, "", "x", "0", "é" * 300, [], [[]], {}]
SECONDS, MEMORY, LONGEST_LINE = 60, 3 * 2**30, 1000
CONTEXT = multiprocessing.get_context("forkserver")


@click.command()
@click.option("--cases", default=500, show_default=True, help="Number of cases.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=int, help="Run this case alone.")
def main(cases: int, seed: int, only: int | None) -> None:
    """Print the outcomes; exit with an error if a case failed."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    CONTEXT.set_forkserver_preload(["hf_spam.inference.classifier"])
    counts, failed = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder), seed)
        for number in range(cases) if only is None else [only]:
            outcome, detail = worker.run(number)
            what = detail.split(":")[0]
            counts[what, outcome] += 1
            if outcome not in ("refused", "same", "another"):
                failed += 1
                click.echo(f"case {number}, {detail}: {outcome}")
            elif only is not None:
                click.echo(f"case {number}, {detail}: {outcome}")
        worker.stop()
    for (what, outcome), count in sorted(counts.items()):
        click.echo(f"{what}: {count} {outcome}")
    if failed:
        raise click.ClickException(f"{failed} of {cases} cases failed.")
    click.echo(f"{sum(counts.values())} cases, none failed.")


class Worker:
    """A process that runs cases, and is restarted if a case kills it."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.process: Any = None

    def run(self, number: int) -> tuple[str, str]:
        """Run a case; return the outcome and a description of the case."""
        if self.process is None:
            self.connection, end = CONTEXT.Pipe()
            self.process = CONTEXT.Process(target=work, args=(end, self.folder, self.seed))
            self.process.start()
            end.close()
        self.connection.send(number)
        try:
            if self.connection.poll(SECONDS + 60 * (number == 0)):
                return self.connection.recv()
            outcome = f"more than {SECONDS} s"
        except EOFError:
            self.process.join()
            outcome = f"crash, exit code {self.process.exitcode}"
        self.stop()
        return outcome, "crash or hang"

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.process = None


def work(connection: Connection, folder: Path, seed: int) -> None:
    """Run the cases whose numbers arrive."""
    import torch

    torch.set_num_threads(1)
    from hf_spam.conversion.loading import BUNDLED

    answers = run("classify", "--json", *MESSAGES)[1]
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    while True:
        number = connection.recv()
        rng = random.Random(f"{seed} {number}")
        case = folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        name = rng.choice(MODEL_FILES)
        shutil.copytree(BUNDLED, case)
        detail = f"{name}: {damage(case / name, rng)}"
        outcome = model_case(case, answers)
        connection.send((outcome, detail))


def model_case(folder: Path, answers: str) -> str:
    """Run `classify` on a model and return the outcome."""
    code, out, err = run("classify", "--json", "--model", str(folder), *MESSAGES)
    if code:
        return refusal(code, out, err)
    found = [json.loads(line) for line in out.splitlines()]
    if [answer["text"] for answer in found] != MESSAGES or not all(0 < answer["score"] <= 1 for answer in found):
        return f"no answer: {out}"
    return "same" if out == answers else "another"


def refusal(code: int, out: str, err: str) -> str:
    """Return "refused" if an error is one clear line, or else the problem."""
    lines = [line for line in err.splitlines() if line.strip()]
    if code == 1 and not out and len(lines) == 1 and lines[0].startswith("hf-spam: ") and len(err) <= LONGEST_LINE:
        return "refused"
    return f"exit code {code}, {len(lines)} lines: {err[-3000:]}"


def run(*arguments: str) -> tuple[int | str, str, str]:
    """Run `hf-spam` in this process; return exit code, standard output and standard error."""
    from hf_spam.cli import main

    sys.argv = ["hf-spam", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = "traceback"
            err.write(traceback.format_exc())
    return code, out.getvalue(), err.getvalue()


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; return a description of the damage."""
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.6:
        values = json.loads(data)
        how = change_json(values, rng)
        path.write_text(json.dumps(values))
        return how
    # Most of a weights file is numbers; only its header can be misread.
    end = len(data)
    if path.suffix == ".safetensors" and rng.random() < 0.8:
        end = 8 + struct.unpack("<Q", data[:8])[0]
    at, length = rng.randrange(end), rng.choice([1, 1, 2, 8, 100])
    how = rng.choice(["bit", "bytes", "zeros", "cut", "removed", "inserted", "repeated", "swapped"])
    changed = bytearray(data)
    match how:
        case "bit":
            changed[at] ^= 1 << rng.randrange(8)
        case "bytes":
            changed[at : at + length] = rng.randbytes(length)
        case "zeros":
            changed[at : at + length] = bytes(length)
        case "cut":
            del changed[at:]
        case "removed":
            del changed[at : at + length]
        case "inserted":
            changed[at:at] = rng.choice([b'"', b",", b"\t", b"\n", b"\r", b"\0", b"{", b"[", b"\xff", b"spam,", b"9"])
        case "repeated":
            changed[at:at] = data[at : at + length]
        case "swapped":
            other = rng.randrange(end)
            changed[at], changed[other] = data[other], data[at]
    path.write_bytes(changed)
    return f"{how} at {at}"


def change_json(values: Any, rng: random.Random) -> str:
    """Change a value or a key somewhere in a document; return a description."""
    path = []
    while True:
        keys = list(values) if isinstance(values, dict) else range(len(values))
        key = rng.choice(keys)
        path.append(key)
        if not (isinstance(values[key], dict | list) and values[key]) or rng.random() < 0.2:
            break
        values = values[key]
    how = rng.choice(["value", "value", "value", "removed", "renamed"])
    if how == "value":
        values[key] = rng.choice(ODD)
        how = f"= {values[key]!r:.40}"
    elif how == "removed" or isinstance(values, list):
        del values[key]
    else:
        values[f"{key}_"] = values.pop(key)
    return f"{path} {how}"


if __name__ == "__main__":
    main()
