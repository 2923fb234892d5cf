"""Weights that were damaged are noticed by their checksum; those that others wrote, or a person changed, are loaded."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2Model

from hf_spam import finetune
from hf_spam.conversion.checksum import CHECKSUM, save_with_checksum, verify_checksum
from hf_spam.conversion.import_weights import import_weights
from hf_spam.conversion.loading import load_classifier
from hf_spam.inference.classifier import POCKET
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from hf_spam.training.recalibration import calibrated_copy

TINY = {"vocab_size": 60, "n_positions": 16, "n_embd": 8, "n_head": 2, "n_layer": 1, "padded_length": None}
TINY |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 59)


def tiny(**settings) -> SpamGPTForSequenceClassification:
    return SpamGPTForSequenceClassification(SpamGPTConfig(**TINY, **settings)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_with_checksum(tiny(), folder)
    return folder


def metadata(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.metadata()


@settings(max_examples=60)
@given(data=st.data())
def test_no_bit_is_changed_unnoticed(saved, tmp_path_factory, data):
    """Of the numbers none; of the header none that makes other weights of them."""
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("damaged"), dirs_exist_ok=True)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    head = 8 + struct.unpack("<Q", content[:8])[0]
    in_header = data.draw(st.booleans())
    at = data.draw(st.integers(8, head - 1) if in_header else st.integers(head, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if not in_header:
        with pytest.raises(ValueError, match=r"' cannot be loaded: model\.safetensors is damaged, its weights are not"):
            load_classifier(folder)
        return
    try:
        found = load_classifier(folder).state_dict()
    except ValueError:
        return
    expected = load_classifier(saved).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_tensors_that_change_places_are_noticed(saved, tmp_path):
    """Two of one shape, by their names in the header: every number is as it was."""
    folder = shutil.copytree(saved, tmp_path / "model")
    path, content = folder / "model.safetensors", (saved / "model.safetensors").read_bytes()
    path.write_bytes(content.replace(b"W_key", b"W_xxx").replace(b"W_query", b"W_key").replace(b"W_xxx", b"W_query"))
    assert path.stat().st_size == len(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_classifier(folder)


def test_all_that_writes_a_model_writes_its_checksum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GPT2Model(GPT2Config(vocab_size=60, n_positions=16, n_embd=8, n_head=2, n_layer=1)).save_pretrained("gpt2")
    Path("mine.tsv").write_text("".join(f"ham\tsee you at {n}\nspam\twin {n} pounds\n" for n in "abcdefghijklmnopqrst"))
    small = {"max_steps": 2, "n_embd": 16, "n_head": 2, "vocab_size": 300, "eval_iter": 1}
    finetune("pocket", data="mine.tsv", output_dir="trained", save_steps=1, **small)
    calibrated_copy("trained", "calibrated", data="mine.tsv")
    import_weights("gpt2", "imported")
    for folder in (POCKET, *map(Path, ("trained", "trained/checkpoint-1", "calibrated", "imported"))):
        assert metadata(folder).keys() == {"format", CHECKSUM}
        verify_checksum(folder / "model.safetensors")
        assert oct((folder / "model.safetensors").stat().st_mode) == oct((folder / "config.json").stat().st_mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_with_a_checksum_is_that_of_save_pretrained(dtype, tmp_path):
    """The same files, weights and settings; the same model is the same file each time."""
    model = tiny().to(dtype)
    model.save_pretrained(tmp_path / "plain")
    contents = set()
    for number in range(8):
        save_with_checksum(model, tmp_path / str(number))
        contents.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(contents) == 1
    plain, ours = ({path.name for path in (tmp_path / name).iterdir()} for name in ("plain", "0"))
    assert plain == ours
    assert (tmp_path / "plain/config.json").read_text() == (tmp_path / "0/config.json").read_text()
    plain, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "0"))
    assert plain.keys() == ours.keys() and all(torch.equal(plain[name], ours[name]) for name in plain)
    loaded = load_classifier(tmp_path / "0", dtype="auto")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_there_is_no_false_alarm(saved, tmp_path):
    """What a person may do: other weights saved by the library, shards, other names of labels, another precision."""
    changed = load_classifier(saved)
    with torch.no_grad():
        changed.out_head.bias += 1
    changed.save_pretrained(tmp_path / "again")
    assert CHECKSUM not in metadata(tmp_path / "again")
    assert torch.equal(load_classifier(tmp_path / "again").out_head.bias, changed.out_head.bias)
    changed.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert torch.equal(load_classifier(tmp_path / "shards").out_head.bias, changed.out_head.bias)
    folder = shutil.copytree(saved, tmp_path / "renamed")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"id2label": {"0": "fine", "1": "junk"}, "label2id": {"fine": 0, "junk": 1}}
    (folder / "config.json").write_text(json.dumps(settings))
    assert load_classifier(folder, dtype=torch.bfloat16).config.id2label[1] == "junk"
    assert load_classifier(folder, fresh_head="always").out_head.bias.isfinite().all()
