"""A run trains exactly the weights chosen by its recipe, and LoRA adapters learn like the book's."""

import copy
import logging
import math
import sys
from dataclasses import asdict

import pytest
import torch
from book_oracle import fine_tune
from datasets import ClassLabel, DatasetDict
from safetensors.torch import load_file
from small_models import small_tokenizer
from small_runs import SMALL, assert_same_history
from torch import nn
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from hf_spam import SpamClassifier, SpamGPTForSequenceClassification, SpamGPTModel, finetune
from hf_spam.data.labels import label_names

LORA = {"lora_r": 4, "lora_alpha": 64, "trainable": "head", "eval_freq": 4, "eval_iter": 3, "num_train_epochs": 1}


@pytest.mark.parametrize(
    ("trainable", "tensors"), [("head", 2), ("last_block", 20), ("last_two_blocks", 36), ("all", 54)]
)
def test_only_the_trainable_weights_change(trainable, tensors, data, base):
    """Each of the three blocks has 16 tensors; the final norm, the head and the embeddings have two each."""
    before = SpamGPTModel.from_pretrained(base).state_dict()
    run = finetune("book", data=data, base=base, trainable=trainable, max_steps=2)
    after = run.model.gpt.state_dict()
    changed = sum(not torch.equal(before[name], after[name]) for name in before)
    assert changed + 2 == tensors, "the two tensors of the head are new"
    shapes = [parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad]
    assert run.trained_parameters == sum(shapes) and len(shapes) == tensors


def test_the_recipe_sets_the_shape_of_a_new_network(data):
    """Every size of the recipe `inbox` reaches the network, feed-forward layers that are not four times as wide too."""
    shape = {"n_layer": 2, "n_embd": 12, "n_head": 3, "n_inner": 20, "n_positions": 64}
    model = finetune("pocket", data=data, vocab_size=300, max_steps=1, **shape).model
    assert {name: getattr(model.config, name) for name in shape} == shape
    widths = [[layer.out_features for layer in block.ff.layers[::2]] for block in model.gpt.trf_blocks]
    assert widths == [[20, 12], [20, 12]] and model.gpt.pos_emb.weight.shape == (64, 12)


@pytest.mark.parametrize("length", [8, "longest", None])
def test_messages_are_cut_as_the_finished_model_cuts_them(length, data, tmp_path):
    """This tokenizer ends every text with a token, also one that is cut; the model does not know that token."""
    small_tokenizer("bert").save_pretrained(tmp_path)
    how = {"base": "random", "tokenizer": tmp_path, "vocab_size": None, "padded_length": length, "max_steps": 1}
    run = finetune("pocket", data=data, **SMALL | how | {"case_augmentation": 0, "bpe_dropout": 0})
    found = SpamClassifier(run.model, run.tokenizer).predict_proba(data["validation"]["text"][:])
    assert run.predictions["validation"].probabilities == pytest.approx(found, abs=1e-5)


def test_a_tokenizer_must_fit_the_base(data, base, gpt2_tokenizer_dir):
    with pytest.raises(ValueError, match=r"tokenizer does not fit the model .*: it has id 50256"):
        finetune("book", data=data, base=base, tokenizer=gpt2_tokenizer_dir)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_gpt2_is_a_base_as_it_is(data, book_tokenizer, tmp_path, has_head):
    """A classifier for the same labels keeps its head."""
    labels = {"id2label": {0: "not spam", 1: "spam"}, "label2id": {"not spam": 0, "spam": 1}}
    shape = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = (GPT2ForSequenceClassification if has_head else GPT2LMHeadModel)(GPT2Config(**shape, **labels))
    gpt2.save_pretrained(tmp_path)
    book_tokenizer.save_pretrained(tmp_path)
    trained = finetune("book", data=data, base=tmp_path, learning_rate=1e-12, max_steps=1).model
    assert torch.allclose(trained.gpt.tok_emb.weight, gpt2.transformer.wte.weight, atol=1e-6)
    queries = gpt2.transformer.h[0].attn.c_attn.weight[:, :16].T
    assert torch.allclose(trained.gpt.trf_blocks[0].att.W_query.weight, queries, atol=1e-6)
    if has_head:
        assert torch.allclose(trained.out_head.weight, gpt2.score.weight, atol=1e-6)


def test_the_head_of_a_base_is_kept_only_for_the_same_labels(data, tmp_path, caplog):
    """Spam and not spam are the same labels in either order: they are read by name, which swaps the numbers here."""
    first = finetune("pocket", data=data, output_dir=tmp_path / "base", max_steps=5, **SMALL)
    settings = {"base": tmp_path / "base", "learning_rate": 1e-12, "max_steps": 1, "weight_average": 0.0}
    for names in (["a", "b", "c"], ["spam", "not spam"], label_names(data["train"])):
        caplog.clear()
        own = DatasetDict(train=data["train"].cast_column("label", ClassLabel(names=names)))
        with caplog.at_level(logging.INFO, logger="hf_spam"):
            run = finetune("pocket", data=own, vocab_size=None, warmup_steps=0.0, **settings)
        same_labels = "spam" in names
        swapped = names[0] == "spam"
        assert run.predictions["train"].labels.tolist() == [label ^ swapped for label in data["train"]["label"]]
        expected = label_names(data["train"]) if same_labels else names
        assert run.model.config.id2label == dict(enumerate(expected))
        assert torch.allclose(run.model.gpt.tok_emb.weight, first.model.gpt.tok_emb.weight, atol=1e-6)
        assert bool([record for record in caplog.records if "head" in record.getMessage()]) is not same_labels
        assert run.model.out_head.weight.shape == (len(names), 16)
        if same_labels:
            assert torch.allclose(run.model.out_head.weight, first.model.out_head.weight, atol=1e-6)


class BookLoRA(nn.Module):
    """The book's appendix E: a linear layer plus `alpha` times the product of two thin matrices."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.alpha = linear, alpha
        self.A = nn.Parameter(torch.empty(linear.in_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, x):
        return self.linear(x) + self.alpha * (x @ self.A @ self.B)

    def merged(self):
        return self.linear.weight + self.alpha * (self.A @ self.B).T


def replace_linear(module, rank, alpha):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BookLoRA(child, rank, alpha))
        else:
            replace_linear(child, rank, alpha)


def test_lora_matches_the_books_adapters(data, base, book_model, book_loaders):
    """From the same initial A, losses agree to 1e-5, and so do the merged weights; the head is trained too."""
    run = finetune("book", data=data, base=base, learning_rate=5e-4, **LORA)
    book = copy.deepcopy(book_model)
    settings = {"epochs": 1, "eval_freq": 4, "eval_iter": 3, "learning_rate": 5e-4}
    history = fine_tune(book, book_loaders, unfreeze=lambda model: replace_linear(model, 4, 16), **settings)
    assert_same_history(asdict(run.history), history)
    head, ours = book.out_head, run.model.out_head
    torch.testing.assert_close(ours.weight, head.merged(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.bias, head.linear.bias, atol=1e-4, rtol=0)
    query, ours = book.trf_blocks[0].att.W_query, run.model.gpt.trf_blocks[0].att.W_query
    assert not torch.allclose(ours.weight, query.linear.weight, atol=1e-3)
    torch.testing.assert_close(ours.weight, query.merged(), atol=1e-4, rtol=0)


def test_lora_is_merged_into_the_saved_model(data, base, tmp_path):
    """Names, shapes and types match a run without adapters; only the card and the training state differ."""
    run = finetune(
        "book", data=data, base=base, output_dir=tmp_path / "out", **{**LORA, "max_steps": 6, "save_steps": 4}
    )
    plain = SpamGPTForSequenceClassification(run.model.config)
    assert type(run.model) is SpamGPTForSequenceClassification
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in run.model.state_dict().items()} == shapes
    pairs = sum(layer.in_features + layer.out_features for layer in plain.modules() if isinstance(layer, nn.Linear))
    assert run.trained_parameters == 4 * pairs + 16 * 2 + 2
    sizes = f"Parameters: {plain.num_parameters():,}, {run.trained_parameters:,} trained (LoRA adapters"
    for folder in (tmp_path / "out", tmp_path / "out/checkpoint-4"):
        assert load_file(folder / "model.safetensors").keys() == shapes.keys()
        assert sizes in (folder / "README.md").read_text() and "peft" not in (folder / "config.json").read_text()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in run.model.state_dict().items())
    predicted = SpamClassifier.from_pretrained(tmp_path / "out").predict(data["test"]["text"][:])
    correct = [label == (name == "spam") for label, name in zip(data["test"]["label"], predicted, strict=True)]
    assert run.metrics["test"]["accuracy"] == pytest.approx(sum(correct) / len(correct))


def test_lora_without_peft_says_what_to_install(data, base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ValueError, match=r"^lora_r needs peft, which is not installed: pip install \"hf-spam\[lora\]\"$"
    ):
        finetune("book", data=data, base=base, **LORA)
