"""Weights from elsewhere: what is imported computes what it did before, and what does not fit leaves no trace."""

import json
import math
import os
import pickle
import sys
import tempfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedModel,
)

from hf_spam import SpamClassifier
from hf_spam.cli import main
from hf_spam.conversion.import_weights import ImportWeightsError, import_weights
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.modeling import import_weights as module
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel

# --- GPT-2 checkpoints ------------------------------------------------------------------------------------------------


def gpt2(model_class: type = GPT2Model, **changes) -> PreTrainedModel:
    shape = {"vocab_size": 60, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    tokens = {"bos_token_id": None, "eos_token_id": 59, "pad_token_id": None}
    model = model_class(GPT2Config(**(shape | tokens | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at 0 and norms at 1: mixing them up would not show
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids(vocab_size: int = 60, length: int = 13) -> torch.Tensor:
    return torch.randint(vocab_size, (3, length))


def edit_tensors(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@settings(max_examples=8, derandomize=True, database=None)
@given(
    n_head=st.integers(1, 4),
    head_dim=st.integers(1, 9),
    n_layer=st.integers(1, 3),
    n_inner=st.none() | st.integers(1, 40),
    vocab_size=st.integers(2, 70),
    activation_function=st.sampled_from(["gelu_new", "gelu_pytorch_tanh"]),
    layer_norm_epsilon=st.sampled_from([1e-5, 1e-2]),
    reorder_and_upcast_attn=st.booleans(),
)
def test_any_gpt2_computes_the_same_hidden_states(n_head: int, head_dim: int, vocab_size: int, **shape) -> None:
    torch.manual_seed(0)
    reference = gpt2(n_head=n_head, n_embd=n_head * head_dim, vocab_size=vocab_size, eos_token_id=None, **shape)
    x = ids(vocab_size, 24)
    with tempfile.TemporaryDirectory() as tmp, torch.no_grad():
        reference.save_pretrained(f"{tmp}/gpt2")
        returned = import_weights(f"{tmp}/gpt2", f"{tmp}/out")
        loaded = SpamGPTModel.from_pretrained(f"{tmp}/out").eval()
        for model in (returned, loaded):
            torch.testing.assert_close(model(x).last_hidden_state, reference(x).last_hidden_state, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sharded_prefixed_and_with_the_leftovers_of_older_versions(tmp_path: Path) -> None:
    """The three ways in which real checkpoints differ from a fresh `GPT2Model`: none changes the result."""
    torch.manual_seed(1)
    reference, x = gpt2(GPT2LMHeadModel, tie_word_embeddings=False), ids()
    expected = reference.transformer(x).last_hidden_state
    reference.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    reference.save_pretrained(tmp_path / "prefixed")
    assert "lm_head.weight" in load_file(tmp_path / "prefixed/model.safetensors")
    reference.transformer.save_pretrained(tmp_path / "old")
    edit_tensors(
        tmp_path / "old",
        lambda t: t.update({"h.1.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}),
    )
    for source in ("sharded", "prefixed", "old"):
        imported = import_weights(tmp_path / source, tmp_path / f"{source}-out", n_head=4)
        torch.testing.assert_close(imported(x).last_hidden_state, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_gpt2_classifier_keeps_its_head_and_labels(tmp_path: Path) -> None:
    torch.manual_seed(2)
    labels = {"id2label": {0: "spam", 1: "ham", 2: "unsure"}, "label2id": {"spam": 0, "ham": 1, "unsure": 2}}
    reference = gpt2(GPT2ForSequenceClassification, pad_token_id=59, **labels)
    reference.save_pretrained(tmp_path / "gpt2")
    import_weights(tmp_path / "gpt2", tmp_path / "out")
    imported = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    x = ids(59)
    x[1, 5:] = 59
    torch.testing.assert_close(imported(x).logits, reference(x).logits, atol=1e-5, rtol=0)
    assert imported.config.id2label == labels["id2label"] and imported.config.label2id == labels["label2id"]


def test_half_precision_becomes_float32_and_settings_are_carried_over(tmp_path: Path) -> None:
    reference = gpt2(initializer_range=0.03, bos_token_id=7, eos_token_id=50256).half()
    reference.save_pretrained(tmp_path / "gpt2")
    import_weights(tmp_path / "gpt2", tmp_path / "out")
    imported = SpamGPTModel.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in imported.parameters()} == {torch.float32}
    assert torch.equal(imported.trf_blocks[1].att.W_value.bias, reference.h[1].attn.c_attn.bias[64:].float())
    config = imported.config
    assert (config.initializer_range, config.embd_pdrop, config.padded_length) == (0.03, 0.0, None)
    # A token outside the vocabulary is none; a pad is always needed.
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (7, None, 59)


def test_the_folder_loads_anywhere(tmp_path: Path) -> None:
    """It holds the remote code, no pickle and nothing temporary, is readable by others, and takes a fresh head."""
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "deep/out").mkdir(parents=True)  # an empty folder may be there
    import_weights(tmp_path / "gpt2", tmp_path / "deep/out")
    code = {"configuration_spam_gpt.py", "modeling_spam_gpt.py", "pipeline_spam_gpt.py"}
    assert set(os.listdir(tmp_path / "deep/out")) == {"config.json", "model.safetensors"} | code
    assert os.listdir(tmp_path / "deep") == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "deep/out").stat().st_mode == plain.stat().st_mode
    assert set(json.loads((tmp_path / "deep/out/config.json").read_text())["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForSequenceClassification",
    }
    model, info = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "deep/out", output_loading_info=True)
    assert set(info["missing_keys"]) == {"out_head.weight", "out_head.bias"} and not info["unexpected_keys"]
    assert model.out_head.weight.isfinite().all()


@pytest.mark.parametrize("named", [True, False])
def test_the_tokenizer_comes_along(tmp_path: Path, named: bool) -> None:
    """Also one that GPT-2's model type alone made recognisable, as that of `openai-community/gpt2` is."""
    gpt2().save_pretrained(tmp_path / "gpt2")
    vocab = {c: i for i, c in enumerate("abcdefghij")} | {"ab": 10, "<|endoftext|>": 59}
    (tmp_path / "gpt2/vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "gpt2/merges.txt").write_text("#version: 0.2\na b\n")
    if named:
        AutoTokenizer.from_pretrained(tmp_path / "gpt2", pad_token="j").save_pretrained(tmp_path / "gpt2")
    expected = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    import_weights(tmp_path / "gpt2", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(tokenizer) is type(expected) and tokenizer.special_tokens_map == expected.special_tokens_map
    assert tokenizer("abc").input_ids == expected("abc").input_ids == [10, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "j" if named else None)


def test_a_hub_id_is_fetched_without_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2().save_pretrained(tmp_path / "snapshot")
    calls = []

    def fetch(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo_id, revision))
        assert "config.json" in allow_patterns and not any("bin" in p or p.startswith("*") for p in allow_patterns)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(module, "snapshot_download", fetch)
    assert isinstance(import_weights("someone/gpt2", tmp_path / "out", revision="v2"), SpamGPTModel)
    assert calls == [("someone/gpt2", "v2")]


# --- The book's files -------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """The network of the book's chapter 4, after its description and with its parameter names; causal, tanh GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.scale * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() + self.shift


class Attention(nn.Module):
    def __init__(self, width: int, positions: int, heads: int, qkv_bias: bool):
        super().__init__()
        self.heads = heads
        self.W_query, self.W_key, self.W_value = (nn.Linear(width, width, bias=qkv_bias) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(positions, positions).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            w(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.W_query, self.W_key, self.W_value)
        )
        scores = (q @ k.mT).masked_fill(self.mask[: x.shape[1], : x.shape[1]].bool(), -math.inf)
        return self.out_proj(((scores / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Tanh(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


class Block(nn.Module):
    def __init__(self, width: int, positions: int, heads: int, qkv_bias: bool):
        super().__init__()
        self.att = Attention(width, positions, heads, qkv_bias)
        self.ff = nn.Module()
        self.ff.layers = nn.Sequential(nn.Linear(width, 4 * width), Tanh(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = Norm(width), Norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.att(self.norm1(x))
        return x + self.ff.layers(self.norm2(x))


class BookGPT(nn.Module):
    def __init__(self, classes: int | None = 2, width: int = 32, heads: int = 4, qkv_bias: bool = True):
        super().__init__()
        vocabulary, positions = 60, 130
        self.tok_emb, self.pos_emb = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.trf_blocks = nn.Sequential(*(Block(width, positions, heads, qkv_bias) for _ in range(2)))
        self.final_norm = Norm(width)
        self.out_head = nn.Linear(width, classes) if classes else nn.Linear(width, vocabulary, bias=False)

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_norm(self.trf_blocks(self.tok_emb(x) + self.pos_emb.weight[: x.shape[1]]))


def saved(state: object, tmp_path: Path, **options) -> Path:
    torch.save(state, tmp_path / "model.pth", **options)
    return tmp_path / "model.pth"


@torch.no_grad()
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("width, n_head, heads", [(32, 4, 4), (128, None, 2)])
def test_the_books_classifier_gives_the_same_logits(
    tmp_path: Path, qkv_bias: bool, width: int, n_head: int | None, heads: int
) -> None:
    torch.manual_seed(3)
    book = BookGPT(width=width, heads=heads, qkv_bias=qkv_bias)
    import_weights(saved(book.state_dict(), tmp_path), tmp_path / "out", n_head=n_head)
    imported = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert (imported.config.pooling, imported.config.padded_length, imported.config.qkv_bias) == ("last", 120, qkv_bias)
    assert (imported.config.n_head, imported.config.id2label) == (heads, {0: "not spam", 1: "spam"})
    message = ids(59, 17)
    padded = torch.cat([message, torch.full((3, 120 - 17), 59)], dim=1)
    expected = book.out_head(book.trunk(padded)[:, -1])
    torch.testing.assert_close(imported(message).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("new_format", [True, False])
def test_the_books_language_model_becomes_a_base_model(tmp_path: Path, new_format: bool) -> None:
    """And a file of before torch 1.6, which cannot be mapped, is read as well."""
    book = BookGPT(classes=None)
    source = saved(book.state_dict(), tmp_path, _use_new_zipfile_serialization=new_format)
    import_weights(source, tmp_path / "out", n_head=4)
    imported = SpamGPTModel.from_pretrained(tmp_path / "out")
    assert imported.config.padded_length is None
    x = ids()
    torch.testing.assert_close(imported(x).last_hidden_state, book.trunk(x), atol=1e-5, rtol=0)


# --- What does not fit ------------------------------------------------------------------------------------------------


def refused(source: object, tmp_path: Path, **options) -> str:
    """The message of the error; checks that there is one, and that it left nothing behind."""
    (tmp_path / "target").mkdir(exist_ok=True)
    with pytest.raises(ImportWeightsError) as caught:
        import_weights(source, tmp_path / "target/out", **options)
    assert os.listdir(tmp_path / "target") == []
    return str(caught.value)


def test_every_misfit_of_a_gpt2_is_listed(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["h.0.ln_1.weight"], tensors["h.1.attn.c_attn.weight"]
        tensors["h.0.mlp.c_fc.weight"] = tensors["h.0.mlp.c_fc.weight"].T.contiguous()
        tensors["h.2.ln_1.weight"] = torch.ones(32)
        tensors["wpe.weight"] = torch.ones(23, 32)

    edit_tensors(tmp_path / "gpt2", spoil)
    config = json.loads((tmp_path / "gpt2/config.json").read_text())
    config |= {"activation_function": "relu", "scale_attn_weights": False, "add_cross_attention": True}
    config |= {"scale_attn_by_inverse_layer_idx": True, "n_head": 5}
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config))
    assert "n_embd (32) must be a multiple of n_head (5)" in refused(tmp_path / "gpt2", tmp_path)
    config["n_head"] = 2
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config))
    first, *rest = refused(tmp_path / "gpt2", tmp_path, n_head=4).splitlines()
    assert first == f"{tmp_path / 'gpt2'} does not fit SpamGPT, and nothing was written:"
    assert rest == [
        "  config.json: activation_function is 'relu', SpamGPT has 'gelu_new' or 'gelu_pytorch_tanh'",
        "  config.json: scale_attn_weights is False, SpamGPT has True",
        "  config.json: scale_attn_by_inverse_layer_idx is True, SpamGPT has False",
        "  config.json: add_cross_attention is True, SpamGPT has False",
        "  --n-head 4 contradicts config.json, where n_head is 2",
        "  missing: h.0.ln_1.weight, of shape (32,)",
        "  missing: h.1.attn.c_attn.weight, of shape (32, 96)",
        "  wrong shape: h.0.mlp.c_fc.weight is (128, 32), expected (32, 128)",
        "  unexpected: h.2.ln_1.weight, of shape (32,)",
        "  wrong shape: wpe.weight is (23, 32), expected (24, 32)",
    ]


def test_every_misfit_of_a_book_file_is_listed(tmp_path: Path) -> None:
    state = BookGPT(classes=5).state_dict()
    del state["pos_emb.weight"], state["trf_blocks.1.norm2.shift"]
    state["trf_blocks.0.lora.A"] = state["final_norm.scale"] = torch.ones(3)
    _, *rest = refused(saved(state, tmp_path), tmp_path).splitlines()
    assert sorted(rest) == [
        "  --n-head is needed: n_embd, 32, is not a multiple of 64",
        "  missing: pos_emb.weight, of shape (1024, 32)",
        "  missing: trf_blocks.1.norm2.shift, of shape (32,)",
        "  unexpected: trf_blocks.0.lora.A, of shape (3,)",
        "  wrong shape: final_norm.scale is (3,), expected (32,)",
        "  wrong shape: out_head.bias is (5,), expected (2,)",
        "  wrong shape: out_head.weight is (5, 32), expected (2, 32)",
    ]
    assert "--n-head 5 does not divide n_embd, 32" in refused(tmp_path / "model.pth", tmp_path, n_head=5)
    # A layer left out is missing, however many follow; another model's file is misfits all through.
    state = {name.replace("blocks.1", "blocks.9"): value for name, value in BookGPT().state_dict().items()}
    message = refused(saved(state, tmp_path), tmp_path, n_head=4)
    assert message.count("missing: trf_blocks.1.") == message.count("unexpected: trf_blocks.9.") == 16
    message = refused(saved(gpt2().state_dict(), tmp_path), tmp_path)
    assert "missing: tok_emb.weight" in message and "missing: out_head.bias" in message
    assert message.count("unexpected: ") == len(gpt2().state_dict())


def test_what_is_no_number_to_copy_is_listed_too(tmp_path: Path) -> None:
    """Integers, complex numbers, sparse tensors and those without values; and weights that no training ends with."""
    state, other = BookGPT().state_dict(), {}
    kinds = {"int64": torch.Tensor.long, "complex64": lambda value: value.to(torch.complex64)}
    kinds |= {"sparse": torch.Tensor.to_sparse, "without values": lambda value: value.to("meta")}
    names = ("tok_emb.weight", "pos_emb.weight", "out_head.weight", "out_head.bias")
    for name, converted in zip(names, kinds.values(), strict=True):
        other[name] = converted(state[name])
    lines = refused(saved(state | other, tmp_path), tmp_path, n_head=4).splitlines()
    assert lines[1:] == [
        f"  wrong type: {name} is {kind}, expected one of F16, BF16, F32, F64"
        for name, kind in zip(other, kinds, strict=True)
    ]
    for value in (math.nan, math.inf, 1e30):
        state["out_head.bias"] = torch.tensor([0.0, value])
        message = refused(saved(state, tmp_path), tmp_path, n_head=4)
        assert message.endswith("has weights that are no numbers, or beyond all measure: out_head.bias.")


def test_a_book_file_is_given_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """It has none of its own, and could not be asked about a message; one that is too large is a misfit."""
    tokenizer = train_tokenizer(["win a prize"] * 9, 300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = saved(BookGPT().state_dict(), tmp_path)
    assert "the tokenizer has 2" in refused(source, tmp_path, n_head=4, tokenizer=tokenizer)
    state = BookGPT().state_dict()
    state["tok_emb.weight"] = torch.randn(len(tokenizer), 32)
    flags = ["--n-head", "4", "--tokenizer", str(tmp_path / "tokenizer")]
    source = saved(state, tmp_path)
    monkeypatch.setattr(sys, "argv", ["hf-spam", "import-weights", str(source), str(tmp_path / "out"), *flags])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0, capsys.readouterr().err
    assert SpamClassifier.from_pretrained(tmp_path / "out")(["win a prize"])[0]["label"] in ("spam", "not spam")


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    source = saved(BookGPT().state_dict() | {"evil": Evil(ran)}, tmp_path)
    message = refused(source, tmp_path, n_head=4)
    assert "without running code" in message and "\n" not in message and not ran.exists()
    torch.load(source, weights_only=False)
    assert ran.exists()  # it would have run


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02abc", pickle.dumps({"a": 1}), b"PK\x03\x04" + b"\0" * 50])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_something_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    assert len(refused(tmp_path / "file.pth", tmp_path).splitlines()) == 1


@pytest.mark.parametrize("content", [torch.ones(3), {"model_state_dict": {}, "epoch": 3}])
def test_a_torch_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    assert refused(saved(content, tmp_path), tmp_path).endswith("not a dict of tensors.")


def test_folders_that_are_no_safetensors_gpt2(tmp_path: Path) -> None:
    """One clear line for each of the ways a folder can fail to be one."""
    folder = tmp_path / "gpt2"
    folder.mkdir()
    messages = [refused(folder, tmp_path)]
    gpt2().save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    messages.append(refused(folder, tmp_path))
    (folder / "model.safetensors").write_bytes(weights[:100])
    messages.append(refused(folder, tmp_path))
    (folder / "model.safetensors").unlink()
    for index in ({"weight_map": {"wte.weight": "gone.safetensors"}}, {}, []):
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        messages.append(refused(folder, tmp_path))
    for config in ('{"model_type": "bert"}', '{"model_type": "gpt2", "n_layer": "two"}', "{", "[]", "[1]"):
        (folder / "config.json").write_text(config)
        messages.append(refused(folder, tmp_path))
    assert not any("\n" in message for message in messages)
    expected = ["config.json cannot be read", "no model.safetensors; a pickle (pytorch_model.bin) is not read"]
    expected += ["cannot be read", "gone.safetensors", "weight_map", "cannot be read"]
    expected += ["type 'bert', not 'gpt2'", "'n_layer' expected int", "cannot be read", "None, not", "cannot be read"]
    for message, part in zip(messages, expected, strict=True):
        assert part in message


@pytest.mark.parametrize("source", ["someone/no-such-model", "./no/such/file.pth"])
def test_what_is_nowhere_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused(source, tmp_path)
    assert message.startswith(f"{source} is no file or folder, and cannot be fetched") and "\n" not in message


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    for taken in ("file", "folder"):
        with pytest.raises(ImportWeightsError, match="exists already"):
            import_weights(tmp_path / "gpt2", tmp_path / taken)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "gpt2"]


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2/vocab.json").write_text("{}")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        import_weights(tmp_path / "gpt2", tmp_path / "out")
    assert os.listdir(tmp_path) == ["gpt2"]
