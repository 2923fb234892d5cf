"""Calibrate a copy of a finished model on other messages."""

import copy
import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets

from ..conversion.loading import CARD, HISTORY, find_file, load_classifier, load_tokenizer, save_classifier
from ..conversion.onnx import is_onnx
from ..data.formats import DataError
from ..data.labels import label_names
from ..data.names import Sources, source_name
from ..evaluation.eval_data import load_eval_data
from ..files import public, write_folder
from ..hub.card import inherited, render_card
from ..inference.classifier import BUNDLED, SpamClassifier
from ..modeling.configuration_spam_gpt import class_names
from ..text import in_markdown
from .calibration import Calibration, apply_calibration, fit_calibration

logger = logging.getLogger(__name__)

REPORT = "calibration.json"


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

    The weights stay the same. Metrics and card of the original are not copied; the copy gets a card of its own.

    Args:
        model: folder or Hub id; None: the bundled model.
        output_dir: folder to create.
        data: a source as for `load_sms_spam`. Its validation split is used if it has one, or is the model's own data;
            otherwise all messages. A warning is logged if the model may have been trained on them.
        target_fpr: highest allowed false-positive rate. None: set no threshold.
        confidence: confidence level for target_fpr on new messages like these. None: it holds on these only.
        progress: whether to show a progress bar.
        **reading: how to read `data`, as for `load_sms_spam`.

    Returns:
        The calibration, which is also written to `calibration.json`.

    Raises:
        FileExistsError: `output_dir` exists.
        OSError: there is no model at `model`, or the folder cannot be written.
        ValueError: the model or the messages cannot be used, or no threshold meets `target_fpr`. Nothing is written.
    """
    output_dir = Path(output_dir).absolute()
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} already exists: choose another folder.")
    if target_fpr is not None and not 0 <= target_fpr < 1:
        raise ValueError(f"target_fpr must lie in [0, 1), got {target_fpr}.")
    if confidence is not None and not (target_fpr and 0 < confidence < 1):
        raise ValueError(f"confidence must lie in (0, 1) and needs a target_fpr above 0, got {confidence}.")
    source = BUNDLED if model in (None, "bundled") else model
    if is_onnx(source):
        raise ValueError(f"{str(source)!r} is an ONNX export: calibrate the model it was made from, then export again.")
    network, tokenizer = load_classifier(source, dtype="auto"), load_tokenizer(source)
    history = find_file(source, HISTORY)
    apply_calibration(network.config, None)
    names = class_names(network.config)
    evaluated = load_eval_data(None if source is BUNDLED else model, data, **reading, classes=names)
    is_split = "validation" in evaluated.sets
    messages = evaluated.sets["validation"] if is_split else concatenate_datasets(list(evaluated.sets.values()))
    if (found := label_names(messages)) != names:
        raise DataError(f"the messages are labelled {', '.join(found)}, but the model knows {', '.join(names)}")
    classifier = SpamClassifier(copy.deepcopy(network).float(), tokenizer)
    calibration = fit_calibration(
        classifier.logits(messages["text"][:], progress=progress),
        torch.tensor(messages["label"][:]),
        names,
        fitted_on="the validation split of the data" if is_split else "the data",
        temperature_scaling=True,
        target_fpr=target_fpr,
        confidence=confidence,
    )
    if not calibration.is_met:
        raise ValueError(calibration.summary()[-1])
    apply_calibration(network.config, calibration)

    def fill(folder: Path) -> None:
        save_classifier(network, tokenizer, folder)
        if history is not None:
            shutil.copyfile(history, folder / HISTORY)
        about = inherited(find_file(source, CARD))
        card = _card(names, calibration, None if source is BUNDLED else os.fspath(model), data, is_split, about)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / REPORT).write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")

    write_folder(output_dir, fill)
    if evaluated.remark:
        logger.warning("%s A calibration on messages the model was trained on is overconfident.", evaluated.remark)
    return calibration


def _card(
    labels: list[str],
    calibration: Calibration,
    model: str | None,
    data: Sources,
    is_split: bool,
    metadata: dict[str, Any],
) -> str:
    """Return the card of a copy of `model` (None: the bundled model)."""
    messages = f"{'the validation split of ' if is_split else ''}{in_markdown(public(source_name(data)))}"
    return render_card(
        labels=labels,
        positive_label=calibration.spam,
        threshold=calibration.threshold,
        calibrated=calibration.temperature != 1,
        calibration=replace(calibration, fitted_on=messages).summary(in_markdown),
        calibrated_on=messages,
        copy_of="the bundled model" if model is None else in_markdown(public(model)),
        base_model=model,
        metadata=metadata,
    )
