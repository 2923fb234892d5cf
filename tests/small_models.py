"""Tiny random classifiers of other packages, and a tokenizer for them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    ModernBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

WORDS = ["you", "won", "a", "free", "prize", "claim", "now", "call"]
WORDS += ["me", "later", "see", "at", "home", "lunch", "late"]
POSITIONS = 12
SHAPE = {"vocab_size": len(WORDS) + 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": POSITIONS, "initializer_range": 0.4}
IDS = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
CONFIGS = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**{**SHAPE, "max_position_embeddings": POSITIONS + 1}, pad_token_id=0),
    "deberta": DebertaV2Config(**SHAPE),
    "gpt2": GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS, initializer_range=0.4
    ),
    "modernbert": ModernBertConfig(**SHAPE, **IDS, pad_token_id=0),
}


def small_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words; that of GPT-2 has no pad token and adds no tokens, so "" has none."""
    vocab = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def save_small(
    folder: Path, kind: str = "bert", labels: tuple[str, ...] = ("HAM", "SPAM"), auto=AutoModelForSequenceClassification
) -> PreTrainedModel:
    """Save a random classifier and its tokenizer in a folder, and return it."""
    torch.manual_seed(0)
    settings = CONFIGS[kind].to_dict() | {"id2label": dict(enumerate(labels))}
    settings["label2id"] = {label: index for index, label in enumerate(labels)}
    config = type(CONFIGS[kind]).from_dict(settings)
    model = auto.from_config(config).eval()
    model.save_pretrained(folder)
    small_tokenizer(kind).save_pretrained(folder)
    return model
