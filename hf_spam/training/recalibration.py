"""Copies of finished models that are calibrated on other messages."""

import copy
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import concatenate_datasets

from ..conversion.checksum import save_with_checksum
from ..conversion.loading import HISTORY, history_file, load_classifier
from ..conversion.onnx import is_onnx
from ..data.formats import DataError
from ..data.labels import label_names
from ..data.tokenization import load_tokenizer
from ..evaluation.eval_data import messages_for
from ..files import public, write_folder
from ..hub.card import CardContent, render_card
from ..inference.classifier import POCKET, SpamClassifier
from ..modeling.configuration_spam_gpt import class_names
from ..text import in_markdown
from .calibration import Calibration, calibrate, uncalibrate

logger = logging.getLogger(__name__)

REPORT = "calibration.json"


def calibrated_copy(
    model: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    *,
    data: str | os.PathLike,
    target_fpr: float | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Writes a copy of a classifier that is calibrated on messages that it has not been trained on.

    The weights are the same. Metrics of the model stay behind, since they are of the model as it was, and the copy has
    a card of its own.

    Args:
        model: its folder or Hub id; None: the bundled model.
        output_dir: the folder to make.
        data: a source as for `load_sms_spam`. Of the data that the model was trained on, and of any that have one, it
            is the validation split, of others all messages. A warning says what the model may have seen of them.
        target_fpr: the part of the ham that may be called spam, for a threshold. None: none is set.
        text_column, label_column: where they are, as for `messages_for`.
        progress: whether to show a bar.

    Returns:
        What was fitted, which is in the folder too (`calibration.json`).

    Raises:
        FileExistsError: there is something at `output_dir`.
        OSError: there is nothing at `model`, or the folder cannot be written.
        ValueError: the model or the messages cannot be used, or no threshold will do. Nothing is written.
    """
    output_dir = Path(output_dir).absolute()
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} exists: name a folder that does not.")
    if target_fpr is not None and not 0 <= target_fpr < 1:
        raise ValueError(f"target_fpr must lie in [0, 1), got {target_fpr}.")
    source = POCKET if model is None else model
    if is_onnx(source):
        raise ValueError(f"{str(source)!r} is an ONNX export: calibrate the model it was made of, and export the copy.")
    kept, tokenizer = load_classifier(source, dtype="auto"), load_tokenizer(source)
    uncalibrate(kept.config)
    history = history_file(source)
    names = class_names(kept.config)
    columns = {"text_column": text_column, "label_column": label_column}
    evaluated = messages_for(model, data, **columns, classes=names)
    sets = evaluated.sets
    is_split = "validation" in sets
    messages = sets["validation"] if is_split else concatenate_datasets(list(sets.values()))
    if (theirs := label_names(messages)) != names:
        raise DataError(f"the messages are labelled {', '.join(theirs)}, but the model knows {', '.join(names)}")
    classifier = SpamClassifier(copy.deepcopy(kept).float(), tokenizer)
    logits = classifier.logits(messages["text"][:], progress=progress)
    labels = torch.tensor(messages["label"][:])
    where = "of the validation split of the data" if is_split else "of the data"
    fitting = {"fitted_on": where, "temperature_scaling": True, "target_fpr": target_fpr}
    calibration = calibrate(kept.config, logits, labels, **fitting)
    if not calibration.is_met:
        raise ValueError(calibration.in_words()[-1])

    def fill(folder: Path) -> None:
        save_with_checksum(kept, folder)
        tokenizer.save_pretrained(folder)
        if history is not None:
            shutil.copyfile(history, folder / HISTORY)
        messages = f"{'the validation split of ' if is_split else ''}{in_markdown(public(os.fspath(data)))}"
        content = CardContent(
            labels=names,
            positive_label=calibration.spam,
            threshold=kept.config.threshold,
            calibrated=kept.config.temperature != 1,
            calibration=calibration.in_words(f"of {messages}", in_markdown),
            calibrated_on=messages,
            copy_of="the bundled model" if model is None else in_markdown(public(os.fspath(model))),
            base_model=None if model is None else os.fspath(model),
        )
        card = render_card(content)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / REPORT).write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")

    write_folder(output_dir, fill)
    if evaluated.remark:
        logger.warning("%s On what it has seen it is too sure, and so is a calibration on that.", evaluated.remark)
    return calibration
