"""Adapters learn as the book's do, and nobody who uses the model has to know of them."""

import json
import math
import shutil
import sys

import pytest
import torch
from book_oracle import GPTModel, fine_tune, make_loaders
from processes import finetune_on
from safetensors.torch import load_file
from small_runs import first_messages, result
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_spam import SpamClassifier, SpamGPTForSequenceClassification, finetune, import_weights
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.tokenization import encode, train_tokenizer
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.recipes import Recipe

LORA = {"lora_r": 4, "lora_alpha": 64, "trainable": "head", "eval_freq": 1, "eval_iter": 3, "num_train_epochs": 2}


class BookLoRA(nn.Module):
    """The book's appendix E: beside a linear layer, what the product of two thin matrices gives, times `alpha`."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.alpha = linear, alpha
        self.A = nn.Parameter(torch.empty(linear.in_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, x):
        return self.linear(x) + self.alpha * (x @ self.A @ self.B)


def replace_linear(module, rank, alpha):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BookLoRA(child, rank, alpha))
        else:
            replace_linear(child, rank, alpha)


@pytest.fixture(scope="module")
def data():
    return first_messages(train=45, validation=13, test=8)


@pytest.fixture(scope="module")
def book_model(data):
    torch.manual_seed(7)
    return GPTModel(len(train_tokenizer(data["train"]["text"], 300)), positions=256, width=16, layers=2, heads=2)


@pytest.fixture(scope="module")
def base(book_model, data, tmp_path_factory):
    """The book's model as `torch.save` leaves it, imported, and a tokenizer in the same folder."""
    folder = tmp_path_factory.mktemp("base")
    torch.save(book_model.state_dict(), folder / "gpt.pth")
    import_weights(folder / "gpt.pth", folder / "imported", n_head=2)
    train_tokenizer(data["train"]["text"], 300).save_pretrained(folder / "imported")
    return folder / "imported"


def test_parity_with_the_books_adapters(data, base, book_model):
    """Every loss to 1e-5, from the same draws of A on, and the weights in the end: the head's own are trained too."""
    run = finetune("book", data=data, base=base, **LORA)
    tokenizer = load_tokenizer(base)
    splits = [(encode(tokenizer, part["text"][:], 256), part["label"][:]) for part in data.values()]
    loaders = make_loaders(splits, tokenizer.pad_token_id, 8)
    history = fine_tune(
        book_model, loaders, epochs=2, eval_freq=1, eval_iter=3, unfreeze=lambda m: replace_linear(m, 4, 16)
    )
    assert run.history.train_losses == pytest.approx(history["train_losses"], abs=1e-5)
    assert run.history.val_losses == pytest.approx(history["val_losses"], abs=1e-5)
    assert run.history.train_losses[0] - run.history.train_losses[-1] > 0.01, "a loss that never moves shows nothing"
    head, ours = book_model.out_head, run.model.out_head
    combined = head.linear.weight + 16 * (head.A @ head.B).T
    torch.testing.assert_close(ours.weight, combined, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.bias, head.linear.bias, atol=1e-4, rtol=0)
    query, ours = book_model.trf_blocks[0].att.W_query, run.model.gpt.trf_blocks[0].att.W_query
    assert not torch.allclose(ours.weight, query.linear.weight, atol=1e-3)
    torch.testing.assert_close(ours.weight, query.linear.weight + 16 * (query.A @ query.B).T, atol=1e-4, rtol=0)


def test_what_is_saved_is_a_model_like_any_other(data, base, tmp_path):
    """The names, sizes and kinds of a run without adapters; what they were is in the card and in the state alone."""
    run = finetune("book", data=data, base=base, output_dir=tmp_path / "out", save_steps=4, **LORA)
    plain = finetune("book", data=data, base=base, max_steps=1).model
    assert type(run.model) is SpamGPTForSequenceClassification
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in run.model.state_dict().items()} == shapes
    pairs = sum(layer.in_features + layer.out_features for layer in plain.modules() if isinstance(layer, nn.Linear))
    assert run.trained_parameters == 4 * pairs + 16 * 2 + 2
    for folder in (tmp_path / "out", tmp_path / "out/checkpoint-4"):
        assert load_file(folder / "model.safetensors").keys() == shapes.keys()
        assert (
            f"Parameters: {plain.num_parameters():,}, {run.trained_parameters:,} trained (LoRA adapters"
            in (folder / "README.md").read_text()
        )
        assert "peft" not in (folder / "config.json").read_text()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in run.model.state_dict().items())
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    predicted = SpamClassifier.from_pretrained(tmp_path / "out").predict_proba(data["test"]["text"][:]).argmax(-1)
    assert metrics["test"]["accuracy"] == pytest.approx((predicted == data["test"]["label"][:]).mean())


@pytest.mark.parametrize(
    "settings", [{}, {"mixed_precision": "bf16", "dropout": 0.2, "save_steps": 7}], ids=["plain", "bf16"]
)
def test_resuming_is_exact(settings, data, base, tmp_path):
    """From the adapters as they were, though the checkpoint's model has them merged."""
    settings = {"data": data, **LORA, "save_steps": 4, **settings}
    finetune("book", base=base, output_dir=tmp_path / "whole", **settings)
    for step in Checkpoints(tmp_path / "whole").steps():
        out = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / f"whole/checkpoint-{step}", out / f"checkpoint-{step}")
        torch.manual_seed(step)
        finetune("book", base=base, output_dir=out, resume_from_checkpoint="auto", **settings)
        assert result(out) == result(tmp_path / "whole"), step
    with pytest.raises(ValueError, match=r"does not fit this run: one of the two has LoRA adapters \(lora_r\)"):
        finetune(
            "book",
            base=base,
            output_dir=tmp_path / "other",
            resume_from_checkpoint=tmp_path / f"whole/checkpoint-{step}",
            allow_differences=True,
            **{**settings, "lora_r": None},
        )


@pytest.mark.slow
def test_two_processes_do_what_one_does(data, base, tmp_path):
    data.save_to_disk(tmp_path / "data")
    one = finetune("book", data=data, base=base, **LORA)
    two = {**LORA, "per_device_train_batch_size": 4, "base": base, "output_dir": tmp_path / "two", "save_steps": 5}
    finetune_on(2, "book", tmp_path / "data", **two)
    history = json.loads((tmp_path / "two/history.json").read_text())
    assert history["train_losses"] == pytest.approx(one.history.train_losses, abs=1e-5)
    assert history["val_accs"] == one.history.val_accs
    weights = load_file(tmp_path / "two/model.safetensors")
    for name, tensor in one.model.state_dict().items():
        if not name.endswith("W_key.bias"):
            torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_r": 0}, "lora_r must be at least 1, or none, got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be at least 1, got 0"),
        ({"trainable": "all"}, "with lora_r, trainable must be head, got all"),
        ({"weight_average": 0.9}, "with lora_r there is no weight_average"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**{**LORA, **settings})


def test_without_peft_there_is_one_line(data, base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"^lora_r needs peft, which is not installed: pip install hf-spam\[lora\]$"):
        finetune("book", data=data, base=base, **LORA)
