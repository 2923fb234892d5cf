"""A run that is in shards (FSDP 2, or ZeRO 1 and 2 of DeepSpeed) is the run that it is without, and leaves all whole.

Those of DeepSpeed are skipped where it is not installed.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_deepspeed_available
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file
from sharded_on_cpus import take_cpus_for_gpus
from small_runs import first_messages, result
from transformers import AutoModelForSequenceClassification

from hf_spam import Recipe, SpamGPTConfig, SpamGPTForSequenceClassification, SpamGPTModel, finetune
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.lora import merged
from hf_spam.training.objective import Objective
from hf_spam.training.sharding import sharding_asked_for

SCRIPT = Path(__file__).parents[1] / "sharded_on_cpus.py"
SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 9, "eval_freq": 2, "save_steps": 4, "adversarial_epsilon": 0.0}
EXACT = {**SMALL, "dropout": 0.0, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "weight_average": 0.5}
DRAWN = {**SMALL, "dropout": 0.2, "weight_average": 0.5, "per_device_train_batch_size": 8}

NO_DEEPSPEED = pytest.mark.skipif(not is_deepspeed_available(), reason="DeepSpeed is not installed")
FSDP = ["--use_fsdp", "--fsdp_version", 2]
KINDS = [
    pytest.param(FSDP, id="FSDP 2"),
    pytest.param(["--use_deepspeed", "--zero_stage", 1], id="ZeRO 1", marks=NO_DEEPSPEED),
    pytest.param(["--use_deepspeed", "--zero_stage", 2], id="ZeRO 2", marks=NO_DEEPSPEED),
]


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


def train_sharded(kind: list, processes: int, runs: dict[Path, dict]) -> None:
    """Makes the runs, one after another, as `accelerate launch` starts them; of FSDP's shards each block is a unit."""
    commands = []
    for out, settings in runs.items():
        flags = {key.replace("_", "-"): value for key, value in {"output_dir": out, **settings}.items()}
        commands.append(
            ["train", *(f"--{key}" if value is True else f"--{key}={value}" for key, value in flags.items())]
        )
    launch = [sys.executable, "-m", "accelerate.commands.launch", *kind]
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
                torch.testing.assert_close(tensor, whole[name], atol=1e-5, rtol=0, msg=f"{file}: {name}")


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """What one process does with the same batches."""
    out = tmp_path_factory.mktemp("one")
    finetune("pocket", data=data, output_dir=out, **{**EXACT, "per_device_train_batch_size": 16})
    return out


@pytest.fixture(scope="module", params=KINDS)
def runs(request, data, one, tmp_path_factory):
    """On two processes: a run without dropout, one with it, that one again from its midst, and one process's likewise.

    Of the 56 training messages, batches of 16 leave an odd one out of those that are accumulated.
    """
    out = tmp_path_factory.mktemp("sharded")
    onward = {"resume_from_checkpoint": one / "checkpoint-4", "allow_differences": True}
    wanted = {
        out / "exact": {"recipe": "pocket", "data": data, **EXACT, "per_device_train_batch_size": 8},
        out / "drawn": {"recipe": "pocket", "data": data, **DRAWN},
        out / "again": {
            "recipe": "pocket",
            "data": data,
            **DRAWN,
            "resume_from_checkpoint": out / "drawn/checkpoint-4",
        },
        out / "onward": {"recipe": "pocket", "data": data, **EXACT, "per_device_train_batch_size": 8, **onward},
    }
    train_sharded(request.param, 2, wanted)
    return out


@pytest.mark.slow
def test_two_processes_do_what_one_does(runs, one):
    """The same global batch, gradients accumulated and clipped, weights averaged."""
    assert_same_run(runs / "exact", one)
    for folder in (runs / "exact", runs / "exact/checkpoint-4"):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.architectures == [SpamGPTForSequenceClassification.__name__]
        assert not any(tensor.isnan().any() for tensor in model.state_dict().values())


@pytest.mark.slow
def test_resuming_is_exact(runs):
    """To the bit, in what is left at the end and in a checkpoint on the way: moments, average, random states."""
    assert result(runs / "again") == result(runs / "drawn")
    for path in (runs / "drawn/checkpoint-8").rglob("*.safetensors"):
        assert path.read_bytes() == (runs / "again" / path.relative_to(runs / "drawn")).read_bytes(), path


@pytest.mark.slow
def test_one_process_goes_on_from_shards_and_they_from_one(runs, one, data, tmp_path):
    """A checkpoint is as any other: whoever goes on from it, the run ends the same."""
    settings = {**EXACT, "per_device_train_batch_size": 16, "allow_differences": True, "save_steps": None}
    finetune(
        "pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint=runs / "exact/checkpoint-4", **settings
    )
    expected, weights = json.loads((one / "history.json").read_text()), load_file(one / "model.safetensors")
    for out in (tmp_path / "out", runs / "onward"):
        found = json.loads((out / "history.json").read_text())
        assert found["train_losses"] == pytest.approx(expected["train_losses"], abs=1e-5)
        for name, tensor in load_file(out / "model.safetensors").items():
            if "W_key.bias" not in name:
                torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_processes_and_all_that_changes_the_network(kind, data, base, tmp_path):
    """The shards are of unequal sizes, and of the head's there are too few."""
    wanted = runs_of_all_kinds(data, base)
    if "--use_deepspeed" in kind:  # which, unlike FSDP, lets an adversary look for its direction
        wanted["adversary"] = {"recipe": "pocket", "data": data, **SMALL, "dropout": 0.0, "adversarial_epsilon": 1.0}
    batch = {"per_device_train_batch_size": 4}
    train_sharded(kind, 3, {tmp_path / "three" / name: {**settings, **batch} for name, settings in wanted.items()})
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
    wrapped = fsdp2_prepare_auto_wrap_policy(sharding_asked_for(Recipe())["fsdp_plugin"], Objective(model))
    assert [module for module in model.modules() if wrapped(module)] == [*model.gpt.trf_blocks]


def test_what_is_not_sharded(monkeypatch):
    """Half precision, an adversary, which goes back through the network in between, and a wrapping that takes lists."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    assert sharding_asked_for(Recipe(mixed_precision="bf16"))["fsdp_plugin"].fsdp_version == 2
    half, adversary = Recipe(mixed_precision="fp16"), Recipe(adversarial_epsilon=0.1)
    with pytest.raises(ValueError, match=r"^mixed_precision fp16 is not supported with FSDP; bf16 is\.$"):
        sharding_asked_for(half)
    with pytest.raises(ValueError, match=r"^adversarial_epsilon is not supported with FSDP: set it to 0\.$"):
        sharding_asked_for(adversary)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP")
    with pytest.raises(ValueError, match=r"^FSDP's SIZE_BASED_WRAP is not supported: each block is wrapped"):
        sharding_asked_for(Recipe())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert sharding_asked_for(half) == sharding_asked_for(adversary) == {}


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({}, None),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}, None),
        ({"ACCELERATE_GRADIENT_CLIPPING": "2.0"}, "--gradient_clipping 2.0 is not the recipe's max_grad_norm (1.0): "),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
            "--gradient_accumulation_steps 1 is not the recipe's gradient_accumulation_steps (2): ",
        ),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "DeepSpeed's own configuration is not supported: "),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO 3 is not supported, 1 and 2 are; "),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "ZeRO 0 is not supported, 1 and 2 are; "),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "DeepSpeed's offloading is not supported: "),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "DeepSpeed's offloading is not supported: "),
        ({"mixed_precision": "bf16"}, "mixed_precision bf16 is not supported with DeepSpeed; FSDP 2 has bf16."),
    ],
)
def test_what_deepspeed_is_not_asked_to_do(setting, problem, monkeypatch):
    """What is not that of the recipe, or would leave another run than without it."""
    monkeypatch.setattr("hf_spam.training.zero.is_deepspeed_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    recipe = {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    for name, value in setting.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
        else:
            recipe[name] = value
    if problem is not None:
        with pytest.raises(ValueError, match=f"^{re.escape(problem)}.*"):
            sharding_asked_for(Recipe(**recipe))
        return
    config = sharding_asked_for(Recipe(**recipe))["deepspeed_plugin"].deepspeed_config
    assert (config["gradient_clipping"], config["gradient_accumulation_steps"]) == (1.0, 2)
    assert config["train_micro_batch_size_per_gpu"] == 4 and config["zero_optimization"]["stage"] == 2


def test_deepspeed_is_not_installed(monkeypatch):
    monkeypatch.setattr("hf_spam.training.zero.is_deepspeed_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(
        ValueError, match=r"^DeepSpeed is not installed: pip install deepspeed, or launch without it\.$"
    ):
        sharding_asked_for(Recipe())


def test_steps_that_deepspeed_skips(data, monkeypatch):
    """It leaves out those with endless gradients, and would do so to the end without a word."""
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", True)
    with pytest.raises(ValueError, match=r"^The gradients are no longer numbers at step 0\. Training diverged"):
        finetune("pocket", data=data, **DRAWN | {"save_steps": None})


def test_deepspeed_keeps_nothing_of_the_model():
    """Its hooks and moments hang on the parameters that it trained: a run's model has others, of the same values."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    trained = SpamGPTForSequenceClassification(SpamGPTConfig(vocab_size=9, n_embd=4, n_layer=1, n_head=1, **ids))
    assert merged(trained) is trained
    trained.out_head.weight._hp_mapping = None
    model = merged(trained)
    assert not any(hasattr(parameter, "_hp_mapping") for parameter in model.parameters())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in trained.state_dict().items())
