"""A resumed run gives the results of an uninterrupted one, and resumes only from an intact checkpoint of its own."""

import json
import shutil

import pytest
import torch
from datasets import DatasetDict
from processes import finetune_on
from safetensors.torch import load_file, save_file
from small_runs import NO_DROPOUT, SMALL, result, resumed_from

from hf_spam import finetune
from hf_spam.files import write_folder
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.run import Progress

# An epoch has 5 steps: there is a checkpoint at the end of the first, and one in the middle of the second.
SETTINGS = {**SMALL, "max_steps": 12, "eval_freq": 3, "save_steps": 4}
LORA = {"lora_r": 4, "trainable": "head", "weight_average": 0.0}


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("pocket", {"attention_dropout": 0.2, "temperature_scaling": True, "target_fpr": 0.1}),
        # Groups of 4 and 1 batches: the last step of an epoch has fewer.
        ("pocket", {"gradient_accumulation_steps": 4, "max_steps": 4, "save_steps": 1, "weight_average": 0.0}),
        ("pocket", {"lr_scheduler_type": "cosine", "warmup_steps": 0.3, "train_sampling_strategy": "random"}),
        ("pocket", {"mixed_precision": "bf16", **LORA}),
        ("pocket", {"spliced_messages": 20}),
        ("book", {"save_steps": 9, "max_steps": 20}),
    ],
    ids=["everything-random", "accumulation", "cosine", "bf16-lora", "spliced", "frozen-blocks"],
)
def test_resuming_from_every_checkpoint_gives_the_same_weights_bit_for_bit(recipe, settings, data, base, tmp_path):
    """History, metrics and later checkpoints are the same too, whatever random numbers the process drew before."""
    settings = {**(SETTINGS if recipe == "pocket" else {"base": base}), **settings}
    whole = tmp_path / "whole"
    finetune(recipe, data=data, output_dir=whole, **settings)
    steps = Checkpoints(whole).steps()
    assert steps
    for step in steps:
        torch.manual_seed(step)
        out = tmp_path / f"from-{step}"
        assert resumed_from(whole / f"checkpoint-{step}", out, recipe, data=data, **settings) == result(whole), step
        assert Checkpoints(out).steps() == [later for later in steps if later >= step]
        for name in ("model.safetensors", "metrics.json", "training_state/optimizer.safetensors"):
            last = f"checkpoint-{steps[-1]}"
            assert (out / last / name).read_bytes() == (whole / last / name).read_bytes()


def test_writing_checkpoints_does_not_change_a_run(data, tmp_path):
    """Neither their evaluation nor swapping in the averaged weights has side effects."""
    finetune("pocket", data=data, output_dir=tmp_path / "without", **{**SETTINGS, "save_steps": None})
    finetune("pocket", data=data, output_dir=tmp_path / "with", **{**SETTINGS, "save_steps": 3})
    assert result(tmp_path / "with") == result(tmp_path / "without")


@pytest.mark.slow
def test_one_process_may_resume_a_run_of_two(data, tmp_path):
    """With the same global batch and without dropout, only rounding differs."""
    data.save_to_disk(tmp_path / "data")
    settings = {**SETTINGS, **NO_DROPOUT, "save_steps": None}
    whole = finetune("pocket", data=data, **settings).history
    two = {**settings, "per_device_train_batch_size": 8, "save_steps": 8, "output_dir": tmp_path / "two"}
    finetune_on(2, "pocket", tmp_path / "data", **two)
    resume = {"resume_from_checkpoint": tmp_path / "two/checkpoint-8", "allow_differences": True}
    with pytest.raises(ValueError, match="it had 2 processes, not 1"):
        finetune("pocket", data=data, output_dir=tmp_path / "one", **{**resume, "allow_differences": False}, **settings)
    history = finetune("pocket", data=data, output_dir=tmp_path / "one", **resume, **settings).history
    assert history.steps == whole.steps and history.examples_seen == whole.examples_seen
    for name in ("train_losses", "val_losses", "train_accs"):
        assert getattr(history, name) == pytest.approx(getattr(whole, name), abs=1e-5), name


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run started with `auto`, which starts afresh if there is no checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "out"
    finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **SETTINGS)
    return out


def test_checkpoint_is_a_complete_model(trained, data):
    """It holds the averaged weights, and no pickle; its manifest names recipe, data, versions and every file."""
    folder = trained / "checkpoint-8"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["validation"]
    assert json.loads((folder / "history.json").read_text())["steps"] == [0, 3, 6]
    assert "-plot.png" not in (folder / "README.md").read_text()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "md", "py"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert manifest["step"] == 8 and manifest["num_processes"] == 1 and manifest["versions"]["torch"]
    assert manifest["recipe"]["n_embd"] == 16 and set(manifest["data"]) == set(data)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"learning_rate": 0.01}, [0.01] * 3),
        ({"lr_scheduler_type": "linear", "max_steps": 13}, [0.001 * left / 13 for left in (4, 3, 2, 1)]),
        ({"per_device_train_batch_size": 20}, [0.001] * 3),
        ({"weight_average": 0.0, "dropout": 0.3}, [0.001] * 3),
        ({"trainable": "head"}, [0.001] * 3),
        ({"max_steps": 5}, []),
    ],
    ids=["rate", "schedule", "batch", "average", "trainable", "fewer-steps"],
)
def test_differences_can_be_allowed(settings, rates, trained, data, tmp_path, monkeypatch, caplog):
    """The run continues with its own settings, from the checkpoint's step, weights and moments."""
    used, step = [], torch.optim.AdamW.step

    def recorded(self, *args, **kwargs):
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    settings = {**SETTINGS, "warmup_steps": 0, **settings, "save_steps": None, "output_dir": tmp_path / "out"}
    resume = {"resume_from_checkpoint": trained / "checkpoint-8", "allow_differences": True}
    run = finetune("pocket", data=data, **resume, **settings)
    assert used == pytest.approx(rates) and "Resuming with different settings; results will differ: " in caplog.text
    before = json.loads((trained / "checkpoint-8/history.json").read_text())
    batch = settings.get("per_device_train_batch_size", 16)
    assert run.history.examples_seen == before["examples_seen"] + batch * len(rates)
    assert run.history.steps[:3] == [0, 3, 6] and run.history.train_losses[:3] == before["train_losses"]


def test_a_run_can_be_extended_exactly(trained, data, tmp_path):
    """A higher max_steps does not affect the finished steps."""
    settings = {**SETTINGS, "max_steps": 15, "save_steps": None}
    finetune("pocket", data=data, output_dir=tmp_path / "whole", **settings)
    resume = {"resume_from_checkpoint": trained / "checkpoint-8", "allow_differences": True}
    finetune("pocket", data=data, output_dir=tmp_path / "out", **resume, **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_resuming_on_other_messages_keeps_the_tokenizer(trained, data, tmp_path):
    """A tokenizer learned on them would have other ids for the same words.

    Since the model was trained on other messages too, these do not count as its own, even after resuming again.
    """
    texts = [text.upper() for text in data["train"]["text"]]
    other = data["train"].remove_columns("text").add_column("text", texts)
    settings = {**SETTINGS, "data": DatasetDict(data, train=other), "allow_differences": True}
    resume = {"resume_from_checkpoint": trained / "checkpoint-4", "output_dir": tmp_path / "out"}
    run = finetune("pocket", **resume, **settings)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (trained / "checkpoint-4/tokenizer.json").read_bytes()
    assert run.history.steps == [0, 3, 6, 9] and run.history.splits == {}
    resume = {"resume_from_checkpoint": tmp_path / "out/checkpoint-8", "output_dir": tmp_path / "again"}
    assert finetune("pocket", **resume, **settings).history.splits == {}


def test_damaged_checkpoints_are_skipped(trained, data, tmp_path, caplog):
    """The log names truncated, changed and incomplete ones, and the run replaces them with its own."""
    out = tmp_path / "out"
    for step in (4, 8, 9, 10, 11):
        shutil.copytree(trained / "checkpoint-4", out / f"checkpoint-{step}")
    (out / "checkpoint-11/manifest.json").unlink()
    (out / "checkpoint-10/training_state/random-0.safetensors").unlink()
    weights = out / "checkpoint-9/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    state = out / "checkpoint-8/training_state/state.json"
    state.write_text(state.read_text().replace('"step": 4', '"step": 5'))
    with caplog.at_level("INFO", "hf_spam"):
        finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", save_total_limit=1, **SETTINGS)
    for message in (
        "11 is incomplete: it has no readable manifest.json",
        "10 is incomplete: training_state/random-0",
        "9 is damaged: model.safetensors",
        "8 is damaged: training_state/state.json",
        f"Resuming from {out / 'checkpoint-4'}.",
    ):
        assert message in caplog.text
    assert result(out) == result(trained) and Checkpoints(out).latest() == out / "checkpoint-8"


def test_a_checkpoint_that_does_not_fit_is_refused(trained, data, tmp_path):
    """Its manifest is intact, but the shapes differ, its run is not recorded, or it has no adapters."""
    folder, source = tmp_path / "checkpoint-8", trained / "checkpoint-8"

    def fill(target):
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        weights = load_file(target / "training_state/weights.safetensors")
        save_file({**weights, "out_head.bias": torch.zeros(3)}, target / "training_state/weights.safetensors")

    manifest = json.loads((source / "manifest.json").read_text())
    del manifest["files"]
    settings = {**SETTINGS, "resume_from_checkpoint": folder, "output_dir": tmp_path / "out"}
    write_folder(folder, fill, manifest)
    with pytest.raises(ValueError, match=r"checkpoint-8 does not fit this run: .*out_head\.bias"):
        finetune("pocket", data=data, **settings)
    write_folder(folder, fill, {})
    with pytest.raises(ValueError, match="checkpoint-8 does not say which run it belongs to"):
        finetune("pocket", data=data, **settings)
    settings |= {**LORA, "resume_from_checkpoint": source, "allow_differences": True}
    with pytest.raises(ValueError, match=r"one of the two has LoRA adapters \(lora_r\)"):
        finetune("pocket", data=data, **settings)


def test_rotation_keeps_the_best_and_the_newest(tmp_path):
    progress, checkpoints = Progress(), Checkpoints(tmp_path, save_total_limit=2)
    kept = []
    for step, loss in ((1, 0.5), (2, 0.3), (3, 0.4), (4, 0.3), (5, 0.6), (6, 0.2), (7, 0.9)):
        progress.step = step
        progress.update_best(loss)
        checkpoints.path(step).mkdir()
        checkpoints.rotate(step, progress.best_step)
        kept.append(checkpoints.steps())
    assert kept == [[1], [1, 2], [2, 3], [2, 4], [2, 5], [5, 6], [6, 7]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-7"]
