"""Cross-validation: a recipe measured on every message of a source, none of which it has then seen."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from datasets import Dataset, DatasetDict

from ..data.messages import grouped_folds, read_messages
from ..evaluation.baseline import BASELINE, measure_baseline
from ..provenance import public
from .calibration import is_calibrated
from .loop import finetune
from .recipes import Recipe, get_recipe

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]
Run = dict[str, Any]
"""`seed`, `seconds` of the training and its measurements, and the metrics of `model` and, or None, of `baseline`."""


def cross_validate(recipe: Recipe | str, *, folds: int = 5, repeats: int = 1, **settings: Any) -> dict[str, Any]:
    """Trains a recipe on all but one of the folds, tests it on that one, for each in turn; beside it the baseline.

    The folds are stratified and keep duplicates together (see `grouped_folds`). All messages count: of a protocol only
    how it reads a file matters, not its balancing nor its splits. Nothing is chosen by what is measured here: what is
    fitted after the training (temperature, threshold) is fitted to a tenth of the fold's training messages, which no
    weights then see; without that there is no validation split.

    Args:
        recipe: a `Recipe` or the name of one.
        folds: how many, at least 2.
        repeats: how often all of it is done: each time with folds, fresh weights and orders of the next seed.
        settings: fields of the recipe that are to differ.

    Returns:
        `recipe` (its settings), `folds`, `repeats`, `baseline` (what it is), `runs` (in the order of the folds; see
        `measure_runs`), and `mean` and `spread` over them (see `summary`).

    Raises:
        ValueError: as `finetune` does, and where there are fewer different messages of a label than folds.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    recipe = get_recipe(recipe, **settings)
    columns = {"text_column": recipe.text_column, "label_column": recipe.label_column}
    messages = read_messages(recipe.data, protocol=recipe.protocol, **columns)
    jobs = (
        (_splits(recipe, train, test, recipe.seed + repeat), recipe.seed + repeat)
        for repeat in range(repeats)
        for train, test in grouped_folds(messages, folds, seed=recipe.seed + repeat)
    )
    runs = []
    for run in measure_runs(recipe, jobs):
        runs.append(run)
        logger.info("Run %d of %d: %s", len(runs), folds * repeats, in_words(run))
    return {
        "recipe": {name: public(value) for name, value in asdict(recipe).items()},
        "folds": folds,
        "repeats": repeats,
        "baseline": BASELINE,
        "runs": runs,
        **summary(runs),
    }


def _splits(recipe: Recipe, train: Dataset, test: Dataset, seed: int) -> DatasetDict:
    """A fold as `finetune` takes it: with a validation split, a tenth of its training messages, if one is needed."""
    if not is_calibrated(recipe):
        return DatasetDict(train=train, test=test)
    train, validation = next(grouped_folds(train, 10, seed=seed))
    return DatasetDict(train=train, validation=validation, test=test)


def measure_runs(recipe: Recipe | str, jobs: Iterable[tuple[DatasetDict, int]], **settings: Any) -> Iterator[Run]:
    """Trains a recipe on the split `train` of each set with a seed, and measures it and the baseline on `test`."""
    for data, seed in jobs:
        start = time.perf_counter()
        model = finetune(recipe, data=data, seed=seed, **settings).metrics["test"]
        seconds = time.perf_counter() - start
        baseline = measure_baseline(DatasetDict(train=data["train"], test=data["test"])).get("test")
        yield {"seed": seed, "seconds": seconds, "model": model, "baseline": baseline}


def summary(runs: list[Run]) -> dict[str, dict[str, Metrics | None]]:
    """`mean` and `spread`, the standard deviation, of each metric over the runs; None where a run has none."""

    def over(kind: str, function: Callable[[list[float]], float]) -> Metrics | None:
        if any(run[kind] is None for run in runs):
            return None
        columns = {name: [run[kind][name] for run in runs] for name in runs[0][kind]}
        return {name: None if None in values else function(values) for name, values in columns.items()}

    def spread(values: list[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    kinds = ("model", "baseline")
    return {
        "mean": {kind: over(kind, statistics.fmean) for kind in kinds},
        "spread": {kind: over(kind, spread) for kind in kinds},
    }


def in_words(run: Run) -> str:
    """The F1 of a run, and of the baseline beside it."""
    beside = f", the baseline {run['baseline']['f1']:.4f}" if run["baseline"] else ""
    return f"F1 {run['model']['f1']:.4f}{beside}"
