"""An imported model computes the same as before; a checkpoint that does not fit is refused, and nothing is written."""

import json
import math
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from book_oracle import GPTModel
from huggingface_hub import HfApi
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
    x = random_ids(vocab_size, 24)
    with tempfile.TemporaryDirectory() as tmp, torch.no_grad():
        reference.save_pretrained(f"{tmp}/gpt2")
        returned = import_weights(f"{tmp}/gpt2", f"{tmp}/out")
        loaded = SpamGPTModel.from_pretrained(f"{tmp}/out").eval()
        for model in (returned, loaded):
            torch.testing.assert_close(model(x).last_hidden_state, reference(x).last_hidden_state, atol=1e-5, rtol=0)


@torch.no_grad()
def test_shards_prefixes_and_leftovers_of_older_versions_change_nothing(tmp_path: Path) -> None:
    """Real checkpoints differ from a fresh `GPT2Model` in these three ways."""
    torch.manual_seed(1)
    reference, x = gpt2(GPT2LMHeadModel, tie_word_embeddings=False), random_ids()
    expected = reference.transformer(x).last_hidden_state
    reference.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    reference.save_pretrained(tmp_path / "prefixed")
    assert "lm_head.weight" in load_file(tmp_path / "prefixed/model.safetensors")
    reference.transformer.save_pretrained(tmp_path / "old")
    buffers = {"h.1.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    edit_tensors(tmp_path / "old", lambda tensors: tensors.update(buffers))
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
    x = random_ids(59)
    x[1, 5:] = 59
    torch.testing.assert_close(imported(x).logits, reference(x).logits, atol=1e-5, rtol=0)
    assert imported.config.id2label == labels["id2label"] and imported.config.label2id == labels["label2id"]


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
    """It holds the remote code, no pickles and no temporary files, with the usual permissions."""
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "deep/out").mkdir(parents=True)  # an empty folder may exist
    import_weights(tmp_path / "gpt2", tmp_path / "deep/out")
    code = {"configuration_spam_gpt.py", "modeling_spam_gpt.py", "pipeline_spam_gpt.py"}
    assert set(os.listdir(tmp_path / "deep/out")) == {"config.json", "model.safetensors"} | code
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep/out").stat().st_mode == (tmp_path / "deep").stat().st_mode
    auto_map = json.loads((tmp_path / "deep/out/config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForSequenceClassification"}
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


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
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
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("width, n_head, heads", [(32, 4, 4), (128, None, 2)])
def test_the_books_classifier_gives_the_same_logits(
    tmp_path: Path, qkv_bias: bool, width: int, n_head: int | None, heads: int
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
@pytest.mark.parametrize("new_format", [True, False])
def test_the_books_language_model_becomes_a_base_model(tmp_path: Path, new_format: bool) -> None:
    """Files from before torch 1.6, which cannot be memory-mapped, are read too."""
    reference, x = book(classes=None), random_ids()
    source = saved(reference.state_dict(), tmp_path, _use_new_zipfile_serialization=new_format)
    import_weights(source, tmp_path / "out", n_head=4)
    imported = SpamGPTModel.from_pretrained(tmp_path / "out")
    assert imported.config.padded_length is None
    logits = imported(x).last_hidden_state @ reference.out_head.weight.T
    torch.testing.assert_close(logits, reference(x), atol=1e-5, rtol=0)


def test_a_book_file_can_be_given_a_tokenizer(tmp_path: Path) -> None:
    """The file has none, and without one the model could not classify a message."""
    tokenizer = train_tokenizer(["win a prize"] * 9, 300)
    source = saved(book().state_dict(), tmp_path)
    assert "the tokenizer has id 2" in refused(source, tmp_path, n_head=4, tokenizer=tokenizer)
    source = saved(book().state_dict() | {"tok_emb.weight": torch.randn(len(tokenizer), 32)}, tmp_path)
    import_weights(source, tmp_path / "out", n_head=4, tokenizer=tokenizer)
    assert SpamClassifier.from_pretrained(tmp_path / "out")(["win a prize"])[0]["label"] in ("spam", "not spam")


def test_a_model_does_not_change_with_its_source_file(tmp_path: Path) -> None:
    source = saved(book().state_dict(), tmp_path)
    imported = import_weights(source, tmp_path / "out", n_head=4)
    before = imported.gpt.tok_emb.weight.clone()
    with source.open("r+b") as file:
        file.write(bytes(source.stat().st_size))
    assert torch.equal(imported.gpt.tok_emb.weight, before)


# Checkpoints that do not fit


def refused(source: object, tmp_path: Path, kind: type[Exception] = ValueError, **options) -> str:
    """Return the error of an import, after checking that it left nothing behind."""
    (tmp_path / "target").mkdir(exist_ok=True)
    with pytest.raises(kind) as caught:
        import_weights(source, tmp_path / "target/out", **options)
    assert os.listdir(tmp_path / "target") == []
    return str(caught.value)


def test_every_misfit_of_a_gpt2_is_listed(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["h.0.ln_1.weight"], tensors["h.1.attn.c_attn.bias"]
        tensors["h.0.mlp.c_fc.weight"] = tensors["h.0.mlp.c_fc.weight"].T.contiguous()
        tensors["h.2.ln_1.weight"] = torch.ones(32)
        tensors["wpe.weight"] = torch.ones(23, 32)
        tensors["h.1.attn.c_proj.bias"] = torch.tensor(1.0)
        tensors["ln_f.bias"] = tensors["ln_f.bias"].long()

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
        "  config.json: activation_function is 'relu', SpamGPT supports 'gelu_new' or 'gelu_pytorch_tanh'",
        "  config.json: scale_attn_weights is False, SpamGPT supports True",
        "  config.json: scale_attn_by_inverse_layer_idx is True, SpamGPT supports False",
        "  config.json: add_cross_attention is True, SpamGPT supports False",
        "  --n-head 4 contradicts config.json, where n_head is 2",
        "  final_norm.bias has type int64, expected a float",
        "  h.1.attn.c_proj.bias is unexpected",
        "  pos_emb.weight has shape (23, 32), expected (24, 32)",
        "  trf_blocks.0.ff.layers.0.weight has shape (32, 128), expected (128, 32)",
        "  trf_blocks.0.norm1.weight is missing",
        "  trf_blocks.1.att.W_key.bias is missing",
        "  trf_blocks.1.att.W_query.bias is missing",
        "  trf_blocks.1.att.W_value.bias is missing",
        "  trf_blocks.1.att.out_proj.bias is missing",
        "  trf_blocks.2.norm1.weight is unexpected",
    ]


def test_every_misfit_of_a_book_file_is_listed(tmp_path: Path) -> None:
    state = book(classes=5).state_dict()
    del state["pos_emb.weight"], state["trf_blocks.1.norm2.shift"]
    state["trf_blocks.0.lora.A"] = state["final_norm.scale"] = torch.ones(3)
    state["trf_blocks.1.norm1.scale"] = state["trf_blocks.1.norm1.scale"].to(torch.complex64)
    _, *rest = refused(saved(state, tmp_path), tmp_path).splitlines()
    assert rest == [
        "  --n-head is needed: n_embd (32) is not a multiple of 64",
        "  gpt.final_norm.weight has shape (3,), expected (32,)",
        "  gpt.pos_emb.weight is missing",
        "  gpt.trf_blocks.0.lora.A is unexpected",
        "  gpt.trf_blocks.1.norm1.weight has type complex64, expected a float",
        "  gpt.trf_blocks.1.norm2.bias is missing",
        "  out_head.bias has shape (5,), expected (2,)",
        "  out_head.weight has shape (5, 32), expected (2, 32)",
    ]
    assert "--n-head 5 does not divide n_embd (32)" in refused(tmp_path / "model.pth", tmp_path, n_head=5)
    # A missing block is reported, however many follow. The file of another model does not fit at all.
    state = {name.replace("blocks.1", "blocks.9"): value for name, value in book().state_dict().items()}
    message = refused(saved(state, tmp_path), tmp_path, n_head=4)
    missing = [line for line in message.splitlines() if "trf_blocks.1." in line and line.endswith("is missing")]
    unexpected = [line for line in message.splitlines() if "trf_blocks.9." in line and line.endswith("is unexpected")]
    assert len(missing) == len(unexpected) == 16
    message = refused(saved(gpt2().state_dict(), tmp_path), tmp_path)
    assert "tok_emb.weight is missing" in message and message.count(" is unexpected") == len(gpt2().state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_broken_weights_are_refused(tmp_path: Path, value: float) -> None:
    state = book().state_dict() | {"out_head.bias": torch.tensor([0.0, value])}
    message = refused(saved(state, tmp_path), tmp_path, n_head=4)
    assert message.endswith("is damaged: NaN, infinite or absurdly large weights in out_head.bias.")


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    source = saved(book().state_dict() | {"evil": Evil(ran)}, tmp_path)
    message = refused(source, tmp_path, n_head=4)
    assert "without running code" in message and "\n" not in message and not ran.exists()
    torch.load(source, weights_only=False)
    assert ran.exists()  # it would have run


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02abc", pickle.dumps({"a": 1}), b"PK\x03\x04" + b"\0" * 50])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_another_kind_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    assert "\n" not in refused(tmp_path / "file.pth", tmp_path)


@pytest.mark.parametrize(
    "content",
    [torch.ones(3), {"model_state_dict": {}}, {"a": torch.eye(3).to_sparse()}, {"a": torch.ones(3, device="meta")}],
    ids=["tensor", "nested", "sparse", "without values"],
)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    assert refused(saved(content, tmp_path), tmp_path).endswith("not a dict of dense tensors.")


def test_each_kind_of_damaged_gpt2_folder_is_refused_with_one_line(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "whole")
    weights = (tmp_path / "whole/model.safetensors").read_bytes()
    files = {
        "config.json": {
            None: "config.json",
            b"{": "config.json",
            b"[]": "no config.json that names a model_type",
            b'{"model_type": "bert"}': "holds a model of type 'bert', not 'gpt2'",
            b'{"model_type": "gpt2", "n_layer": "two"}': "'n_layer' expected int",
            b'{"model_type": "gpt2", "n_layer": 1000000000}': "n_layer is 1000000000, but there are weights for 2",
        },
        "model.safetensors": {
            None: "no model.safetensors, and a pickle (pytorch_model.bin) is not read",
            weights[:100]: "cannot be loaded",
        },
        "tokenizer.json": {b"{": "No tokenizer in the folder"},
    }
    for name, contents in files.items():
        for content, expected in contents.items():
            folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "gpt2", dirs_exist_ok=True))
            (folder / name).unlink(missing_ok=True)
            if content is not None:
                (folder / name).write_bytes(content)
            message = refused(folder, tmp_path, (ValueError, OSError))
            assert expected in message and len(message.strip().splitlines()) <= 2, message


@pytest.mark.parametrize("source", ["someone/no-such-model", "./no/such/file.pth", ""])
def test_a_source_that_does_not_exist_is_named(tmp_path: Path, source: str) -> None:
    message = refused(source, tmp_path, OSError)
    assert "no such" in message and source in message and "\n" not in message


def test_an_existing_file_or_folder_is_not_overwritten(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    for taken in ("file", "folder"):
        with pytest.raises(FileExistsError, match="already exists"):
            import_weights(tmp_path / "gpt2", tmp_path / taken)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "gpt2"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        import_weights(tmp_path / "gpt2", tmp_path / "out")
    assert os.listdir(tmp_path) == ["gpt2"]
