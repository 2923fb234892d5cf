"""Every experiment of the book's author is a recipe that runs, and what was published stands beside that very one."""

from dataclasses import fields, replace

import pytest
import torch
from book_oracle import GPTModel, fine_tune, make_loaders
from small_runs import first_messages

from hf_spam import RECIPES, SpamGPTConfig, SpamGPTModel, finetune
from hf_spam.data.tokenization import encode, train_tokenizer
from hf_spam.training.recipes import PUBLISHED, get_recipe

# Row: train, validation and test accuracy in percent, and what of the book's settings is another.
TABLE = {
    "book": (1, 96.63, 99.33, 95.00, {}),
    "first-token": (2, 78.46, 80.54, 75.00, {"pooling"}),
    "head-only": (3, 78.65, 79.87, 72.00, {"trainable"}),
    "last-two-blocks": (4, 98.85, 98.66, 98.33, {"trainable"}),
    "all-layers": (5, 99.62, 96.64, 96.67, {"trainable"}),
    "medium": (6, 87.50, 91.28, 84.67, {"base", "n_layer", "n_embd", "n_head"}),
    "large": (7, 99.52, 98.66, 96.67, {"base", "n_layer", "n_embd", "n_head"}),
    "xl": (8, 99.81, None, 98.33, {"base", "n_layer", "n_embd", "n_head"}),
    "xl-all-layers": (9, 100, 98.66, 98.67, {"base", "n_layer", "n_embd", "n_head", "trainable"}),
    "random-weights": (10, 100, 96.64, 93.67, {"base", "tokenizer", "initialization", "trainable"}),
    "lora": (11, 100, 97.32, 96.67, {"trainable", "lora_r", "lora_alpha"}),
    "xl-lora": (
        *(12, 100, 98.66, 98.33),
        {"base", "n_layer", "n_embd", "n_head", "trainable", "lora_r", "lora_alpha"},
    ),
    "full-context": (13, 83.08, 87.92, 78.33, {"padded_length"}),
    "no-padding": (14, 100, 98.66, 98.00, {"padded_length", "per_device_train_batch_size"}),
    "accumulation": (
        *(15, 99.33, 98.66, 98.33),
        {"padded_length", "per_device_train_batch_size", "gradient_accumulation_steps"},
    ),
    "last-real-token": (16, 99.42, 98.66, 98.33, {"pooling"}),
    "no-causal-mask": (17, 99.23, 98.66, 95.33, {"causal"}),
    "ignore-index": (18, 96.63, 99.33, 95.00, {"ignore_index"}),
    "mean-pooling": (19, 97.79, 99.33, 96.33, {"pooling"}),
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


def test_published_numbers_and_what_they_belong_to():
    """All nineteen rows, in their order, and of each what it changes."""
    found = {}
    for name, published in PUBLISHED.items():
        other = {
            f.name for f in fields(RECIPES[name]) if getattr(RECIPES[name], f.name) != getattr(RECIPES["book"], f.name)
        }
        numbers = (published.row, published.train, published.validation, published.test)
        found[name] = (*numbers, other - {"name", "summary"} or {})
    assert found == TABLE and list(found) == list(TABLE)
    assert {name: RECIPES[name].base.rpartition("/")[2] for name in ("medium", "large", "xl", "xl-lora")} == {
        "medium": "gpt2-medium",
        "large": "gpt2-large",
        "xl": "gpt2-xl",
        "xl-lora": "gpt2-xl",
    }
    lora, single = RECIPES["lora"], RECIPES["accumulation"]
    assert (lora.lora_r, lora.lora_alpha / lora.lora_r) == (16, 16)
    assert (single.per_device_train_batch_size, single.gradient_accumulation_steps) == (1, 8)


def test_a_claim_is_not_carried_to_other_settings():
    """Neither by a flag nor by `replace`, whatever the field; the same things may be read from elsewhere."""
    assert get_recipe("lora", data="my.tsv", base="my/gpt2", tokenizer="mine").published == PUBLISHED["lora"]
    changed = {"protocol": "full", "padded_length": 7, "lora_r": None, "trainable": "head", "causal": False}
    for name in changed:
        assert get_recipe("book", **{name: changed[name]}).published is (
            PUBLISHED["book"] if name == "lora_r" else None
        )
    assert replace(RECIPES["random-weights"], seed=1).published is None
    assert replace(RECIPES["book"], base="random", tokenizer="mine").published is None
    assert replace(RECIPES["book"], name="mine").published is None and RECIPES["pocket"].published is None


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
    with pytest.raises(ValueError, match=r"ignore_index \(1\) is a class"):
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
