"""What a run starts from: the tokenizer and the model that a recipe names."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..conversion.import_weights import import_weights
from ..conversion.loading import load_classifier, load_config, model_type
from ..data.labels import LABEL_NAMES
from ..data.tokenization import encode, load_tokenizer, train_tokenizer
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line
from .calibration import uncalibrate
from .lora import add_adapters
from .recipes import Recipe


def start_from(
    recipe: Recipe,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
    names: Sequence[str] = LABEL_NAMES,
) -> tuple[SpamGPTForSequenceClassification, PreTrainedTokenizerBase]:
    """Loads or makes the tokenizer and the model of a recipe, with all but what it trains frozen.

    A head that the base lacks, or in the place of one for other labels, is initialised as `torch.nn.Linear` is under
    `torch.manual_seed(recipe.seed)`.

    Args:
        recipe: the settings.
        texts: the training messages, from which a tokenizer may be learned and the longest message is known.
        tokenizer: one in place of the recipe's.
        names: of the classes.

    Raises:
        ValueError: base and tokenizer do not fit each other, or the recipe.
        OSError: the base is neither a local folder or file nor a Hub repository that can be reached.
    """
    if tokenizer is None and recipe.vocab_size is not None:
        tokenizer = train_tokenizer(texts, recipe.vocab_size)
    elif tokenizer is None:
        tokenizer = load_tokenizer(recipe.tokenizer or recipe.base)
    with tempfile.TemporaryDirectory() as folder:
        base = _resolve_base(recipe.base, Path(folder) / "imported")
        if base is None:
            config = SpamGPTConfig(
                vocab_size=len(tokenizer),
                n_positions=recipe.n_positions,
                n_embd=recipe.n_embd,
                n_layer=recipe.n_layer,
                n_head=recipe.n_head,
                qkv_bias=recipe.qkv_bias,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        else:
            config = load_config(base)
            if len(tokenizer) > config.vocab_size:
                raise ValueError(
                    f"The tokenizer has {len(tokenizer)} entries, but the vocabulary of {recipe.base!r} only "
                    f"{config.vocab_size}: name the one that belongs to it with --tokenizer."
                )
        tokenizer.model_max_length = config.n_positions
        config.padded_length = _padded_length(recipe, config, tokenizer, texts)
        config.pooling, config.causal = recipe.pooling, recipe.causal
        config.embd_pdrop = config.resid_pdrop = recipe.dropout
        config.attn_pdrop = recipe.attention_dropout
        uncalibrate(config)  # what the base has was fitted to weights that these will not be
        config.pad_token_id = tokenizer.pad_token_id
        theirs, config.id2label = config.id2label, dict(enumerate(names))
        config.label2id = {name: label for label, name in config.id2label.items()}
        config.validate_architecture()
        if 0 <= recipe.ignore_index < config.num_labels:
            raise ValueError(f"ignore_index ({recipe.ignore_index}) is a class: nothing would be learned about it.")
        torch.manual_seed(recipe.seed)
        if base is None:
            try:
                model = SpamGPTForSequenceClassification(config)
            except RuntimeError as error:
                raise ValueError(f"The network cannot be built: {one_line(error)}") from error
            if recipe.initialization == "pytorch":
                _draw_as_pytorch(model, recipe.seed)
        else:
            fresh_head = True if config.id2label == theirs else "always"
            model = load_classifier(base, fresh_head=fresh_head, config=config, dtype=torch.float32)
    _freeze(model, recipe.trainable)
    if recipe.lora_r is not None:
        add_adapters(model, recipe.lora_r, recipe.lora_alpha)
    return model, tokenizer


def _resolve_base(base: str, imported: Path) -> str | os.PathLike | None:
    """A SpamGPT folder or repository for `base`; None for fresh weights. GPT-2's are imported on the way."""
    if base == "random":
        return None
    if Path(base).is_file():
        import_weights(base, imported)
        return imported
    if model_type(base) == SpamGPTConfig.model_type:
        return base
    import_weights(base, imported)
    return imported


def _padded_length(
    recipe: Recipe, config: SpamGPTConfig, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> int | None:
    if recipe.padded_length == "longest":
        return max([1, *map(len, encode(tokenizer, texts, config.n_positions))])
    return recipe.padded_length


def _draw_as_pytorch(model: SpamGPTForSequenceClassification, seed: int) -> None:
    """Draws all weights as PyTorch's layers do, the network's and then the head's from the same seed.

    They are those of the book, which builds the network and then gives it another head.
    """
    for part in (model.gpt, model.out_head):
        torch.manual_seed(seed)
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
                module.reset_parameters()


def _freeze(model: SpamGPTForSequenceClassification, trainable: str) -> None:
    """Leaves only what is trained with `requires_grad`: the book, section 6.5."""
    if trainable == "all":
        return
    model.requires_grad_(False)
    model.out_head.requires_grad_(True)
    blocks = {"head": 0, "last_block": 1, "last_two_blocks": 2}[trainable]
    if blocks:
        model.gpt.final_norm.requires_grad_(True)
        for block in model.gpt.trf_blocks[-blocks:]:
            block.requires_grad_(True)
