"""A run that goes on from a checkpoint ends as if it had never stopped, and nothing but its own is ever loaded."""

import errno
import json
import os
import shutil

import pytest
import torch
from datasets import DatasetDict
from processes import finetune_on
from safetensors.torch import load_file, save_file
from small_runs import first_messages, result

from hf_spam import SpamClassifier, finetune
from hf_spam.training.checkpoints import Checkpoints
from hf_spam.training.run import Progress

SMALL = {"n_embd": 16, "vocab_size": 300, "max_steps": 25, "eval_freq": 6, "save_steps": 4}


@pytest.fixture(scope="module")
def data():
    return first_messages(train=100, validation=20)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_average": 0.0},
        {},
        {"gradient_accumulation_steps": 4, "max_steps": 7, "save_steps": 1},  # a short last group in each epoch
        {"lr_scheduler_type": "cosine", "warmup_steps": 0.3, "train_sampling_strategy": "random", "max_steps": None},
        {"mixed_precision": "bf16", "attention_dropout": 0.2},
    ],
    ids=["plain", "averaged", "accumulation", "cosine", "bf16"],
)
def test_resuming_is_exact(settings, data, tmp_path):
    """From every checkpoint, in an epoch or at its end: the same weights to the bit, the same history and metrics."""
    settings = {**SMALL, "num_train_epochs": 3, **settings}
    finetune("pocket", data=data, output_dir=tmp_path / "whole", **settings)
    steps = Checkpoints(tmp_path / "whole").steps()
    assert len(steps) >= 4
    for step in steps:
        out = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / f"whole/checkpoint-{step}", out / f"checkpoint-{step}")
        torch.manual_seed(step)  # what the process did before is of no account
        finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **settings)
        assert result(out) == result(tmp_path / "whole"), step
        assert Checkpoints(out).steps() == [later for later in steps if later >= step]
    last = f"checkpoint-{steps[-1]}"
    for name in ("model.safetensors", "metrics.json", "training_state/optimizer.safetensors"):
        assert (out / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes()


def test_checkpoints_change_nothing(data, tmp_path):
    """Neither the evaluation nor the averaged weights that are put in for it leave a trace in the run."""
    settings = {name: value for name, value in SMALL.items() if name != "save_steps"}
    finetune("pocket", data=data, output_dir=tmp_path / "without", **settings)
    finetune("pocket", data=data, output_dir=tmp_path / "with", save_steps=1, **settings)
    assert result(tmp_path / "with") == result(tmp_path / "without")


@pytest.mark.slow
def test_two_processes_resume_exactly(data, tmp_path):
    """Each process has a random state of its own."""
    data.save_to_disk(tmp_path / "data")
    settings = {**SMALL, "per_device_train_batch_size": 8}
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole/checkpoint-12", tmp_path / "out/checkpoint-12")
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")
    with pytest.raises(ValueError, match="it had 2 processes, not 1"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint="auto", **SMALL)


@pytest.mark.slow
def test_from_two_processes_to_one(data, tmp_path):
    """At the same global batch, and without dropout, the other number of processes is no difference but rounding."""
    data.save_to_disk(tmp_path / "data")
    settings = {**SMALL, "dropout": 0.0, "save_steps": None}
    whole = finetune("pocket", data=data, **settings).history
    two = {**settings, "per_device_train_batch_size": 8, "save_steps": 8, "output_dir": tmp_path / "two"}
    finetune_on(2, "pocket", tmp_path / "data", **two)
    run = finetune(
        "pocket",
        data=data,
        output_dir=tmp_path / "one",
        resume_from_checkpoint=tmp_path / "two/checkpoint-8",
        allow_differences=True,
        **settings,
    )
    assert run.history.steps == whole.steps and run.history.examples_seen == whole.examples_seen
    for name in ("train_losses", "val_losses", "train_accs"):
        assert getattr(run.history, name) == pytest.approx(getattr(whole, name), abs=1e-5), name


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "out"
    finetune("pocket", data=data, output_dir=out, **SMALL)
    return out


def test_a_checkpoint_is_a_model_like_any_other(trained, data):
    """With the weights that a run keeps, its metrics, its card; and no pickle in it."""
    folder = trained / "checkpoint-12"
    metrics = json.loads((folder / "metrics.json").read_text())
    probabilities = SpamClassifier.from_pretrained(folder).predict_proba(data["validation"]["text"][:])
    right = (probabilities.argmax(-1) == data["validation"]["label"][:]).mean()
    assert list(metrics) == ["validation"] and metrics["validation"]["accuracy"] == pytest.approx(right.item())
    assert json.loads((folder / "history.json").read_text())["steps"] == [0, 6, 12]
    assert (folder / "README.md").read_text().count("-plot.png") == 0
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".md", ".py"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.001 and is 0.5"),
        ({"seed": 7, "max_steps": 30}, "max_steps was 25 and is 30; seed was 123 and is 7"),
        ({"data": "other"}, "the train messages or their tokenizer differ"),
    ],
)
def test_another_run_is_refused(settings, words, trained, data, tmp_path):
    """With all the differences named, and nothing written."""
    if "data" in settings:
        data, settings = DatasetDict(data, train=data["train"].select(range(99))), {}
    with pytest.raises(ValueError, match=f"checkpoint-24 belongs to another run: .*{words}"):
        finetune(
            "pocket",
            data=data,
            output_dir=tmp_path / "out",
            resume_from_checkpoint=trained / "checkpoint-24",
            **{**SMALL, **settings},
        )
    assert not (tmp_path / "out").exists()


def test_the_manifest_says_what_it_is_of(trained, data):
    """The recipe, the data, the versions and the number of processes, beside the checksums."""
    manifest = json.loads((trained / "checkpoint-12/manifest.json").read_text())
    assert manifest["step"] == 12 and manifest["num_processes"] == 1 and manifest["versions"]["torch"]
    assert manifest["recipe"]["n_embd"] == 16 and set(manifest["data"]) == set(data)
    files = {path for path in (trained / "checkpoint-12").rglob("*") if path.is_file() and path.name != "manifest.json"}
    assert {trained / "checkpoint-12" / name for name in manifest["files"]} == files


def rates_of(monkeypatch) -> list[float]:
    """The learning rates of all steps to come."""
    rates, step = [], torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    return rates


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"learning_rate": 0.01}, [0.01] * 12),
        ({"lr_scheduler_type": "linear", "max_steps": 26}, [0.001 * left / 26 for left in range(13, 0, -1)]),
        ({"per_device_train_batch_size": 25}, [0.001] * 12),
        ({"weight_average": 0.0, "dropout": 0.3}, [0.001] * 12),
        ({"trainable": "head"}, [0.001] * 12),
        ({"max_steps": 5}, []),
    ],
    ids=["rate", "schedule", "batch", "average", "trainable", "fewer-steps"],
)
def test_another_run_goes_on_where_that_is_wanted(settings, rates, trained, data, tmp_path, monkeypatch, caplog):
    """With its own settings, from the step, the weights and the moments of the checkpoint."""
    seen = rates_of(monkeypatch)
    run = finetune(
        "pocket",
        data=data,
        output_dir=tmp_path / "out",
        resume_from_checkpoint=trained / "checkpoint-12",
        allow_differences=True,
        **{**SMALL, "warmup_steps": 0, **settings, "save_steps": None},
    )
    assert seen == pytest.approx(rates) and "Resuming with different settings; results will differ: " in caplog.text
    done = json.loads((trained / "checkpoint-12/history.json").read_text())
    batch = settings.get("per_device_train_batch_size", 16)
    assert run.history.examples_seen == done["examples_seen"] + batch * len(rates)
    assert run.history.steps[:3] == [0, 6, 12] and run.history.train_losses[:3] == done["train_losses"]


def test_a_run_that_is_to_be_longer_goes_on_exactly(trained, data, tmp_path):
    """Where the difference is none for the steps that are done, the end is that of a run with it from the start."""
    settings = {**SMALL, "max_steps": 30, "save_steps": None}
    finetune("pocket", data=data, output_dir=tmp_path / "whole", **settings)
    settings |= {"resume_from_checkpoint": trained / "checkpoint-16", "allow_differences": True}
    finetune("pocket", data=data, output_dir=tmp_path / "out", **settings)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_other_messages_are_read_with_the_tokenizer_of_the_weights(trained, data, tmp_path):
    """One that is learned on them would have other ids for the same words."""
    texts = [text.upper() for text in data["train"]["text"]]
    other = data["train"].remove_columns("text").add_column("text", texts)
    settings = {**SMALL, "resume_from_checkpoint": trained / "checkpoint-12", "allow_differences": True}
    run = finetune("pocket", data=DatasetDict(data, train=other), output_dir=tmp_path / "out", **settings)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (trained / "checkpoint-12/tokenizer.json").read_bytes()
    assert run.history.steps == [0, 6, 12, 18, 24]


def test_damaged_checkpoints_are_passed_over(trained, data, tmp_path, caplog):
    """Truncated, changed, incomplete or without a manifest: named, and the one before is taken."""
    out = tmp_path / "out"
    for step in (8, 12, 16, 20, 24):
        shutil.copytree(trained / f"checkpoint-{step}", out / f"checkpoint-{step}")
    (out / "checkpoint-24/manifest.json").unlink()
    (out / "checkpoint-20/training_state/random-0.safetensors").unlink()
    weights = out / "checkpoint-16/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    state = out / "checkpoint-12/training_state/state.json"
    state.write_text(state.read_text().replace('"step": 12', '"step": 13'))
    with caplog.at_level("INFO", "hf_spam"):
        finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **SMALL)
    for words in ("24 is incomplete: it has no readable manifest.json", "20 is incomplete: training_state/random-0"):
        assert words in caplog.text
    for words in ("16 is damaged: model.safetensors", "12 is damaged: training_state/state.json"):
        assert words in caplog.text
    assert f"Resuming from {out / 'checkpoint-8'}." in caplog.text
    assert result(out) == result(trained)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        finetune("pocket", data=data, output_dir=out, resume_from_checkpoint=tmp_path / "nowhere", **SMALL)


def test_weights_of_another_shape_are_refused(trained, data, tmp_path):
    """A checkpoint that says it fits, and does not."""
    from hf_spam.files import write_folder

    folder = tmp_path / "checkpoint-24"

    def fill(target):
        shutil.copytree(trained / "checkpoint-24", target, dirs_exist_ok=True)
        (target / "manifest.json").unlink()
        weights = load_file(target / "training_state/weights.safetensors")
        save_file({**weights, "out_head.bias": torch.zeros(3)}, target / "training_state/weights.safetensors")

    about = json.loads((trained / "checkpoint-24/manifest.json").read_text())
    del about["files"]
    write_folder(folder, fill, about)
    with pytest.raises(ValueError, match=r"checkpoint-24 does not fit this run: .*out_head\.bias"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint=folder, **SMALL)
    write_folder(folder, fill, {})
    with pytest.raises(ValueError, match=r"checkpoint-24 does not say which run it belongs to"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint=folder, **SMALL)


def test_auto_starts_anew_where_there_is_nothing(trained, data, tmp_path):
    finetune("pocket", data=data, output_dir=tmp_path / "out", resume_from_checkpoint="auto", **SMALL)
    assert result(tmp_path / "out") == result(trained)


def test_rotation_keeps_the_best_and_the_last(tmp_path):
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


def test_training_outlives_a_full_disk(data, tmp_path, monkeypatch, caplog):
    """A checkpoint that cannot be written leaves nothing behind, and is said."""
    replace = os.replace

    def full(source, target):
        if "checkpoint-8" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("hf_spam.files.os.replace", full)
    finetune("pocket", data=data, output_dir=tmp_path / "out", **SMALL)
    assert "Step 8: no checkpoint was written ([Errno 28] No space left on device)" in caplog.text
    assert Checkpoints(tmp_path / "out").steps() == [4, 12, 16, 20, 24]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"save_steps": 0}, "save_steps must be at least 1, got 0"),
        ({"save_total_limit": 0}, "save_total_limit must be at least 1, got 0"),
        ({"output_dir": None}, "need output_dir"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words, data, tmp_path):
    with pytest.raises(ValueError, match=words):
        finetune("pocket", data=data, **{**SMALL, "output_dir": tmp_path / "out", **settings})


def test_checkpoints_of_an_earlier_run(trained, data, tmp_path):
    """Overwriting deletes them, so that nobody goes on from them; resuming never takes the last of its own for old."""
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    finetune("pocket", data=data, output_dir=out, overwrite_output_dir=True, **{**SMALL, "save_steps": 10})
    assert Checkpoints(out).steps() == [10, 20]
    (out / "checkpoint-20/manifest.json").unlink()
    shutil.copytree(out / "checkpoint-20", out / "checkpoint-24")
    finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", save_total_limit=1, **SMALL)
    assert 24 in Checkpoints(out).steps() and Checkpoints(out).latest() == out / "checkpoint-24"
    assert result(out) == result(trained)


def test_resuming_replaces_no_other_run(trained, data, tmp_path):
    """A finished run without checkpoints, or a checkpoint itself, is no place to go on in."""
    out = tmp_path / "out"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("checkpoint-*"))
    with pytest.raises(FileExistsError, match="holds another run"):
        finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **SMALL)
    shutil.copytree(trained / "checkpoint-20", tmp_path / "checkpoint-20")
    with pytest.raises(FileExistsError, match="is a checkpoint"):
        finetune("pocket", data=data, output_dir=tmp_path / "checkpoint-20", resume_from_checkpoint="auto", **SMALL)


@pytest.mark.parametrize("splits", [["train"], ["train", "validation"]])
def test_numbers_that_go_wrong_stop_the_run(splits, data, tmp_path):
    """With the place named, before anything that is no model is saved."""
    data = DatasetDict({split: data[split] for split in splits})
    settings = {**SMALL, "learning_rate": 1e30, "warmup_steps": 0, "save_steps": 1, "max_grad_norm": None}
    with pytest.raises(ValueError, match=r"(after step \d+|longer a number)\. Training diverged: lower learning_rate"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", **settings)
    assert not [step for step in Checkpoints(tmp_path / "out").steps() if step > 2]
