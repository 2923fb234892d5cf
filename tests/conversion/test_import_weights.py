"""An imported model computes the same as before; a checkpoint that does not fit is refused, and nothing is written."""

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from book_oracle import GPTModel
from command_line import hf_spam
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedModel,
)

from hf_spam import SpamClassifier
from hf_spam.conversion.import_weights import import_weights
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel


def randomise(model: nn.Module) -> nn.Module:
    """Change every weight: biases start at 0 and norms at 1, so mixing them up would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def gpt2(model_class: type = GPT2Model, **changes) -> PreTrainedModel:
    shape = {"vocab_size": 60, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    tokens = {"bos_token_id": None, "eos_token_id": 59, "pad_token_id": None}
    return randomise(model_class(GPT2Config(**(shape | tokens | changes))))


def book(classes: int | None = 2, width: int = 32, heads: int = 4, qkv_bias: bool = True) -> GPTModel:
    model = GPTModel(vocab_size=60, positions=130, width=width, layers=2, heads=heads, qkv_bias=qkv_bias)
    if classes:
        model.out_head = nn.Linear(width, classes)
    return randomise(model)


def saved(state: object, tmp_path: Path, **options) -> Path:
    torch.save(state, tmp_path / "model.pth", **options)
    return tmp_path / "model.pth"


def random_ids(vocab_size: int = 60, length: int = 13) -> torch.Tensor:
    return torch.randint(vocab_size, (3, length))


def edit_tensors(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# GPT-2 checkpoints


@torch.no_grad()
def test_a_gpt2_computes_the_same_hidden_states(tmp_path: Path) -> None:
    """Also with the prefixes of a language model, and with what older versions left in a file.

    Any shape of it does so too, see `test_gpt2.py`, and one in several files is read, see `test_loading.py`.
    """
    settings = {"tie_word_embeddings": False, "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-2}
    reference, x = gpt2(GPT2LMHeadModel, reorder_and_upcast_attn=True, n_inner=40, **settings), random_ids()
    expected = reference.transformer(x).last_hidden_state
    reference.save_pretrained(tmp_path / "prefixed")
    assert "lm_head.weight" in load_file(tmp_path / "prefixed/model.safetensors")
    reference.transformer.save_pretrained(tmp_path / "old")
    buffers = {"h.1.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    edit_tensors(tmp_path / "old", lambda tensors: tensors.update(buffers))
    for source in ("prefixed", "old"):
        returned = import_weights(tmp_path / source, tmp_path / f"{source}-out")
        for imported in (returned, SpamGPTModel.from_pretrained(tmp_path / f"{source}-out").eval()):
            torch.testing.assert_close(imported(x).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_half_precision_becomes_float32_and_settings_are_kept(tmp_path: Path) -> None:
    reference = gpt2(initializer_range=0.03, bos_token_id=7, eos_token_id=50256).half()
    reference.save_pretrained(tmp_path / "gpt2")
    import_weights(tmp_path / "gpt2", tmp_path / "out")
    imported = SpamGPTModel.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in imported.parameters()} == {torch.float32}
    assert torch.equal(imported.trf_blocks[1].att.W_value.bias, reference.h[1].attn.c_attn.bias[64:].float())
    config = imported.config
    assert (config.initializer_range, config.embd_pdrop, config.padded_length) == (0.03, 0.0, None)
    # An id outside the vocabulary becomes the last one in it.
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (7, 59, 59)


def test_the_folder_is_complete_and_takes_a_fresh_head(tmp_path: Path) -> None:
    """It holds no code, no pickles and no temporary files, with the usual permissions."""
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "deep/out").mkdir(parents=True)  # an empty folder may exist
    import_weights(tmp_path / "gpt2", tmp_path / "deep/out")
    assert set(os.listdir(tmp_path / "deep/out")) == {"config.json", "model.safetensors"}
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep/out").stat().st_mode == (tmp_path / "deep").stat().st_mode
    model, info = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "deep/out", output_loading_info=True)
    assert set(info["missing_keys"]) == {"out_head.weight", "out_head.bias"} and not info["unexpected_keys"]
    assert model.out_head.weight.isfinite().all()


@pytest.mark.parametrize("has_config", [True, False])
def test_the_tokenizer_is_kept(tmp_path: Path, has_config: bool) -> None:
    """Even without `tokenizer_config.json`, as in `openai-community/gpt2`, where only the model type identifies it."""
    gpt2().save_pretrained(tmp_path / "gpt2")
    vocab = {c: i for i, c in enumerate("abcdefghij")} | {"ab": 10, "<|endoftext|>": 59}
    (tmp_path / "gpt2/vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "gpt2/merges.txt").write_text("#version: 0.2\na b\n")
    if has_config:
        AutoTokenizer.from_pretrained(tmp_path / "gpt2", pad_token="j").save_pretrained(tmp_path / "gpt2")
    import_weights(tmp_path / "gpt2", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("abc").input_ids == AutoTokenizer.from_pretrained(tmp_path / "gpt2")("abc").input_ids == [10, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "j" if has_config else "<|endoftext|>")


def test_a_hub_id_is_downloaded_without_its_pickles(tmp_path: Path, hub) -> None:
    gpt2(vocab_size=300).save_pretrained(tmp_path / "gpt2")
    train_tokenizer(["win a prize"] * 9, 300).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2/pytorch_model.bin").write_bytes(b"a pickle")
    api = HfApi()
    api.create_repo("alice/gpt2")
    api.upload_folder(repo_id="alice/gpt2", folder_path=tmp_path / "gpt2")
    api.create_branch("alice/gpt2", branch="v2")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/gpt2")
    imported = import_weights("alice/gpt2", tmp_path / "out", revision="v2")
    assert torch.equal(imported.tok_emb.weight, GPT2Model.from_pretrained(tmp_path / "gpt2").wte.weight)
    expected = AutoTokenizer.from_pretrained(tmp_path / "gpt2")("win").input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("win").input_ids == expected
    assert hub.calls("HEAD", "model.safetensors") and not hub.calls("HEAD", "pytorch_model.bin")


# The book's files


@torch.no_grad()
@pytest.mark.parametrize("width, n_head, heads, qkv_bias", [(32, 4, 4, True), (128, None, 2, False)])
def test_the_books_classifier_gives_the_same_logits(
    tmp_path: Path, width: int, n_head: int | None, heads: int, qkv_bias: bool
) -> None:
    torch.manual_seed(3)
    reference = book(width=width, heads=heads, qkv_bias=qkv_bias)
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(130, 130).triu(1) for i in range(2)}
    import_weights(saved(reference.state_dict() | masks, tmp_path), tmp_path / "out", n_head=n_head)
    imported = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert (imported.config.pooling, imported.config.padded_length, imported.config.qkv_bias) == ("last", 120, qkv_bias)
    assert (imported.config.n_head, imported.config.id2label) == (heads, {0: "not spam", 1: "spam"})
    message = random_ids(59, 17)
    expected = reference(torch.cat([message, torch.full((3, 120 - 17), 59)], dim=1))[:, -1]
    torch.testing.assert_close(imported(message).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_books_language_model_becomes_a_base_model(tmp_path: Path) -> None:
    """Also from a file of before torch 1.6, which cannot be memory-mapped."""
    reference, x = book(classes=None), random_ids()
    source = saved(reference.state_dict(), tmp_path, _use_new_zipfile_serialization=False)
    import_weights(source, tmp_path / "out", n_head=4)
    imported = SpamGPTModel.from_pretrained(tmp_path / "out")
    assert imported.config.padded_length is None
    logits = imported(x).last_hidden_state @ reference.out_head.weight.T
    torch.testing.assert_close(logits, reference(x), atol=1e-5, rtol=0)


def test_a_model_does_not_change_with_its_source_file(tmp_path: Path) -> None:
    source = saved(book().state_dict(), tmp_path)
    imported = import_weights(source, tmp_path / "out", n_head=4)
    before = imported.gpt.tok_emb.weight.clone()
    with source.open("r+b") as file:
        file.write(bytes(source.stat().st_size))
    assert torch.equal(imported.gpt.tok_emb.weight, before)


# The forms in which readers of the book save their classifier


class LoRA(nn.Module):
    """A linear layer with adapters, as in the book's appendix E."""

    def __init__(self, linear: nn.Linear, alpha: float):
        super().__init__()
        self.linear, self.alpha = linear, alpha
        self.lora = nn.Module()
        self.lora.A = nn.Parameter(torch.randn(linear.in_features, 4) * 0.1)
        self.lora.B = nn.Parameter(torch.randn(4, linear.out_features) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.alpha * (x @ self.lora.A @ self.lora.B)


def add_lora(model: nn.Module, alpha: float = 1.5) -> nn.Module:
    for name, layer in list(model.named_children()):
        setattr(model, name, LoRA(layer, alpha)) if isinstance(layer, nn.Linear) else add_lora(layer, alpha)
    return model


def prefixed(model: GPTModel, prefix: str) -> dict:
    return {prefix + name: value for name, value in model.state_dict().items()}


def checkpoint(model: GPTModel, key: str = "model_state_dict", **settings) -> dict:
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    return {"epoch": 4, key: model.state_dict(), "optimizer_state_dict": optimizer, **settings}


def fused(model: GPTModel) -> dict:
    """Return the weights as a model with the faster attention of chapter 3's bonus code saves them."""
    state = model.state_dict()
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"trf_blocks.{i}.att.{part}.{kind}") for part in ("W_query", "W_key", "W_value")]
            state[f"trf_blocks.{i}.att.qkv.{kind}"] = torch.cat(parts)
            state[f"trf_blocks.{i}.att.proj.{kind}"] = state.pop(f"trf_blocks.{i}.att.out_proj.{kind}")
    return state


def untrained_lora(model: GPTModel) -> dict:
    """Return the weights with adapters that change nothing yet: B starts at 0."""
    state = add_lora(model, alpha=0).state_dict()
    return {name: tensor * (not name.endswith("lora.B")) for name, tensor in state.items()}


def half(model: GPTModel) -> dict:
    """Round the weights of the model, and return them in half precision."""
    return {name: tensor.bfloat16() for name, tensor in model.bfloat16().float().state_dict().items()}


# What is saved of a classifier, further options, and a part of what is said.
FORMS = {
    "compiled and distributed": (lambda model: prefixed(model, "module._orig_mod."), "", ""),
    "averaged": (lambda model: AveragedModel(model).state_dict(), "", ""),
    "checkpoint": (checkpoint, "", "only 'model_state_dict' of epoch, model_state_dict, optimizer_state_dict"),
    "state_dict": (lambda model: {"state_dict": prefixed(model, "model.")}, "", "only 'state_dict'"),
    "model": (lambda model: checkpoint(model, "model", ema=model.state_dict()), "", "only 'model'"),
    "one dict": (lambda model: checkpoint(model, "my weights"), "", "only 'my weights'"),
    "untrained LoRA": (untrained_lora, "", "Merging 13 LoRA layers"),
    "compiled LoRA": (lambda model: prefixed(add_lora(model), "_orig_mod."), "--lora-alpha 1.5", "Merging 13"),
    "qkv in a checkpoint": (lambda model: {"model": fused(model), "epoch": 1}, "", "only 'model'"),
    "half precision": (half, "", ""),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_classifier_gives_the_same_logits(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was padded to 60 tokens in training, with a pad token of its own."""
    torch.manual_seed(4)
    reference = book()
    save, options, said = FORMS[form]
    source = saved(save(reference), tmp_path)
    reading = "--n-head 4 --padded-length 60 --pad-token-id 7"
    done = hf_spam("import-weights", source, tmp_path / "out", *f"{reading} {options}".split())
    assert done.code == 0 and said in caplog.text and "Assumed" not in caplog.text, done
    imported = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert {parameter.dtype for parameter in imported.parameters()} == {torch.float32}
    message = random_ids(7)
    padded = torch.cat([message, torch.full((3, 60 - 13), 7)], dim=1)
    torch.testing.assert_close(imported(message).logits, reference(padded)[:, -1], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_classifier_trained_without_padding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference, message = book(), random_ids(59)
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    done = hf_spam(
        "import-weights", tmp_path / "model.safetensors", tmp_path / "out", "--n-head", 4, "--padded-length", "none"
    )
    assert done.code == 0 and "Assumed" not in caplog.text, done  # pads are masked, so the pad token does not matter
    imported = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(imported(message).logits, reference(message)[:, -1], atol=1e-5, rtol=0)


# Settings in the file and in a config.json next to it; padded length and number of heads, and where they are from.
SETTINGS = {"emb_dim": 128, "n_layers": 2, "n_heads": 4, "context_length": 130, "drop_rate": 0.1, "qkv_bias": True}
BOOK, GPT2, FOUND = "the book's data", "n_embd / 64, as in every GPT-2", "the checkpoint's settings"
HINTS = {
    "none": ({}, {}, (120, BOOK), (2, GPT2)),
    "in a checkpoint": ({"BASE_CONFIG": SETTINGS, "max_length": 60}, {}, (60, FOUND), (4, FOUND)),
    "no numbers": ({"config": SETTINGS | {"n_heads": "4", "max_length": True}}, {}, (120, BOOK), (2, GPT2)),
    "next to the file": ({"n_heads": 8}, SETTINGS | {"max_length": 50}, (50, "config.json"), (8, FOUND)),
    "of another model": ({}, SETTINGS | {"emb_dim": 64, "max_length": 50}, (120, BOOK), (2, GPT2)),
}


@pytest.mark.parametrize("hint", HINTS)
def test_what_no_shape_reveals_is_found_or_assumed_and_said(
    tmp_path: Path, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings, companion, (padded_length, length_from), (n_head, heads_from) = HINTS[hint]
    source = saved({"model_state_dict": book(width=128, heads=2).state_dict(), **settings}, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(companion))
    with caplog.at_level(logging.INFO, "hf_spam"):
        config = import_weights(source, tmp_path / "out").config
        assert (config.padded_length, config.n_head, config.pad_token_id) == (padded_length, n_head, 59)
        assert caplog.messages[-1] == (
            f"Assumed --padded-length {padded_length} ({length_from}), --n-head {n_head} ({heads_from}), "
            "--pad-token-id 59 (the last id)."
        )
        # An option always wins, and is not said.
        config = import_weights(source, tmp_path / "again", padded_length=90, n_head=1).config
    assert (config.padded_length, config.n_head) == (90, 1)
    assert caplog.messages[-1] == "Assumed --pad-token-id 59 (the last id)."


def test_a_book_file_can_be_given_a_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file has none. Its pad token counts before a checkpoint's, and a small position table limits the padding."""
    tokenizer = train_tokenizer(["win a prize"] * 9, 300)
    source = saved(book().state_dict(), tmp_path)
    assert "it has id 2" in refused(source, tmp_path, n_head=4, tokenizer=tokenizer)
    tensors = {"tok_emb.weight": torch.randn(len(tokenizer), 32), "pos_emb.weight": torch.randn(64, 32)}
    source = saved({"model": book().state_dict() | tensors, "pad_token_id": 5}, tmp_path)
    with caplog.at_level(logging.INFO, "hf_spam"):
        for options, pad in (({}, 5), ({"tokenizer": tokenizer}, 1), ({"tokenizer": tokenizer, "pad_token_id": 7}, 7)):
            config = import_weights(source, tmp_path / f"out{pad}", n_head=4, **options).config
            assert (config.padded_length, config.pad_token_id) == (64, pad)
    assert "--padded-length 64 (all positions), --pad-token-id 1 (the tokenizer's)" in caplog.text
    SpamClassifier.from_pretrained(tmp_path / "out1")(["win a prize"])


# Checkpoints that do not fit


def refused(source: Path, tmp_path: Path, **options) -> str:
    """Return the error of an import, after checking that it is one line with the source, and that nothing is left."""
    (tmp_path / "target").mkdir(exist_ok=True)
    with pytest.raises(ValueError) as caught:
        import_weights(source, tmp_path / "target/out", **options)
    assert os.listdir(tmp_path / "target") == []
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_misfits_of_a_gpt2_are_named(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["h.0.ln_1.weight"]
        tensors["h.0.mlp.c_fc.weight"] = tensors["h.0.mlp.c_fc.weight"].T.contiguous()
        tensors["h.1.attn.c_proj.bias"] = torch.tensor(1.0)

    edit_tensors(tmp_path / "gpt2", spoil)
    assert refused(tmp_path / "gpt2", tmp_path) == (
        f"The weights of '{tmp_path}/gpt2' do not fit its config.json: gpt.h.1.attn.c_proj.bias is unexpected, "
        "gpt.trf_blocks.0.ff.layers.0.weight has shape (32, 128), expected (128, 32), "
        "gpt.trf_blocks.0.norm1.weight is missing, gpt.trf_blocks.1.att.out_proj.bias is missing."
    )


CLASSIFIES = {"architectures": ["GPT2ForSequenceClassification"]}
LACKS = "gpt2' does not fit SpamGPT: "
SPOILED = {
    LACKS + "activation_function is 'relu', SpamGPT supports 'gelu_new' or": {"activation_function": "relu"},
    LACKS + "scale_attn_weights is False, SpamGPT supports True": {"scale_attn_weights": False},
    LACKS + "scale_attn_by_inverse_layer_idx is True, SpamGPT": {"scale_attn_by_inverse_layer_idx": True},
    LACKS + "add_cross_attention is True, SpamGPT supports False": {"add_cross_attention": True},
    LACKS + "n_embd (32) must be a multiple of n_head (5)": {"n_head": 5},
    "gpt2' is not valid: ": {"n_layer": "two"},
    LACKS + "problem_type is 'multi_label_classification'": CLASSIFIES | {"problem_type": "multi_label_classification"},
    LACKS + "it has a single label, and its score is not a probability": CLASSIFIES | {"id2label": {0: "x"}},
}


@pytest.mark.parametrize("said", SPOILED)
def test_a_gpt2_whose_settings_do_not_fit_is_refused_with_one_line(tmp_path: Path, said: str) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    config = json.loads((tmp_path / "gpt2/config.json").read_text())
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config | SPOILED[said]))
    assert said in refused(tmp_path / "gpt2", tmp_path)


def two_models(model: GPTModel) -> dict:
    return {"student": model.state_dict(), "teacher": model.state_dict()}


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[GPTModel], dict]:
    return lambda model: {**model.state_dict(), name: tensor}


def without_block_1(model: GPTModel) -> dict:
    """A missing block is reported, however many follow."""
    return {name.replace("trf_blocks.1.", "trf_blocks.9."): tensor for name, tensor in model.state_dict().items()}


REMEDY = 'torch.save(model.state_dict(), "model.pth")'
SAVE = f"save the tensors alone in Python: {REMEDY}"
NORM, ONE = "final_norm.scale", "does not fit SpamGPT: 1 of the tensors: "
# What is saved instead of the weights of a classifier, or the bytes of a file, and a part of what is said.
FAULTY = {
    "no bias": (
        lambda model: dict(list(model.state_dict().items())[:-1]),
        f"{ONE}out_head.bias is missing. Give a state_dict of the book's GPTModel, {REMEDY}, or the folder of a GPT-2.",
    ),
    "another shape": (with_tensor(NORM, torch.ones(3)), f"{ONE}final_norm.weight has shape (3,), expected (32,)"),
    "complex numbers": (with_tensor(NORM, torch.ones(32).cfloat()), f"{ONE}final_norm.weight has type complex64"),
    "5 classes": (with_tensor("out_head.weight", torch.ones(5, 32)), f"{ONE}out_head.weight has shape (5, 32)"),
    "half a LoRA": (with_tensor("out_head.lora.A", torch.ones(32, 4)), f"{ONE}out_head.lora.A is unexpected"),
    "no block 1": (without_block_1, "32 of the tensors: trf_blocks.1.att.W_key.bias is missing, "),
    "a GPT-2": (
        lambda model: gpt2().state_dict(),
        "final_norm.weight is missing, h.0.attn",
    ),
    "a pickled model": (lambda model: model, f"more than tensors and you trust it, {SAVE}"),
    "a tensor": (lambda model: torch.ones(3), f"holds no state_dict. In Python: {REMEDY}"),
    "an empty state_dict": (lambda model: {"model_state_dict": {}}, f"holds no state_dict. In Python: {REMEDY}"),
    "two state_dicts": (two_models, f"holds several state_dicts (student, teacher). In Python: {REMEDY}"),
    "two mixed models": (lambda model: model.state_dict() | prefixed(model, "module."), "tok_emb.weight occurs twice"),
    "an empty file": (b"", SAVE),
    "a pickle": (pickle.dumps({"a": 1}), SAVE),
    "the start of an archive": (b"PK\x03\x04" + b"\0" * 50, SAVE),
}
UNFIT_OPTIONS = {
    "n_embd (32) must be a multiple of n_head (5)": {"n_head": 5},
    "n_head must be at least 1, got 0": {"n_head": 0},
    "padded_length (131) must lie in 1..n_positions (130)": {"padded_length": 131},
    "pad_token_id (60) is not in the vocabulary of 60 ids": {"pad_token_id": 60},
    "--lora-alpha 16 has no use": {"lora_alpha": 16},
}


@pytest.mark.parametrize("content", FAULTY)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_does_not_hold_one_classifier_is_refused(tmp_path: Path, content: str) -> None:
    made, said = FAULTY[content]
    source = tmp_path / "model.pth"
    source.write_bytes(made) if isinstance(made, bytes) else saved(made(book()), tmp_path)
    assert said in refused(source, tmp_path, n_head=4)


@pytest.mark.parametrize("said", UNFIT_OPTIONS)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, said: str) -> None:
    assert said in refused(saved(book().state_dict(), tmp_path), tmp_path, **{"n_head": 4, **UNFIT_OPTIONS[said]})


def test_a_needed_option_is_named(tmp_path: Path) -> None:
    """The file is imported with both of them."""
    source = saved(add_lora(book()).state_dict(), tmp_path)
    assert refused(source, tmp_path).endswith(
        "import-weights needs --lora-alpha: the factor of the LoRA layers, which the file lacks (alpha, 16 in the "
        "book, or alpha / 4 if your code divides it by the rank)"
    )
    assert refused(source, tmp_path, lora_alpha=16) == f"{source} needs --n-head: n_embd (32) is not a multiple of 64."
    assert hf_spam("import-weights", source, tmp_path / "out", "--lora-alpha", 16, "--n-head", 4).code == 0


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    source = saved(book().state_dict() | {"evil": Evil(ran)}, tmp_path)
    assert "without running code" in refused(source, tmp_path, n_head=4) and not ran.exists()
    torch.load(source, weights_only=False)
    assert ran.exists()  # it would have run


def test_the_options_of_book_files_are_refused_for_a_gpt2(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    for options in ({"padded_length": 9}, {"pad_token_id": 9}, {"lora_alpha": 9}, {"n_head": 4}):
        assert "are for files of the book's model" in refused(tmp_path / "gpt2", tmp_path, **options)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """Nor is a folder that is not empty, see `test_bad_input.py`."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="already exists"):
        import_weights("gpt2", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
