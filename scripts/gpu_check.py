"""Check this package on a GPU and measure it; without a GPU, everything runs on the CPU.

    python scripts/gpu_check.py --data SMSSpamCollection --tokenizer FOLDER

Runs the tests marked `gpu`. Then trains the recipe `book` at the shape of GPT-2 124M, with all of its epochs and
evaluations, in float32, in bfloat16, and in bfloat16 compiled, and scores 100,000 messages in float32 and bfloat16.
Weights are random. Loading libraries, messages and models is not timed. The last column compares the floating-point
operations of each row with a large bfloat16 matrix product on the same device.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

SHAPES = {
    "124M": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
    "tiny": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256},
}
BF16 = {"mixed_precision": "bf16"}
TRAINING = {
    "book, float32": ({}, "no"),
    "book, bfloat16": (BF16, "no"),
    "book, bfloat16, compiled": (BF16, "inductor"),
}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def flops_of(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_product_rate(size: int) -> float:
    """Return the floating-point operations per second of square bfloat16 matrix products."""
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 * 10 / seconds_of(lambda: [a @ b for _ in range(10)])


def make_base(folder: str, shape: str, tokenizer: str) -> None:
    """Save random weights of a shape, with a tokenizer."""
    from hf_spam import SpamGPTConfig, SpamGPTForSequenceClassification
    from hf_spam.conversion.loading import load_tokenizer

    torch.manual_seed(0)
    SpamGPTForSequenceClassification(SpamGPTConfig(**SHAPES[shape])).save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)


def measure(base: str, data: str, epochs: int, messages: int, compiled: bool) -> list[tuple[str, float, int, int]]:
    """Return the name, seconds, messages and floating-point operations of each row."""
    from hf_spam import SpamClassifier, finetune, load_sms_spam
    from hf_spam.data.sources import read_messages

    splits, rows = load_sms_spam(data, protocol="book"), []
    if len(splits["train"]) > messages:
        splits["train"] = splits["train"].select(range(messages))
    for name, (settings, backend) in TRAINING.items():
        if backend != "no" and not compiled:
            continue

        def train(settings: dict = settings) -> None:
            finetune("book", data=splits, base=base, num_train_epochs=epochs, **settings)

        os.environ["ACCELERATE_DYNAMO_BACKEND"] = backend  # as `accelerate launch --dynamo_backend` does
        seconds = seconds_of(train)
        del os.environ["ACCELERATE_DYNAMO_BACKEND"]
        if not rows:  # the same operations in each precision
            flops = flops_of(train)
        rows.append((name, seconds, epochs * len(splits["train"]), flops))
        click.echo(f"{name}: {seconds:.1f} s", err=True)
    texts = read_messages(data)["text"][:]
    texts = (texts * (messages // len(texts) + 1))[:messages]
    some = texts[: max(1, messages // 20)]
    for dtype in ("float32", "bfloat16"):
        classifier = SpamClassifier.from_pretrained(base, dtype=dtype)
        flops = flops_of(lambda classifier=classifier: classifier.predict_proba(some)) * len(texts) // len(some)
        seconds = seconds_of(lambda classifier=classifier: classifier.predict_proba(texts))
        rows.append((f"scoring, {dtype}", seconds, len(texts), flops))
        click.echo(f"scoring, {dtype}: {seconds:.1f} s", err=True)
    return rows


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--tokenizer", default="openai-community/gpt2", show_default=True, help="GPT-2's: a Hub id or a folder.")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="124M", show_default=True)
@click.option("--epochs", default=5, show_default=True, help="Epochs of fine-tuning.")
@click.option("--messages", default=100_000, show_default=True, help="Messages to score; at most as many to train on.")
@click.option("--compiled/--no-compiled", default=True, help="Also train compiled.")
@click.option("--tests/--no-tests", default=True, help="Run the tests marked gpu first.")
def main(data: str, tokenizer: str, shape: str, epochs: int, messages: int, compiled: bool, tests: bool) -> None:
    """Print a Markdown table of seconds, messages per second and utilization."""
    if tests:
        root = Path(__file__).parents[1]
        done = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-n", "0", "tests"], cwd=root)
        if done.returncode:
            raise click.ClickException("tests marked gpu failed, see above")
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    rate = matrix_product_rate(8192 if on_gpu else 256)
    click.echo(f"{device}, torch {torch.__version__}: {rate / 1e12:.1f} TFLOP/s in bfloat16\n", err=True)
    with tempfile.TemporaryDirectory() as base:
        make_base(base, shape, tokenizer)
        rows = measure(base, data, epochs, messages, compiled)
    click.echo(f"| {device} | seconds | messages/s | TFLOP/s | of the bfloat16 rate |\n|---|---|---|---|---|")
    for name, seconds, count, flops in rows:
        share = flops / seconds / rate
        click.echo(f"| {name} | {seconds:.2f} | {count / seconds:,.0f} | {flops / seconds / 1e12:.1f} | {share:.1%} |")
    if on_gpu:
        click.echo(f"\nPeak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
