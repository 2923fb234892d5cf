"""Every experiment of the book's author is a working recipe, and settings are checked by name, type and range."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from book_oracle import GPTModel, fine_tune
from datasets import DatasetDict
from small_runs import assert_same_history

from hf_spam import RECIPES, Recipe, finetune
from hf_spam.training.recipes import get_recipe
from hf_spam.training.settings import RunOptions, checked

# The settings in which each experiment differs from the book, in the order of the published table.
CHANGES = {
    "book": set(),
    "first-token": {"pooling"},
    "head-only": {"trainable"},
    "last-two-blocks": {"trainable"},
    "all-layers": {"trainable"},
    "medium": {"base", "n_layer", "n_embd", "n_head"},
    "large": {"base", "n_layer", "n_embd", "n_head"},
    "xl": {"base", "n_layer", "n_embd", "n_head"},
    "xl-all-layers": {"base", "n_layer", "n_embd", "n_head", "trainable"},
    "random-weights": {"base", "tokenizer", "initialization", "trainable"},
    "lora": {"trainable", "lora_r", "lora_alpha"},
    "xl-lora": {"base", "n_layer", "n_embd", "n_head", "trainable", "lora_r", "lora_alpha"},
    "full-context": {"padded_length"},
    "no-padding": {"padded_length", "per_device_train_batch_size"},
    "accumulation": {"padded_length", "per_device_train_batch_size", "gradient_accumulation_steps"},
    "last-real-token": {"pooling"},
    "no-causal-mask": {"causal"},
    "ignore-index": {"ignore_index"},
    "mean-pooling": {"pooling"},
}


LARGER = {"medium", "large", "xl", "xl-all-layers", "xl-lora"}  # these differ from others only in their base
LORA = {"trainable": "head", "lora_r": 4}
LOWER = {"base": "random", "vocab_size": 300, "lowercase": True}


@pytest.fixture(scope="module")
def few(data) -> DatasetDict:
    return DatasetDict({"train": data["train"].select(range(24)), "validation": data["validation"].select(range(8))})


def test_each_experiment_changes_only_what_its_row_says():
    """There are nineteen, in the order of the published table."""
    book, found = asdict(RECIPES["book"]), {}
    for name, recipe in RECIPES.items():
        found[name] = {setting for setting, value in asdict(recipe).items() if value != book[setting]}
        found[name] -= {"name", "summary"}
    del found["pocket"], found["inbox"], found["corrections"]
    assert found == CHANGES and list(found) == list(CHANGES)
    bases = {name: RECIPES[name].base.rpartition("/")[2] for name in ("medium", "large", "xl", "xl-lora")}
    assert bases == {"medium": "gpt2-medium", "large": "gpt2-large", "xl": "gpt2-xl", "xl-lora": "gpt2-xl"}
    lora, single = RECIPES["lora"], RECIPES["accumulation"]
    assert (lora.lora_r, lora.lora_alpha / lora.lora_r) == (16, 16)
    assert (single.per_device_train_batch_size, single.gradient_accumulation_steps) == (1, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "middle"}, r"pooling must be Literal\['last', 'last_token', 'first', 'mean'\], got 'middle'"),
        ({"padded_length": "longer"}, "padded_length must be .*'longest'.*, got 'longer'"),
        ({"max_steps": "3"}, r"max_steps must be int \| None, got '3'"),
        ({"seed": 1.5}, r"seed must be int, got 1\.5"),
        ({"causal": 1}, "causal must be bool, got 1"),
        ({"n_layer": True}, "n_layer must be int, got True"),
        ({"eval_freq": 0}, "eval_freq must be at least 1, got 0"),
        ({"adversarial_epsilon": float("nan")}, "adversarial_epsilon must be at least 0, got nan"),
        ({"target_fpr": 1.0}, "target_fpr must be at least 0 and below 1, got 1.0"),
        ({"lowercase": True}, "lowercase needs a vocab_size"),
        ({"n_layer": 3, "base": "mine"}, "n_layer needs base random: the network of 'mine' stays as it is"),
        ({"initialization": "pytorch"}, "initialization needs base random: the network of 'openai-community/gpt2'"),
        ({**LOWER, "case_augmentation": 0.3}, "lowercase and case_augmentation exclude each other"),
        ({**LORA, "trainable": "all"}, "lora_r needs trainable head, got all"),
        ({**LORA, "weight_average": 0.9}, "lora_r and weight_average exclude each other"),
    ],
)
def test_settings_of_the_wrong_type_or_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        get_recipe("book", **settings)


def test_a_base_brings_its_own_tokenizer():
    assert get_recipe("random-weights", base="bundled").tokenizer is None
    assert get_recipe("random-weights", base="bundled", tokenizer="x").tokenizer == "x"


def test_a_recipe_can_train_fewer_weights():
    settings = {"base": "bundled", "trainable": "last_block"}
    assert get_recipe("inbox").subword_embeddings and not get_recipe("inbox", **settings).subword_embeddings
    with pytest.raises(ValueError, match="subword_embeddings needs trainable all"):
        get_recipe("inbox", **settings, subword_embeddings=True)


def test_types_are_checked_in_both_dataclasses_of_settings():
    """Paths become strings, and whole numbers floats; unknown names are errors."""
    assert checked(Recipe, {"learning_rate": 1, "base": Path("a")}) == {"learning_rate": 1.0, "base": "a"}
    assert type(checked(Recipe, {"learning_rate": 1})["learning_rate"]) is float
    assert checked(RunOptions, {"output_dir": Path("out")}) == {"output_dir": "out"}
    with pytest.raises(ValueError, match=r"hub_strategy must be Literal.*, got 'sometimes'"):
        checked(RunOptions, {"hub_strategy": "sometimes"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rte'"):
        get_recipe("book", learning_rte=1e-3)
    with pytest.raises(ValueError, match="Unknown recipe 'boko'; known: book, "):
        get_recipe("boko")
    with pytest.raises(ValueError, match=r"need output_dir \(--output-dir\)"):
        RunOptions(save_steps=4)
    for name, value in (("license", "MIT"), ("license", "apache 2.0"), ("language", "en, de"), ("language", "")):
        with pytest.raises(ValueError, match=f"{name} must be written as on the Hub, such as .*, got {value!r}"):
            RunOptions(**{name: value})
    assert not {field.name for field in fields(Recipe)} & {field.name for field in fields(RunOptions)}


@pytest.mark.parametrize("name", sorted(set(CHANGES) - LARGER))
def test_every_recipe_trains(name, few, base):
    """Two steps at a small size, and the model reads messages as the recipe says."""
    source = {"n_embd": 16, "n_layer": 3, "n_head": 2} if name == "random-weights" else {"base": base}
    recipe = get_recipe(name)
    run = finetune(name, data=few, tokenizer=base, max_steps=2, eval_freq=1, eval_iter=1, **source)
    messages = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    assert run.history.steps == [0, 1] and run.history.examples_seen == 2 * messages
    config, longest = run.model.config, recipe.padded_length == "longest"
    assert (config.pooling, config.causal, config.n_layer) == (recipe.pooling, recipe.causal, 3)
    assert config.padded_length > 30 if longest else config.padded_length == recipe.padded_length


def test_ignoring_the_pad_id_as_a_label_changes_nothing(few, base):
    """Row 18 equals row 1, bit for bit, since no label is the pad id."""
    settings = {"base": base, "data": few, "num_train_epochs": 2, "eval_freq": 1}
    book, ignoring = (finetune(name, **settings) for name in ("book", "ignore-index"))
    assert ignoring.recipe.ignore_index == 50256
    assert {**asdict(book.history), "seconds": 0} == {**asdict(ignoring.history), "seconds": 0}
    weights = ignoring.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in book.model.state_dict().items())
    assert book.metrics == ignoring.metrics


def test_random_weights_are_initialized_as_in_the_book(data, base, book_tokenizer, book_loaders):
    """The network and then its head draw from the same seed, so the losses match those of the book's modules."""
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    run = finetune("random-weights", data=data, tokenizer=base, num_train_epochs=1, eval_freq=1, **size)
    torch.manual_seed(123)
    model = GPTModel(len(book_tokenizer), positions=1024, width=16, layers=2, heads=2)
    book = fine_tune(model, book_loaders, epochs=1, eval_freq=1, unfreeze=lambda model: model.requires_grad_(True))
    assert_same_history(asdict(run.history), book)
    assert run.model.gpt.tok_emb.weight.std().item() == pytest.approx(1, abs=0.05)
