"""Times this package beside its peers: the same work, in turns, equality first.

    python scripts/benchmark.py --data ../shared/data/SMSSpamCollection --tokenizer ../shared/data/gpt2-tokenizer

Every run of a contender is a process of its own, so that its peak memory is its own too. Loading libraries and models
is not timed; all that follows is. The weights are random, with a head that is fitted to the sample messages where
messages are scored: its labels have margins like those of a trained model. Scoring is also held against the rate of
this machine's matrix products, for those of all weights of the blocks with all real tokens; who need not compute them
all may be above it. The peers:

- the book's plain loop (the oracle in `tests/`), with all its evaluations;
- the Trainer of transformers with GPT2ForSequenceClassification, the same layers frozen, as many evaluations;
- the text-classification pipeline of transformers with GPT2ForSequenceClassification, at its best batch size.
"""

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
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1] / "tests"))

SHAPES = {
    "124M": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
    "pocket": {"n_layer": 1, "n_embd": 128, "n_head": 4, "n_positions": 128},
    "tiny": {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 256},
}
BATCH_SIZES = (1, 4, 8, 16, 32)  # of the pipeline; the best is taken
TUNED_ON = 200  # messages on which it is found

Run = Callable[[], dict[str, Any]]
"""What is timed; it returns what shows that the work was done."""


# Fine-tuning


def book(folder: Path, work: dict) -> Run:
    from book_oracle import fine_tune, loader_accuracy, make_loaders
    from torch.utils.data import DataLoader

    from hf_spam.conversion.loading import load_tokenizer
    from hf_spam.data.tokenization import encode

    model = book_model(work["shape"])
    model.load_state_dict(torch.load(folder / "book.pth"))
    tokenizer = load_tokenizer(folder / "base")

    def run() -> dict[str, Any]:
        splits = [(encode(tokenizer, part["text"][:], 1024), part["label"][:]) for part in splits_of(work).values()]
        loaders = make_loaders(splits, tokenizer.pad_token_id, 8)
        history = fine_tune(model, loaders, epochs=work["epochs"])
        final = [loader_accuracy(model, DataLoader(loader.dataset, 8)) for loader in loaders]
        return {"losses": history["train_losses"] + history["val_losses"], "final": final}

    return run


def trainer(folder: Path, work: dict) -> Run:
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
        splits = splits_of(work)
        ids = {name: encode(tokenizer, part["text"][:], 1024) for name, part in splits.items()}
        length = max(map(len, ids["train"]))
        parts = {}
        for name, rows in ids.items():
            rows = [row[:length] + [pad] * (length - len(row)) for row in rows]
            masks = [[1] * length] * len(rows)  # as in the book, the pads are read
            parts[name] = Dataset.from_dict(
                {"input_ids": rows, "attention_mask": masks, "labels": splits[name]["label"]}
            )
        settings = TrainingArguments(
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
        loop = Trainer(model, settings, train_dataset=parts["train"], eval_dataset=some)
        loop.train()
        for part in parts.values():
            loop.evaluate(part)
        return {"steps": loop.state.global_step}

    return run


def finetuned(folder: Path, work: dict, **settings: Any) -> Run:
    from hf_spam import finetune

    def run() -> dict[str, Any]:
        result = finetune(
            "book", data=splits_of(work), base=str(folder / "base"), num_train_epochs=work["epochs"], **settings
        )
        losses = result.history.train_losses + result.history.val_losses
        return {"losses": losses, "final": [values["accuracy"] for values in result.metrics.values()]}

    return run


# Scoring


def pipeline(folder: Path, work: dict) -> Run:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder / "stock"))
    options = {"truncation": True, "max_length": SHAPES[work["shape"]]["n_positions"], "top_k": None}
    texts, seconds = texts_of(work), {}
    for size in BATCH_SIZES:
        start = time.perf_counter()
        classify(texts[:: -(-len(texts) // TUNED_ON)], batch_size=size, **options)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)

    def run() -> dict[str, Any]:
        answers = classify(texts, batch_size=best, **options)
        return {
            "scores": [one["score"] for answer in answers for one in answer if one["label"] == "LABEL_1"],
            "batch_size": best,
        }

    return run


def scored(folder: Path, work: dict, model: str = "ours", **settings: Any) -> Run:
    from hf_spam import SpamClassifier

    classifier = SpamClassifier.from_pretrained(folder / model, **settings)
    texts = texts_of(work)
    classifier.predict_proba(texts[:8])  # as the pipeline is warm by now
    return lambda: {"scores": classifier.predict_proba(texts)[:, 1].tolist()}


# The tables: what is done, by whom (the first is the one that the others are held against)
TABLES = {
    "fine-tuning": {
        "the book's loop": book,
        "Trainer": trainer,
        "hf_spam": finetuned,
        "hf_spam, frozen blocks in bf16": lambda *job: finetuned(*job, prefix_precision="bf16"),
        "hf_spam, last token, no padding": lambda *job: finetuned(*job, pooling="last_token", padded_length=None),
        "hf_spam, last token, no padding, frozen blocks in bf16": lambda *job: finetuned(
            *job, pooling="last_token", padded_length=None, prefix_precision="bf16"
        ),
    },
    "scoring": {
        "pipeline": pipeline,
        "hf_spam": scored,
        "hf_spam, bf16": lambda *job: scored(*job, dtype="bfloat16"),
        "hf_spam, ONNX Runtime": lambda *job: scored(*job, model="onnx"),
        "hf_spam, ONNX Runtime, int8": lambda *job: scored(*job, model="int8"),
    },
}
TABLES["scoring, pocket"] = TABLES["scoring"]


def splits_of(work: dict) -> DatasetDict:
    from hf_spam import load_sms_spam

    splits = load_sms_spam(work["data"], protocol="book")
    share = min(1, (work["messages"] or 1e9) / sum(map(len, splits.values())))
    return DatasetDict({name: part.select(range(-int(-share * len(part) // 1))) for name, part in splits.items()})


def texts_of(work: dict) -> list[str]:
    from hf_spam.data.sources import read_messages

    texts = read_messages(work["data"])["text"][:]
    return texts[:: -(-len(texts) // work["messages"])] if work["messages"] else texts


def book_model(shape: str) -> torch.nn.Module:
    from book_oracle import GPTModel

    size = SHAPES[shape]
    return GPTModel(50257, size["n_positions"], size["n_embd"], size["n_layer"], size["n_head"])


def make_weights(folder: Path, table: str, work: dict) -> dict[str, Any]:
    """The same random weights in the forms that the contenders read."""
    from sklearn.linear_model import LogisticRegression
    from transformers import GPT2Config, GPT2ForSequenceClassification

    from hf_spam import import_weights
    from hf_spam.conversion.export import export_onnx
    from hf_spam.conversion.loading import load_tokenizer
    from hf_spam.data.sources import read_messages
    from hf_spam.data.tokenization import encode
    from hf_spam.inference.classifier import POCKET

    torch.manual_seed(1)
    size = SHAPES[work["shape"]]
    tokenizer = load_tokenizer(POCKET if work["shape"] == "pocket" else work["tokenizer"])
    if table == "fine-tuning":
        torch.save(book_model(work["shape"]).state_dict(), folder / "book.pth")
        import_weights(folder / "book.pth", folder / "base", n_head=size["n_head"])
        tokenizer.save_pretrained(folder / "base")
        return {}
    ends = {name: tokenizer.pad_token_id for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    stock = GPT2ForSequenceClassification(GPT2Config(**size, vocab_size=len(tokenizer), **ends)).eval()

    sample = read_messages("sample")
    with torch.inference_mode():
        rows = [torch.tensor([ids]) for ids in encode(tokenizer, sample["text"][:], size["n_positions"])]
        features = torch.cat([stock.transformer(row).last_hidden_state[:, -1] for row in rows])
    fitted = LogisticRegression(fit_intercept=False, max_iter=1000).fit(features.numpy(), sample["label"][:])
    weight = torch.tensor(fitted.coef_[0], dtype=torch.float32)
    stock.score.weight.data = torch.stack([-weight / 2, weight / 2])
    tokenizer.model_max_length = size["n_positions"]
    stock.save_pretrained(folder / "stock")
    tokenizer.save_pretrained(folder / "stock")
    import_weights(folder / "stock", folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    in_blocks = sum(
        p.numel() for name, p in stock.transformer.h.named_parameters() if name.endswith(".weight") and p.ndim == 2
    )
    refused = []
    for name, contender in (("onnx", "hf_spam, ONNX Runtime"), ("int8", "hf_spam, ONNX Runtime, int8")):
        if contender in work["without"]:
            continue
        try:
            export_onnx(folder / "ours", folder / name, int8=name == "int8")
        except ValueError as error:
            click.echo(str(error), err=True)
            refused.append(contender)
    tokens = sum(map(len, encode(tokenizer, texts_of(work), size["n_positions"])))
    return {"flop": 2 * in_blocks * tokens, "refused": refused}


def matrix_rate() -> float:
    """Floating-point operations a second of a matrix product as large as those of GPT-2 124M, in float32."""
    x, weight = torch.randn(1024, 768), torch.randn(3072, 768)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        seconds.append(time.perf_counter() - start)
    return 2 * x.shape[0] * weight.numel() / statistics.median(seconds)


# Running it


def in_a_process(**job: Any) -> dict[str, Any]:
    """Has this script do one part, with its threads, and returns what it says."""
    done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{job.get('contender', 'the preparation')} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def do_job(folder: str, table: str, work: dict, contender: str | None) -> dict[str, Any]:
    os.environ["TQDM_DISABLE"] = "1"
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if contender is None:
        return make_weights(Path(folder), table, work)
    run = TABLES[table][contender](Path(folder), work)
    rate, start = matrix_rate(), time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**result, "seconds": seconds, "memory": memory, "rate": (rate + matrix_rate()) / 2}


def compare(peer: dict[str, Any], name: str, other: dict[str, Any]) -> str:
    """How far the results are from those of the peer."""
    if "scores" in other:
        pairs = list(zip(peer["scores"], other["scores"], strict=True))
        same = sum((a > 0.5) == (b > 0.5) for a, b in pairs) / len(pairs)
        return f"scores within {max(abs(a - b) for a, b in pairs):.0e}, {same:.2%} of labels"
    if "losses" not in other:
        return "another shuffle, as much work"
    if "last token" in name:
        return "another position is read; that padding changes nothing there is a test"
    worst = max(abs(a - b) for a, b in zip(peer["losses"], other["losses"], strict=True))
    worst_accuracy = max(abs(a - b) for a, b in zip(peer["final"], other["final"], strict=True))
    return f"losses within {worst:.0e}, final accuracies within {worst_accuracy:.2%}"


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--tokenizer", default="openai-community/gpt2", show_default=True, help="GPT-2's: a Hub id or a folder.")
@click.option("--only", type=click.Choice(list(TABLES)), multiple=True, help="Measure just these.")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="124M", show_default=True, help="Of all but pocket.")
@click.option("--messages", type=int, help="Messages to work on.  [default: all]")
@click.option("--epochs", default=5, show_default=True, help="Of fine-tuning.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each, of which the median counts.")
@click.option("--without", multiple=True, help="Contenders to leave out.")
@click.option("--output", type=click.Path(path_type=Path), help="Where all figures go, as JSON.")
@click.option("--job", hidden=True)
def main(
    data: str,
    tokenizer: str,
    only: tuple[str, ...],
    shape: str,
    messages: int | None,
    epochs: int,
    repeats: int,
    without: tuple[str, ...],
    output: Path | None,
    job: str | None,
) -> None:
    """Prints a Markdown table for each kind of work."""
    if job is not None:
        click.echo(json.dumps(do_job(**json.loads(job))))
        return
    report = {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability(), "tables": {}}
    for table in only or TABLES:
        work = {"shape": "pocket" if table == "scoring, pocket" else shape, "messages": messages, "epochs": epochs}
        work |= {"data": data, "tokenizer": tokenizer, "without": without}
        contenders = [name for name in TABLES[table] if name not in without]
        if report["cpu"] == "AVX2":  # bfloat16 takes eight times as long as float32 there
            contenders = [name for name in contenders if "bf16" not in name]
        runs: dict[str, list[dict]] = {name: [] for name in contenders}
        with tempfile.TemporaryDirectory() as folder:
            known = in_a_process(folder=folder, table=table, work=work, contender=None)
            for refused in known.get("refused", []):
                runs.pop(refused, None)
            contenders = list(runs)
            for repeat in tqdm(range(repeats), desc=table, unit="repeat"):
                for name in contenders if repeat % 2 == 0 else reversed(contenders):
                    runs[name].append(in_a_process(folder=folder, table=table, work=work, contender=name))
        report["tables"][table] = {"work": work, **known, "runs": runs}
        click.echo("\n".join(as_markdown(table, known, runs)) + "\n")
    if output:
        output.write_text(json.dumps(report, indent=1))


def as_markdown(table: str, known: dict, runs: dict[str, list[dict]]) -> list[str]:
    peer, *_ = runs
    lines = [f"| {table} | seconds | faster | peak memory | against the first |", "|---|---|---|---|---|"]
    medians = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    for name, of in runs.items():
        memory = statistics.median(run["memory"] for run in of)
        result = compare(runs[peer][0], name, of[0]) if name != peer else ""
        if "flop" in known and "hf_spam" in name:
            limit = statistics.median(known["flop"] / run["rate"] / run["seconds"] for run in of)
            result += f", {limit:.0%} of the product rate, {len(of[0]['scores']) / medians[name]:,.0f} messages/s"
        elif "batch_size" in of[0]:
            result = f"batch size {of[0]['batch_size']}"
        ratio = medians[peer] / medians[name]
        lines.append(f"| {name} | {medians[name]:.2f} | {ratio:.1f}x | {memory:,.0f} MB | {result} |")
    return lines


if __name__ == "__main__":
    main()
