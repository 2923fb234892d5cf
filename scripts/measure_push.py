"""Measures what pushing adds to the time of training: the same run with and without it, in turns.

    OMP_NUM_THREADS=1 python scripts/measure_push.py

Both write the same checkpoints; one pushes each of them to a Hub on loopback, which is a process of its own. That the
weights are the same to the bit is checked first. Time is that of training; what is sent after its end is not in it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

HUB = """if True:
    import sys, threading
    sys.path.insert(0, sys.argv[1])
    from local_hub import LocalHub
    with LocalHub(sys.argv[2]) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()
"""


@click.command()
@click.option("--recipe", default="pocket", show_default=True)
@click.option("--data", default="sample", show_default=True)
@click.option("--max-steps", default=800, show_default=True)
@click.option("--save-steps", default=200, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(recipe: str, data: str, max_steps: int, save_steps: int, repeats: int) -> None:
    """Prints the median seconds of both, and their ratio."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(__file__).parents[1] / "tests"
        command = [sys.executable, "-c", HUB, str(tests), f"{folder}/hub"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
            os.environ |= {"HF_ENDPOINT": hub.stdout.readline().strip(), "HF_TOKEN": "hf_write", "HF_HOME": folder}
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
            try:
                compare(Path(folder), recipe, repeats, data=data, max_steps=max_steps, save_steps=save_steps)
            finally:
                hub.kill()


def compare(folder: Path, recipe: str, repeats: int, **settings: object) -> None:
    """Runs both in turns."""
    from hf_spam import finetune  # now that the environment says which Hub there is
    from hf_spam.hub.settings import PushSettings

    seconds: dict[str, list[float]] = {"without": [], "pushing": []}
    weights = set()
    for i in range(repeats + 1):
        for name in seconds if i % 2 else reversed(seconds):
            out = folder / f"{name}-{i}"
            push = PushSettings(model_id=f"alice/{name}-{i}", strategy="every_save") if name == "pushing" else None
            start = time.perf_counter()
            run = finetune(recipe, output_dir=out, push=push, **settings)
            weights.add((out / "model.safetensors").read_bytes())
            if i:  # the first of each warms up
                seconds[name].append(run.history.seconds)
            click.echo(f"{name}: {run.history.seconds:.2f} s of {time.perf_counter() - start:.2f} s", err=True)
    if len(weights) != 1:
        raise click.ClickException("The weights are not the same.")
    without, pushing = (statistics.median(values) for values in seconds.values())
    click.echo("| training | median seconds | least | most |\n|---|---|---|---|")
    for name, values in seconds.items():
        click.echo(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    click.echo(f"\nPushing takes {pushing / without - 1:+.1%}. The weights are the same, bit for bit.")


if __name__ == "__main__":
    main()
