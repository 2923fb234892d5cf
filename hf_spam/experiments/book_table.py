"""The book's additional experiments: published accuracies, and a function to reproduce them.

Imports heavy libraries late, so that the command line can list the published figures at once.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import write_json
from ..signals import RunInterrupted
from ..training.recipes import RECIPES, get_recipe
from ..training.settings import FRESH, Recipe
from .results import identity_of, read_result

logger = logging.getLogger(__name__)

PUBLISHED_IN = (
    "Published: Raschka, LLMs-from-scratch, ch06/02_bonus_additional-experiments. Those scripts shuffle the messages "
    "once more than the book does, so their splits differ from ours."
)
RESULT = "result.json"  # written to the folder of a finished experiment
SPLITS = ("train", "validation", "test")
DATA = ("data", "text_column", "label_column")  # may differ if they give the book's test split
# Fingerprint of the book's test split.
BOOK_TEST = {"messages": 300, "sha256": "04cb8f9b6129e44f918dd61b19f5c2c66c1a75bde9516f2dfe13173952dbdd49"}

Row = dict[str, Any]


# In the order of the published table: accuracies on `SPLITS` in percent, `None` if unpublished.
_TABLE = {
    "book": (96.63, 99.33, 95.00),
    "first-token": (78.46, 80.54, 75.00),
    "head-only": (78.65, 79.87, 72.00),
    "last-two-blocks": (98.85, 98.66, 98.33),
    "all-layers": (99.62, 96.64, 96.67),
    "medium": (87.50, 91.28, 84.67),
    "large": (99.52, 98.66, 96.67),
    "xl": (99.81, None, 98.33),
    "xl-all-layers": (100.00, 98.66, 98.67),
    "random-weights": (100.00, 96.64, 93.67),
    "lora": (100.00, 97.32, 96.67),
    "xl-lora": (100.00, 98.66, 98.33),
    "full-context": (83.08, 87.92, 78.33),
    "no-padding": (100.00, 98.66, 98.00),
    "accumulation": (99.33, 98.66, 98.33),
    "last-real-token": (99.42, 98.66, 98.33),
    "no-causal-mask": (99.23, 98.66, 95.33),
    "ignore-index": (96.63, 99.33, 95.00),
    "mean-pooling": (97.79, 99.33, 96.33),
}
PUBLISHED: dict[str, Row] = {
    name: {"row": row, **dict(zip(SPLITS, accuracies, strict=True))}
    for row, (name, accuracies) in enumerate(_TABLE.items(), 1)
}


def reproduce(rows: Sequence[str] = (), *, output_dir: str | os.PathLike, **settings: Any) -> Iterator[Row]:
    """Run experiments one after the other, each in a folder named after its recipe.

    They are named by their row in the published table or by their recipe, all of the table by default, and `settings`
    override fields of their recipes; size and initialization, only where the weights are random. A finished experiment
    is not run again, and an interrupted one resumes from its last checkpoint. One that cannot be run, for example
    because GPT-2's weights cannot be downloaded, has a `problem`.

    Yields a dict per experiment: `recipe`; `row`; `published` and `obtained`, the accuracies on `train`, `validation`
    and `test` in percent; `interval`, the 95 % Wilson interval of the obtained test accuracy; `seconds` of training;
    and `problem` or `None`. `published` is `None` if a setting or the test messages differ from the experiment's.
    """
    names = {str(published["row"]): name for name, published in PUBLISHED.items()}
    for row in rows:
        if row.isdecimal() and row not in names:
            raise ValueError(f"There is no row {row}; the rows are 1 to {len(names)}.")
    chosen = dict.fromkeys(names.get(row, row) for row in rows or PUBLISHED)
    with_base = {name: value for name, value in settings.items() if name not in FRESH}
    fresh = {name for name in chosen if name in RECIPES and RECIPES[name].base == "random"}
    recipes = [get_recipe(name, **(settings if name in fresh else with_base)) for name in chosen]
    folders = [Path(output_dir, recipe.name) for recipe in recipes]
    identities = [identity_of(recipe, "data", "base", "tokenizer") for recipe in recipes]
    finished = [read_result(folder / RESULT, identity) for folder, identity in zip(folders, identities, strict=True)]
    for recipe, folder, identity, result in zip(recipes, folders, identities, finished, strict=True):
        number, problem = PUBLISHED.get(recipe.name, {}).get("row"), None
        if result is None:
            logger.info("Running %s ...", recipe.name if number is None else f"{recipe.name}, row {number}")
            try:
                result = _run(recipe, folder, identity)
            except (OSError, ValueError) as error:
                problem = str(error)
                logger.info("Not run: %s", problem)
        yield {
            "recipe": recipe.name,
            "row": number,
            "published": published_for(recipe, result),
            **{name: result and result[name] for name in ("obtained", "interval", "seconds")},
            "problem": problem,
        }


def _run(recipe: Recipe, folder: Path, identity: Row) -> Row:
    """Run an experiment, from its last checkpoint if there is one, and write its result."""
    from accelerate import PartialState

    from ..evaluation.intervals import proportions
    from ..training.checkpoints import Checkpoints
    from ..training.finetune import finetune, remove_if_empty

    if recipe.replay_messages:
        raise ValueError(f"{recipe.name} teaches a model corrections, and is no experiment: use hf-spam train.")
    saving = {"save_steps": recipe.eval_freq, "save_total_limit": 1, "resume_from_checkpoint": "auto"}
    try:
        run = finetune(recipe, output_dir=folder, **saving)
    except RunInterrupted as interruption:
        message = f"interrupted in {recipe.name}; run the same command again to resume"
        raise RunInterrupted(message, interruption.number) from None
    finally:
        remove_if_empty(folder.parent)  # nothing could be run as yet
    result = {
        "settings": identity,
        "test_messages": run.history.splits.get("test"),
        "obtained": {split: round(100 * run.metrics[split]["accuracy"], 2) for split in SPLITS},
        "interval": [round(100 * bound, 2) for bound in proportions(run.predictions["test"])["accuracy"]],
        "seconds": round(run.history.seconds, 1),
    }
    if PartialState().is_main_process:
        write_json(folder / RESULT, result)
        for step in Checkpoints(folder).steps():  # each is three times the size of the model
            Checkpoints(folder).delete(step)
    return result


def published_for(recipe: Recipe, result: Row | None = None) -> dict[str, float | None] | None:
    """Return the published accuracies, or `None` if a setting or the test messages differ from the experiment's."""
    if recipe.name not in PUBLISHED or (result and result["test_messages"] != BOOK_TEST):
        return None
    original, given = asdict(RECIPES[recipe.name]), asdict(recipe)
    if any(given[name] != value for name, value in original.items() if name not in DATA):
        return None
    return {split: PUBLISHED[recipe.name][split] for split in SPLITS}
