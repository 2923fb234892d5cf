"""Measures the `pocket` recipe: five folds without shared duplicates, the book's split, and the sample as only teacher.

    python scripts/measure_pocket.py --data ../shared/data/SMSSpamCollection

The folds are those of `hf-spam crossval --recipe pocket`. Beside each figure stands the baseline of
`hf_spam/evaluation/baseline.py`, trained on the same rows.
"""

import json
from typing import Any

import click
from datasets import DatasetDict
from rich import box
from rich.console import Console
from rich.table import Table

from hf_spam import cli, load_sms_spam
from hf_spam.data.sources import read_messages
from hf_spam.evaluation.baseline import BASELINE
from hf_spam.experiments.crossval import cross_validate, figure, in_words, measure_runs, summary
from hf_spam.options import given_of, options_of
from hf_spam.training.recipes import Recipe, get_recipe

KINDS = ("model", "baseline")
LOW_RATE_RECALL = "recall_at_fpr_0.001"  # which a fold of fewer than a thousand ham cannot tell: see `summary`


def measure(recipe: Recipe, data: DatasetDict, seeds: list[int]) -> dict:
    """The recipe with several seeds on one set."""
    runs = []
    for run in measure_runs(recipe, ((data, seed) for seed in seeds)):
        runs.append(run)
        click.echo(f"Seed {run['seed']}: {in_words(run)}", err=True)
    return summary(runs)


@click.command()
@click.option("--only", type=click.Choice(["folds", "book", "sample"]), multiple=True, help="Measure just these.")
@click.option("--repeats", default=1, show_default=True, help="Times that the folds are drawn and run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.pass_context
@options_of(Recipe)
def main(ctx: click.Context, only: tuple[str, ...], repeats: int, as_json: bool, **settings: Any) -> None:
    """Measures the pocket recipe on the SMS Spam Collection. Every setting has a flag, as in hf-spam crossval."""
    recipe = get_recipe("pocket", **given_of(ctx, settings))
    results = {}
    if not only or "folds" in only:
        results["five folds"] = cross_validate(recipe, repeats=repeats)
    if not only or "book" in only:
        results["the book's split"] = measure(recipe, load_sms_spam(recipe.data, protocol="book"), [1, 2, 3, 4, 5])
    if not only or "sample" in only:
        transfer = DatasetDict(train=read_messages("sample"), test=read_messages(recipe.data))
        results["sample to collection"] = measure(recipe, transfer, [1, 2, 3])
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
    cli.main(main, "measure_pocket.py")
