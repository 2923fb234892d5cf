"""Cross-validation of a recipe and the baseline."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ..data.formats import DataError
from ..data.labels import LABEL_NAMES, label_names
from ..data.sources import read_messages
from ..data.splits import grouped_folds
from ..evaluation.baseline import BASELINE, baseline_answers, baseline_metrics, fit_baseline
from ..evaluation.metrics import SpamMetrics
from ..files import public
from ..training.calibration import needs_calibration
from ..training.finetune import finetune
from ..training.recipes import Recipe, get_recipe

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]
Run = dict[str, Any]
"""`seed`, `seconds` of training and evaluation, the metrics of `model` and `baseline` (`None` without a baseline), and
the `answers` of both, from which the metrics are computed."""


def cross_validate(recipe: Recipe | str, *, folds: int = 5, repeats: int = 1, **settings: Any) -> dict[str, Any]:
    """Train a recipe on all folds but one and test it on that one, for each fold in turn.

    Folds are stratified and keep duplicates together (see `grouped_folds`). All messages are used: the protocol only
    says how a file is read. If the recipe fits a temperature or a threshold, it does so on a tenth of the training
    messages, held out from training; otherwise there is no validation split.

    Args:
        recipe: A `Recipe`, or the name of one.
        folds: Number of folds, at least 2.
        repeats: Number of repeats, each with the next seed for folds, weights and orders.
        settings: Fields of `Recipe` to override.

    Returns:
        `recipe` (its settings), `folds`, `repeats`, `baseline` (a description), and the keys of `summary`. The runs are
        in the order of the folds.

    Raises:
        ValueError: As for `finetune`, or a label has fewer different messages than there are folds.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    recipe = get_recipe(recipe, **settings)
    messages = read_messages(recipe.data, protocol=recipe.protocol, **recipe.reading)
    jobs = (
        (_splits(recipe, train, test, seed), seed)
        for seed in range(recipe.seed, recipe.seed + repeats)
        for train, test in grouped_folds(messages, folds, seed=seed)
    )
    runs = []
    for run in measure_runs(recipe, jobs):
        runs.append(run)
        logger.info("Run %d of %d: %s", len(runs), folds * repeats, describe(run))
    return {
        "recipe": {name: public(value) for name, value in asdict(recipe).items()},
        "folds": folds,
        "repeats": repeats,
        "baseline": BASELINE,
        **summary(runs, label_names(messages)),
    }


def _splits(recipe: Recipe, train: Dataset, test: Dataset, seed: int) -> DatasetDict:
    """Return the splits of a fold; a tenth of its training messages becomes the validation split if one is needed."""
    if not needs_calibration(recipe):
        return DatasetDict(train=train, test=test)
    try:
        train, validation = next(grouped_folds(train, 10, seed=seed))
    except DataError as error:
        raise DataError(f"Calibration needs a tenth of the training messages: {error}") from None
    return DatasetDict(train=train, validation=validation, test=test)


def measure_runs(recipe: Recipe | str, jobs: Iterable[tuple[DatasetDict, int]], **settings: Any) -> Iterator[Run]:
    """Train a recipe on the `train` split of each job with its seed; measure it and the baseline on `test`."""
    recipe = get_recipe(recipe, **settings)
    for data, seed in jobs:
        start = time.perf_counter()
        trained = finetune(recipe, data=data, seed=seed)
        seconds = time.perf_counter() - start
        linear_model = fit_baseline(data["train"])
        answers = None if linear_model is None else baseline_answers(linear_model, data["test"])
        yield {
            "seed": seed,
            "seconds": seconds,
            "model": trained.metrics["test"],
            "baseline": None if answers is None else baseline_metrics(answers, label_names(data["test"])),
            "answers": {"model": trained.predictions["test"], "baseline": answers},
        }


def summary(runs: list[Run], names: Sequence[str] = LABEL_NAMES) -> dict[str, Any]:
    """Aggregate the metrics of several runs.

    A false-positive rate of 0.001 cannot be resolved on a fold with fewer than a thousand ham messages, and the mean
    over folds of a ratio such as F1 is biased (Forman and Scholz 2010, *Apples-to-Apples in Cross-Validation Studies*).
    So the metrics are also computed on the answers of all runs together, which assumes that the scores of different
    models are comparable.

    Args:
        runs: As `measure_runs` yields them.
        names: Names of the classes.

    Returns:
        `runs` without their answers. For `model` and `baseline` (`None` if a run has none): `mean` and `spread`, the
        standard deviation, of each metric over the runs, and `pooled`, the metrics of all answers together.
    """
    kinds = ("model", "baseline")
    return {
        "runs": [{name: value for name, value in run.items() if name != "answers"} for run in runs],
        "mean": {kind: _aggregate(runs, kind, statistics.fmean) for kind in kinds},
        "spread": {kind: _aggregate(runs, kind, _standard_deviation) for kind in kinds},
        "pooled": {kind: _pooled(runs, kind, names) for kind in kinds},
    }


def _aggregate(runs: list[Run], kind: str, function: Callable[[list[float]], float | None]) -> Metrics | None:
    if any(run[kind] is None for run in runs):
        return None
    columns = {metric: [run[kind][metric] for run in runs] for metric in runs[0][kind]}
    return {metric: None if None in values else function(values) for metric, values in columns.items()}


def _standard_deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _pooled(runs: list[Run], kind: str, names: Sequence[str]) -> Metrics | None:
    answers = [run["answers"][kind] for run in runs]
    if any(answer is None for answer in answers):
        return None
    pooled = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return SpamMetrics(names).compute(**pooled) if kind == "model" else baseline_metrics(pooled, names)


def describe(run: Run) -> str:
    """Return a line with the F1 of a run and its baseline."""
    baseline = f", baseline {run['baseline']['f1']:.4f}" if run["baseline"] else ""
    return f"F1 {run['model']['f1']:.4f}{baseline}"
