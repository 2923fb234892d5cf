"""A model folder from a stranger: what does not fit is one line before memory is taken, and nothing in it is run."""

import json
import pickle
import resource
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_spam import SpamClassifier
from hf_spam.conversion.loading import load_classifier
from hf_spam.data.tokenization import load_tokenizer
from hf_spam.files import write_folder
from hf_spam.inference.classifier import POCKET


@contextmanager
def little_memory():
    """At most 2 GiB more of address space than there is now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def config(**settings):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def weights(change):
    def changed(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return changed


def header(change):
    """Rewrites the header of the weights and leaves the numbers."""

    def changed(folder):
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        new = json.dumps(change(json.loads(data[8 : 8 + size]))).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])

    return changed


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def lie(entries, **values):
    return entries | {"out_head.bias": entries["out_head.bias"] | values}


def tokenizer(change, name="tokenizer.json"):
    def changed(folder):
        settings = json.loads((folder / name).read_text())
        change(settings)
        (folder / name).write_text(json.dumps(settings))

    return changed


DAMAGED = "cannot be loaded"
UNFIT = "does not fit its config.json"
NO_CONFIG = "has a config.json that describes no SpamGPT"
HUGE = 10**9
STRANGE = {
    "a network of 10^18 weights": (config(n_embd=HUGE, n_head=1), f"{DAMAGED}: Storage size calculation overflowed"),
    "a huge vocabulary": (
        config(vocab_size=HUGE),
        rf"{UNFIT}: gpt\.tok_emb\.weight is of shape \(2000, 128\), expected",
    ),
    "a huge table of positions": (config(n_positions=HUGE), rf"{UNFIT}: gpt\.pos_emb\.weight is of shape \(128, 128\)"),
    "a billion blocks": (config(n_layer=HUGE), f"{UNFIT}: n_layer is {HUGE}, but there are weights of 1"),
    "a wide feed-forward": (config(n_inner=HUGE), rf"{UNFIT}: gpt\.trf_blocks\.0\.ff\.layers\.0\.bias is of shape"),
    "a billion labels": (config(num_labels=HUGE, id2label=None), f"{NO_CONFIG}: num_labels is {HUGE}"),
    "three labels": (config(id2label={0: "a", 1: "b", 2: "c"}, label2id=None), rf"{UNFIT}: out_head\.bias .* \(3,\)"),
    "labels that are none": (config(id2label="spam"), NO_CONFIG),
    "an unknown type of numbers": (config(dtype="float99"), NO_CONFIG),
    "text for a number": (config(n_embd="128"), f"{NO_CONFIG}: Validation error for field 'n_embd'"),
    "a text that is no length": (config(padded_length="é" * 999), f"{NO_CONFIG}: .{{500}}…$"),
    "deep nesting": (raw("config.json", b"[" * 10**5), "No model in the folder .*: maximum recursion depth exceeded"),
    "a list": (raw("config.json", b"[]"), "there is no config.json that names a model_type"),
    "a missing tensor": (weights(lambda w: w.pop("gpt.final_norm.bias")), r"it lacks gpt\.final_norm\.bias"),
    "a tensor too many": (weights(lambda w: w.update(extra=torch.ones(1))), f"{UNFIT}: extra is unexpected"),
    "another shape": (weights(lambda w: w.update({"out_head.bias": torch.ones(3)})), rf"{UNFIT}: out_head\.bias is of"),
    "whole numbers": (header(lambda h: lie(h, dtype="I32")), rf"{UNFIT}: out_head\.bias is of type I32"),
    "no numbers": (weights(lambda w: w["out_head.bias"].fill_(float("nan"))), r"are no numbers, .*: out_head\.bias"),
    "a damaged exponent": (
        weights(lambda w: w["gpt.tok_emb.weight"][0, 0].fill_(1e36)),
        r"beyond all measure: gpt\.tok_emb\.weight",
    ),
    "a header of 2^60 bytes": (raw("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), f"{DAMAGED}: .*header"),
    "a shape that lies": (header(lambda h: lie(h, shape=[HUGE])), f"{DAMAGED}: .*header"),
    "offsets beyond the end": (header(lambda h: lie(h, data_offsets=[0, 8 * HUGE])), f"{DAMAGED}: .*header"),
    "an empty file": (raw("model.safetensors", b""), f"{DAMAGED}: .*header"),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"a pickle \(pytorch_model\.bin\)",
    ),
    "weights elsewhere": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            raw("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}')(folder),
        ),
        r"index\.json names files elsewhere: \.\./x\.safetensors",
    ),
    "a tokenizer too large": (
        tokenizer(lambda t: t["model"]["vocab"].update(zz=5000)),
        r"is not the model's: it has an id 5000, but the vocabulary of the model only 2000 entries",
    ),
    "a tokenizer that knows nothing": (
        tokenizer(lambda t: t["model"].update(vocab={}, merges=[])),
        "The tokenizer in .* knows no letters",
    ),
    "a tokenizer without a model": (
        tokenizer(lambda t: t["model"].pop("vocab")),
        "No tokenizer .*Missing",
    ),
    "a tokenizer that panics": (
        tokenizer(lambda t: t["model"].update(continuing_subword_prefix="#" * 300)),
        "No tokenizer .*out of range",
    ),
    "a limit in words": (
        tokenizer(lambda t: t.update(model_max_length="x"), "tokenizer_config.json"),
        "No tokenizer in the folder .*'>' not supported",
    ),
    "a tokenizer with code": (
        tokenizer(
            lambda t: t.update(tokenizer_class="X", auto_map={"AutoTokenizer": ["x.X", None]}), "tokenizer_config.json"
        ),
        "No tokenizer in the folder .*custom code",
    ),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(POCKET, tmp_path / "model")


@pytest.mark.parametrize("what", STRANGE)
def test_what_does_not_fit_is_one_line(what, folder, capfd):
    change, message = STRANGE[what]
    change(folder)
    with pytest.raises((ValueError, OSError), match=message) as caught, little_memory():
        SpamClassifier.from_pretrained(folder)
    assert "\n" not in str(caught.value) and "Do you wish to run" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_is_no_model(name, folder):
    """Also one that is a model's: what was given is named, and nothing is looked for on the Hub."""
    with pytest.raises(OSError) as caught:
        SpamClassifier.from_pretrained(folder / name)
    assert str(caught.value) == (
        f"No model in {str(folder / name)!r}: it is a file; a model's folder or a Hub id is needed."
    )


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_that_came_along_is_run_or_read(folder, tmp_path):
    """Pickles, adapters, code and the name of an attention to be fetched: the answers are those of the weights."""
    expected = SpamClassifier.from_pretrained(POCKET).probabilities(["win a prize", "see you"])
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    (folder / "adapter_config.json").write_text("{")
    (folder / "modeling_spam_gpt.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config(attn_implementation="someone/kernel", quantization_config={"quant_method": "bitsandbytes"})(folder)
    assert torch.equal(SpamClassifier.from_pretrained(folder).probabilities(["win a prize", "see you"]), expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is not read"):
        SpamClassifier.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_checkpoint_is_no_model(tmp_path):
    """Where the manifest of a checkpoint says what was written, a single bit of a weight is noticed."""
    folder = tmp_path / "checkpoint-4"
    write_folder(folder, lambda target: shutil.copytree(POCKET, target, dirs_exist_ok=True), {"step": 4})
    SpamClassifier.from_pretrained(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged: model\.safetensors has changed since it was written"):
        SpamClassifier.from_pretrained(folder)


def test_shards_and_bases_are_loaded(folder, tmp_path):
    whole = load_classifier(folder)
    whole.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    state = load_classifier(tmp_path / "shards").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    whole.gpt.save_pretrained(tmp_path / "base")
    base = load_classifier(tmp_path / "base", fresh_head=True)
    assert torch.equal(base.gpt.tok_emb.weight, whole.gpt.tok_emb.weight)
    assert base.out_head.weight.isfinite().all() and not torch.equal(base.out_head.weight, whole.out_head.weight)


def test_a_tokenizer_on_its_own_is_measured_by_no_model(folder, tmp_path):
    (folder / "config.json").unlink()
    assert len(load_tokenizer(folder)) == 2000
