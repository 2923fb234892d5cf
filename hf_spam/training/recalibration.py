"""Calibrate a copy of a finished model on other messages."""

import copy
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets

from ..conversion.loading import CARD, find_file, load_classifier, load_tokenizer, save_classifier
from ..conversion.onnx import is_onnx
from ..data.formats import DataError
from ..data.labels import label_names
from ..data.names import Sources, source_name
from ..evaluation.eval_data import load_eval_data
from ..files import HISTORY, check_new, public, write_folder, write_json
from ..hub.card import inherited, render_card
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import class_names
from ..text import in_markdown
from .calibration import Calibration, calibrated_config, fit_calibration
from .recipes import get_recipe

logger = logging.getLogger(__name__)


def calibrated_copy(
    model: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    *,
    data: Sources,
    target_fpr: float | None = None,
    confidence: float | None = None,
    progress: bool = False,
    **reading: Any,
) -> Calibration:
    """Write a copy of a classifier whose scores are calibrated on messages that it was not trained on.

    The validation split is used if `data` has one or is the model's own training data, and otherwise all messages. A
    warning is logged if the model may have been trained on them. The copy has the same weights, a card of its own, and
    the calibration as `calibration.json`. Nothing is written if no threshold meets `target_fpr`.
    """
    output_dir, source = Path(output_dir).absolute(), os.fspath(model or "bundled")
    check_new(output_dir)
    recipe = get_recipe("book", temperature_scaling=True, target_fpr=target_fpr, confidence=confidence)
    if is_onnx(source):
        raise ValueError(f"{source!r} is an ONNX export: calibrate the model it was made from, then export again.")
    network, tokenizer = load_classifier(source, dtype="auto"), load_tokenizer(source)
    history, card = find_file(source, HISTORY), find_file(source, CARD)
    network.config = calibrated_config(network.config, None)
    names = class_names(network.config)
    evaluated = load_eval_data(source, data, **reading, classes=names)
    is_split = "validation" in evaluated.sets
    messages = evaluated.sets["validation"] if is_split else concatenate_datasets(list(evaluated.sets.values()))
    if (found := label_names(messages)) != names:
        raise DataError(f"the messages are labelled {', '.join(found)}, but the model knows {', '.join(names)}")
    classifier = SpamClassifier(copy.deepcopy(network).float(), tokenizer)
    part = "the validation split of " if is_split else ""
    logits, labels = classifier.logits(messages["text"][:], progress=progress), torch.tensor(messages["label"][:])
    calibration = fit_calibration(logits, labels, names, recipe, f"{part}the data")
    if not calibration.is_met:
        raise ValueError(calibration.summary()[-1])
    network.config = calibrated_config(network.config, calibration)

    def fill(folder: Path) -> None:
        save_classifier(network, tokenizer, folder)
        if history is not None:
            shutil.copyfile(history, folder / HISTORY)
        write_json(folder / "calibration.json", asdict(calibration))
        fitted_on = part + in_markdown(public(source_name(data)))
        text = render_card(
            labels=names,
            positive_label=calibration.spam,
            threshold=calibration.threshold,
            calibrated=calibration.temperature != 1,
            calibration=replace(calibration, fitted_on=fitted_on).summary(in_markdown),
            calibrated_on=fitted_on,
            base_model=source,
            metadata=inherited(card),
        )
        (folder / "README.md").write_text(text, encoding="utf-8")

    write_folder(output_dir, fill)
    if evaluated.remark:
        logger.warning("%s A calibration on messages the model was trained on is overconfident.", evaluated.remark)
    return calibration
