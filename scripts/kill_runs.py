"""Kill small runs at random moments with signal 9, resume them, and compare the results with an uninterrupted run.

    python scripts/kill_runs.py --kills 60

Runs with one process and with two take turns, with and without dropout, gradient accumulation, frozen blocks and BPE
dropout. One kill in five falls before the first checkpoint; the others fall anywhere after it, including during
evaluations and while checkpoints and results are written. Weights, tokenizer, history and metrics are compared byte by
byte, except for the training time.
"""

import json
import multiprocessing
import os
import random
import socket
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click

DATA = Path(__file__).parents[1] / "tests" / "messages.csv"  # each process reads it
MESSAGES = {"train": 100, "validation": 20}
SMALL = {"eval_freq": 5, "max_steps": 30, "learning_rate": 1e-3}
TINY = {"n_embd": 16, "vocab_size": 300, "per_device_train_batch_size": 8}
POCKET = {**SMALL, **TINY, "recipe": "pocket"}
BOOK = {**SMALL, **TINY, "recipe": "book", "base": "random", "n_layer": 3, "n_head": 2, "n_positions": 64}
STILL = {"dropout": 0.0, "case_augmentation": 0.0, "digit_augmentation": 0.0, "bpe_dropout": 0.0, "weight_average": 0.0}
RUNS: dict[str, dict[str, Any]] = {
    "nothing random": {**POCKET, **STILL},
    "dropout": {**POCKET, **STILL, "dropout": 0.2},
    "accumulation": {**POCKET, "gradient_accumulation_steps": 3, "max_steps": 9},
    "frozen blocks": BOOK,
    "BPE dropout": {**POCKET, "bpe_dropout": 0.3},
}
CONTEXT = multiprocessing.get_context("forkserver")


@click.command()
@click.option("--kills", default=60, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    """Fail if the results of a resumed run differ."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "1"}
    # Killed runs leave locks behind.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    CONTEXT.set_forkserver_preload(["hf_spam.training.finetune"])
    moments = random.Random(seed)
    turns = [(name, processes) for processes in (1, 2) for name in RUNS]
    turns = turns[::2] + turns[1::2]
    different = started_anew = 0
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted: dict[tuple[str, int], tuple[dict, float, float]] = {}
        for i in range(kills):
            name, processes = turn = turns[i % len(turns)]
            if turn not in uninterrupted:
                out, begin = Path(folder, f"{name}, {processes}"), time.monotonic()
                running = train(out, processes, {**RUNS[name], "save_steps": 2})
                wait_for_checkpoint(out, running)
                first = time.monotonic()
                wait(running)
                uninterrupted[turn] = results_of(out), first - begin, time.monotonic() - first
            expected, *seconds = uninterrupted[turn]
            out = Path(folder, f"{i}")
            settings = {**RUNS[name], "save_steps": moments.choice([1, 2, 5]), "save_total_limit": 2}
            when = kill(out, processes, settings, *seconds, moments)
            steps = sorted(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
            wait(train(out, processes, settings))
            rest = [path.name for path in out.iterdir() if path.name.startswith(".")]
            same = results_of(out) == expected and not rest
            different += not same
            started_anew += not steps
            place = f"{name}, {processes} {'process' if processes == 1 else 'processes'}"
            click.echo(f"{i + 1}: {place}: {when}, checkpoints {steps or 'none'}: {'same' if same else 'DIFFERENT'}")
    if different:
        raise click.ClickException(f"{different} of {kills} resumed runs are not the same.")
    click.echo(f"{kills} kills, {kills} resumed runs the same to the bit; {started_anew} had no checkpoint yet.")


def kill(
    out: Path, processes: int, settings: dict[str, Any], before: float, after: float, moments: random.Random
) -> str:
    """Start a run and kill its processes shortly after each other; try again if the run had already ended."""
    while True:
        running, early = train(out, processes, settings), moments.random() < 0.2
        if not early:
            wait_for_checkpoint(out, running)
        moment = moments.uniform(0, before if early else after)
        running[0].join(moment)
        moments.shuffle(running)
        alive = all(process.is_alive() for process in running)
        for process in running:
            process.kill()
            time.sleep(moments.choice([0, 0.01]))
        for process in running:
            process.join()
        if alive:
            return f"killed {moment:.2f} s after its {'start' if early else 'first checkpoint'}"


def wait_for_checkpoint(out: Path, running: list[BaseProcess]) -> None:
    """Wait until the first checkpoint of a run is being written."""
    while running[0].is_alive() and not (list(out.glob("checkpoint-*")) or list(out.glob(".writing-*"))):
        time.sleep(0.01)


def train(out: Path, processes: int, settings: dict[str, Any]) -> list[BaseProcess]:
    """Start or resume a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    batch = settings["per_device_train_batch_size"] // processes
    settings = {**settings, "per_device_train_batch_size": batch, "output_dir": out}
    started = [CONTEXT.Process(target=finetune_on, args=(rank, processes, port, settings)) for rank in range(processes)]
    for process in started:
        process.start()
    return started


def wait(processes: list[BaseProcess]) -> None:
    """Wait until the processes of a run end."""
    for process in processes:
        process.join()
        if process.exitcode:
            raise click.ClickException(f"A process ended with {process.exitcode}.")


def finetune_on(rank: int, processes: int, port: int, settings: dict[str, Any]) -> None:
    """Run one process of a training."""
    import torch
    import transformers

    from hf_spam import finetune

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
    finetune(data=messages(), resume_from_checkpoint="auto", **settings)


def messages() -> Any:
    """Return a few messages that take a second to train on."""
    from datasets import DatasetDict

    from hf_spam import load_sms_spam

    data = load_sms_spam(DATA, protocol="book")
    return DatasetDict({split: data[split].select(range(size)) for split, size in MESSAGES.items()})


def results_of(out: Path) -> dict[str, Any]:
    """Return everything that a run wrote, except its duration."""
    files = {name: (out / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "metrics.json")}
    return {**files, "history": {**json.loads((out / "history.json").read_text()), "seconds": 0}}


if __name__ == "__main__":
    main()
