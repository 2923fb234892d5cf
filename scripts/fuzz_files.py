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
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import click
from mutations import DAMAGES, damaged

from hf_spam.entry import QUIET
from hf_spam.files import BUNDLED

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
    os.environ |= {**QUIET, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    CONTEXT.set_forkserver_preload(["hf_spam.inference.classifier"])
    counts, failed = Counter(), 0
    for number in range(cases) if only is None else [only]:
        with tempfile.TemporaryDirectory() as folder:
            name, how, outcome = run_case(Path(folder, "model"), random.Random(f"{seed} {number}"))
        is_fine = outcome in ("refused", "answered")
        counts[name, outcome if is_fine else "failed"] += 1
        failed += not is_fine
        if not is_fine or only is not None:
            click.echo(f"case {number}, {name}: {how}: {outcome}")
    for (name, outcome), count in sorted(counts.items()):
        click.echo(f"{name}: {count} {outcome}")
    if failed:
        raise click.ClickException(f"{failed} of {cases} cases failed.")
    click.echo(f"{counts.total()} cases, none failed.")


def run_case(folder: Path, rng: random.Random) -> tuple[str, str, str]:
    """Damage a copy of the bundled model and classify with it in a process of its own.

    Returns the damaged file, the damage, and the outcome.
    """
    name = rng.choice(MODEL_FILES)
    shutil.copytree(BUNDLED, folder)
    how = damage(folder / name, rng)
    with ProcessPoolExecutor(1, CONTEXT) as worker:
        try:
            outcome = worker.submit(classify, folder).result()
        except BrokenProcessPool:
            outcome = f"crash, or more than {SECONDS} s"
    return name, how, outcome


def classify(folder: Path) -> str:
    """Run `classify` on a model within limited time and memory, and return the outcome."""
    signal.alarm(SECONDS)  # ends the process
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    from hf_spam.cli import main

    sys.argv = ["hf-spam", "classify", "--json", "--model", str(folder), *MESSAGES]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = "traceback"
            traceback.print_exc()
    out, err = out.getvalue(), err.getvalue()
    lines = [line for line in err.splitlines() if line.strip()]
    if code == 1 and not out and len(lines) == 1 and lines[0].startswith("hf-spam: ") and len(err) <= LONGEST_LINE:
        return "refused"
    if code:
        return f"exit code {code}, {len(lines)} lines: {err[-3000:]}"
    answers = [json.loads(line) for line in out.splitlines()]
    is_fine = [one["text"] for one in answers] == MESSAGES and all(0 < one["score"] <= 1 for one in answers)
    return "answered" if is_fine else f"no answer: {out}"


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
    how = rng.choice(DAMAGES)
    path.write_bytes(damaged(data[:end], how, rng) + data[end:])
    return how


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
