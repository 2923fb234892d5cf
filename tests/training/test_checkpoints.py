"""A resumed run gives the results of an uninterrupted one, and resumes only from an intact checkpoint of its own."""

import json
import shutil

import pytest
import torch
from processes import finetune_on
from safetensors.torch import load_file, save_file
from small_runs import WITH_CHECKPOINTS as SETTINGS
from small_runs import result

from hf_spam import SpamClassifier, finetune
from hf_spam.conversion.loading import load_classifier, load_tokenizer, save_classifier
from hf_spam.files import write_folder
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.run import Progress

LORA = {"lora_r": 4, "trainable": "head", "weight_average": 0.0}
ACCUMULATION = {"gradient_accumulation_steps": 4, "max_steps": 4, "save_steps": 1, "weight_average": 0.0}
COSINE = {"lr_scheduler_type": "cosine", "warmup_steps": 0.3, "train_sampling_strategy": "random"}
NGRAMS = {"subword_embeddings": True}


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("pocket", {"temperature_scaling": True, "target_fpr": 0.1, "spliced_messages": 20, **NGRAMS}),
        # Groups of 4 and 1 batches: the last step of an epoch has fewer.
        ("pocket", {**ACCUMULATION, **COSINE, **NGRAMS}),
        ("pocket", {"mixed_precision": "bf16", **LORA}),
        ("book", {"save_steps": 9, "max_steps": 14}),
    ],
    ids=["everything-random", "accumulation-cosine", "bf16-lora", "frozen-blocks"],
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
        shutil.copytree(whole / f"checkpoint-{step}", out / f"checkpoint-{step}")
        finetune(recipe, data=data, output_dir=out, resume_from_checkpoint="auto", **settings)
        assert result(out) == result(whole), step
        assert Checkpoints(out).steps() == [later for later in steps if later >= step]
        for name in ("model.safetensors", "metrics.json", "training_state/optimizer.safetensors"):
            last = f"checkpoint-{steps[-1]}"
            assert (out / last / name).read_bytes() == (whole / last / name).read_bytes()


def test_a_run_is_not_resumed_with_other_frozen_weights(data, base, tmp_path):
    """They are not in the checkpoint, and the part of the network that is trained reads their output."""
    settings = {"base": base, "max_steps": 3, "save_steps": 2}
    finetune("book", data=data, output_dir=tmp_path / "out", **settings)
    other = load_classifier(base, fresh_head=True)
    with torch.no_grad():
        other.gpt.tok_emb.weight[5, 5] += 1
    save_classifier(other.gpt, load_tokenizer(base), tmp_path / "other")
    settings |= {"base": tmp_path / "other", "resume_from_checkpoint": "auto"}
    with pytest.raises(ValueError, match="belongs to another run: hash of the weights that are not trained was"):
        finetune("book", data=data, output_dir=tmp_path / "out", **settings)


@pytest.mark.slow
def test_two_processes_resume_exactly(data, tmp_path):
    """Each process has its own RNG states."""
    data.save_to_disk(tmp_path / "data")
    settings = {**SETTINGS, **NGRAMS, "per_device_train_batch_size": 8}
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole/checkpoint-8", tmp_path / "out/checkpoint-8")
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")
    with pytest.raises(ValueError, match="num_processes was 2 and is 1"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint="auto", **SETTINGS)


def test_checkpoint_is_a_complete_model(trained, data):
    """It holds the averaged weights, and no pickle; its manifest names recipe, data, versions and every file."""
    folder = trained / "checkpoint-8"
    weights, raw = (load_file(folder / name) for name in ("model.safetensors", "training_state/weights.safetensors"))
    assert any(not torch.equal(weights[name], raw[name]) for name in raw)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["validation"]
    predicted = SpamClassifier.from_pretrained(folder).predict(data["validation"]["text"][:])
    correct = [
        (answer == "spam") == label for answer, label in zip(predicted, data["validation"]["label"], strict=True)
    ]
    assert metrics["validation"]["accuracy"] == pytest.approx(sum(correct) / len(correct))
    assert json.loads((folder / "history.json").read_text())["steps"] == [0, 3, 6]
    assert "-plot.png" not in (folder / "README.md").read_text()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "md"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert manifest["step"] == 8 and manifest["run"]["num_processes"] == 1 and manifest["versions"]["torch"]
    assert manifest["run"]["n_embd"] == 16 and {f"hash of the {split} messages" for split in data} <= set(
        manifest["run"]
    )


def test_a_run_can_be_extended_exactly(trained, data, tmp_path):
    """A higher max_steps does not affect the finished steps, unless the learning rate depends on it."""
    settings = {**SETTINGS, "max_steps": 15, "save_steps": None}
    finetune("pocket", data=data, output_dir=tmp_path / "whole", **settings)
    resume = {"resume_from_checkpoint": trained / "checkpoint-8"}
    finetune("pocket", data=data, output_dir=tmp_path / "out", **resume, **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")
    with pytest.raises(ValueError, match="checkpoint-8 has done 9 steps, more than the 8 of this run"):
        finetune("pocket", data=data, output_dir=tmp_path / "short", **resume, **{**settings, "max_steps": 8})
    for setting in ({"warmup_steps": 0.1}, {"lr_scheduler_type": "linear"}):  # then the length is compared too
        with pytest.raises(ValueError, match="max_steps was None and is 15"):
            finetune("pocket", data=data, output_dir=tmp_path / "varying", **resume, **settings, **setting)


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
    """Its manifest is intact, but the shapes differ, or its run is not recorded."""
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
