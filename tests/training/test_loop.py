"""The loop reproduces the book's plain PyTorch loop, on any number of processes, and is deterministic."""

import copy
import json
from dataclasses import asdict

import pytest
import torch
from book_oracle import GPTModel, fine_tune, make_loaders
from command_line import hf_spam
from datasets import DatasetDict
from processes import finetune_on
from safetensors.torch import load_file
from small_runs import SMALL, assert_same_history

from hf_spam import finetune, import_weights, load_sms_spam
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.splits import fingerprints
from hf_spam.data.tokenization import encode
from hf_spam.training.checkpoints import Checkpoints

BOOK = {"eval_freq": 5, "eval_iter": 3, "learning_rate": 2e-3}
TWO_EPOCHS = {**SMALL, "max_steps": None, "num_train_epochs": 2}


@pytest.mark.parametrize(
    ("ours", "book"),
    [
        ({"num_train_epochs": 2}, {"epochs": 2}),
        # 11 batches in groups of 4: the last group of an epoch is short.
        (
            {"seed": 5, "num_train_epochs": 3, "gradient_accumulation_steps": 4, "max_grad_norm": 0.1},
            {"seed": 5, "epochs": 3, "accumulation": 4, "clip": 0.1},
        ),
    ],
    ids=["default-seed", "other-seed-accumulation-and-clipping"],
)
def test_losses_and_accuracies_match_the_books_loop(ours, book, data, base, book_model, book_loaders):
    """Losses agree to 1e-5 and accuracies exactly, which needs the same head, batch order and evaluations."""
    run = finetune("book", data=data, base=base, **{**BOOK, **ours})
    assert_same_history(asdict(run.history), fine_tune(copy.deepcopy(book_model), book_loaders, **{**BOOK, **book}))


def test_the_command_line_trains_like_the_book_on_the_real_messages(sms_collection, gpt2_tokenizer_dir, tmp_path):
    """The real messages and GPT-2's tokenizer, but a small network. The book's loader drops 5 of 1,045 messages."""
    torch.manual_seed(0)
    book_model = GPTModel(50257, positions=128, width=8, layers=1, heads=1)
    torch.save(book_model.state_dict(), tmp_path / "gpt.pth")
    import_weights(tmp_path / "gpt.pth", tmp_path / "base", n_head=1)
    done = hf_spam(
        *("train", "--recipe", "book", "--data", sms_collection, "--num-train-epochs", 1, "--learning-rate", "1e-3"),
        *("--base", tmp_path / "base", "--tokenizer", gpt2_tokenizer_dir, "--output-dir", tmp_path / "out"),
    )
    assert done.code == 0, done.err

    data = load_sms_spam(sms_collection, protocol="book")
    tokenizer = load_tokenizer(gpt2_tokenizer_dir)
    splits = [(encode(tokenizer, part["text"][:], 1024), part["label"][:]) for part in data.values()]
    loaders = make_loaders(splits, 50256, 8)
    assert loaders[0].dataset.tensors[0].shape == (1045, 120)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert_same_history(history, fine_tune(book_model, loaders, epochs=1, learning_rate=1e-3))
    assert history["steps"] == [0, 50, 100] and history["examples_seen"] == 1040
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for accuracy, messages in ((history["final_accs"]["train"], 1040), (metrics["train"]["accuracy"], 1045)):
        assert accuracy == round(accuracy * messages) / messages < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"trainable": "all"},
        {"trainable": "head", "lora_r": 4},
        {"adversarial_epsilon": 0.5},
        {"logit_adjustment": 1.0},
    ],
    ids=["frozen-blocks", "all", "lora", "adversarial", "adjusted"],
)
def test_several_processes_match_one(how, data, base, tmp_path):
    """With the same global batch, losses, accuracies, calibrated metrics and weights agree; each message counts once.

    Four processes cannot share any of the splits evenly.
    """
    settings = {"base": base, "num_train_epochs": 2, "gradient_accumulation_steps": 2, "temperature_scaling": True}
    settings |= {**BOOK, **how}
    data.save_to_disk(tmp_path / "data")
    finetune("book", data=data, per_device_train_batch_size=8, output_dir=tmp_path / "1", **settings)
    expected, metrics = (json.loads((tmp_path / "1" / f"{name}.json").read_text()) for name in ("history", "metrics"))
    weights = load_file(tmp_path / "1/model.safetensors")
    for processes in (2, 4):
        out = tmp_path / f"{processes}"
        batch = {"per_device_train_batch_size": 8 // processes, "output_dir": out}
        finetune_on(processes, "book", tmp_path / "data", **settings, **batch)
        history = json.loads((out / "history.json").read_text())
        assert_same_history(history, expected)
        assert history["splits"] == expected["splits"] == fingerprints(data)
        found = json.loads((out / "metrics.json").read_text())
        assert found == {split: pytest.approx(values, abs=1e-5) for split, values in metrics.items()}
        for name, tensor in load_file(out / "model.safetensors").items():
            if not name.endswith("W_key.bias"):  # attention does not depend on it; its gradients are rounding errors
                torch.testing.assert_close(tensor, weights[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.5, [0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2, 0]),
        ("constant", 4, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_tracker_gets_losses_accuracies_and_learning_rate(schedule, warmup, expected, data, tmp_path):
    """Warmup is a fraction of all steps or, from 1, a number of steps; it applies to a constant schedule too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"lr_scheduler_type": schedule, "warmup_steps": warmup, "learning_rate": 0.01, "eval_freq": 1}
    run = finetune("pocket", data=data, output_dir=tmp_path, report_to="tensorboard", **TWO_EPOCHS, **settings)
    log = EventAccumulator(str(next(tmp_path.glob("hf_spam/events*")))).Reload()
    values = {name: [event.value for event in log.Scalars(name)] for name in log.Tags()["scalars"]}
    assert values["train_loss"] == pytest.approx(run.history.train_losses)
    assert values["val_acc"] == pytest.approx(run.history.val_accs)
    assert values["learning_rate"] == pytest.approx([0.01 * part for part in expected], abs=1e-7)


def test_averaged_weights_are_returned(data):
    """A decay close to 0 gives the weights of the last step; a decay of 0.5 gives others."""
    plain, last, half = (
        finetune("pocket", data=data, weight_average=decay, **TWO_EPOCHS).model.out_head.weight
        for decay in (0.0, 1e-9, 0.5)
    )
    assert torch.allclose(plain, last, atol=1e-6)
    assert not torch.allclose(plain, half, atol=1e-5)


def test_bf16_trains_close_to_fp32_and_returns_a_plain_model(data, base):
    settings = {"base": base, "num_train_epochs": 1, **BOOK}
    fp32, bf16 = (finetune("book", data=data, mixed_precision=kind, **settings) for kind in ("no", "bf16"))
    assert bf16.history.train_losses == pytest.approx(fp32.history.train_losses, abs=0.02)
    assert bf16.history.train_losses != fp32.history.train_losses
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.float32}
    logits = bf16.model(torch.tensor([[1, 2, 3]])).logits
    again = type(bf16.model)(bf16.model.config).eval()
    again.load_state_dict(bf16.model.state_dict())
    assert torch.allclose(logits, again(torch.tensor([[1, 2, 3]])).logits, atol=1e-6), "autocast is still on"
    assert isinstance(bf16.model(torch.tensor([[1, 2, 3]]), return_dict=False), tuple)


@pytest.mark.parametrize("splits", [["train"], ["train", "validation"]])
def test_diverged_run_stops_before_saving(splits, data, tmp_path):
    data = DatasetDict({split: data[split] for split in splits})
    settings = {**SMALL, "learning_rate": 1e30, "warmup_steps": 0, "save_steps": 1, "max_grad_norm": None}
    with pytest.raises(ValueError, match=r"(after step \d+|longer a number)\. Training diverged: lower learning_rate"):
        finetune("pocket", data=data, output_dir=tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not [step for step in Checkpoints(tmp_path / "out").steps() if step > 2]
