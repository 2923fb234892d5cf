"""Compare the speed and memory of this package with its peers on the same work.

    python scripts/benchmark.py --data SMSSpamCollection --tokenizer FOLDER

Fine-tuning is compared with the book's plain loop (the oracle in `tests/`) and with the Trainer of transformers, both
with the same frozen layers and as many evaluations; scoring with the stock text-classification pipeline at its best
batch size; scoring a file on one process per core with one process and with Ray Data. Each run is a process of its own,
so that peak memory is its own as well. Loading libraries and models is not timed. Weights are random; for scoring, the
head is fitted to 1,000 messages. How closely the results agree is printed next to the times.
"""

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from datasets import Dataset, DatasetDict

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
from benchmark_files import FILES, write_rows

SHAPES = {
    "124M": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
    "bundled": {"n_positions": 192},  # the rest comes with its weights
    "tiny": {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 256},
}
BATCH_SIZES = (1, 4, 8, 16, 32)  # tried for the pipeline; the fastest is used

Run = Callable[[], dict[str, Any]]
"""Timed part of a contender; returns the results to compare."""


# Fine-tuning


def book(folder: Path, work: dict[str, Any]) -> Run:
    from book_oracle import fine_tune, loader_accuracy, make_loaders
    from torch.utils.data import DataLoader

    from hf_spam.conversion.loading import load_tokenizer
    from hf_spam.data.tokenization import encode

    model = book_model(work["shape"])
    model.load_state_dict(torch.load(folder / "book.pth"))
    tokenizer = load_tokenizer(folder / "base")

    def run() -> dict[str, Any]:
        splits = [(encode(tokenizer, part["text"][:], 1024), part["label"][:]) for part in read_splits(work).values()]
        loaders = make_loaders(splits, tokenizer.pad_token_id, 8)
        history = fine_tune(model, loaders, epochs=work["epochs"])
        final = [loader_accuracy(model, DataLoader(loader.dataset, 8)) for loader in loaders]
        return {"losses": history["train_losses"] + history["val_losses"], "final": final}

    return run


def trainer(folder: Path, work: dict[str, Any]) -> Run:
    from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

    from hf_spam.conversion.loading import load_tokenizer
    from hf_spam.data.tokenization import encode

    tokenizer = load_tokenizer(folder / "base")
    pad = tokenizer.pad_token_id
    model = GPT2ForSequenceClassification(GPT2Config(**SHAPES[work["shape"]], pad_token_id=pad))
    model.requires_grad_(False)
    for part in (model.transformer.h[-1], model.transformer.ln_f, model.score):
        part.requires_grad_(True)

    def run() -> dict[str, Any]:
        splits = read_splits(work)
        ids = {name: encode(tokenizer, part["text"][:], 1024) for name, part in splits.items()}
        length = max(map(len, ids["train"]))
        parts = {}
        for name, rows in ids.items():
            rows = [row[:length] + [pad] * (length - len(row)) for row in rows]
            masks = [[1] * length] * len(rows)  # the book's model attends to the pads
            columns = {"input_ids": rows, "attention_mask": masks, "labels": splits[name]["label"][:]}
            parts[name] = Dataset.from_dict(columns)
        arguments = TrainingArguments(
            output_dir=folder / "trainer",
            num_train_epochs=work["epochs"],
            per_device_train_batch_size=8,
            dataloader_drop_last=True,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            eval_strategy="steps",
            eval_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
        )
        some = {name: parts[name].select(range(min(40, len(parts[name])))) for name in ("train", "validation")}
        loop = Trainer(model, arguments, train_dataset=parts["train"], eval_dataset=some)
        loop.train()
        for part in parts.values():
            loop.evaluate(part)
        return {"steps": loop.state.global_step}

    return run


def finetuned(folder: Path, work: dict[str, Any], **settings: Any) -> Run:
    from hf_spam import finetune

    def run() -> dict[str, Any]:
        data, base = read_splits(work), str(folder / "base")
        result = finetune("book", data=data, base=base, num_train_epochs=work["epochs"], **settings)
        losses = result.history.train_losses + result.history.val_losses
        return {"losses": losses, "final": [values["accuracy"] for values in result.metrics.values()]}

    return run


# Scoring


def pipeline(folder: Path, work: dict[str, Any]) -> Run:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder / "stock"))
    options = {"truncation": True, "max_length": SHAPES[work["shape"]]["n_positions"], "top_k": None}
    texts, spam, seconds = read_texts(work), classify.model.config.id2label[1], {}
    for size in BATCH_SIZES:
        start = time.perf_counter()
        classify(texts[:: -(-len(texts) // 200)], batch_size=size, **options)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)

    def run() -> dict[str, Any]:
        answers = classify(texts, batch_size=best, **options)
        return {"scores": [one["score"] for answer in answers for one in answer if one["label"] == spam]}

    return run


def scored(folder: Path, work: dict[str, Any], model: str = "ours", **settings: Any) -> Run:
    from hf_spam import SpamClassifier

    classifier = SpamClassifier.from_pretrained(folder / model, **settings)
    texts = read_texts(work)
    classifier.predict_proba(texts[:8])  # the pipeline is warmed up too
    return lambda: {"scores": classifier.predict_proba(texts)[:, 1].tolist()}


EXPORTS = ["hf_spam, ONNX Runtime", "hf_spam, ONNX Runtime, int8"]
# The contenders of each table; the others are compared with the first.
SCORING = {
    "pipeline": pipeline,
    "hf_spam": scored,
    "hf_spam, bf16": lambda *job: scored(*job, dtype="bfloat16"),
    "hf_spam, ONNX Runtime": lambda *job: scored(*job, model="onnx"),
    "hf_spam, ONNX Runtime, int8": lambda *job: scored(*job, model="onnx/onnx/model_quantized.onnx"),
}
TABLES = {
    "fine-tuning": {
        "the book's loop": book,
        "Trainer": trainer,
        "hf_spam": finetuned,
        "hf_spam, last token, no padding": lambda *job: finetuned(*job, pooling="last_token", padded_length=None),
    },
    "scoring": SCORING,
    "scoring, bundled": SCORING,
    "scoring a file": FILES,
}


def read_splits(work: dict[str, Any]) -> DatasetDict:
    from hf_spam import load_sms_spam

    splits = load_sms_spam(work["data"], protocol="book")
    share = min(1, (work["messages"] or 1e9) / sum(map(len, splits.values())))
    return DatasetDict({name: part.select(range(-int(-share * len(part) // 1))) for name, part in splits.items()})


def read_texts(work: dict[str, Any]) -> list[str]:
    from hf_spam.data.sources import read_messages

    texts = read_messages(work["data"])["text"][:]
    return texts[:: -(-len(texts) // work["messages"])] if work["messages"] else texts


def book_model(shape: str) -> torch.nn.Module:
    from book_oracle import GPTModel

    size = SHAPES[shape]
    return GPTModel(50257, size["n_positions"], size["n_embd"], size["n_layer"], size["n_head"])


def make_weights(folder: Path, table: str, work: dict[str, Any]) -> None:
    """Save the same weights, random or those of the bundled model, in the formats of all contenders."""
    from sklearn.linear_model import LogisticRegression
    from small_data import MESSAGES
    from transformers import GPT2Config, GPT2ForSequenceClassification

    from hf_spam import import_weights
    from hf_spam.conversion.loading import BUNDLED, load_tokenizer
    from hf_spam.data.sources import read_messages
    from hf_spam.data.tokenization import encode
    from hf_spam.hub.export import export_model

    with_onnx = not set(EXPORTS) <= set(work["without"])
    if work["shape"] == "bundled":
        export_model("bundled", folder / "stock", format="gpt2", data=MESSAGES)
        if with_onnx:
            export_model("bundled", folder / "onnx", format="onnx", data=MESSAGES)
        (folder / "ours").symlink_to(BUNDLED)
        return
    torch.manual_seed(1)
    size = SHAPES[work["shape"]]
    tokenizer = load_tokenizer(work["tokenizer"])
    if table == "fine-tuning":
        torch.save(book_model(work["shape"]).state_dict(), folder / "book.pth")
        import_weights(folder / "book.pth", folder / "base", n_head=size["n_head"])
        tokenizer.save_pretrained(folder / "base")
        return
    ends = {name: tokenizer.pad_token_id for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    stock = GPT2ForSequenceClassification(GPT2Config(**size, vocab_size=len(tokenizer), **ends)).eval()
    messages = read_messages(MESSAGES)
    with torch.inference_mode():
        rows = [torch.tensor([ids]) for ids in encode(tokenizer, messages["text"][:], size["n_positions"])]
        features = torch.cat([stock.transformer(row).last_hidden_state[:, -1] for row in rows])
    fitted = LogisticRegression(fit_intercept=False, max_iter=1000).fit(features.numpy(), messages["label"][:])
    weight = torch.tensor(fitted.coef_[0], dtype=torch.float32)
    stock.score.weight.data = torch.stack([-weight / 2, weight / 2])
    tokenizer.model_max_length = size["n_positions"]
    stock.save_pretrained(folder / "stock")
    tokenizer.save_pretrained(folder / "stock")
    import_weights(folder / "stock", folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    if with_onnx:
        export_model(folder / "ours", folder / "onnx", format="onnx", data=MESSAGES)


def do_job(folder: str, table: str, work: dict[str, Any], contender: str | None) -> dict[str, Any]:
    """Run and measure a contender, or create what all of them need if there is no contender."""
    os.environ["TQDM_DISABLE"] = "1"
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if contender is None:
        if table == "scoring a file":
            write_rows(Path(folder), work["rows"])
        else:
            make_weights(Path(folder), table, work)
        return {}
    run = TABLES[table][contender](Path(folder), work)
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "memory": memory, **(result() if callable(result) else result)}


def in_a_process(**job: Any) -> dict[str, Any]:
    """Run `do_job` in a separate process."""
    done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{job['contender'] or 'making the weights'} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(table: str, repeats: int, work: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each contender, interleaved so that a slow moment affects all of them."""
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(folder=folder, table=table, work=work, contender=None)
        left_out = {*work["without"], *(() if importlib.util.find_spec("ray") else ["Ray Data"])}
        if torch.backends.cpu.get_cpu_capability() == "AVX2":  # no bfloat16 instructions
            left_out |= {name for name in TABLES[table] if "bf16" in name}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES[table] if name not in left_out}
        for repeat in range(repeats):
            for name in runs if repeat % 2 == 0 else reversed(runs):
                runs[name].append(in_a_process(folder=folder, table=table, work=work, contender=name))
                click.echo(f"{table}, {name}: {runs[name][-1]['seconds']:.2f} s", err=True)
    return runs


def agreement(peer: dict[str, Any], name: str, other: dict[str, Any]) -> str:
    """Describe how closely two results agree."""
    if "scores" in other:
        pairs = list(zip(peer["scores"], other["scores"], strict=True))
        same = sum((a > 0.5) == (b > 0.5) for a, b in pairs) / len(pairs)
        growth = f"; memory {other['growth']}" if "growth" in other else ""
        return f"scores within {max(abs(a - b) for a, b in pairs):.0e}, {same:.2%} of labels{growth}"
    if "losses" not in other or "last token" in name:
        return "other batches" if "losses" not in other else "another position"
    losses = max(abs(a - b) for a, b in zip(peer["losses"], other["losses"], strict=True))
    accuracies = max(abs(a - b) for a, b in zip(peer["final"], other["final"], strict=True))
    return f"losses within {losses:.0e}, final accuracies within {accuracies:.2%}"


def as_markdown(table: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the medians of a table's runs as a Markdown table."""
    lines = [f"| {table} | seconds | faster | peak memory | compared with the first |", "|---|---|---|---|---|"]
    first = next(iter(runs.values()))
    for name, measured in runs.items():
        seconds, memory = (statistics.median(run[key] for run in measured) for key in ("seconds", "memory"))
        faster = statistics.median(run["seconds"] for run in first) / seconds
        result = agreement(first[0], name, measured[0]) if measured is not first else ""
        lines.append(f"| {name} | {seconds:.2f} | {faster:.1f}x | {memory:,.0f} MB | {result} |")
    return "\n".join(lines)


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--tokenizer", default="openai-community/gpt2", show_default=True, help="GPT-2's: a Hub id or a folder.")
@click.option("--rows", default=200_000, show_default=True, help="Rows of the file to score.")
@click.option("--only", type=click.Choice(list(TABLES)), multiple=True, help="Tables to measure.  [default: all]")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="124M", show_default=True, help="Except for bundled.")
@click.option("--messages", type=int, help="Number of messages.  [default: all]")
@click.option("--epochs", default=5, show_default=True, help="Epochs of fine-tuning.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each contender; the median is shown.")
@click.option("--without", multiple=True, help="Contenders to leave out.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for all measurements.")
@click.option("--job", hidden=True)
def main(only: tuple[str, ...], shape: str, repeats: int, output: Path | None, job: str | None, **work: Any) -> None:
    """Print a Markdown table for each kind of work."""
    if job is not None:
        click.echo(json.dumps(do_job(**json.loads(job))))
        return
    report = {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability(), "tables": {}}
    for table in only or TABLES:
        shaped = {**work, "shape": "bundled" if table == "scoring, bundled" else shape}
        report["tables"][table] = compare(table, repeats, shaped)
        click.echo(as_markdown(table, report["tables"][table]) + "\n")
    if output:
        output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
