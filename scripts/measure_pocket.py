"""Measure the recipe `pocket` and the baseline on the book's split, with five seeds.

    OMP_NUM_THREADS=1 python scripts/measure_pocket.py --data SMSSpamCollection

`hf-spam crossval --recipe pocket` does the same on folds.
"""

import click

from hf_spam import entry, load_sms_spam, terminal
from hf_spam.evaluation.baseline import BASELINE
from hf_spam.experiments.crossval import measure_run, summary
from hf_spam.training.recipes import get_recipe


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
def main(data: str) -> None:
    """Print a table of means, standard deviations and pooled values."""
    recipe, splits = get_recipe("pocket", data=data), load_sms_spam(data, protocol="book")
    runs = [measure_run(recipe, splits, seed) for seed in range(1, 6)]
    table = terminal.crossval_table({"recipe": recipe.public, "baseline": BASELINE, **summary(runs)})
    terminal.show(table)


if __name__ == "__main__":
    entry.run(main, "measure_pocket.py")
