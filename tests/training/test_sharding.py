"""A run whose weights are in shards is the run that it is without, and what it leaves is whole."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file
from sharded_on_cpus import take_cpus_for_gpus
from small_runs import first_messages, result
from transformers import AutoModelForSequenceClassification

from hf_spam import Recipe, SpamGPTConfig, SpamGPTForSequenceClassification, SpamGPTModel, finetune
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.objective import Objective
from hf_spam.training.sharding import sharding_asked_for

SCRIPT = Path(__file__).parents[1] / "sharded_on_cpus.py"
SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 9, "eval_freq": 2, "save_steps": 4}
EXACT = {**SMALL, "dropout": 0.0, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "weight_average": 0.5}
DRAWN = {**SMALL, "dropout": 0.2, "weight_average": 0.5, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 80 messages, of which no split has a size that two or three processes can share evenly."""
    file = tmp_path_factory.mktemp("data") / "messages.csv"
    first_messages(train=83)["train"].to_csv(file)
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A network with weights of unequal shards on three processes."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(first_messages(train=83)["train"]["text"][:], 300)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(3)
    config = SpamGPTConfig(vocab_size=300, n_positions=128, n_embd=20, n_layer=3, n_head=2, **ids)
    SpamGPTModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def runs_of_all_kinds(data, base):
    """Frozen blocks and adapters: with each another network is sharded than the model itself."""
    book = {"recipe": "book", "data": data, "protocol": "full", "base": base, "max_steps": 9, "eval_freq": 2}
    book |= {"save_steps": 4, "learning_rate": 2e-3, "max_grad_norm": 1.0}
    return {
        "frozen": {**book, "weight_average": 0.5},
        "adapters": {**book, "trainable": "head", "lora_r": 4, "lora_alpha": 64},
    }


def train_sharded(processes: int, runs: dict[Path, dict]) -> None:
    """Makes the runs, one after another, as `accelerate launch` starts them; each block is a shard on each process."""
    commands = [
        ["train", "--output-dir", str(out), *(f"--{key.replace('_', '-')}={value}" for key, value in settings.items())]
        for out, settings in runs.items()
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    launch += ["--num_processes", processes, "--num_machines", 1, "--main_process_port", 0]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT, json.dumps(commands)]
    environment = {**os.environ, "ACCELERATE_TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, launch)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def assert_same_run(sharded: Path, one: Path) -> None:
    """Losses to 1e-5, accuracies, metrics and weights; and files of the same tensors, in the checkpoints too."""
    found, expected = (json.loads((folder / "history.json").read_text()) for folder in (sharded, one))
    for name in ("train_losses", "val_losses"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5) and len(set(found[name])) > 1
    for name in ("train_accs", "val_accs", "examples_seen", "steps"):
        assert found[name] == expected[name], name
    metrics = json.loads((one / "metrics.json").read_text())
    for split, values in json.loads((sharded / "metrics.json").read_text()).items():
        assert values == pytest.approx(metrics[split], abs=1e-5), split
    files = {path.relative_to(one) for path in one.rglob("*.safetensors")}
    assert {path.relative_to(sharded) for path in sharded.rglob("*.safetensors")} - files <= {
        path.with_stem(path.stem.replace("0", rank)) for path in files for rank in "123"
    }, "beside the random states of the other processes there is nothing else"
    for file in files:
        tensors, whole = load_file(sharded / file), load_file(one / file)
        assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in whole.items()}, file
        for name, tensor in tensors.items():
            if "random" not in file.stem and "W_key.bias" not in name:  # on which attention does not depend
                torch.testing.assert_close(tensor, whole[name], atol=1e-4, rtol=0, msg=f"{file}: {name}")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """On two processes: a run without dropout, one with it, and that one again from its midst."""
    out = tmp_path_factory.mktemp("sharded")
    wanted = {
        out / "exact": {"recipe": "pocket", "data": data, **EXACT, "per_device_train_batch_size": 8},
        out / "drawn": {"recipe": "pocket", "data": data, **DRAWN},
        out / "again": {
            "recipe": "pocket",
            "data": data,
            **DRAWN,
            "resume_from_checkpoint": out / "drawn/checkpoint-4",
        },
    }
    train_sharded(2, wanted)
    return out


@pytest.mark.slow
def test_two_processes_do_what_one_does(runs, data, tmp_path):
    """The same global batch, gradients accumulated and clipped, weights averaged."""
    run = finetune("pocket", data=data, output_dir=tmp_path / "one", **{**EXACT, "per_device_train_batch_size": 16})
    assert_same_run(runs / "exact", tmp_path / "one")
    for folder in (runs / "exact", runs / "exact/checkpoint-4"):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.architectures == [type(run.model).__name__]
        assert not any(tensor.isnan().any() for tensor in model.state_dict().values())


@pytest.mark.slow
def test_resuming_is_exact(runs):
    """To the bit, in what is left at the end and in a checkpoint on the way: moments, average, random states."""
    assert result(runs / "again") == result(runs / "drawn")
    for path in (runs / "drawn/checkpoint-8").rglob("*.safetensors"):
        assert path.read_bytes() == (runs / "again" / path.relative_to(runs / "drawn")).read_bytes(), path


@pytest.mark.slow
def test_one_process_goes_on_from_shards(runs, data, tmp_path):
    """A checkpoint is as any other: without shards, the run ends as it did with them."""
    settings = {**EXACT, "per_device_train_batch_size": 16, "allow_differences": True, "save_steps": None}
    finetune(
        "pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint=runs / "exact/checkpoint-4", **settings
    )
    found, expected = (json.loads((out / "history.json").read_text()) for out in (tmp_path / "out", runs / "exact"))
    assert found["train_losses"] == pytest.approx(expected["train_losses"], abs=1e-5)
    weights = load_file(runs / "exact/model.safetensors")
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        if "W_key.bias" not in name:
            torch.testing.assert_close(tensor, weights[name], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_three_processes_and_all_that_changes_the_network(data, base, tmp_path):
    """The shards are of unequal sizes, and of the head's there are too few."""
    wanted = runs_of_all_kinds(data, base)
    batch = {"per_device_train_batch_size": 4}
    train_sharded(3, {tmp_path / "three" / name: {**settings, **batch} for name, settings in wanted.items()})
    for name, settings in wanted.items():
        finetune(**settings, per_device_train_batch_size=12, output_dir=tmp_path / "one" / name)
        assert_same_run(tmp_path / "three" / name, tmp_path / "one" / name)


@pytest.fixture
def shard(monkeypatch):
    """From its call on runs are in shards on this process alone: each is a whole tensor, all else as with several."""

    def start():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        place |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "ACCELERATE_TORCH_DEVICE": "cpu"}
        place |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        take_cpus_for_gpus(monkeypatch.setattr)

    yield start
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("kind", ["averaged", "frozen", "adapters"])
def test_shards_change_nothing(kind, data, base, shard, tmp_path):
    """To the bit, in every checkpoint, and from one on as well: what is written, and read again, is whole."""
    averaged = {"recipe": "pocket", "data": data, **DRAWN, "gradient_accumulation_steps": 2}
    settings = {"averaged": averaged, **runs_of_all_kinds(data, base)}[kind]
    finetune(**settings, output_dir=tmp_path / "plain")
    shard()
    run = finetune(**settings, output_dir=tmp_path / "sharded")
    assert type(run.model) is SpamGPTForSequenceClassification
    checkpoint = tmp_path / "sharded/checkpoint-4"
    finetune(**settings, output_dir=tmp_path / "resumed", resume_from_checkpoint=checkpoint)
    for name, steps in (("sharded", [4, 8]), ("resumed", [8])):
        assert result(tmp_path / name) == result(tmp_path / "plain"), name
        assert Checkpoints(tmp_path / name).steps() == steps
        for file in (path for step in steps for path in (tmp_path / f"plain/checkpoint-{step}").rglob("*.safetensors")):
            assert file.read_bytes() == (tmp_path / name / file.relative_to(tmp_path / "plain")).read_bytes(), file


@pytest.mark.parametrize("asked_for", [None, "NO_WRAP", "TRANSFORMER_BASED_WRAP"])
def test_each_block_is_a_unit_of_its_own(asked_for, monkeypatch):
    """Else one process would hold all weights at once, in the midst of a step."""
    wanted = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": asked_for}
    for name, value in wanted.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    model = SpamGPTForSequenceClassification(SpamGPTConfig(vocab_size=300, n_embd=16, n_layer=2, n_head=2, **ids))
    wrapped = fsdp2_prepare_auto_wrap_policy(sharding_asked_for(Recipe()), Objective(model))
    assert [module for module in model.modules() if wrapped(module)] == [*model.gpt.trf_blocks]


def test_what_is_not_sharded(monkeypatch):
    """Half precision, an adversary, which goes back through the network in between, and a wrapping that takes lists."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    assert sharding_asked_for(Recipe(mixed_precision="bf16")).fsdp_version == 2
    half, adversary = Recipe(mixed_precision="fp16"), Recipe(adversarial_epsilon=0.1)
    with pytest.raises(ValueError, match=r"^mixed_precision fp16 is not supported with FSDP; bf16 is\.$"):
        sharding_asked_for(half)
    with pytest.raises(ValueError, match=r"^adversarial_epsilon is not supported with FSDP: set it to 0\.$"):
        sharding_asked_for(adversary)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP")
    with pytest.raises(ValueError, match=r"^FSDP's SIZE_BASED_WRAP is not supported: each block is wrapped"):
        sharding_asked_for(Recipe())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert sharding_asked_for(half) is sharding_asked_for(adversary) is None
