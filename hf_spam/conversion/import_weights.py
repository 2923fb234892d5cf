"""Import weights from other formats into a SpamGPT folder: the book's own files, and GPT-2 checkpoints.

The names and shapes of all tensors are checked before anything is written.
"""

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import check_empty, write_folder
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel
from ..text import short_list
from .book import read_book_file
from .gpt2 import convert_settings, convert_tensors
from .loading import (
    TOKENIZER_FILES,
    broken_weights,
    errors_as,
    find_file,
    find_misfits,
    load_gpt2_config,
    load_tokenizer,
    open_tensors,
    save_classifier,
)

logger = logging.getLogger(__name__)


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

            - a file that `torch.save` wrote from the `state_dict` of the book's `GPTModel`, also from a compiled or
              distributed model, in a checkpoint, with the LoRA layers of appendix E or with joint `qkv` layers; or such
              tensors in a `.safetensors` file. A head with 2 classes makes it a classifier that pads messages and reads
              the last position, as the book does; a language-model head is left out.
            - a folder with a GPT-2 checkpoint in safetensors files: `GPT2Model`, `GPT2LMHeadModel` (its head is left
              out) or `GPT2ForSequenceClassification` (its labels are kept). Its tokenizer is copied.
            - the Hub id of such a checkpoint.
        output_dir: The folder to write; it must be empty or not exist.
        n_head: Number of attention heads of the book's model, which no shape reveals. `None`: `n_embd / 64`, as in
            every GPT-2. For a GPT-2 checkpoint it must agree with its `config.json`.
        padded_length: The length to which messages were padded when the book's classifier was trained, or `None` if
            they were not. "auto": 120, as for the book's data, or all positions if there are fewer. Another length than
            in training costs accuracy.
        pad_token_id: The token that they were padded with. `None`: that of `tokenizer`, else the book's, 50256.
        lora_alpha: The factor of the LoRA layers in the book's model: `alpha`, or `alpha / rank` where the code divides
            it. It is not saved with the weights.
        tokenizer: A tokenizer to save with the model, instead of the checkpoint's.
        revision: Branch, tag or commit on the Hub.

    `n_head`, `padded_length` and `pad_token_id` are also found in the settings that a checkpoint holds, or in a
    `config.json` next to the file (`n_heads`, `max_length`, `pad_token_id`). What is found or assumed is logged.

    Returns:
        The imported model, in evaluation mode.

    Raises:
        ValueError: The checkpoint cannot be read or does not fit; at most five lines. Nothing is written.
        FileExistsError: `output_dir` is a file or is not empty.
        OSError: `source` does not exist, or `output_dir` cannot be written.
    """
    output = Path(output_dir).resolve()
    check_empty(output)
    is_book = Path(source).is_file()
    if is_book:
        tensors, settings, problems = read_book_file(
            Path(source),
            n_head=n_head,
            padded_length=padded_length,
            pad_token_id=pad_token_id,
            lora_alpha=lora_alpha,
            tokenizer=tokenizer,
        )
    else:
        gpt2 = load_gpt2_config(source, revision=revision)
        settings, problems = convert_settings(gpt2)
        tensors = convert_tensors(open_tensors(source, revision=revision))
        if n_head not in (None, gpt2.n_head):
            problems.append(f"--n-head {n_head} contradicts config.json, where n_head is {gpt2.n_head}")
        if padded_length not in ("auto", None) or (pad_token_id, lora_alpha) != (None, None):
            problems.append("--padded-length, --pad-token-id and --lora-alpha are for book files, and this is a GPT-2")
        if tokenizer is None and any(find_file(source, name, revision=revision) for name in TOKENIZER_FILES):
            tokenizer = load_tokenizer(source, revision=revision)
    with errors_as(f"{source} describes a network that cannot be built"):
        config = SpamGPTConfig(**settings)
    model_class = SpamGPTModel
    if "out_head.weight" in tensors:
        model_class = SpamGPTForSequenceClassification
        tensors = {name if name.startswith("out_head.") else f"gpt.{name}": tensors[name] for name in tensors}
    if tokenizer is not None and (highest := max(tokenizer.get_vocab().values())) >= config.vocab_size:
        problems.append(f"the tokenizer has id {highest}, but the vocabulary has only {config.vocab_size} entries")
    if len(problems) > 2:
        problems = [problems[0], f"and {len(problems) - 1} more problems"]
    if misfits := find_misfits(model_class, config, tensors):
        names = short_list(misfit.removeprefix("gpt.") for misfit in misfits)
        problems.append(f"{len(misfits)} of the tensors: {names}")
        if is_book:
            problems.append('Save the book\'s GPTModel with torch.save(model.state_dict(), "model.pth")')
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ValueError(f"{source} does not fit SpamGPT, and nothing was written:{lines}")
    # Copy, because the tensors are mapped from files that may change.
    weights = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in tensors.items()}
    model = model_class.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    if broken := broken_weights(model):
        raise ValueError(f"{source} is damaged: {broken}.")
    write_folder(output, lambda folder: save_classifier(model, tokenizer, folder))
    logger.debug("Imported %s into %s as a %s.", source, output_dir, type(model).__name__)
    return model
