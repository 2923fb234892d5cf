"""Cross-validation of a recipe and the baseline, over folds or leaving one source out."""

import json
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from ..data.formats import DataError
from ..data.labels import label_names
from ..data.names import sources_of
from ..data.sources import read_messages
from ..data.splits import digest, grouped_folds
from ..evaluation.baseline import BASELINE, fit_baseline, predict_baseline
from ..evaluation.metrics import Predictions
from ..files import public, write_file
from ..signals import RunInterrupted
from ..training.calibration import needs_calibration
from ..training.finetune import finetune
from ..training.recipes import get_recipe
from ..training.run import Metrics
from ..training.settings import Recipe
from .breakdown import NOTES, breakdown
from .results import identity_of, read_result

logger = logging.getLogger(__name__)

ARRAYS = ("labels", "predicted", "probabilities")  # of `Predictions`

Run = dict[str, Any]
"""`seed`, `seconds` of training and evaluation, the metrics of `model` and `baseline` (`None` without a baseline), and
the `answers` of both, from which the metrics are computed."""


def cross_validate(
    recipe: Recipe | str,
    *,
    folds: int = 5,
    repeats: int = 1,
    by_source: bool = False,
    output_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a recipe on all folds but one and test it on that one, for each fold in turn.

    Folds are stratified and keep duplicates together (see `grouped_folds`). `by_source`, one source of the data is left
    out at a time in their place, and messages that duplicate one of it are not trained on. All messages are used: the
    protocol only says how a file is read. If the recipe fits a temperature or a threshold, it does so on a tenth of the
    training messages, held out from training; otherwise there is no validation split. Each repeat has the next seed for
    folds, weights and orders. Finished runs are saved in `output_dir` and not run again, so the same call goes on after
    an interruption.

    Returns `recipe` (its settings), `folds` (`None` by source), `repeats`, `baseline` (a description), and the keys of
    `summary`. The runs are in the order of the folds or sources; by source, they also name the source `left_out`.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    recipe = get_recipe(recipe, **settings)
    messages = read_messages(recipe.data, protocol=recipe.protocol, **recipe.reading)
    parts = len(sources_of(recipe.data)) if by_source else folds
    if by_source and parts < 2:
        raise ValueError(f"Leaving a source out needs at least two, got {recipe.data}: use --data uci,sample.")
    about = {"folds": None if by_source else folds}
    identity = identity_of(recipe, "base", "tokenizer", "replay") | about | {"messages": digest(messages)}
    left_out, finished = _leave_source_out(messages) if by_source else None, {}
    if output_dir is not None:  # read everything now, before another process writes a run
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        finished = {path.name: _read_run(path, identity) for path in Path(output_dir).glob("run-*.json")}
    jobs = (
        (_splits(recipe, train, test, seed), seed)
        for seed in range(recipe.seed, recipe.seed + repeats)
        for train, test in left_out or grouped_folds(messages, folds, seed=seed)
    )
    runs, notes = [], {name: [] for name in NOTES}
    for number, (data, seed) in enumerate(jobs, 1):
        file, which = f"run-{number}.json", f"{number} of {parts * repeats}"
        run = finished.get(file)
        if run is None:
            try:
                run = measure_run(recipe, data, seed)
            except KeyboardInterrupt as interruption:
                how = "run the same command again to resume" if output_dir else "nothing is saved without --output-dir"
                received = getattr(interruption, "number", signal.SIGINT)
                raise RunInterrupted(f"interrupted in run {which}; {how}", received) from None
            if output_dir is not None and PartialState().is_main_process:
                _write_run(Path(output_dir, file), run, identity)
        runs.append(run)
        if number <= parts:  # later repeats have the same messages again
            for name in NOTES:
                notes[name] += data["test"][name][:]
        if by_source:
            run["left_out"] = data["test"]["source"][0]
            which += f", without {run['left_out']}"
        baseline = f", baseline {run['baseline']['f1']:.4f}" if run["baseline"] else ""
        logger.info("Run %s: F1 %.4f%s", which, run["model"]["f1"], baseline)
    return {"recipe": recipe.public, **about, "repeats": repeats, "baseline": BASELINE, **summary(runs, notes)}


def _leave_source_out(messages: Dataset) -> list[tuple[Dataset, Dataset]]:
    """Return training messages and tested messages for each source left out, after a check that all can be run."""
    sources, groups = np.array(messages["source"][:]), np.array(messages["group"][:])
    labels, parts = np.array(messages["label"][:]), []
    for name in dict.fromkeys(sources):
        tested = sources == name
        trained = ~np.isin(groups, groups[tested])
        if missing := {*labels} - {*labels[trained]}:
            label = label_names(messages)[missing.pop()]
            raise DataError(f"without {public(name)}, no message is labelled {label!r}: add a source that has some")
        parts.append((messages.select(np.flatnonzero(trained)), messages.select(np.flatnonzero(tested))))
    return parts


def _splits(recipe: Recipe, train: Dataset, test: Dataset, seed: int) -> DatasetDict:
    """Return the splits of a fold; a tenth of its training messages becomes the validation split if one is needed."""
    if not needs_calibration(recipe):
        return DatasetDict(train=train, test=test)
    try:
        train, validation = next(grouped_folds(train, 10, seed=seed))
    except DataError as error:
        raise DataError(f"Calibration needs a tenth of the training messages: {error}") from None
    return DatasetDict(train=train, validation=validation, test=test)


def measure_run(recipe: Recipe, data: DatasetDict, seed: int) -> Run:
    """Train a recipe on the split `train` with a seed; measure it and the baseline on `test`."""
    start = time.perf_counter()
    read = dict.fromkeys(("text_column", "label_column", "label_map"))  # the folds have the usual columns
    trained = finetune(recipe, data=data, seed=seed, **read)
    seconds = time.perf_counter() - start
    fitted = fit_baseline(data["train"])
    baseline = fitted and predict_baseline(fitted, data["test"])
    return {
        "seed": seed,
        "seconds": seconds,
        "model": trained.metrics["test"],
        "baseline": baseline and baseline.metrics(),
        "answers": {"model": trained.predictions["test"], "baseline": baseline},
    }


def _write_run(path: Path, run: Run, identity: dict[str, Any]) -> None:
    def plain(value: Predictions | np.ndarray) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else vars(value)

    write_file(path, json.dumps({"settings": identity, **run}, default=plain).encode())


def _read_run(path: Path, identity: dict[str, Any]) -> Run:
    run = read_result(path, identity)
    del run["settings"]
    for kind, saved in run["answers"].items():
        if saved is not None:
            arrays = {name: np.array(saved[name]) for name in ARRAYS if saved[name] is not None}
            run["answers"][kind] = Predictions(**{**saved, **arrays, "names": tuple(saved["names"]), "texts": ()})
    return run


def summary(runs: list[Run], notes: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Aggregate the metrics of several runs.

    A false-positive rate of 0.001 cannot be resolved on a fold with fewer than a thousand ham messages, and the mean
    over folds of a ratio such as F1 is biased (Forman and Scholz 2010, *Apples-to-Apples in Cross-Validation Studies*).
    So the metrics are also computed on the answers of all runs together, which assumes that the scores of different
    models are comparable.

    Returns `runs` without their answers. For `model` and `baseline` (`None` if a run has none): `mean` and `spread`,
    the standard deviation, of each metric over the runs, and `pooled`, the metrics of all answers together. `groups`:
    the answers of the first repeat by source, category and language, given `notes` on its messages, see `breakdown`.
    """
    kinds = ("model", "baseline")
    answers = {kind: pooled([run["answers"][kind] for run in runs]) for kind in kinds}
    first = slice(len(notes["source"]) if notes else 0)
    return {
        "runs": [{name: value for name, value in run.items() if name != "answers"} for run in runs],
        "mean": {kind: _aggregate(runs, kind, "mean") for kind in kinds},
        "spread": {kind: _aggregate(runs, kind, "std") for kind in kinds},
        "pooled": {kind: answer and answer.metrics() for kind, answer in answers.items()},
        "groups": breakdown({kind: answer and answer.select(first) for kind, answer in answers.items()}, notes or {}),
    }


def _aggregate(runs: list[Run], kind: str, function: str) -> Metrics | None:
    """Aggregate each metric over the runs; `None` where a run has no value."""
    if any(run[kind] is None for run in runs):
        return None
    values = pd.DataFrame([run[kind] for run in runs], dtype=float).agg(function, skipna=False)
    return {metric: None if np.isnan(value) else value for metric, value in values.items()}


def pooled(answers: list[Predictions | None]) -> Predictions | None:
    """Return the predictions of several runs as one, or `None` if a run has none."""
    if None in answers:
        return None
    columns = {name: [getattr(one, name) for one in answers] for name in ARRAYS}
    known = {name: np.concatenate(arrays) for name, arrays in columns.items() if arrays[0] is not None}
    return replace(answers[0], **known)
