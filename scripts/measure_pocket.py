"""Measures the `pocket` recipe: five folds without shared duplicates, the book's split, and the sample as only teacher.

    python scripts/measure_pocket.py --data ../shared/data/SMSSpamCollection

Beside each figure stands a baseline that is trained on the same rows: TF-IDF of words and characters with a linear SVM.
"""

import json
import statistics
import time

import click
import numpy as np
from datasets import DatasetDict
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from hf_spam import finetune, load_sms_spam
from hf_spam.data.messages import grouped_folds, read_messages
from hf_spam.evaluation.metrics import SpamMetrics

SHOWN = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "roc_auc", "false_positive_rate")


def baseline(data: DatasetDict) -> dict:
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LinearSVC(),
    )
    model.fit(data["train"]["text"], data["train"]["label"])
    scores = model.decision_function(data["test"]["text"])
    return SpamMetrics().compute(
        predictions=(scores > 0).astype(int), references=data["test"]["label"], scores=scores.tolist()
    )


def measure(name: str, sets: list[DatasetDict], seeds: list[int], overrides: dict) -> dict:
    """Trains on each set with its seed; the mean, and the spread where there are several, over the test splits."""
    rows, seconds = [], []
    for number, (data, seed) in enumerate(zip(sets, seeds, strict=True), 1):
        start = time.perf_counter()
        metrics = finetune("pocket", data=data, seed=seed, **overrides).metrics["test"]
        seconds.append(time.perf_counter() - start)
        rows.append(metrics)
        click.echo(f"{name} {number}: F1 {metrics['f1']:.4f}, accuracy {metrics['accuracy']:.4f}", err=True)
    distinct = {id(data): data for data in sets}.values()
    return {
        "name": name,
        "seconds": max(seconds),
        "pocket": [with_balance(row) for row in rows],
        "baseline": [with_balance(baseline(data)) for data in distinct],
    }


def with_balance(metrics: dict) -> dict:
    return {**metrics, "balanced_accuracy": (metrics["recall"] + 1 - metrics["false_positive_rate"]) / 2}


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--only", type=click.Choice(["folds", "book", "sample"]), multiple=True, help="Measure just these.")
@click.option("--fold-seed", default=123, show_default=True, help="Seed of the folds.")
@click.option("--repeats", default=1, show_default=True, help="Runs on each of the folds, each with another seed.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=JSON", help="A setting that is to differ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def main(
    data: str, only: tuple[str, ...], fold_seed: int, repeats: int, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Measures the pocket recipe."""
    changed = {key: json.loads(value) for key, value in (setting.split("=", 1) for setting in overrides)}
    results = []
    everything = read_messages(data)
    if not only or "folds" in only:
        folds = [DatasetDict(train=train, test=test) for train, test in grouped_folds(everything, 5, seed=fold_seed)]
        seeds = list(range(1, 5 * repeats + 1))
        results.append(measure("five folds", folds * repeats, seeds, changed))
    if not only or "book" in only:
        book = load_sms_spam(data, protocol="book")
        results.append(measure("the book's split", [book] * 5, [1, 2, 3, 4, 5], changed))
    if not only or "sample" in only:
        transfer = DatasetDict(train=read_messages("sample"), test=everything)
        results.append(measure("sample to collection", [transfer] * 3, [1, 2, 3], changed))
    if as_json:
        click.echo(json.dumps(results))
        return
    table = Table(box=box.SIMPLE)
    for column in (
        "metric",
        *(f"{result['name']}\n{kind}" for result in results for kind in ("pocket", "TF-IDF + SVM")),
    ):
        table.add_column(column)
    for name in SHOWN:
        cells = []
        for result in results:
            for kind in ("pocket", "baseline"):
                values = [row[name] for row in result[kind]]
                spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.4f}{spread}")
        table.add_row(name, *cells)
    table.add_row("runs", *(str(len(result[kind])) for result in results for kind in ("pocket", "baseline")))
    table.add_row("slowest run", *(cell for result in results for cell in (f"{result['seconds']:.0f} s", "")))
    Console(width=200 if len(results) > 2 else None).print(table)


if __name__ == "__main__":
    main()
