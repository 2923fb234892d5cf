"""The book's additional experiments once more: what comes out of them here, beside what was published."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..conversion.loading import model_type
from ..data.tokenization import load_tokenizer
from ..evaluation.intervals import wilson
from ..files import public, write_file
from ..signals import RunInterrupted
from ..training.checkpoints import Checkpoints
from ..training.loop import finetune
from ..training.measuring import SPLITS
from ..training.recipes import PUBLISHED, Recipe, get_recipe

logger = logging.getLogger(__name__)

RESULT = "result.json"  # in the folder of an experiment once it is finished
# By which the book's test messages are known, see `provenance.fingerprints`.
BOOK_TEST = {"messages": 300, "sha256": "04cb8f9b6129e44f918dd61b19f5c2c66c1a75bde9516f2dfe13173952dbdd49"}
GPT2_VOCABULARY = 50257

Row = dict[str, Any]


def reproduce(rows: Sequence[str] = (), *, output_dir: str | os.PathLike, **settings: Any) -> Iterator[Row]:
    """Runs experiments one after the other, each in a folder of its recipe's name, and says what came of each.

    One that is finished is not run again, and one that was killed goes on from its last checkpoint. One that cannot be
    run, for want of GPT-2's weights, say, is named with the reason, and the others are run.

    Args:
        rows: numbers of the published table, or names of recipes. Empty: all of the table.
        output_dir: where the folders are.
        settings: fields of all recipes that are to differ.

    Yields:
        Of each experiment its `recipe` and `row`; `published` and `obtained`, the accuracies of `train`, `validation`
        and `test` in percent; `interval`, Wilson's at 95 % around the accuracy obtained on the test split; `seconds`
        of training; and `problem`, why it was not run, or None. `published` is None where the run is not the
        experiment: where a setting, the size of the network or the test messages are others, or a base that is a
        classifier already.

    Raises:
        ValueError: an experiment or a setting that there is none of, or a result of other settings in `output_dir`.
        RunInterrupted: Ctrl-C or SIGTERM.
    """
    recipes = [get_recipe(name, **settings) for name in map(_name, rows or PUBLISHED)]
    earlier = {recipe.name: _earlier(recipe, Path(output_dir, recipe.name)) for recipe in recipes}
    missing: dict[tuple[str | int | None, ...], str | None] = {}
    for recipe in recipes:
        where = f"{recipe.name}, row {PUBLISHED[recipe.name].row}" if recipe.name in PUBLISHED else recipe.name
        result, problem = earlier[recipe.name], None
        if result is None:
            logger.info("Running %s ...", where)
            sources = recipe.base, recipe.tokenizer, recipe.vocab_size
            if sources not in missing:  # asked once: without a network, it takes a minute to be told so
                missing[sources] = _missing(recipe)
            problem = missing[sources]
            try:
                result = None if problem else _run(recipe, Path(output_dir, recipe.name))
            except (OSError, ValueError) as error:
                problem = str(error)
            if problem:
                logger.info("Not run: %s. %s", where, problem)
        yield {
            "recipe": recipe.name,
            "row": PUBLISHED[recipe.name].row if recipe.name in PUBLISHED else None,
            "published": _published(recipe, result),
            **{name: (result or {}).get(name) for name in ("obtained", "interval", "seconds")},
            "problem": problem,
        }


def _name(row: str) -> str:
    """The recipe of a row that is named by its number, or by that very name."""
    names = {str(published.row): name for name, published in PUBLISHED.items()}
    if row.isdecimal() and row not in names:
        raise ValueError(f"There is no row {row}; the rows are 1 to {len(names)}.")
    return names.get(row, row)


def _missing(recipe: Recipe) -> str | None:
    """Why the tokenizer or the weights of a recipe cannot be had; None where they can."""
    try:
        if recipe.vocab_size is None:
            load_tokenizer(recipe.tokenizer or recipe.base)
        if recipe.base != "random" and not Path(recipe.base).is_file():
            model_type(recipe.base)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {name: public(value) for name, value in asdict(recipe).items()}


def _earlier(recipe: Recipe, folder: Path) -> Row | None:
    """The result of an experiment that is finished."""
    if not (folder / RESULT).exists():
        return None
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        others = [name for name, value in _settings(recipe).items() if result["recipe"].get(name) != value]
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ValueError(f"{folder / RESULT} is damaged: delete it, and its experiment is run again.") from None
    if others:
        raise ValueError(f"{folder} has a result of another {', '.join(others)}: give another --output-dir.")
    return result


def _run(recipe: Recipe, folder: Path) -> Row:
    """Runs an experiment, from its last checkpoint on, and writes its result."""
    try:
        run = finetune(
            recipe,
            output_dir=folder,
            save_steps=recipe.eval_freq,
            save_total_limit=1,
            resume_from_checkpoint="auto",
        )
    except RunInterrupted as interruption:
        number = interruption.number
        raise RunInterrupted(f"interrupted in {recipe.name}; the same command goes on", number) from None
    accuracies = {split: run.metrics[split]["accuracy"] for split in SPLITS}
    messages = len(run.answers["test"]["references"])
    interval = wilson(round(accuracies["test"] * messages), messages)
    result = {
        "recipe": _settings(recipe),
        "network": {name: getattr(run.model.config, name) for name in ("n_layer", "n_embd", "vocab_size")},
        "trained_before": run.history.trained_before,
        "test_messages": run.history.splits.get("test"),
        "obtained": {split: round(100 * accuracy, 2) for split, accuracy in accuracies.items()},
        "interval": [round(100 * bound, 2) for bound in interval],
        "seconds": round(run.history.seconds, 1),
    }
    if PartialState().is_main_process:
        write_file(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
        for step in Checkpoints(folder).steps():  # three times the size of the model each
            Checkpoints(folder).delete(step)
    return result


def _published(recipe: Recipe, result: Row | None) -> dict[str, float | None] | None:
    """The published accuracies, if the run is, or is to be, what they were measured on."""
    published = recipe.published
    if published is None:
        return None
    if result is not None:
        network = {"n_layer": recipe.n_layer, "n_embd": recipe.n_embd, "vocab_size": GPT2_VOCABULARY}
        if result["network"] != network or result.get("trained_before") or result["test_messages"] != BOOK_TEST:
            return None
    return {split: getattr(published, split) for split in SPLITS}
