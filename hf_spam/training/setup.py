"""Set up a run: load or create its tokenizer and model, and encode its messages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from datasets import DatasetDict
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..conversion.loading import check_vocabulary, load_classifier, load_config, load_tokenizer
from ..data.augmentation import Augmentation
from ..data.batching import EncodedMessages
from ..data.labels import label_names
from ..data.tokenization import encode, train_tokenizer
from ..extras import import_extra
from ..modeling.configuration_spam_gpt import SpamGPTConfig
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .calibration import Calibration, calibration_of
from .objective import log_priors
from .settings import SHAPE, Recipe
from .subwords import add_ngrams

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

ADAPTER = "default"  # PEFT's name for a single adapter


@dataclass
class Setup:
    """Everything that a run needs before its first step: recipe, messages, tokenizer and model."""

    recipe: Recipe
    splits: DatasetDict
    model: SpamGPTForSequenceClassification  # with `requires_grad` set only where the recipe trains
    tokenizer: PreTrainedTokenizerBase
    encoded: dict[str, EncodedMessages]  # of each split
    augmentation: Augmentation  # of training messages
    adapters: "LoraModel | None" = None  # that PEFT put into `model`
    extra: tuple[Sequence[str], Sequence[float]] = ((), ())  # texts to learn from too, their probabilities of class 1
    adjustment: torch.Tensor | None = None  # added to the logits in the loss, (num_labels,)
    base_weights: dict[str, torch.Tensor] | None = None  # only for corrections, like the following
    calibration: Calibration | None = None  # of the base


def set_up(recipe: Recipe, splits: DatasetDict) -> Setup:
    """Load or create tokenizer and model, encode all messages, and freeze what the recipe does not train.

    If the base has no head for these labels, a new one is drawn from the recipe's seed, but not for corrections.
    """
    if recipe.vocab_size is not None:
        tokenizer = train_tokenizer(splits["train"]["text"][:], recipe.vocab_size, lowercase=recipe.lowercase)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer or recipe.base)
    is_new = recipe.base == "random"
    if is_new:
        shape = {name: getattr(recipe, name) for name in SHAPE}
        size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
        config = SpamGPTConfig(vocab_size=size, bos_token_id=tokenizer.bos_token_id, **shape)
    else:
        config = load_config(recipe.base)
    check_vocabulary(tokenizer, config, repr(recipe.base))
    tokenizer.model_max_length = config.n_positions
    # Texts are cut as the model cuts them, since a tokenizer may end each with a token of its own.
    length, encoded = recipe.padded_length, {}
    for split in sorted(splits, key="train".__ne__):  # first the training messages
        longest = config.n_positions if length in ("longest", None) else length
        ids = encode(tokenizer, splits[split]["text"][:], longest)
        encoded[split] = EncodedMessages(ids, splits[split]["label"][:])
        if length == "longest":
            length = max([1, *map(len, ids)])
    base_labels, calibration = config.id2label, calibration_of(config) if recipe.replay_messages else None
    names = label_names(splits["train"])
    _configure(config, recipe, tokenizer, names, length)
    torch.manual_seed(recipe.seed)
    if is_new:
        model = _fresh_model(config, recipe)
    else:
        fresh_head = "always" if config.id2label != base_labels else not recipe.replay_messages
        model = load_classifier(recipe.base, fresh_head=fresh_head, config=config, dtype=torch.float32)
    gpt, head = model.gpt, model.out_head
    if recipe.subword_embeddings:
        add_ngrams(gpt, tokenizer)
    trained = {  # the book, section 6.5
        "all": [model],
        "last_two_blocks": [gpt.trf_blocks[-2:], gpt.final_norm, head],
        "last_block": [gpt.trf_blocks[-1:], gpt.final_norm, head],
        "head": [head],
        "embeddings": [gpt.tok_emb],
    }
    model.requires_grad_(False)
    for part in trained[recipe.trainable]:
        part.requires_grad_(True)
    adapters = None if recipe.lora_r is None else _add_adapters(model, recipe.lora_r, recipe.lora_alpha)
    augmentation = Augmentation(
        tokenizer, case=recipe.case_augmentation, digits=recipe.digit_augmentation, bpe_dropout=recipe.bpe_dropout
    )
    setup = Setup(recipe, splits, model, tokenizer, encoded, augmentation, adapters, calibration=calibration)
    if recipe.logit_adjustment:
        setup.adjustment = recipe.logit_adjustment * log_priors(splits["train"]["label"][:], len(names))
    return setup


def _configure(
    config: SpamGPTConfig, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, names: list[str], length: int | None
) -> None:
    """Set the fields of a base's configuration that depend on the recipe, the tokenizer and the data."""
    config.padded_length = length
    config.pooling, config.causal = recipe.pooling, recipe.causal
    config.embd_pdrop = config.resid_pdrop = recipe.dropout
    config.attn_pdrop = 0.0
    config.temperature, config.threshold = 1.0, None  # the calibration of the base was fitted to other weights
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    config.validate_architecture()


def _fresh_model(config: SpamGPTConfig, recipe: Recipe) -> SpamGPTForSequenceClassification:
    model = SpamGPTForSequenceClassification(config)
    if recipe.initialization == "pytorch":
        # The book builds the network, then replaces its head: both are drawn from the same seed.
        for part in (model.gpt, model.out_head):
            torch.manual_seed(recipe.seed)
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
                    module.reset_parameters()
    return model


def _add_adapters(model: SpamGPTForSequenceClassification, r: int, alpha: int) -> "LoraModel":
    """Add LoRA adapters (Hu et al. 2021) to all linear layers through PEFT, initialized as in the book's appendix E.

    A layer computes `W x + b + alpha / r * B A x` with A (r, in) and B (out, r). The book stores A transposed, so its
    initial values are about `sqrt(in / r)` times as large as PEFT's, and it learns faster.
    """
    peft = import_extra("peft", "lora", "lora_r")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    initial = [nn.init.kaiming_uniform_(torch.empty(layer.in_features, r), a=math.sqrt(5)) for layer in layers.values()]
    adapters = peft.LoraModel(model, peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=list(layers)), ADAPTER)
    with torch.no_grad():
        for name, value in zip(layers, initial, strict=True):
            model.get_submodule(name).lora_A[ADAPTER].weight.copy_(value.T)
    model.out_head.base_layer.requires_grad_(True)
    return adapters
