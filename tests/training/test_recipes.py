"""Every experiment of the book's author is a recipe that runs."""

from dataclasses import fields

import pytest
import torch
from book_oracle import GPTModel, fine_tune, make_loaders
from small_runs import first_messages

from hf_spam import RECIPES, SpamGPTConfig, SpamGPTModel, finetune
from hf_spam.data.tokenization import encode, train_tokenizer
from hf_spam.training.recipes import get_recipe

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


@pytest.fixture(scope="module")
def data():
    return first_messages(train=24, validation=8, test=8)


@pytest.fixture(scope="module")
def tokenizer(data, tmp_path_factory):
    """A tokenizer and, in the same folder, a network for it, both small."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(data["train"]["text"], 300)
    tokenizer.save_pretrained(folder)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.pad_token_id)
    shape = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 1024}
    torch.manual_seed(7)
    SpamGPTModel(SpamGPTConfig(**shape, **ids)).save_pretrained(folder)
    return folder


def test_each_experiment_changes_what_it_is_named_after():
    found = {
        name: {
            field.name
            for field in fields(recipe)
            if getattr(recipe, field.name) != getattr(RECIPES["book"], field.name)
        }
        - {"name", "summary"}
        for name, recipe in RECIPES.items()
        if name != "pocket"
    }
    assert found == CHANGES and list(found) == list(CHANGES)
    assert {name: RECIPES[name].base.rpartition("/")[2] for name in ("medium", "large", "xl", "xl-lora")} == {
        "medium": "gpt2-medium",
        "large": "gpt2-large",
        "xl": "gpt2-xl",
        "xl-lora": "gpt2-xl",
    }
    lora, single = RECIPES["lora"], RECIPES["accumulation"]
    assert (lora.lora_r, lora.lora_alpha / lora.lora_r) == (16, 16)
    assert (single.per_device_train_batch_size, single.gradient_accumulation_steps) == (1, 8)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "pocket"])
def test_every_recipe_trains(name, data, tokenizer):
    """Two steps of each, at a small size; what is to be trained moves, and the network reads as the recipe says."""
    given = {"n_embd": 16, "n_layer": 3, "n_head": 2} if name == "random-weights" else {"base": tokenizer}
    settings = {"tokenizer": tokenizer, "max_steps": 2, "eval_freq": 1, "eval_iter": 1}
    recipe = get_recipe(name)
    run = finetune(name, data=data, **given, **settings)
    messages = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    assert run.history.steps == [0, 1] and run.history.examples_seen == 2 * messages
    config, longest = run.model.config, recipe.padded_length == "longest"
    assert (config.pooling, config.causal, config.n_layer) == (recipe.pooling, recipe.causal, 3)
    assert config.padded_length > 100 if longest else config.padded_length == recipe.padded_length
    if name != "random-weights":
        old, new = SpamGPTModel.from_pretrained(tokenizer).state_dict(), run.model.gpt.state_dict()
        moved = [
            not torch.equal(old[f"trf_blocks.{i}.ff.layers.0.weight"], new[f"trf_blocks.{i}.ff.layers.0.weight"])
            for i in range(3)
        ]
        trained = {"head": 0, "last_block": 1, "last_two_blocks": 2, "all": 3}[recipe.trainable]
        assert moved == [recipe.lora_r is not None or i >= 3 - trained for i in range(3)]


def test_the_pads_index_is_no_label(data, tokenizer):
    """Row 18 is row 1, bit for bit: no label is ever the pad's id."""
    settings = {"base": tokenizer, "tokenizer": tokenizer, "data": data, "num_train_epochs": 2, "eval_freq": 1}
    book, ignoring = (finetune(name, **settings) for name in ("book", "ignore-index"))
    assert ignoring.recipe.ignore_index == 50256
    assert {**vars(book.history), "seconds": 0} == {**vars(ignoring.history), "seconds": 0}
    weights = ignoring.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in book.model.state_dict().items())
    assert book.metrics == ignoring.metrics
    with pytest.raises(ValueError, match=r"ignore_index \(1\) is one of the classes"):
        finetune("book", **settings, ignore_index=1)


def test_random_weights_are_the_books(data, tokenizer):
    """The same draws from the same seed, the head's after them: the same losses as the book's modules have."""
    run = finetune(
        "random-weights",
        data=data,
        tokenizer=tokenizer,
        **{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512, "num_train_epochs": 2, "eval_freq": 1},
    )
    torch.manual_seed(123)
    model = GPTModel(len(run.tokenizer), positions=512, width=16, layers=2, heads=2)
    splits = [(encode(run.tokenizer, part["text"][:], 512), part["label"][:]) for part in data.values()]
    loaders = make_loaders(splits, run.tokenizer.pad_token_id, 8)
    book = fine_tune(model, loaders, epochs=2, eval_freq=1, unfreeze=lambda model: model.requires_grad_(True))
    assert run.history.train_losses == pytest.approx(book["train_losses"], abs=1e-5)
    assert run.history.val_losses == pytest.approx(book["val_losses"], abs=1e-5)
    assert run.model.gpt.tok_emb.weight.std().item() == pytest.approx(1, abs=0.05)
