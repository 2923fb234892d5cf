"""Measures the `pocket` recipe: five folds without shared duplicates, the book's split, and the sample as only teacher.

    python scripts/measure_pocket.py --data ../shared/data/SMSSpamCollection

The folds are those of `hf-spam crossval --recipe pocket`. Beside each figure stands the baseline of
`hf_spam/evaluation/baseline.py`, trained on the same rows.
"""

import json

import click
from datasets import DatasetDict
from rich import box
from rich.console import Console
from rich.table import Table

from hf_spam import load_sms_spam
from hf_spam.data.messages import read_messages
from hf_spam.evaluation.baseline import BASELINE
from hf_spam.training.crossval import cross_validate, figure, in_words, measure_runs, summary

KINDS = ("model", "baseline")
LOW_RATE_RECALL = "recall_at_fpr_0.001"  # which a fold of fewer than a thousand ham cannot tell: see `summary`


def measure(data: DatasetDict, seeds: list[int], overrides: dict) -> dict:
    """The recipe with several seeds on one set."""
    runs = []
    for run in measure_runs("pocket", ((data, seed) for seed in seeds), **overrides):
        runs.append(run)
        click.echo(f"Seed {run['seed']}: {in_words(run)}", err=True)
    return summary(runs)


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--only", type=click.Choice(["folds", "book", "sample"]), multiple=True, help="Measure just these.")
@click.option("--repeats", default=1, show_default=True, help="Times that the folds are drawn and run.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=JSON", help="A setting that is to differ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def main(data: str, only: tuple[str, ...], repeats: int, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measures the pocket recipe."""
    changed = {key: json.loads(value) for key, value in (setting.split("=", 1) for setting in overrides)}
    results = {}
    if not only or "folds" in only:
        results["five folds"] = cross_validate("pocket", data=data, repeats=repeats, **changed)
    if not only or "book" in only:
        results["the book's split"] = measure(load_sms_spam(data, protocol="book"), [1, 2, 3, 4, 5], changed)
    if not only or "sample" in only:
        transfer = DatasetDict(train=read_messages("sample"), test=read_messages(data))
        results["sample to collection"] = measure(transfer, [1, 2, 3], changed)
    if as_json:
        click.echo(json.dumps(results))
        return
    table = Table(box=box.SIMPLE)
    for column in ("metric", *(f"{name}\n{kind}" for name in results for kind in ("pocket", BASELINE))):
        table.add_column(column)
    rows = [(metric, "mean") for metric in next(iter(results.values()))["mean"]["model"]]
    rows.insert(rows.index((LOW_RATE_RECALL, "mean")) + 1, (LOW_RATE_RECALL, "pooled"))
    for metric, what in rows:
        cells = (figure(result, metric, kind, what) for result in results.values() for kind in KINDS)
        table.add_row(metric if what == "mean" else f"{metric}, pooled", *cells)
    table.add_row("runs", *(str(len(result["runs"])) for result in results.values() for _ in KINDS))
    slowest = (max(run["seconds"] for run in result["runs"]) for result in results.values())
    table.add_row("slowest run", *(cell for seconds in slowest for cell in (f"{seconds:.0f} s", "")))
    Console(width=200 if len(results) > 2 else None).print(table)


if __name__ == "__main__":
    main()
