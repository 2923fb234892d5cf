"""What a model is to be measured on, and what it was trained on: its own data, known again by their digests."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, DatasetDict

from ..conversion.loading import HISTORY, history_file
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES
from ..data.sources import load_sms_spam, read_messages, read_sets
from ..data.splits import SPLITS, fingerprints, undersample
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """The messages that a model is to be measured on, and those that it was trained on."""

    sets: DatasetDict
    """By name; which is "train", "validation" and "test", or what the source is called."""
    splits: str
    """How they were drawn, in words."""
    train: Dataset | None
    """The messages of the training; None where nothing tells which these were."""
    trained_on: str
    """Where `train` is from, in words."""
    remark: str = ""
    """What the model may have seen of the messages, in a sentence; empty where `train` tells."""
    remedy: str = ""
    """How to learn more of that, in a sentence."""


@dataclass(frozen=True)
class TrainedRecipe:
    """Of a model's training what tells how its messages were read and split, and which these were."""

    protocol: Literal["book", "full"] | None
    """None: nothing was split off."""
    seed: int
    splits: dict[str, dict[str, Any]]
    """As `fingerprints` has them. Empty: not known, as of a model of an earlier version, or one of several data."""
    undersample: bool = False
    text_column: str | None = None
    label_column: str | None = None
    trained_before: bool = False
    """Whether it began with a classifier that had learned from other messages, or nobody knows from which."""

    def draw(self, source: str | os.PathLike, **reading: Any) -> DatasetDict | None:
        """The splits of a source as those of the training were drawn; None where others come out.

        Args:
            source: as for `load_sms_spam`.
            reading: how it is read.
        """
        try:
            sets = read_sets(source, **reading)
            # To split a large file with `full` takes minutes, and to count it shows mostly that it is another one.
            keeps_all = self.protocol != "book" and not self.undersample and not set(SPLITS) <= set(sets)
            expected = sum(split["messages"] for split in self.splits.values())
            if not self.splits or (keeps_all and sum(map(len, sets.values())) != expected):
                return None
            if self.protocol is None:
                splits = DatasetDict(train=read_messages(source, **reading))
            else:
                splits = load_sms_spam(source, protocol=self.protocol, seed=self.seed, **reading)
            if self.undersample:
                splits["train"] = undersample(splits["train"], self.seed)
        except DataError:  # such as too few messages: they are others, which need not be split
            return None
        return splits if fingerprints(splits) == self.splits else None


COLLECTION = "bca6e9a7d847bbd6cfe43555cbb0b542b5bd7f5b63d41a84bd99efc746d90e41"  # the digest of all its messages
BUNDLED_RECIPE = TrainedRecipe(None, 123, {"train": {"messages": 5574, "sha256": COLLECTION}})


def trained_recipe(model: str | os.PathLike | None) -> TrainedRecipe | None:
    """How a model was trained, as the `history.json` beside it says.

    Args:
        model: a folder or a Hub id; None for the bundled model, of which this package knows it.

    Returns:
        What the file says; None where there is none, or one that cannot be used, which a warning says.
    """
    if model is None:
        return BUNDLED_RECIPE
    path = history_file(model)
    if path is None:
        return None
    try:
        return _read_recipe(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # it may be anyone's, and anything
        logger.warning("%s is passed over: %s", os.path.join(model, HISTORY), one_line(error))
        return None


def learned_from_others(base: str, config: SpamGPTConfig, splits: dict[str, dict[str, Any]]) -> bool:
    """Whether the weights that a training begins with may know messages that it is to be tested on.

    Args:
        base: what they were, as a recipe names it.
        config: as it was loaded; it tells whether they were a classifier's, or a language model's, or none.
        splits: the `fingerprints` of the data.
    """
    if SpamGPTForSequenceClassification.__name__ not in (config.architectures or ()):
        return False
    theirs = None if Path(base).is_file() else trained_recipe(base)
    return theirs is None or theirs.splits != splits or theirs.trained_before


def messages_for(
    model: str | os.PathLike | None,
    data: str | os.PathLike,
    *,
    protocol: Literal["book", "full"] | None = None,
    seed: int | None = None,
    train_data: str | os.PathLike | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] = LABEL_NAMES,
) -> Evaluated:
    """The sets of messages that a model is to be measured on.

    A model's own data are split as they were for its training, and are its own only if the very same splits come out.
    All other data are one set, named after the source, or the splits that a Hub dataset has; a small file, and one of a
    single label, will do.

    Args:
        model: a folder or a Hub id; None for the bundled model.
        data: a source as for `load_sms_spam`.
        protocol: splits the data by it, whatever the model was trained on.
        seed: splits them with it, whatever the model was trained on.
        train_data: the source of the messages that it was trained on, for the baseline and to tell what it has seen;
            where they are its own, its split `train`. None: of `data`.
        text_column: where the texts are, also in `train_data`. None: where they were for its training, if the data are
            its own, else as for `load_sms_spam`.
        label_column: the same for the labels.
        classes: the labels that the model knows, by which those of the data are read.

    Raises:
        DataError: a source cannot be read, or not be split as is asked for.
    """
    recipe = trained_recipe(model)
    reading = {"text_column": text_column, "label_column": label_column, "classes": classes}
    own_reading = dict(reading)
    if recipe:
        own_reading |= {
            "text_column": text_column or recipe.text_column,
            "label_column": label_column or recipe.label_column,
        }

    def own_splits(source: str | os.PathLike) -> DatasetDict | None:
        return recipe.draw(source, **own_reading) if recipe else None

    own = own_splits(data)
    one_set, sets = "none, all messages are one set", own
    if own and recipe.protocol:
        drawn = f"protocol {recipe.protocol}, seed {recipe.seed}, as for the training of the model"
    else:
        drawn = one_set
    if (protocol, seed) != (None, None):
        protocol = protocol or (own and recipe.protocol) or "full"
        seed = seed if seed is not None else (recipe.seed if own else 123)
        if not own or (protocol, seed) != (recipe.protocol, recipe.seed):
            sets = load_sms_spam(data, protocol=protocol, seed=seed, **(own_reading if own else reading))
            drawn = f"protocol {protocol}, seed {seed}"
    elif own is None:
        sets = read_sets(data, **reading)
        drawn = one_set if len(sets) == 1 else "those of the data set"
    known, remark, remedy = "the messages that the model was trained on", "", ""
    if own and recipe.protocol is None:
        remark = "The model was trained on these very messages: its figures say nothing about new ones."
    elif own and recipe.trained_before:
        remark = "The model that it began with had learned from other messages, and may have seen any of these."
    elif not own and train_data is None:
        remark, remedy = _may_have_seen(recipe)
    if train_data is not None:
        theirs = own_splits(train_data)
        train = theirs["train"] if theirs else read_messages(train_data, one_label=True, **reading)
        trained_on = known if theirs else "those of --train-data"
    elif own:
        train, trained_on = own["train"], known
    elif "train" in sets:
        train, trained_on = (
            sets["train"],
            "the split train; what the model was trained on is not known",
        )
    else:
        train, trained_on = None, "not known"
    return Evaluated(sets, drawn, train, trained_on, remark, remedy)


def _read_recipe(history: Any) -> TrainedRecipe:
    """What `history.json` holds, be it written by anyone.

    Raises:
        ValueError: it is not what a run writes.
    """
    recipe = history.get("recipe") if isinstance(history, dict) else None
    if not isinstance(recipe, dict):
        raise ValueError("there is no recipe in it")
    found = TrainedRecipe(
        *(recipe.get("protocol"), recipe.get("seed"), history.get("splits", {}), recipe.get("undersample", False)),
        *(recipe.get("text_column"), recipe.get("label_column"), history.get("trained_before", False)),
    )
    if found.protocol not in ("book", "full"):
        raise ValueError("its recipe has no protocol that is known")
    if type(found.seed) is not int:
        raise ValueError("its recipe has no seed")
    for name in ("undersample", "trained_before"):
        if type(getattr(found, name)) is not bool:
            raise ValueError(f"{name} is neither true nor false")
    if not all(column is None or isinstance(column, str) for column in (found.text_column, found.label_column)):
        raise ValueError("a column of its recipe is not a name")
    splits = list(found.splits.values()) if isinstance(found.splits, dict) else [None]
    if not all(isinstance(split, dict) and type(split.get("messages")) is int for split in splits):
        raise ValueError("its splits are not digests")
    return found


def _may_have_seen(recipe: TrainedRecipe | None) -> tuple[str, str]:
    """What a model may have seen of messages that are not its own, and how to learn more."""
    names = "--train-data names"
    if recipe is BUNDLED_RECIPE:
        remark = "The model was trained on the whole SMS Spam Collection, and has seen what stands in that."
        names = "--train-data uci, or the collection's file, names"
    elif recipe and recipe.splits:
        remark = (
            "These are not, or no longer, the messages that the model was trained on: it may have seen any of them."
        )
    else:
        remark = "No record tells which messages the model was trained on: it may have seen any of these."
    return remark, f"{names} the messages of its training, for a baseline and the count of those that it has seen."
