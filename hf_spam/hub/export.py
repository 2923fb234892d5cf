"""Export a classifier for programs that do not know this package, and certify that all of them answer alike."""

import json
import math
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..conversion import endpoint_handler
from ..conversion.gpt2 import write_gpt2
from ..conversion.loading import CARD, find_file, load_classifier, load_tokenizer, local_folder
from ..conversion.onnx import PACKAGES, is_onnx, write_onnx
from ..conversion.parity import Format, compare_runtimes
from ..conversion.transformers_js import adapt_tokenizer
from ..data.names import Sources, source_name
from ..extras import import_extra
from ..files import HISTORY, check_new, files_in, hash_file, public, versions, write_folder, write_json
from ..inference.classifier import SpamClassifier
from ..modeling.configuration_spam_gpt import class_names, decide, spam_index
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .card import inherited, render_export_card

CERTIFICATE = "parity.json"
# Packages that `handler.py` imports. Older versions of tokenizers cannot read the files of today's.
REQUIREMENTS = {
    "gpt2": "numpy\ntokenizers>=0.20\ntorch\ntransformers>=4.45\n",
    "onnx": "numpy\nonnxruntime>=1.17\ntokenizers>=0.20\n",
}
LARGE, FEWER_MESSAGES = 2**24, 1000  # a model of more parameters would need minutes for all messages of a source


def export_model(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    format: Format,
    fold_threshold: bool = False,
    handler: bool = False,
    data: Sources = "sample",
    progress: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Export a classifier to a new folder, and check that every runtime gives the same answers as the model.

    The format "gpt2" is a stock `GPT2ForSequenceClassification`, "onnx" are graphs in fp32 and int8. `fold_threshold`
    shifts the logits by the model's threshold, so that programs that pick the most likely class decide like the model;
    scores are then no longer probabilities. `handler` adds a `handler.py` for Inference Endpoints. The messages to
    compare on are read like those of `load_sms_spam`, without their labels.

    The certificate that is also written to `parity.json` is returned: the `model` and the `data`, the result of
    `compare_runtimes`, the sha256 of the `files`, and the `versions` of the packages.

    Raises:
        OSError: `source` does not exist, or `output_dir` exists or cannot be written.
        ValueError: There is no SpamGPT classifier at `source`, it has no exact export, a package is missing, or a
            runtime does not agree. Nothing is written.
    """
    from ..data.sources import read_texts  # loads pandas

    output_dir = Path(output_dir).absolute()
    check_new(output_dir)
    if is_onnx(source):
        raise ValueError(f"{os.fspath(source)!r} is an ONNX export; export the model that it was made from.")
    packages = PACKAGES if format == "onnx" else ()
    for package in packages:
        import_extra(package, "onnx", "ONNX")
    model = load_classifier(source, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = load_tokenizer(source)
    texts = read_texts(data, **reading)
    count = len(texts) if model.num_parameters() <= LARGE else min(len(texts), FEWER_MESSAGES)
    texts = [texts[i * len(texts) // count] for i in range(count)]  # not the first: a source may be sorted
    classifier = SpamClassifier(model, tokenizer)
    logits = classifier.logits(texts, progress=progress)
    labels = decide(model.config, logits.softmax(-1)).numpy()
    threshold = model.config.threshold
    if fold_threshold:
        fold(model)
    weights = {path.name: hash_file(path)["sha256"] for path in sorted(local_folder(source).glob("*.safetensors"))}
    certificate: dict[str, Any] = {
        "model": {"name": public(os.fspath(source)), "weights": weights},
        "format": format,
        "folded_threshold": fold_threshold,
        "data": public(source_name(data)),
    }

    def fill(folder: Path) -> None:
        write_files(model, tokenizer, folder, format)
        if handler:
            shutil.copyfile(endpoint_handler.__file__, folder / "handler.py")
            (folder / "requirements.txt").write_text(REQUIREMENTS[format], encoding="utf-8")
        if history := find_file(source, HISTORY):
            shutil.copyfile(history, folder / HISTORY)
        try:
            results = compare_runtimes(folder, format, model.config, classifier.predict_proba, texts, labels)
        except ValueError as error:
            raise ValueError(f"The export was not written: {error}") from error
        files = {name: hash_file(folder / name)["sha256"] for name in files_in(folder)}
        certificate.update(**results, files=files, versions=versions() | {name: version(name) for name in packages})
        write_json(folder / CERTIFICATE, certificate)
        names = class_names(model.config)
        card = render_export_card(
            certificate,
            source=os.fspath(source),
            labels=names,
            positive_label=None if threshold is None else names[spam_index(names)],
            threshold=threshold,  # the model's: its configuration has lost it if it was folded
            calibrated=model.config.temperature != 1,
            max_tokens=model.config.max_tokens,
            handler=handler,
            metadata=inherited(find_file(source, CARD)),
        )
        (folder / CARD).write_text(card, encoding="utf-8")

    write_folder(output_dir, fill)
    return certificate


def write_files(
    model: SpamGPTForSequenceClassification, tokenizer: PreTrainedTokenizerBase, folder: Path, format: Format
) -> None:
    """Write the weights, configuration and tokenizer of an export."""
    if not tokenizer.is_fast:
        raise ValueError("The tokenizer has no tokenizer.json, which other programs need.")
    save_tokenizer(tokenizer, folder, model.config.max_tokens)
    if format == "gpt2":
        return write_gpt2(model, folder, tokenizer.pad_token_id)
    adapt_tokenizer(folder / "tokenizer.json")
    last = tokenizer("")["input_ids"][-1:]  # the token with which it ends every text, if there is one
    write_onnx(model, folder, end_token_id=last[0] if last else None)


@torch.no_grad()
def fold(model: SpamGPTForSequenceClassification) -> None:
    """Shift the bias of the head so that the most likely of two classes is the one that the threshold decides."""
    config = model.config
    if config.threshold is None or config.num_labels != 2 or config.threshold >= 1:
        found = f"{config.num_labels} classes" if config.num_labels != 2 else f"the threshold {config.threshold}"
        raise ValueError(f"--fold-threshold needs two classes and a threshold below 1; the model has {found}.")
    # spam wins where its logit, divided by the temperature, exceeds the other by this much
    margin = config.temperature * math.log(config.threshold / (1 - config.threshold))
    model.out_head.bias[spam_index(class_names(config))] -= margin
    config.threshold = None


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, max_tokens: int) -> None:
    """Save a tokenizer so that older versions of transformers, and other programs, read it and cut long messages."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": max_tokens}
    # Older versions of transformers return token types unless told not to, and a GPT-2 would add embeddings for them.
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    write_json(path, settings)
