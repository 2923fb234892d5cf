"""Import weights from other formats into a SpamGPT folder: the book's own files, and GPT-2 checkpoints.

The names and shapes of all tensors are checked before anything is written.
"""

import os
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import check_empty, write_folder
from .book import read_book_file
from .loading import (
    build_classifier,
    check_vocabulary,
    classifier_tensors,
    has_tokenizer,
    load_config,
    load_tokenizer,
    local_folder,
    save_classifier,
)


def import_weights(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    n_head: int | None = None,
    padded_length: int | Literal["auto"] | None = "auto",
    pad_token_id: int | None = None,
    lora_alpha: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Import a checkpoint into a folder that `from_pretrained` loads, with this package or with its remote code.

    A checkpoint with a classification head becomes a `SpamGPTForSequenceClassification`, any other a `SpamGPTModel`.
    Weights are converted to float32. Dropout is set to 0, since it is a setting of fine-tuning.

    Args:
        source: One of:

            - a file with the `state_dict` of the book's `GPTModel`, from `torch.save` or in safetensors: also of a
              compiled or distributed model, in a checkpoint, with the LoRA layers of appendix E or with joint `qkv`
              layers. A head with 2 classes makes it a classifier that pads messages and reads the last position, as
              the book does; a language-model head is left out.
            - a folder or Hub id of a GPT-2 in safetensors files: `GPT2Model`, `GPT2LMHeadModel` (its head is left out)
              or `GPT2ForSequenceClassification` (its labels are kept). Its tokenizer is copied.
        output_dir: The folder to write; it must be empty or not exist.
        n_head: Number of attention heads of the book's model, which no shape reveals. `None`: `n_embd / 64`, as in
            every GPT-2.
        padded_length: The length to which the book's classifier padded messages in training, or `None` if it did not.
            "auto": 120, as for the book's data, or all positions if there are fewer. Another length costs accuracy.
        pad_token_id: The token that they were padded with. `None`: that of `tokenizer`, else the book's, 50256.
        lora_alpha: The factor of the LoRA layers in the book's model: `alpha`, or `alpha / rank` where the code divides
            it. It is not saved with the weights.
        tokenizer: A tokenizer to save with the model, instead of the checkpoint's.
        revision: Branch, tag or commit on the Hub.

    `n_head`, `padded_length` and `pad_token_id` are also found in the settings that a checkpoint of the book's model
    holds, or in a `config.json` next to it (`n_heads`, `max_length`, `pad_token_id`). What is found or assumed is
    logged.

    Returns:
        The imported model, in evaluation mode.

    Raises:
        ValueError: The checkpoint cannot be read or does not fit. Nothing is written.
        OSError: `source` does not exist, or `output_dir` is not empty or cannot be written.
    """
    output = Path(output_dir).resolve()
    check_empty(output)
    name, options = repr(os.fspath(source)), (n_head, pad_token_id, lora_alpha)
    if Path(source).is_file():
        config, weights = read_book_file(Path(source), *options, padded_length, tokenizer)
    else:
        config, weights = load_config(source, revision=revision), classifier_tensors(source, revision=revision)
        if padded_length not in ("auto", None) or options != (None, None, None):
            flags = "--n-head, --padded-length, --pad-token-id and --lora-alpha"
            raise ValueError(f"{flags} are for files of the book's model, and {name} is none.")
        if tokenizer is None and has_tokenizer(local_folder(source, revision=revision)):
            tokenizer = load_tokenizer(source, revision=revision)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, name)
    # Copy, because the tensors are mapped from files that may change.
    weights = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in weights.items()}
    has_head = "out_head.weight" in weights
    model = build_classifier(name, config, weights, fresh_head=not has_head, dtype=torch.float32)
    model = model if has_head else model.gpt
    write_folder(output, lambda folder: save_classifier(model, tokenizer, folder))
    return model
