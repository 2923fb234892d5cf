"""Corrections: teach a model the messages that it got wrong, without losing the others.

The corrections are mixed with messages from the training data of the base. Their targets are the answers of the base:
rehearsal with distillation (Robins 1995, *Catastrophic Forgetting, Rehearsal and Pseudorehearsal*; Li and Hoiem 2016,
*Learning without Forgetting*). If the held-out messages lose too much, the weights go part of the way back to those of
the base (Wortsman et al. 2022, *Robust Fine-Tuning of Zero-Shot Models*).
"""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from ..conversion.loading import BUNDLED, load_config
from ..data.batching import predict_logits
from ..data.duplicates import duplicate_key
from ..data.formats import DataError
from ..data.labels import label_names
from ..data.names import Sources
from ..data.reading import for_other_data
from ..data.sources import check_splits, read_messages
from ..data.uci import cached_uci
from ..evaluation.eval_data import BUNDLED_HELD_OUT, trained_recipe
from ..modeling.configuration_spam_gpt import class_names
from .calibration import shift_of
from .evaluator import Evaluator
from .run import Metrics
from .settings import Recipe
from .setup import Setup

logger = logging.getLogger(__name__)

HELD_OUT = 10  # of a source without recorded splits, every tenth message is held out
CORRECTIONS = 0.15  # share of the corrections in an epoch
STEPS_BACK = 10  # the weights go back to the base in tenths of the way


def read_corrections(recipe: Recipe, data: DatasetDict | Sources) -> tuple[Recipe, DatasetDict, Dataset]:
    """Read corrections, and messages to replay and to hold out, none of which duplicates a correction.

    In a `DatasetDict`, `train` holds the corrections, and `test` is kept. Returns the recipe with the
    layout of its base and the source of the replay, the corrections as `train` beside held-out splits, and the replay.
    """
    config = load_config(recipe.base)
    names = class_names(config)
    if len(names) != 2:
        raise DataError(f"corrections need a model of two labels, but {recipe.base} has {len(names)}")
    if isinstance(data, dict):
        splits = check_splits(data, allow_single_label=True, classes=names, **recipe.reading)
        if "validation" in splits:
            logger.warning("The split validation is not used: the messages of the base are held out in its place.")
    else:
        splits = {"train": read_messages(data, allow_single_label=True, classes=names, **recipe.reading)}
    source, seen, held_out = _of_base(recipe, names)
    for part in (splits["train"], seen):
        if (found := label_names(part)) != names:
            raise DataError(f"the messages are labelled {', '.join(found)}, but the model knows {', '.join(names)}")
    corrections = splits["train"].select_columns(["text", "label"])
    keys = set(map(duplicate_key, corrections["text"][:]))
    seen = _without(keys, seen, f"Replay from {source}")
    seen = seen.shuffle(seed=recipe.seed).select(range(min(recipe.replay_messages, len(seen))))
    held_out = {split: _without(keys, part, f"Split {split}") for split, part in held_out.items()}
    if len(seen) < recipe.per_device_train_batch_size * PartialState().num_processes:
        raise DataError(
            f"{source}: {len(seen)} messages to replay do not fill a batch; name a larger source with --replay"
        )
    logger.info("%d corrections, and %d messages to replay from %s", len(corrections), len(seen), source)
    if not len(held_out.get("validation", ())):
        raise DataError(f"{source}: no messages are left to hold out; name a larger source with --replay")
    if "test" in splits:
        held_out["test"] = splits["test"]
    layout = {"pooling": config.pooling, "padded_length": config.padded_length, "causal": config.causal}
    return replace(recipe, replay=source, **layout), DatasetDict(train=corrections, **held_out), seen


def _of_base(recipe: Recipe, names: list[str]) -> tuple[str, Dataset, dict[str, Dataset]]:
    """Return the source of messages that the base has learned from, these messages, and held-out splits.

    These are the splits of the base's training if its record fits the source.
    """
    known = trained_recipe(recipe.base)
    source = recipe.replay or known.data or ("uci,sample" if known.protocol is None and cached_uci() else "sample")
    how = recipe.reading | for_other_data(recipe.reading) if recipe.replay else {}
    splits = None if known.whole else known.split_as_trained(source, classes=names, **how)
    if splits is not None:
        return source, splits.pop("train"), splits
    messages, is_recorded = None, recipe.replay is None and known.data is not None
    if known.whole or not is_recorded:
        try:
            messages = read_messages(source, classes=names, **how)
        except DataError:
            if not is_recorded:
                raise
    if messages is None:
        if source != "sample":
            what = "%s is missing, or has changed since the base was trained on it: replaying the sample (see --replay)"
            logger.warning(what, source)
        source, messages = "sample", read_messages("sample", classes=names)
    seen, held_out = divide(messages)
    return source, seen, {"validation": held_out}


def divide(messages: Dataset) -> tuple[Dataset, Dataset]:
    """Divide the result of `read_messages` into messages to learn from and to hold out, without shared duplicates.

    Of "sample" and "uci", the messages that the bundled model was not trained on are held out.
    """
    groups, sources = np.array(messages["group"][:]), np.array(messages["source"][:])
    is_held_out = groups % HELD_OUT == 0
    for name, rows in json.loads((BUNDLED / BUNDLED_HELD_OUT).read_text()).items():
        if (of_source := np.flatnonzero(sources == name)).size:
            is_held_out[of_source] = False
            is_held_out[of_source[rows]] = True
    is_seen = ~np.isin(groups, groups[is_held_out])
    return messages.select(np.flatnonzero(is_seen)), messages.select(np.flatnonzero(is_held_out))


def _without(keys: set[str], messages: Dataset, what: str) -> Dataset:
    """Leave out the messages that duplicate a correction."""
    messages = messages.select_columns(["text", "label"])
    kept = [i for i, text in enumerate(messages["text"][:]) if duplicate_key(text) not in keys]
    if left_out := len(messages) - len(kept):
        logger.info("%s: left out %d messages that duplicate a correction", what, left_out)
    return messages.select(kept)


def rehearse(setup: Setup, replay: Dataset) -> None:
    """Add to a setup the messages to replay, with the answers of the base, and the weights of the base.

    The corrections are repeated, so that all of them make up the share `CORRECTIONS` of an epoch.
    """
    model, texts, corrections = setup.model.eval(), replay["text"][:], setup.splits["train"]
    # The loss of a message then depends on its distance from the threshold, which a correction must pass.
    setup.adjustment = shift_of(setup.calibration, class_names(model.config))
    logits = predict_logits(model, setup.tokenizer, texts) + setup.adjustment
    answers, labels = logits.softmax(-1)[:, 1].tolist(), list(map(float, corrections["label"][:]))
    repeats = math.ceil(CORRECTIONS / (1 - CORRECTIONS) * len(texts) / len(corrections)) - 1
    setup.extra = texts + corrections["text"][:] * repeats, answers + labels * repeats
    setup.base_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def keep_within_bound(evaluator: Evaluator) -> tuple[dict[str, Metrics], float]:
    """Move weights back toward those of the base until the validation split loses at most `max_drop`.

    The loss is the larger of the drop in accuracy and the rise in the false-positive rate. Returns the metrics of the
    base on each split, and the share of the change that was kept.
    """
    model, base, max_drop = evaluator.setup.model, evaluator.setup.base_weights, evaluator.setup.recipe.max_drop
    trained = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(base)
    predictions, *_ = evaluator.measure(("train", "validation", "test"))
    before = {split: given.metrics() for split, given in predictions.items()}
    for tenths in range(STEPS_BACK, -1, -1):
        share = tenths / STEPS_BACK
        model.load_state_dict({name: torch.lerp(base[name].to(last), last, share) for name, last in trained.items()})
        predictions, *_ = evaluator.measure(["validation"])
        after = predictions["validation"].metrics()
        alarms = (after["false_positive_rate"] or 0.0) - (before["validation"]["false_positive_rate"] or 0.0)
        loss = max(before["validation"]["accuracy"] - after["accuracy"], alarms)
        if loss <= max_drop:
            break
        logger.info("With %.0f%% of the change, the held-out messages lose %.2f points", 100 * share, 100 * loss)
    return before, share
