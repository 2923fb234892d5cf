"""Load evaluation data, and recognize a model's own training data by its fingerprints."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..conversion.loading import find_file, named_model
from ..data.formats import DataError
from ..data.labels import LABEL_NAMES
from ..data.names import Sources, sources_of
from ..data.reading import for_other_data
from ..data.sources import load_sms_spam, read_messages, read_sets
from ..data.splits import SPLITS, fingerprints
from ..files import BUNDLED, HISTORY
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line

logger = logging.getLogger(__name__)

SPLIT_ANEW = "The messages were split anew, so every split may contain messages that the model was trained on."
SEEN_ALL = "The model was trained or calibrated on these messages, so the metrics say nothing about new ones."
BASE_SEEN = "The model started from a classifier trained on other messages and may have seen any of these."
BUNDLED_SOURCES = "sources.json"  # fingerprints of the sources that the bundled model was trained on
BUNDLED_HELD_OUT = "held_out.json"  # rows of its public sources that it was not trained on
BUNDLED_SEEN = "The model was trained or calibrated on the SMS Spam Collection, the sample and four public sets."
OTHER_DATA = "The data differ from the model's training data, so it may have seen any of these messages."
NO_RECORD = "There is no record of the model's training messages: it may have seen any of these."
HINT = "Name its training messages with --train-data{} to get a baseline and a count of duplicates."


@dataclass(frozen=True)
class EvalData:
    """Messages to evaluate a model on, and its training messages."""

    sets: DatasetDict  # named "train", "validation" and "test", or after the source
    splits: str  # description of the splits
    train: Dataset | None  # training messages of the model, or the best substitute; None if unknown
    trained_on: str  # description of `train`
    remark: str = ""  # warning that the model has, or may have, seen the messages; empty if there is no doubt
    hint: str = ""  # advice that goes with the remark, or empty


@strict
@dataclass  # not frozen: `strict` would not check the types
class TrainedRecipe:
    """Settings with which a model's training messages were read and split, and the fingerprints of the splits."""

    protocol: Literal["book", "full"] | None  # None: the bundled model
    seed: int
    splits: dict[str, dict[str, Any]]
    """The result of `fingerprints`, or for the bundled model one fingerprint for each source. Empty if unknown: an old
    model, or one trained on several data sets."""
    reading: dict[str, str | bool] = field(default_factory=dict)  # options of `Reading`
    whole: bool = False  # whether whole sources were trained on, without a split: the bundled model, and corrections
    trained_before: bool = False  # whether training started from a classifier trained on other, or unknown, messages
    data: str | None = None  # source of the messages, or of those replayed beside corrections, without folders

    def as_trained(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the reading options `given`, with missing ones filled in from training."""
        return {**given, **{name: given.get(name) or value for name, value in self.reading.items()}}

    def split_as_trained(self, source: Sources, **reading: Any) -> DatasetDict | None:
        """Split a source as in training; return `None` if the splits do not have the recorded fingerprints.

        Labels are read with the label map of training or, if that does not fit, with the given one.
        """
        if not self.splits:
            return None
        reading, recorded = self.as_trained(reading), self.reading.get("label_map")
        log = logging.getLogger("hf_spam.data")
        level = log.level
        log.setLevel(logging.ERROR)  # if these are not the training messages, they are read again
        try:
            found = self._split(source, **reading | {"label_map": recorded})
            return found or (self._split(source, **reading) if reading.get("label_map") != recorded else None)
        finally:
            log.setLevel(level)

    def _split(self, source: Sources, **reading: Any) -> DatasetDict | None:
        try:
            if self.whole:
                whole = DatasetDict(train=read_messages(source, allow_single_label=True, **reading))
                return whole if fingerprints(whole)["train"] in self.splits.values() else None
            sets = read_sets(source, **reading)
            # Splitting a large file takes minutes, so rule out most of them by their number of messages.
            keeps_all = self.protocol != "book" and not set(SPLITS) <= set(sets)
            if keeps_all and sum(map(len, sets.values())) != sum(split["messages"] for split in self.splits.values()):
                return None
            splits = load_sms_spam(source, protocol=self.protocol, seed=self.seed, **reading)
        except DataError:  # e.g. too few messages, so these are not the training messages
            return None
        return splits if fingerprints(splits) == self.splits else None


NO_RECIPE = TrainedRecipe("full", 123, splits={})  # of a model without a record


def trained_recipe(model: str | os.PathLike | None) -> TrainedRecipe:
    """Read a model's training recipe from its `history.json`; `NO_RECIPE` without one or, with a warning, a bad one."""
    if model is None or named_model(model) == BUNDLED:
        return TrainedRecipe(None, 123, json.loads((BUNDLED / BUNDLED_SOURCES).read_text()), whole=True)
    path = find_file(model, HISTORY)
    if path is None:
        return NO_RECIPE
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        recipe = history["recipe"]
        splits, trained_before = history.get("splits", {}), history.get("trained_before", False)
        sum(split["messages"] for split in splits.values())  # `split_as_trained` relies on these numbers
        names = ("text_column", "label_column", "label_map", "encoding", "skip_bad_rows")
        reading = {name: recipe[name] for name in names if recipe.get(name)}
        source = recipe.get("replay") or recipe.get("data")
        whole = bool(recipe.get("replay_messages"))
        return TrainedRecipe(recipe["protocol"], recipe["seed"], splits, reading, whole, trained_before, source)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, StrictDataclassError) as error:
        # The file may come from any repository on the Hub.
        what = f"{type(error).__name__}: {one_line(error)}"
        logger.warning("Ignoring %s, which is not a history of a training run: %s", os.path.join(model, HISTORY), what)
        return NO_RECIPE


def learned_from_others(base: str, config: SpamGPTConfig, splits: dict[str, dict[str, Any]]) -> bool:
    """Return whether the weights `base` may have been trained on messages that the run will be tested on."""
    # Only a classifier has seen labelled messages.
    if SpamGPTForSequenceClassification.__name__ not in (config.architectures or ()):
        return False
    recipe = trained_recipe(base)
    return recipe.splits != splits or recipe.trained_before


def load_eval_data(
    model: str | os.PathLike | None,
    data: Sources,
    *,
    protocol: Literal["book", "full"] | None = None,
    seed: int = 123,
    train_data: Sources | None = None,
    classes: Sequence[str] = LABEL_NAMES,
    **reading: Any,
) -> EvalData:
    """Load the messages to evaluate a model on.

    The model's own training data, recognized by its fingerprints, is split as in training. Any other data forms one
    set named after its source, or keeps the splits of its Hub dataset; it may be small and have a single label. Given a
    `protocol`, the data are split by it and `seed` instead.

    `train_data` is the source of the training messages, to train the baseline and find duplicates; if it is the model's
    own training data, its `train` split is used. Without it, they are looked for in `data`. `classes` are the labels
    that the model knows. `reading` says how to read the data, as for `load_sms_spam`; the model's own data are read as
    in training, and the columns of its training data are used in other data that have them.
    """
    recipe = trained_recipe(model)
    reading["classes"] = classes
    if not reading.get("label_map") and "label_map" in recipe.reading:
        reading["label_map"] = recipe.reading["label_map"]
        logger.info("Labels are read with the model's label map: %s", reading["label_map"])
    reading["remembered"] = (recipe.reading.get("text_column"), recipe.reading.get("label_column"))
    own = recipe.split_as_trained(data, **reading)
    if protocol is not None:
        sets = load_sms_spam(data, protocol=protocol, seed=seed, **(recipe.as_trained(reading) if own else reading))
        splits = f"protocol {protocol}, seed {seed}"
    elif own and not recipe.whole:
        sets, splits = own, f"protocol {recipe.protocol}, seed {recipe.seed}, as in the model's training"
    else:
        sets = own or read_sets(data, **reading)
        splits = "none, all messages form one set" if len(sets) == 1 else "those of the dataset"

    trained = own if train_data is None else recipe.split_as_trained(train_data, **reading)
    if trained:
        train, part = trained["train"], "part of " if recipe.whole else ""
        trained_on = f"{part}the messages that the model was trained on"
    elif train_data is not None:
        train = read_messages(train_data, allow_single_label=True, **reading | for_other_data(reading))
        trained_on = "those of --train-data"
    elif "train" in sets:
        train, trained_on = sets["train"], "the split train (the model's own training data is not known)"
    else:
        train, trained_on = None, "not known"
    is_bundled, is_named = recipe.protocol is None, train_data is not None
    if own and recipe.whole:
        remark = SEEN_ALL
    elif own and sets is not own and fingerprints(sets) != recipe.splits:
        remark = SPLIT_ANEW
    elif own:
        remark = BASE_SEEN if recipe.trained_before else ""
    elif is_bundled:
        remark = BUNDLED_SEEN
    else:
        remark = "" if is_named else OTHER_DATA if recipe.splits else NO_RECORD
    hint = "" if own or is_named else HINT.format(" uci,sample" if is_bundled else "")
    return EvalData(sets, splits, train, trained_on, remark, hint)


def find_training_texts(
    model: str | os.PathLike,
    data: Sources,
    train_data: Sources | None = None,
    classes: Sequence[str] | None = None,
    **reading: Any,
) -> tuple[list[str] | None, str]:
    """Find the training messages of a model by the fingerprints that training recorded.

    They are looked for in `data`, in each of its sources and, for the bundled model, in the sample; or else all
    messages of `train_data` are taken to be theirs. `classes` are the labels that the model knows. Returns the texts,
    `None` if none of them are at hand, and a few words on how complete they are.
    """
    recipe = trained_recipe(model)
    if train_data is not None:
        splits = recipe.split_as_trained(train_data, classes=classes, **reading)
        how = reading | for_other_data(reading)
        train = splits["train"] if splits else read_messages(train_data, allow_single_label=True, **how)
        return train["text"][:], "known" if splits else "those of --train-data"
    if not recipe.splits:
        return None, "not recorded"
    if recipe.protocol is not None:
        several = sources_of(data)
        for source in [data, *several] if len(several) > 1 else [data]:
            if splits := recipe.split_as_trained(source, classes=classes, **reading):
                return splits["train"]["text"][:], "part of them" if recipe.trained_before else "known"
        return None, "recorded, but not in --data"
    sources = dict.fromkeys([*map(os.fspath, sources_of(data)), "sample"])
    found = [splits["train"] for source in sources if (splits := recipe.split_as_trained(source, **reading))]
    held_out, texts = json.loads((BUNDLED / BUNDLED_HELD_OUT).read_text()), []
    for messages in found:
        seen = fingerprints(DatasetDict(train=messages))["train"]
        name = next(name for name, one in recipe.splits.items() if one == seen)
        texts += messages.select(np.setdiff1d(np.arange(len(messages)), held_out.get(name, [])))["text"][:]
    return texts or None, f"{len(found)} of {len(recipe.splits)} sources"
