"""The recipes: named settings of a run. Imports no heavy library, like `settings`."""

from dataclasses import replace
from typing import Any

from .settings import FRESH, Recipe, checked

_BOOK = Recipe(summary="GPT-2 124M, last block trained: chapter 6 of the book, loss for loss")
_MEDIUM = {"base": "openai-community/gpt2-medium", "n_layer": 24, "n_embd": 1024, "n_head": 16}
_LARGE = {"base": "openai-community/gpt2-large", "n_layer": 36, "n_embd": 1280, "n_head": 20}
_XL = {"base": "openai-community/gpt2-xl", "n_layer": 48, "n_embd": 1600, "n_head": 25}
_RANDOM = {"base": "random", "tokenizer": "openai-community/gpt2", "initialization": "pytorch", "trainable": "all"}
_TINY = {"base": "random", "vocab_size": 2000, "n_layer": 1, "n_embd": 128, "n_head": 4, "n_positions": 128}
_SINGLE, _EIGHT = {"padded_length": None, "per_device_train_batch_size": 1}, {"gradient_accumulation_steps": 8}
# The book multiplies the adapters by alpha = 16; PEFT, and this package, by lora_alpha / lora_r.
_LORA = {"trainable": "head", "lora_r": 16, "lora_alpha": 256}


def _recipe(name: str, summary: str, **settings: Any) -> Recipe:
    """Return the book's recipe with other settings."""
    return replace(_BOOK, name=name, summary=summary, **settings)


# The book's additional experiments, in the order of their table; experiments/book_table.py has the published results.
_EXPERIMENTS = (
    _BOOK,
    _recipe("first-token", "classifies the first token", pooling="first"),
    _recipe("head-only", "only the head trained", trainable="head"),
    _recipe("last-two-blocks", "last two blocks trained", trainable="last_two_blocks"),
    _recipe("all-layers", "all weights trained", trainable="all"),
    _recipe("medium", "GPT-2 355M, last block trained", **_MEDIUM),
    _recipe("large", "GPT-2 774M, last block trained", **_LARGE),
    _recipe("xl", "GPT-2 1.6B, last block trained", **_XL),
    _recipe("xl-all-layers", "GPT-2 1.6B, all weights trained", **_XL, trainable="all"),
    _recipe("random-weights", "a GPT-2 124M from random weights, all weights trained", **_RANDOM),
    _recipe("lora", "LoRA adapters on all linear layers, and the head, trained", **_LORA),
    _recipe("xl-lora", "GPT-2 1.6B, LoRA adapters and the head trained", **_XL, **_LORA),
    _recipe("full-context", "messages padded to the full context", padded_length=1024),
    _recipe("no-padding", "batches of one message, no padding", **_SINGLE),
    _recipe("accumulation", "batches of one message, no padding, eight accumulated", **_SINGLE, **_EIGHT),
    _recipe("last-real-token", "classifies the last token before the pads", pooling="last_token"),
    _recipe("no-causal-mask", "no causal mask: every position attends to all others", causal=False),
    _recipe("ignore-index", "the loss ignores the pad id, which no label has", ignore_index=50256),
    _recipe("mean-pooling", "classifies the mean of all positions", pooling="mean"),
)

# Settings of the recipes that are not the book's.
_OWN = {"protocol": "full", "train_sampling_strategy": "group_by_length", "learning_rate": 1e-3, "max_grad_norm": 1.0}
_POCKET = _recipe(
    "pocket",
    "a 0.5M GPT with its own tokenizer, trained from scratch in about a minute",
    **_OWN,
    **_TINY,
    pooling="last_token",
    padded_length=None,
    trainable="all",
    dropout=0.1,
    case_augmentation=0.3,
    digit_augmentation=0.5,
    bpe_dropout=0.1,
    adversarial_epsilon=0.4,
    logit_adjustment=0.5,  # unfamiliar spam is mistaken for ham, the majority class, more than the reverse
    # At a constant learning rate the weights circle a minimum; their average lies closer to it.
    max_steps=2100,
    per_device_train_batch_size=16,
    warmup_steps=200,
    weight_average=0.999,
    eval_freq=100,
)
_INBOX = replace(
    _POCKET,
    name="inbox",
    summary="a 1.1M GPT for large and mixed data, pretrained and trained in about half an hour",
    data="uci,sample",
    vocab_size=8000,
    lowercase=True,
    n_layer=3,
    n_embd=112,
    n_head=4,
    n_inner=112,
    n_positions=192,
    subword_embeddings=True,
    case_augmentation=0.0,
    adversarial_epsilon=0.0,
    spliced_messages=30_000,
    pretraining_steps=5000,
    max_steps=3000,
    per_device_train_batch_size=128,
    learning_rate=7e-4,
    temperature_scaling=True,
    target_fpr=0.015,
    eval_freq=500,
)

# No dropout, and no augmentation but of digits: it would make the network less sure, below the threshold of the base.
_CORRECTIONS = _recipe(
    "corrections",
    "teaches a trained model the messages that it got wrong, in less than a minute",
    **{**_OWN, "learning_rate": 2e-3},
    data="corrections.csv",
    base="bundled",
    trainable="embeddings",
    digit_augmentation=0.5,
    replay_messages=6400,
    num_train_epochs=1,
    per_device_train_batch_size=64,
    weight_decay=0.0,
    lr_scheduler_type="linear",
    warmup_steps=10,
    eval_freq=25,
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_EXPERIMENTS, _POCKET, _INBOX, _CORRECTIONS)}


def get_recipe(recipe: Recipe | str, **settings: Any) -> Recipe:
    """Return a recipe, or the recipe of a name, with some of its fields replaced.

    A base named here has a tokenizer and has been pretrained, so the recipe's own tokenizer and `pretraining_steps` do
    not apply then, and `subword_embeddings` do not if another `trainable` is named, unless they are given too. Settings
    that are only for random weights raise a `ValueError`.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {recipe!r}; known: {', '.join(RECIPES)}.")
        recipe = RECIPES[recipe]
    if settings.get("base", "random") != "random":
        settings = {"vocab_size": None, "lowercase": False, "tokenizer": None, "pretraining_steps": 0, **settings}
    if settings.get("trainable", "all") != "all":
        settings = {"subword_embeddings": False, **settings}
    recipe = replace(recipe, **checked(Recipe, settings))
    if recipe.base != "random" and (unused := [name for name in FRESH if name in settings]):
        raise ValueError(f"{unused[0]} needs base random: the network of {recipe.base!r} stays as it is.")
    return recipe
