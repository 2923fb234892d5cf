"""Saved files are complete and readable, and nothing else is overwritten."""

import errno
import json
import os
import shutil
from dataclasses import asdict

import pytest
from small_runs import SMALL, result
from small_runs import WITH_CHECKPOINTS as SETTINGS

from hf_spam import finetune
from hf_spam.data.splits import fingerprints
from hf_spam.training.checkpoints import Checkpoints


def test_the_output_directory_is_complete_and_holds_no_pickle(trained, data, tmp_path):
    """Every file is as readable as the others, and writing checkpoints would not change the results."""
    out = tmp_path / "out"
    settings = {**SETTINGS, "save_steps": None}
    run = finetune("pocket", data=data, output_dir=out, **settings)
    plots = {f"{name}-plot.{suffix}" for name in ("loss", "accuracy") for suffix in ("pdf", "png")}
    assert {path.name for path in out.iterdir()} == plots | {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "history.json", "metrics.json"),
    }
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert (out / "README.md").read_text().count("-plot.png") == 2
    assert json.loads((out / "metrics.json").read_text()) == run.metrics
    history = json.loads((out / "history.json").read_text())
    assert history.pop("recipe") == asdict(run.recipe) and history == asdict(run.history)
    assert history["splits"] == fingerprints(data)
    assert result(out) == result(trained)


def test_plots_show_values_where_they_were_measured(data, tmp_path, monkeypatch):
    """Losses are drawn at their step, accuracies at the end of their epoch, even if the last one is cut short.

    Here 7 steps of two batches of 16, with 3 steps (of 5 batches) in each epoch.
    """
    drawn = {}

    def record(epochs, *values, label, examples_per_epoch, output_dir):
        drawn[label] = (epochs, *values, examples_per_epoch)

    monkeypatch.setattr("hf_spam.training.saving.plot_values", record)
    settings = {**SMALL, "eval_freq": 2, "max_steps": 7, "gradient_accumulation_steps": 2}
    history = finetune("pocket", data=data, output_dir=tmp_path, **settings).history
    assert history.steps_per_epoch == 3 and history.steps == [0, 2, 4, 6] and history.examples_seen == 16 * (5 + 5 + 2)
    assert len(history.train_losses) == 4 and len(history.train_accs) == 3
    per_epoch = pytest.approx(history.examples_seen * 3 / 7)
    assert drawn == {
        "loss": (pytest.approx([1 / 3, 1, 5 / 3, 7 / 3]), history.train_losses, history.val_losses, per_epoch),
        "accuracy": (pytest.approx([1, 2, 7 / 3]), history.train_accs, history.val_accs, per_epoch),
    }


def test_an_earlier_run_is_replaced_only_on_request(trained, data, tmp_path):
    """Its checkpoints are deleted, so that they cannot be resumed from, but not by a run that cannot start."""
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    steps = Checkpoints(out).steps()
    with pytest.raises(ValueError, match=r"none\.csv: not a file"):
        finetune("pocket", data="none.csv", output_dir=out, overwrite_output_dir=True, **SETTINGS)
    assert Checkpoints(out).steps() == steps
    finetune("pocket", data=data, output_dir=out, overwrite_output_dir=True, **{**SETTINGS, "save_steps": 5})
    assert Checkpoints(out).steps() == [5, 10]


def test_resuming_never_replaces_another_run(trained, data, tmp_path):
    """Neither a finished run without checkpoints nor a checkpoint can be used as the output directory."""
    out = tmp_path / "out"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("checkpoint-*"))
    for folder in (out, trained / "checkpoint-8"):
        with pytest.raises(FileExistsError, match="has no checkpoint to resume from: choose another"):
            finetune("pocket", data=data, output_dir=folder, resume_from_checkpoint="auto", **SETTINGS)


def test_training_survives_a_full_disk(data, tmp_path, monkeypatch, caplog):
    """A checkpoint that cannot be written is reported, and leaves no file behind."""
    replace = os.replace

    def full(source, target):
        if "checkpoint-4" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("hf_spam.files.os.replace", full)
    finetune("pocket", data=data, output_dir=tmp_path / "out", **SETTINGS)
    assert "Step 4: no checkpoint was written ([Errno 28] No space left on device)" in caplog.text
    assert Checkpoints(tmp_path / "out").steps() == [8]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
