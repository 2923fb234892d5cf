"""Set up a run: load or create its tokenizer and model, and encode its messages."""

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..conversion.import_weights import import_weights
from ..conversion.loading import load_classifier, load_config, load_tokenizer
from ..data.batching import EncodedMessages
from ..data.labels import label_names
from ..data.tokenization import encode, train_tokenizer
from ..extras import import_extra
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from ..text import one_line
from .calibration import Calibration, calibration_of, shift_of
from .distillation import rehearsal, spliced_messages
from .recipes import Recipe

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

ADAPTER = "default"  # PEFT's name for a single adapter


@dataclass(frozen=True)
class Setup:
    """Model, tokenizer and encoded messages of a run.

    Attributes:
        model: the classifier, with `requires_grad` set only where the recipe trains.
        encoded: token ids and labels of each split.
        adapters: the LoRA adapters that PEFT put into `model`, if any.
        extra: more messages to learn from and their probabilities of class 1, see `spliced_messages` and `rehearsal`.
        base: weights and calibration of the base, for corrections.
    """

    model: SpamGPTForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    encoded: dict[str, EncodedMessages]
    adapters: "LoraModel | None" = None
    extra: tuple[Sequence[str], Sequence[float]] = ((), ())
    base: "tuple[dict[str, torch.Tensor], Calibration | None] | None" = None

    def merged_model(self) -> SpamGPTForSequenceClassification:
        """Return the model in evaluation mode, with its adapters merged into a copy."""
        model = self.model if self.adapters is None else copy.deepcopy(self.adapters).merge_and_unload()
        return model.eval()


def set_up(recipe: Recipe, data: DatasetDict, replay: Dataset | None = None) -> Setup:
    """Load or create tokenizer and model, encode all messages, and freeze what the recipe does not train.

    If the base has no head for these labels, a new `torch.nn.Linear` is created after `torch.manual_seed(recipe.seed)`.
    Given messages to `replay`, the base must have such a head.
    """
    if recipe.vocab_size is not None:
        tokenizer = train_tokenizer(data["train"]["text"][:], recipe.vocab_size)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer or recipe.base)
    with tempfile.TemporaryDirectory() as folder:
        base = _import_base(recipe.base, Path(folder) / "imported")
        config = _fresh_config(recipe, tokenizer) if base is None else load_config(base)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} entries, but {recipe.base!r} has a vocabulary of only "
                f"{config.vocab_size}: name the tokenizer that belongs to it with --tokenizer."
            )
        tokenizer.model_max_length = config.n_positions
        # Read whole columns as lists: single values would be formatted one by one.
        encoded = {
            split: EncodedMessages(encode(tokenizer, messages["text"][:], config.n_positions), messages["label"][:])
            for split, messages in data.items()
        }
        base_labels, calibration = config.id2label, calibration_of(config)
        _configure(config, recipe, tokenizer, label_names(data["train"]), encoded["train"])
        torch.manual_seed(recipe.seed)
        if base is None:
            model = _fresh_model(config, recipe)
        else:
            fresh_head = "always" if config.id2label != base_labels else replay is None
            model = load_classifier(base, fresh_head=fresh_head, config=config, dtype=torch.float32)
    _freeze(model, recipe.trainable)
    adapters = None if recipe.lora_r is None else _add_adapters(model, recipe.lora_r, recipe.lora_alpha)
    extra, kept = ([], []), None
    if recipe.spliced_messages:
        extra = spliced_messages(data["train"], recipe.spliced_messages, recipe.seed)
    if replay is not None:
        extra = rehearsal(model, tokenizer, shift_of(calibration, class_names(config)), data["train"], replay)
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}, calibration
    return Setup(model, tokenizer, encoded, adapters, extra, kept)


def _import_base(base: str, imported: Path) -> str | Path | None:
    """Return a folder or repository for `base`, importing a book file first; None for fresh weights."""
    if base == "random":
        return None
    if not Path(base).is_file():
        return base
    import_weights(base, imported, padded_length=None)  # the recipe pads
    return imported


def _fresh_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> SpamGPTConfig:
    return SpamGPTConfig(
        vocab_size=len(tokenizer),
        n_positions=recipe.n_positions,
        n_embd=recipe.n_embd,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _configure(
    config: SpamGPTConfig,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str],
    train: EncodedMessages,
) -> None:
    """Set the fields of a base's configuration that depend on the recipe, the tokenizer and the data."""
    length = recipe.padded_length
    config.padded_length = max([1, *map(len, train.input_ids)]) if length == "longest" else length
    config.pooling, config.causal = recipe.pooling, recipe.causal
    config.embd_pdrop = config.resid_pdrop = recipe.dropout
    config.attn_pdrop = recipe.attention_dropout
    config.temperature, config.threshold = 1.0, None  # the calibration of the base was fitted to other weights
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    config.validate_architecture()
    if 0 <= recipe.ignore_index < config.num_labels:
        raise ValueError(f"ignore_index ({recipe.ignore_index}) is one of the classes, which would never be learned.")


def _fresh_model(config: SpamGPTConfig, recipe: Recipe) -> SpamGPTForSequenceClassification:
    try:
        model = SpamGPTForSequenceClassification(config)
    except RuntimeError as error:
        raise ValueError(f"The network cannot be built: {one_line(error)}") from error
    if recipe.initialization == "pytorch":
        # The book builds the network, then replaces its head: both are drawn from the same seed.
        for part in (model.gpt, model.out_head):
            torch.manual_seed(recipe.seed)
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
                    module.reset_parameters()
    return model


def _freeze(model: SpamGPTForSequenceClassification, trainable: str) -> None:
    """Require gradients only where the recipe trains (the book, section 6.5)."""
    if trainable == "all":
        return
    model.requires_grad_(False)
    if trainable == "embeddings":
        model.gpt.tok_emb.requires_grad_(True)
        return
    model.out_head.requires_grad_(True)
    blocks = {"head": 0, "last_block": 1, "last_two_blocks": 2}[trainable]
    if blocks:
        model.gpt.final_norm.requires_grad_(True)
        for block in model.gpt.trf_blocks[-blocks:]:
            block.requires_grad_(True)


def _add_adapters(model: SpamGPTForSequenceClassification, r: int, alpha: int) -> "LoraModel":
    """Add LoRA adapters (Hu et al. 2021) to all linear layers through PEFT, initialized as in the book's appendix E.

    A layer computes `W x + b + alpha / r * B A x` with A (r, in) and B (out, r). The book stores A transposed, so its
    initial values are about `sqrt(in / r)` times as large as PEFT's; under AdamW that means faster learning.
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
