"""The training loop is the book's: the same numbers as a plain PyTorch loop, however it is run."""

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from book_oracle import GPTModel, fine_tune, loader_accuracy, make_loaders
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from processes import finetune_on
from safetensors.torch import load_file
from small_runs import first_messages
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModel

from hf_spam import finetune, import_weights, load_sms_spam
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.splits import fingerprints
from hf_spam.data.tokenization import encode, train_tokenizer
from hf_spam.evaluation.eval_data import load_eval_data
from hf_spam.training.loaders import SeededShuffle


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return first_messages(train=91, validation=21, test=30)


@pytest.fixture(scope="module")
def tokenizer_dir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(data["train"]["text"], 400).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def book_model(tokenizer_dir):
    torch.manual_seed(7)
    return GPTModel(len(load_tokenizer(tokenizer_dir)), positions=160, width=32, layers=2, heads=4)


@pytest.fixture(scope="module")
def base(book_model, tmp_path_factory):
    """The book's model as `torch.save` leaves it, imported."""
    folder = tmp_path_factory.mktemp("base")
    torch.save(book_model.state_dict(), folder / "gpt.pth")
    import_weights(folder / "gpt.pth", folder / "imported", n_head=4)
    return folder / "imported"


@pytest.fixture
def oracle(book_model, data, tokenizer_dir):
    """Runs the book's loop on the same messages, from the same weights."""

    def run(batch_size=8, **settings):
        model = GPTModel(*book_model.tok_emb.weight.shape[:1], positions=160, width=32, layers=2, heads=4)
        model.load_state_dict(book_model.state_dict())
        tokenizer = load_tokenizer(tokenizer_dir)
        splits = [(encode(tokenizer, part["text"], 160), part["label"]) for part in data.values()]
        loaders = make_loaders(splits, tokenizer.pad_token_id, batch_size)
        history = fine_tune(model, loaders, **settings)
        ids = loaders[0].dataset.tensors[0]
        # The book's last figures leave out the short last batch of the training messages; ours count every message.
        whole = DataLoader(TensorDataset(ids, loaders[0].dataset.tensors[1]), batch_size=8)
        return history, [loader_accuracy(model, loader) for loader in (whole, *loaders[1:])]

    return run


def assert_same_history(ours: dict, book: dict) -> None:
    for name in ("train_losses", "val_losses"):
        assert ours[name] == pytest.approx(book[name], abs=1e-5), name
        assert len(set(book[name])) > 1, "a loss that never moves shows nothing"
    for name in ("train_accs", "val_accs", "examples_seen"):
        assert ours[name] == book[name], name
    for name, value in book["initial"].items():
        assert ours["initial"][name] == (pytest.approx(value, abs=1e-5) if "loss" in name else value), name


BOOK = {"eval_freq": 5, "eval_iter": 3, "learning_rate": 2e-3}


@pytest.mark.parametrize(
    ("ours", "book"),
    [
        ({}, {}),
        ({"seed": 5, "num_train_epochs": 2}, {"seed": 5, "epochs": 2}),
        # The last group of an epoch is short: 11 batches in groups of 4.
        ({"gradient_accumulation_steps": 4, "max_grad_norm": 0.1}, {"accumulation": 4, "clip": 0.1}),
    ],
    ids=["book", "other-seed", "accumulation-and-clipping"],
)
def test_parity_with_the_books_loop(ours, book, data, base, tokenizer_dir, oracle):
    """Every loss to 1e-5, every accuracy exactly: same head, batch order, evaluations and final figures."""
    run = finetune("book", data=data, base=str(base), tokenizer=str(tokenizer_dir), **{**BOOK, **ours})
    expected, final = oracle(**{**BOOK, **book})
    assert_same_history(asdict(run.history), expected)
    assert [values["accuracy"] for values in run.metrics.values()] == final


def test_parity_on_the_books_split_through_the_command_line(sms_collection, gpt2_tokenizer_dir, tmp_path):
    """`hf-spam train --recipe book` on the real messages, with GPT-2's tokenizer and a small network in its place."""
    torch.manual_seed(0)
    book_model = GPTModel(50257, positions=128, width=16, layers=2, heads=2)
    torch.save(book_model.state_dict(), tmp_path / "gpt.pth")
    import_weights(tmp_path / "gpt.pth", tmp_path / "base", n_head=2)
    hf_spam(
        *("train", "--recipe", "book", "--base", tmp_path / "base", "--tokenizer", gpt2_tokenizer_dir),
        *("--data", sms_collection, "--num-train-epochs", 1, "--learning-rate", 1e-3),
        *("--output-dir", tmp_path / "out"),
    )
    data = load_sms_spam(sms_collection, protocol="book")
    tokenizer = load_tokenizer(gpt2_tokenizer_dir)
    splits = [(encode(tokenizer, data[name]["text"], 1024), data[name]["label"]) for name in data]
    loaders = make_loaders(splits, 50256, 8)
    assert loaders[0].dataset.tensors[0].shape == (1045, 120)
    expected = fine_tune(book_model, loaders, epochs=1, learning_rate=1e-3)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert_same_history(history, expected)
    assert history["steps"] == [0, 50, 100] and history["examples_seen"] == 1040


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["frozen_once", "all"])
def test_several_processes_do_what_one_does(blocks, data, base, tokenizer_dir, tmp_path):
    """The same global batch on two and on four: the same losses to 1e-5, accuracies, final metrics and weights.

    No split has a size that four can share evenly: each message is counted once.
    """
    data.save_to_disk(tmp_path / "data")
    settings = {
        "base": base,
        "tokenizer": tokenizer_dir,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "trainable": "last_block" if blocks == "frozen_once" else "all",
        **BOOK,
    }
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
            if not name.endswith("W_key.bias"):  # which attention does not depend on: its gradients are rounding alone
                torch.testing.assert_close(tensor, weights[name], atol=1e-4, rtol=0)


def test_the_order_is_that_of_a_shuffling_loader():
    """Pass after pass, and whether or not a pass is broken off, as evaluations over the first batches do."""
    torch.manual_seed(3)
    theirs = DataLoader(range(20), batch_size=4, shuffle=True, drop_last=True)
    rng = torch.Generator().manual_seed(3)
    ours = DataLoader(range(20), batch_size=4, sampler=SeededShuffle(20, 4, rng), drop_last=True, generator=rng)
    for _ in range(3):
        assert [b.tolist() for b in ours] == [b.tolist() for b in theirs]
        assert next(iter(ours)).tolist() == next(iter(theirs)).tolist()


def test_batches_grouped_by_length_lose_nothing_and_pad_less():
    lengths = [(7 * i) % 50 + 1 for i in range(640)]
    sampler = SeededShuffle(640, 8, torch.Generator().manual_seed(0), lengths)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == list(range(640)) and first != second

    def padded(order):
        return sum(8 * max(lengths[i] for i in order[start : start + 8]) for start in range(0, 640, 8))

    assert padded(first) < 1.15 * sum(lengths) < padded(range(640))
    # What is left over fills no batch: the loader drops it, so it must not be yielded in the midst of whole ones.
    short = list(SeededShuffle(21, 8, torch.Generator().manual_seed(0), lengths))
    assert len(short) == len(set(short)) == 16


def small(**settings):
    """Settings of the pocket recipe that train in a second."""
    return {"vocab_size": 300, "n_embd": 16, "n_head": 2, "max_steps": None, "num_train_epochs": 2, **settings}


@pytest.mark.parametrize(
    "settings",
    [
        {"bpe_dropout": 0.2, "case_augmentation": 0.5, "digit_augmentation": 0.5},
        {"dropout": 0.3, "weight_average": 0.9},
    ],
)
def test_a_seed_repeats_a_run(settings, data):
    """Also with everything random that a recipe knows; another seed gives another run."""
    runs = [finetune("pocket", data=data, seed=seed, **small(**settings)) for seed in (1, 1, 2)]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert runs[0].metrics == runs[1].metrics


def test_learning_rate_schedule_and_tracker(data, tmp_path):
    """TensorBoard gets what the history holds, and the learning rate rises, peaks and falls as the recipe says."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = small(lr_scheduler_type="linear", warmup_steps=0.5, learning_rate=0.01, eval_freq=1)
    run = finetune("pocket", data=data, output_dir=tmp_path / "out", report_to="tensorboard", **settings)
    events = next((tmp_path / "out" / "runs" / "hf_spam").glob("events*"))
    log = EventAccumulator(str(events)).Reload()
    assert [e.value for e in log.Scalars("train_loss")] == pytest.approx(run.history.train_losses)
    assert [e.value for e in log.Scalars("val_acc")] == pytest.approx(run.history.val_accs)
    total = len(run.history.steps)
    after_step = [(step + 1) / (total / 2) for step in range(total)]
    assert [e.value for e in log.Scalars("learning_rate")] == pytest.approx(
        [0.01 * (x if x <= 1 else 2 - x) for x in after_step], abs=1e-7
    )


def test_weight_average_is_that_of_the_steps(data):
    """With a decay of almost 0 the average is the last step's weights; with 0.5 it lies elsewhere."""
    plain, last, half = (
        finetune("pocket", data=data, **small(weight_average=decay)).model.out_head.weight for decay in (0, 1e-9, 0.5)
    )
    assert torch.allclose(plain, last, atol=1e-6)
    assert not torch.allclose(plain, half, atol=1e-5)


def test_bf16_stays_near_fp32_and_the_model_comes_back_plain(data, base, tokenizer_dir):
    settings = {"base": str(base), "tokenizer": str(tokenizer_dir), "num_train_epochs": 1, **BOOK}
    fp32, bf16 = (finetune("book", data=data, mixed_precision=kind, **settings) for kind in ("no", "bf16"))
    assert bf16.history.train_losses == pytest.approx(fp32.history.train_losses, abs=0.02)
    assert bf16.history.train_losses != fp32.history.train_losses
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.float32}
    logits = bf16.model(torch.tensor([[1, 2, 3]])).logits
    again = type(bf16.model)(bf16.model.config).eval()
    again.load_state_dict(bf16.model.state_dict())
    assert torch.allclose(logits, again(torch.tensor([[1, 2, 3]])).logits, atol=1e-6), "autocast is still on"
    assert isinstance(bf16.model(torch.tensor([[1, 2, 3]]), return_dict=False), tuple)


@pytest.mark.parametrize(
    ("trainable", "moves"), [("head", 2), ("last_block", 20), ("last_two_blocks", 36), ("all", 38)]
)
def test_only_what_is_to_be_trained_moves(trainable, moves, data, base, tokenizer_dir):
    """Two blocks of 16 tensors each, two of the final norm, two of the head, two embeddings."""
    from hf_spam import SpamGPTModel

    before = SpamGPTModel.from_pretrained(base).state_dict()
    run = finetune(
        "book", data=data, base=str(base), tokenizer=str(tokenizer_dir), trainable=trainable, num_train_epochs=1
    )
    after = run.model.gpt.state_dict()
    moved = sum(not torch.equal(before[name], after[name]) for name in before)
    assert moved + 2 == moves, "the two tensors of the head are new"


def test_steps_end_a_run_in_the_midst_of_an_epoch(data):
    """7 steps of 2 batches each, of which an epoch has 3 (5 batches): the first 7 of a longer run."""
    settings = small(eval_freq=1, gradient_accumulation_steps=2, weight_average=0.0)
    seven, nine = (finetune("pocket", data=data, **{**settings, "max_steps": n}).history for n in (7, 9))
    assert seven.steps == list(range(7)) and seven.epochs == pytest.approx(7 / 3)
    assert seven.train_losses == nine.train_losses[:7] and len(seven.train_accs) == 3
    assert seven.examples_seen == 16 * (5 + 5 + 2)


def test_what_is_plotted_stands_where_it_was_measured(data, tmp_path, monkeypatch):
    """Losses after their step, accuracies at the end of an epoch; a run may end in the midst of one."""
    drawn = {}

    def record(epochs, *values, label, examples_per_epoch, output_dir):
        drawn[label] = (epochs, *values, examples_per_epoch)

    monkeypatch.setattr("hf_spam.training.saving.plot_values", record)
    settings = small(eval_freq=4, max_steps=14, gradient_accumulation_steps=1)
    history = finetune("pocket", data=data, output_dir=tmp_path, **settings).history
    assert history.steps_per_epoch == 5 and history.epochs == pytest.approx(2.8)
    per_epoch = pytest.approx(history.examples_seen / 2.8)
    losses = ([0.2, 1.0, 1.8, 2.6], history.train_losses, history.val_losses, per_epoch)
    assert drawn == {
        "loss": losses,
        "accuracy": ([1, 2, pytest.approx(2.8)], history.train_accs, history.val_accs, per_epoch),
    }


def test_training_alone_is_enough_and_more_is_measured(data):
    run = finetune("pocket", data=DatasetDict(train=data["train"]), **small(num_train_epochs=1))
    assert list(run.metrics) == ["train"] and run.history.val_losses == [] and run.history.val_accs == []


def test_a_runs_own_messages_are_known_again(tmp_path):
    """The splits that come out of its source are those that it was trained and tested on."""
    rows = [(f"{'win' if i % 3 else 'see'} {chr(97 + i % 26)}{chr(97 + i // 26)} now", i % 3 > 0) for i in range(90)]
    source = tmp_path / "private" / "mine.tsv"
    source.parent.mkdir()
    source.write_text("".join(f"{'spam' if label else 'ham'}\t{text}\n" for text, label in rows))
    for i, settings in enumerate(({}, {"protocol": "book", "seed": 5})):
        out = tmp_path / f"{i}"
        run = finetune("pocket", data=source, output_dir=out, **small(max_steps=1, **settings))
        assert "private" not in (out / "history.json").read_text()
        found = load_eval_data(out, source)
        assert fingerprints(found.sets) == run.history.splits and list(found.sets) == ["train", "validation", "test"]
        with source.open("a") as file:
            file.write(f"ham\tone more, the {i}th\n")
        assert list(load_eval_data(out, source).sets) == ["mine.tsv"]


def test_a_run_that_goes_on_with_other_messages_has_none_of_its_own(data, tmp_path):
    """Its test split may be among what it has learned before; nor do later resumptions forget that."""
    others = DatasetDict(data, train=data["test"], test=data["train"])
    settings = small(max_steps=4, eval_freq=2)
    finetune("pocket", data=others, output_dir=tmp_path / "a", save_steps=2, **settings)
    onward = {"resume_from_checkpoint": tmp_path / "a/checkpoint-2", "allow_differences": True, "save_steps": 3}
    run = finetune("pocket", data=data, output_dir=tmp_path / "b", **settings | {"max_steps": 6}, **onward)
    assert run.history.splits == {}
    onward["resume_from_checkpoint"] = tmp_path / "b/checkpoint-3"
    run = finetune("pocket", data=data, output_dir=tmp_path / "c", **settings | {"max_steps": 6}, **onward)
    assert run.history.splits == {} and run.history.examples_seen


def test_a_base_that_has_learned_from_others_is_told_of(tmp_path, caplog):
    """Its own test split, drawn anew, may hold what the base was trained on: run, card and report say so.

    Not of one that was trained on this very split, nor of a language model; but of one that came of such a base.
    """
    settings = small(data="sample", max_steps=1)
    first = finetune("pocket", output_dir=tmp_path / "first", **settings)
    assert not first.history.trained_before
    AutoModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "headless")
    first.tokenizer.save_pretrained(tmp_path / "headless")
    shutil.copytree(tmp_path / "first", tmp_path / "foreign")
    (tmp_path / "foreign" / "history.json").unlink()
    said = "The model started from a classifier trained on other messages and may have seen any of these."
    for base, seed, expected in (
        ("first", 123, False),
        ("headless", 5, False),
        ("first", 5, True),
        ("foreign", 123, True),
        ("first-5-True", 5, True),
    ):
        caplog.clear()
        out = tmp_path / f"{base}-{seed}-{expected}"
        run = finetune(
            "pocket", output_dir=out, **settings | {"base": tmp_path / base, "vocab_size": None, "seed": seed}
        )
        assert run.history.trained_before == expected
        assert ("may have been trained on messages of any split." in caplog.text) == expected
        assert ("may have been trained on messages of any split" in (out / "README.md").read_text()) == expected
        found = load_eval_data(out, "sample")
        assert list(found.sets) == ["train", "validation", "test"] and found.remark == (said if expected else "")


def test_output_directory_is_complete_and_holds_no_pickle(data, tmp_path):
    out = tmp_path / "out"
    run = finetune("pocket", data=data, output_dir=out, **small())
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "README.md"),
        *("configuration_spam_gpt.py", "modeling_spam_gpt.py", "pipeline_spam_gpt.py"),
        *("tokenizer.json", "tokenizer_config.json", "history.json", "metrics.json"),
        *("loss-plot.pdf", "loss-plot.png", "accuracy-plot.pdf", "accuracy-plot.png"),
    }
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "all are as readable as any"
    assert json.loads((out / "metrics.json").read_text()) == run.metrics
    history = json.loads((out / "history.json").read_text())
    assert history.pop("recipe") == asdict(run.recipe) and history == asdict(run.history)
    assert history["splits"] == fingerprints(data), "by which they are known again"
    with pytest.raises(FileExistsError, match="is not empty: give another --output-dir"):
        finetune("pocket", data=data, output_dir=out, **small())
    finetune("pocket", data=data, output_dir=out, overwrite_output_dir=True, **small(num_train_epochs=1))
    assert len(json.loads((out / "history.json").read_text())["train_accs"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_train_batch_size": 92}, "91 training messages do not fill one batch of 92"),
        ({"report_to": "nonesuch"}, "tracker 'nonesuch' is not installed"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"pooling": "middle"}, "pooling must be Literal\['last', 'last_token', 'first', 'mean'\], got 'middle'"),
        ({"padded_length": "longer"}, "padded_length must be .*'longest'.*, got 'longer'"),
        ({"max_steps": "3"}, "max_steps must be int \| None, got '3'"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"seed": 1.5}, r"seed must be int, got 1\.5"),
        ({"causal": 1}, "causal must be bool, got 1"),
        ({"n_layer": True}, "n_layer must be int, got True"),
        ({"learning_rate": 1e20, "max_grad_norm": None, "num_train_epochs": 4}, "Training diverged"),
        ({"padded_length": 5000}, r"padded_length \(5000\) must lie in 1..n_positions"),
        ({"eval_freq": 0}, "eval_freq must be at least 1, got 0"),
        ({"vocab_size": None}, "base random needs a tokenizer"),
        ({"base": "somewhere/else"}, "vocab_size .* needs base random"),
    ],
)
def test_impossible_settings(settings, message, data):
    with pytest.raises(ValueError, match=message):
        finetune("pocket", data=data, **{**small(), **settings})


def test_a_run_of_which_nothing_came_leaves_no_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".hidden").touch()
    for name, there in (("out", False), ("kept", True)):
        with pytest.raises(ValueError, match="no such file"):
            finetune("pocket", data="gone.csv", output_dir=tmp_path / name, resume_from_checkpoint="auto")
        assert (tmp_path / name).exists() == there


def test_a_tokenizer_that_does_not_fit_the_base(data, base, gpt2_tokenizer_dir):
    with pytest.raises(ValueError, match=r"tokenizer has 50257 entries, but .* has a vocabulary of only"):
        finetune("book", data=data, base=str(base), tokenizer=str(gpt2_tokenizer_dir))


def test_constant_learning_rate_warms_up_too(data, tmp_path):
    """In the library "constant" ignores a warm-up; steps of 1 and more are counted, as the Trainer counts them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = small(lr_scheduler_type="constant", warmup_steps=4, learning_rate=0.01, eval_freq=1)
    finetune("pocket", data=data, output_dir=tmp_path, report_to="tensorboard", **settings)
    log = EventAccumulator(str(next(tmp_path.glob("runs/hf_spam/events*")))).Reload()
    rates = [event.value for event in log.Scalars("learning_rate")]
    assert rates[:5] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01]) and rates[-1] == pytest.approx(0.01)


OWN = {"text": ["win a prize", "hi mum"] * 16, "label": [1, 0] * 16}


def test_messages_handed_over_are_called_that(tmp_path):
    """Plain integers for labels are fine, other columns stay out, and the card claims nothing of another data set."""
    rows = Dataset.from_dict({**OWN, "id": range(32)})
    run = finetune("pocket", data=DatasetDict(train=rows), output_dir=tmp_path, **small(vocab_size=260))
    card = (tmp_path / "README.md").read_text()
    assert run.recipe.data == "a DatasetDict" and "messages passed in as a `DatasetDict`" in card
    assert "sms_spam" not in card and "model-index" not in card
    assert run.model.config.id2label == {0: "not spam", 1: "spam"}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "a split named 'train' is needed; found: none"),
        ({"test": OWN}, "a split named 'train' is needed; found: 'test'"),
        (
            {"train": {"text": ["a"], "class": [1]}},
            "columns 'text' and 'label' are needed; found",
        ),
        ({"train": {"text": ["a"], "label": [2]}}, r"train: every label must be 0 or 1, found \{2\}"),
        ({"train": OWN, "validation": {"text": [], "label": []}}, "validation: there are no messages in it"),
    ],
)
def test_messages_handed_over_that_do_not_fit(splits, message):
    with pytest.raises(ValueError, match=message):
        finetune("pocket", data=DatasetDict({name: Dataset.from_dict(rows) for name, rows in splits.items()}))


def test_labels_in_another_order_are_read_by_name():
    """Their index 1 is not spam: taken as it is, the metrics would be those of the other class."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["spam", "ham"])})
    turned = {**OWN, "label": [1 - label for label in OWN["label"]]}
    rows = [Dataset.from_dict(OWN), Dataset.from_dict(turned, features=features)]
    runs = [finetune("pocket", data=DatasetDict(train=part), **small(vocab_size=260)) for part in rows]
    assert runs[1].model.config.id2label == {0: "not spam", 1: "spam"} and runs[1].metrics == runs[0].metrics


def hf_spam(*arguments) -> str:
    command = [sys.executable, "-m", "hf_spam", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("epochs", "told"), [(3, [1, 2, 3]), (23, [3, 6, 9, 12, 15, 18, 21, 23])])
def test_a_long_run_is_told_of_now_and_then(epochs, told, data, caplog):
    """Of a few epochs each has its lines, of many every so many and the last; the history has all."""
    caplog.set_level(logging.INFO, "hf_spam.training.loop")  # which `crossval` quietens
    few = data["train"].select(range(8))
    settings = small(num_train_epochs=epochs, per_device_train_batch_size=8, eval_freq=1, eval_iter=1)
    run = finetune("pocket", data=DatasetDict(train=few), **settings)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    for pattern in (r"Epoch (\d+): train acc ", r"Epoch (\d+), step \d{6}: train loss "):
        assert [int(found[1]) for line in lines if (found := re.match(pattern, line))] == told
    assert len(run.history.train_accs) == len(run.history.train_losses) == epochs
