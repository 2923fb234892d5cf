"""Cross-validation: a recipe measured on every message of a source, none of which it has then seen."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ..data.labels import LABEL_NAMES, label_names
from ..data.sources import read_messages
from ..data.splits import grouped_folds, undersample
from ..evaluation.baseline import BASELINE, baseline_answers, baseline_metrics, fit_baseline
from ..evaluation.metrics import SpamMetrics
from ..files import public
from ..training.calibration import calibrates
from ..training.loop import finetune
from ..training.recipes import Recipe, get_recipe

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]
Run = dict[str, Any]
"""`seed`, `seconds` of the training and its measurements, the metrics of `model` and, or None, of `baseline`, and the
`answers` of both that they are computed from."""


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
        `recipe` (its settings), `folds`, `repeats`, `baseline` (what it is), and what `summary` says of the runs, which
        are in the order of the folds.

    Raises:
        ValueError: as `finetune` does, and where there are fewer different messages of a label than folds.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    recipe = get_recipe(recipe, **settings)
    messages = read_messages(recipe.data, protocol=recipe.protocol, **recipe.reading)
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
        **summary(runs, label_names(messages)),
    }


def _splits(recipe: Recipe, train: Dataset, test: Dataset, seed: int) -> DatasetDict:
    """A fold as `finetune` takes it: with a validation split, a tenth of its training messages, if one is needed."""
    if not calibrates(recipe):
        return DatasetDict(train=train, test=test)
    train, validation = next(grouped_folds(train, 10, seed=seed, needed_by="a tenth to calibrate on needs 10"))
    return DatasetDict(train=train, validation=validation, test=test)


def measure_runs(recipe: Recipe | str, jobs: Iterable[tuple[DatasetDict, int]], **settings: Any) -> Iterator[Run]:
    """Trains a recipe on the split `train` of each set with a seed, and measures it and the baseline on `test`."""
    recipe = get_recipe(recipe, **settings)
    for data, seed in jobs:
        start = time.perf_counter()
        model = finetune(recipe, data=data, seed=seed)
        seconds = time.perf_counter() - start
        baseline = fit_baseline(undersample(data["train"], seed) if recipe.undersample else data["train"])
        theirs = None if baseline is None else baseline_answers(baseline, data["test"])
        yield {
            "seed": seed,
            "seconds": seconds,
            "model": model.metrics["test"],
            "baseline": None if theirs is None else baseline_metrics(theirs, label_names(data["test"])),
            "answers": {"model": model.answers["test"], "baseline": theirs},
        }


def summary(runs: list[Run], names: Sequence[str] = LABEL_NAMES) -> dict[str, Any]:
    """What several runs come to.

    A rate of one in a thousand cannot be told on a fold that has fewer messages than that, and the mean over folds of
    a ratio whose denominator differs is biased (Forman and Scholz 2010, *Apples-to-Apples in Cross-Validation
    Studies*): so there is, beside the mean over the runs, the metric of all their answers together. It takes scores
    of different models for comparable.

    Args:
        runs: see `measure_runs`.
        names: of the classes.

    Returns:
        `runs` without their answers; and for `model` and `baseline`, or None where a run has none, the `mean` and the
        `spread`, the standard deviation, of each metric over the runs, and `pooled`, the metrics of all answers.
    """

    def over(kind: str, function: Callable[[list[float]], float]) -> Metrics | None:
        if any(run[kind] is None for run in runs):
            return None
        columns = {name: [run[kind][name] for run in runs] for name in runs[0][kind]}
        return {name: None if None in values else function(values) for name, values in columns.items()}

    def spread(values: list[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    def pooled(kind: str) -> Metrics | None:
        answers = [run["answers"][kind] for run in runs]
        if None in answers:
            return None
        together = {name: np.concatenate([given[name] for given in answers]) for name in answers[0]}
        return SpamMetrics(names).compute(**together) if kind == "model" else baseline_metrics(together, names)

    kinds = ("model", "baseline")
    return {
        "runs": [{name: value for name, value in run.items() if name != "answers"} for run in runs],
        "mean": {kind: over(kind, statistics.fmean) for kind in kinds},
        "spread": {kind: over(kind, spread) for kind in kinds},
        "pooled": {kind: pooled(kind) for kind in kinds},
    }


def in_words(run: Run) -> str:
    """The F1 of a run, and of the baseline beside it."""
    beside = f", the baseline {run['baseline']['f1']:.4f}" if run["baseline"] else ""
    return f"F1 {run['model']['f1']:.4f}{beside}"


def figure(summary: dict[str, Any], metric: str, kind: str, what: str = "mean") -> str:
    """A metric of a `summary` as tables show it: the mean with its spread, if it has one, or what is pooled."""
    value, spread = ((summary[which][kind] or {}).get(metric) for which in (what, "spread"))
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ± {spread:.4f}" if what == "mean" and spread is not None else "")
