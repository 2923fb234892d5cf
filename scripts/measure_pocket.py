"""Measure the recipe `pocket` on five folds and on the book's split.

    OMP_NUM_THREADS=1 python scripts/measure_pocket.py --data SMSSpamCollection --repeats 3

The tables in README.md and model_card.md come from this script. The folds are those of `hf-spam crossval --recipe
pocket`; the baseline is trained on the same messages.
"""

import json
from typing import Any

import click
from datasets import DatasetDict

from hf_spam import entry, load_sms_spam
from hf_spam.evaluation.baseline import BASELINE
from hf_spam.experiments.crossval import cross_validate, describe, measure_run, summary
from hf_spam.options import CONTEXT, given_settings, options_of
from hf_spam.terminal import format_metric, make_table, show
from hf_spam.training.recipes import Recipe, get_recipe

LOW_RATE_RECALL = "recall_at_fpr_0.001"  # a fold has too few ham messages to resolve it, so it is pooled too


def measure(recipe: Recipe, data: DatasetDict, seeds: list[int]) -> dict[str, Any]:
    """Train and measure a recipe on the same splits with several seeds."""
    runs = []
    for seed in seeds:
        run = measure_run(recipe, data, seed)
        runs.append(run)
        click.echo(f"Seed {seed}: {describe(run)}", err=True)
    return summary(runs)


@click.command(context_settings=CONTEXT)
@click.option("--only", type=click.Choice(["folds", "book"]), multiple=True, help="Run only these.")
@click.option("--repeats", default=1, show_default=True, help="Repeats of the five folds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@options_of(Recipe)
def main(ctx: click.Context, only: tuple[str, ...], repeats: int, as_json: bool, **settings: Any) -> None:
    """Measure the recipe `pocket` on the SMS Spam Collection; flags override its settings."""
    recipe = get_recipe("pocket", **given_settings(ctx, settings))
    results = {}
    if not only or "folds" in only:
        results["five folds"] = cross_validate(recipe, repeats=repeats)
    if not only or "book" in only:
        results["book's split"] = measure(recipe, load_sms_spam(recipe.data, protocol="book"), [1, 2, 3, 4, 5])
    if as_json:
        click.echo(json.dumps(results))
        return
    columns = [(result, kind) for result in results.values() for kind in ("model", "baseline")]
    rows = []
    for metric in next(iter(results.values()))["mean"]["model"]:
        rows.append([metric, *(format_metric(result, metric, kind) for result, kind in columns)])
        if metric == LOW_RATE_RECALL:
            pooled = (format_metric(result, metric, kind, "pooled") for result, kind in columns)
            rows.append([f"{metric}, pooled", *pooled])
    rows.append(["runs", *(str(len(result["runs"])) for result, _ in columns)])
    slowest = (max(run["seconds"] for run in result["runs"]) for result, _ in columns)
    rows.append(["slowest run", *(f"{seconds:.0f} s" for seconds in slowest)])
    show(make_table(["metric", *(f"{name} {kind}" for name in results for kind in ("pocket", BASELINE))], rows))


if __name__ == "__main__":
    entry.run(main, "measure_pocket.py")
