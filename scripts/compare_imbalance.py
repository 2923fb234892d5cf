"""Compares what can be done about labels of which some are rare: weights, sampling, logit adjustment, or nothing.

    python scripts/compare_imbalance.py --data ../shared/data/SMSSpamCollection

Each is measured on the same folds without shared duplicates, none of which is balanced. Of more than two labels there
are the metrics that make sense for them.
"""

import json
from typing import Any

import click
from datasets import DatasetDict
from rich import box
from rich.console import Console
from rich.table import Table

from hf_spam import cli
from hf_spam.data.labels import label_names
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import grouped_folds
from hf_spam.evaluation.baseline import BASELINE
from hf_spam.experiments.crossval import figure, in_words, measure_runs, summary
from hf_spam.options import given_of, options_of
from hf_spam.training.recipes import RECIPES, Recipe, get_recipe

MEANS = {
    "nothing": {"logit_adjustment": 0.0},
    "class weights": {"class_weights": "balanced"},
    "balanced sampling": {"balanced_sampling": True},
    "undersampling": {"undersample": True},
    "logit adjustment": {"logit_adjustment": 0.5},
}
METRICS = ("precision", "recall", "f1", "mcc", "roc_auc", "recall_at_fpr_0.001", "false_positive_rate")


@click.command()
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="pocket", show_default=True, help="Settings.")
@click.option("--folds", default=5, show_default=True, help="Parts, each of which is tested on in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.pass_context
@options_of(Recipe)
def main(ctx: click.Context, recipe: str, folds: int, as_json: bool, **settings: Any) -> None:
    """Compares the means against imbalance. Every setting of the recipe has a flag, as in hf-spam crossval."""
    base = get_recipe(recipe, **given_of(ctx, settings))
    messages = read_messages(base.data, **base.reading)
    results = {}
    for name, settings in MEANS.items():
        jobs = (
            (DatasetDict(train=train, test=test), base.seed)
            for train, test in grouped_folds(messages, folds, seed=base.seed)
        )
        runs = []
        for run in measure_runs(base, jobs, **settings):
            runs.append(run)
            click.echo(f"{name}, fold {len(runs)}: {in_words(run)}", err=True)
        results[name] = summary(runs, label_names(messages))
    if as_json:
        click.echo(json.dumps(results))
        return
    columns = {name: (result, "model") for name, result in results.items()}
    columns[f"{BASELINE}, nothing"] = (results["nothing"], "baseline")
    table = Table("metric", *columns, box=box.SIMPLE)
    for metric in METRICS:
        table.add_row(metric, *(figure(result, metric, kind) for result, kind in columns.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    cli.main(main, "compare_imbalance.py")
