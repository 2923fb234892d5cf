"""An untrusted folder is loaded completely or refused with one line, without using memory or running code.

Saving writes the same files as `save_pretrained`, but no code, and loading gives the same weights.
"""

import json
import pickle
import resource
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from hf_spam import SpamClassifier
from hf_spam.conversion.loading import (
    BUNDLED,
    find_file,
    load_classifier,
    load_config,
    load_tokenizer,
    save_classifier,
)
from hf_spam.files import write_folder


@contextmanager
def limited_memory():
    """Allow 2 GiB of address space beyond what is in use."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# Each of these returns a function that damages a folder.


def edit(name, change):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def config(**settings):
    return edit("config.json", lambda content: content.update(settings))


def tokenizer(change):
    return edit("tokenizer.json", lambda content: change(content["model"]))


def tokenizer_config(**settings):
    return edit("tokenizer_config.json", lambda content: content.update(settings))


def weights(change):
    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def tensor(name, value):
    return weights(lambda tensors: tensors.update({name: value}))


def replace(old, content, new=None):
    def damage(folder):
        (folder / old).unlink()
        (folder / (new or old)).write_bytes(content)

    return damage


UNFIT = r"^The weights of '.*' do not fit its config\.json: "
BAD_CONFIG = r"^The config\.json of '.*' is not valid: "
UNREADABLE = r"^'.*/model' cannot be loaded: "
NO_TOKENIZER = r"^No tokenizer in '.*\(.*"
VOCABULARY, WIDTH = (json.loads((BUNDLED / "config.json").read_text())[name] for name in ("vocab_size", "n_embd"))
TOO_LARGE = f"it has id {VOCABULARY + 1}, but the model's vocabulary has only {VOCABULARY} entries"
WEIGHTS, BIAS = "model.safetensors", "out_head.bias"
HUGE = 10**9
SHARDS = b'{"weight_map": {"a": "x.safetensors"}}'
DAMAGES = {
    "a network of 10^18 weights": (config(n_embd=HUGE, n_head=1, n_inner=None), f"{UNFIT}Storage size"),
    "a huge vocabulary": (
        config(vocab_size=HUGE),
        rf"{UNFIT}gpt\.tok_emb\.weight has shape \({VOCABULARY}, {WIDTH}\), expected",
    ),
    "a billion blocks": (config(n_layer=HUGE), f"{UNFIT}n_layer is {HUGE}, but there are weights for 3"),
    "labels that are text": (config(id2label="spam"), BAD_CONFIG),
    "an unknown type of numbers": (config(dtype="float99"), BAD_CONFIG),
    "a long text for a number": (config(padded_length="é" * 999), f"{BAD_CONFIG}.{{500}}…$"),
    "deep nesting": (replace("config.json", b"[" * 10**5), "^No model in the folder .*: maximum recursion depth"),
    "a list": (replace("config.json", b"[]"), r"there is no config\.json that names a model_type"),
    "another model": (config(model_type="bert"), "holds a model of type 'bert', not 'spam_gpt'"),
    "a missing tensor": (weights(lambda w: w.pop("gpt.final_norm.bias")), rf"{UNFIT}gpt\.final_norm\.bias is missing"),
    "a tensor too many": (tensor("extra", torch.ones(1)), f"{UNFIT}extra is unexpected"),
    "no head": (weights(lambda w: [w.pop(f"out_head.{name}") for name in ("weight", "bias")]), "without a class"),
    "another shape": (tensor(BIAS, torch.ones(3)), rf"{UNFIT}{BIAS} has shape \(3,\), expected \(2,\)\.$"),
    "whole numbers": (tensor(BIAS, torch.ones(2).int()), f"{UNFIT}{BIAS} has type int32, expected a float"),
    "NaN": (weights(lambda w: w[BIAS][0].fill_(float("nan"))), f"damaged: NaN, .* weights in {BIAS}"),
    "a flipped exponent bit": (weights(lambda w: w[BIAS][0].fill_(1e36)), f"damaged: .* large weights in {BIAS}"),
    "a header of 2^60 bytes": (replace(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"), f"{UNREADABLE}.*header"),
    "an empty file": (replace(WEIGHTS, b""), f"{UNREADABLE}.*header"),
    "no safetensors": (replace(WEIGHTS, b"", "other"), rf"{UNREADABLE}.* a pickle \(pytorch_model\.bin\)"),
    "a missing shard": (replace(WEIGHTS, SHARDS, "model.safetensors.index.json"), rf"{UNREADABLE}.*x\.safetensors"),
    "a tokenizer too large": (
        tokenizer(lambda model: model["vocab"].update(zz=VOCABULARY + 1)),
        f"does not fit the model .*: {TOO_LARGE}",
    ),
    "an empty tokenizer": (tokenizer(lambda model: model.update(vocab={}, merges=[])), f"{NO_TOKENIZER}is empty"),
    "a tokenizer that panics": (
        tokenizer(lambda model: model.update(continuing_subword_prefix="#" * 300)),
        f"{NO_TOKENIZER}out of range",
    ),
    "a maximum length in words": (tokenizer_config(model_max_length="x"), f"{NO_TOKENIZER}'>' not supported"),
    "a tokenizer with code": (
        tokenizer_config(tokenizer_class="X", auto_map={"AutoTokenizer": ["x.X", None]}),
        f"{NO_TOKENIZER}custom code",
    ),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(BUNDLED, tmp_path / "model")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_one_line(damage, folder, capfd):
    apply, message = DAMAGES[damage]
    apply(folder)
    with pytest.raises((ValueError, OSError), match=message) as caught, limited_memory():
        SpamClassifier.from_pretrained(folder)
    assert "\n" not in str(caught.value) and "Do you wish to run" not in capfd.readouterr().out


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_adapters_and_code_in_a_folder_are_ignored(folder, tmp_path):
    expected = load_classifier(BUNDLED).state_dict()
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    (folder / "adapter_config.json").write_text("{")
    (folder / "modeling_spam_gpt.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config(attn_implementation="someone/kernel", quantization_config={"quant_method": "bitsandbytes"})(folder)
    loaded = load_classifier(folder).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())
    assert not (tmp_path / "ran").exists()


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    folder = tmp_path / "checkpoint-4"
    write_folder(folder, lambda target: shutil.copytree(BUNDLED, target, dirs_exist_ok=True), {"step": 4})
    load_classifier(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged: model\.safetensors has changed since it was written"):
        load_classifier(folder)


def test_shards_and_base_models_are_loaded(tmp_path):
    whole = load_classifier("bundled")
    whole.save_pretrained(tmp_path / "shards", max_shard_size="2MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    state = load_classifier(tmp_path / "shards").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    whole.gpt.save_pretrained(tmp_path / "base")
    for base in (
        load_classifier(tmp_path / "base", fresh_head=True),
        load_classifier(tmp_path / "shards", fresh_head="always"),
    ):
        assert torch.equal(base.gpt.tok_emb.weight, whole.gpt.tok_emb.weight)
        assert base.out_head.weight.isfinite().all() and not torch.equal(base.out_head.weight, whole.out_head.weight)


def test_a_tokenizer_without_a_model_is_loaded(folder):
    (folder / "config.json").unlink()
    assert len(load_tokenizer(folder)) == len(load_tokenizer("bundled")) == VOCABULARY


def test_a_tokenizer_without_a_pad_token_is_refused(tmp_path):
    """A bare tokenizer.json names none. The remedy of the error works."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no pad token: name one in its tokenizer_config\.json: (.*)$") as caught:
        load_tokenizer(tmp_path)
    settings = json.loads(str(caught.value).partition(".json: ")[2]) | {"pad_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path).pad_token_id == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_writes_the_same_files_as_save_pretrained_but_no_code(dtype, tmp_path):
    """The weights have the permissions of the other files, and the same model gives the same bytes."""
    model, tokenizer = load_classifier("bundled").to(dtype), load_tokenizer("bundled")
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    save_classifier(model, tokenizer, tmp_path / "ours")
    theirs, ours = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("theirs", "ours"))
    config = json.loads(theirs.pop("config.json"))
    for entry, files in (("auto_map", ("configuration", "modeling")), ("custom_pipelines", ("pipeline",))):
        assert config.pop(entry) and all(theirs.pop(f"{file}_spam_gpt.py") for file in files)
    assert json.loads(ours.pop("config.json")) == config and ours == theirs
    assert len({path.stat().st_mode for path in (tmp_path / "ours").iterdir()}) == 1
    loaded = load_classifier(tmp_path / "ours", dtype="auto").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_without_a_connection_the_cache_or_the_cause_is_found_at_once(hub, tmp_path, monkeypatch):
    """The client's retries, which take a minute, are for downloads; the first sentence is what is wrong."""
    HfApi().create_repo("alice/spam")
    HfApi().upload_folder(repo_id="alice/spam", folder_path=BUNDLED)
    for load in (load_classifier, load_tokenizer):
        load("alice/spam")
    hub.stop()
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("a retry")))
    assert SpamClassifier.from_pretrained("alice/spam").predict("hi") == ["not spam"]
    assert find_file("alice/spam", "history.json") is None
    for load in (load_classifier, load_tokenizer, load_config):
        with pytest.raises(OSError, match=r"^alice/gone: no such file or folder; cannot reach the Hub at "):
            load("alice/gone")
