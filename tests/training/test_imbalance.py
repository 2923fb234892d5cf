"""What is done about rare labels: weights are torch's, draws are even and repeatable, no test set is touched."""

import json
import logging
import runpy
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from datasets import DatasetDict
from processes import finetune_on
from small_runs import first_messages
from torch import nn
from torch.nn.functional import cross_entropy

from hf_spam import Recipe, finetune, load_sms_spam
from hf_spam.data.labels import label_names
from hf_spam.training.batches import SeededShuffle
from hf_spam.training.objective import Objective, balanced_weights, log_priors

LABELS = [0] * 70 + [1] * 20 + [2] * 10


def small(**settings):
    return {"vocab_size": 300, "n_embd": 16, "n_head": 2, "max_steps": 12, "eval_freq": 3, **settings}


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    """60 messages to train on, of which 10 are spam."""
    splits = first_messages(train=700, validation=20)
    labels = splits["train"]["label"][:]
    chosen = [
        *islice((i for i, label in enumerate(labels) if label), 10),
        *islice((i for i, label in enumerate(labels) if not label), 50),
    ]
    return DatasetDict(train=splits["train"].select(sorted(chosen)), validation=splits["validation"])


def test_the_weighted_loss_is_torchs():
    """Over all messages its weighted mean; and a batch cut into equal parts has the mean of theirs, gradients too."""
    logits, labels = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(LABELS)
    weights = balanced_weights(LABELS, 4)
    assert weights[:3].tolist() == pytest.approx([100 / (3 * n) for n in (70, 20, 10)])  # of class 3 there are none
    assert weights[labels].mean() == pytest.approx(1)
    weighted = Objective(nn.Identity(), weights).loss
    torch.testing.assert_close(weighted(logits, labels), cross_entropy(logits, labels, weight=weights))
    assert torch.equal(Objective(nn.Identity()).loss(logits, labels), cross_entropy(logits, labels))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:32]
    whole, parts = logits[order].requires_grad_(), logits[order].requires_grad_()
    loss = weighted(whole, labels[order])
    cut = torch.stack([weighted(parts[i : i + 8], labels[order][i : i + 8]) for i in range(0, 32, 8)]).mean()
    torch.testing.assert_close(cut, loss)
    torch.testing.assert_close(torch.autograd.grad(cut, parts), torch.autograd.grad(loss, whole))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_adjusted_logits_tell_what_messages_say_beyond_how_common_labels_are(tau):
    """Of messages that say nothing, the best logits are the logarithms of the labels' parts, less tau times them."""
    priors = log_priors(LABELS, 4)
    assert priors.exp().tolist() == pytest.approx([0.7, 0.2, 0.1, 0.01])  # of class 3 there are none
    priors, labels = priors[:3], torch.tensor(LABELS)
    best = ((1 - tau) * priors).expand(100, 3).clone().requires_grad_()
    loss = Objective(nn.Identity(), adjustment=tau * priors).loss(best, labels)
    torch.testing.assert_close(torch.autograd.grad(loss, best)[0].sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss, cross_entropy(priors.expand(100, 3), labels))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [100, 96])
def test_every_label_and_each_of_its_messages_is_drawn_equally_often(grouped, size):
    """In each pass anew, and as many messages as there are; the same again from the same generator."""
    labels = LABELS[:size]
    lengths = [(7 * i) % 50 + 1 for i in range(size)] if grouped else None
    rng = torch.Generator().manual_seed(3)
    sampler = SeededShuffle(size, 4, rng, lengths, labels)
    state = rng.get_state()
    passes = [list(sampler) for _ in range(3)]
    for order in passes:
        assert len(order) == len(sampler) == size
        of_label, of_message = Counter(labels[i] for i in order), Counter(order)
        assert max(of_label.values()) - min(of_label.values()) <= 1 and set(of_label) == {0, 1, 2}
        for label in range(3):
            times = [of_message[i] for i in range(size) if labels[i] == label]
            assert max(times) - min(times) <= 1
    assert passes[0] != passes[1] != passes[2]
    assert [labels[i] for i in passes[0]] != [labels[i] for i in passes[1]]  # the labels do not come in turn
    assert len({frozenset(i for i in order if labels[i] == 0) for order in passes}) == 3  # others are left out
    rng.set_state(state)
    assert list(sampler) == passes[0]
    # No stretch of a pass is of one label alone, as it would be were they drawn one after the other.
    assert all(len({labels[i] for i in passes[0][start : start + 20]}) == 3 for start in range(0, 80, 20))


def test_balanced_batches_reach_the_training_and_not_the_evaluation(data, monkeypatch):
    """Half of what is trained on is spam; what is evaluated is what there is."""
    seen = {"training": Counter(), "evaluation": 0.0}
    original = Objective.loss

    def counted(objective, logits, labels):
        seen["training"].update(labels.tolist())
        return original(objective, logits, labels)

    monkeypatch.setattr(Objective, "loss", counted)
    for strategy in ("random", "group_by_length"):
        seen["training"].clear()
        settings = small(balanced_sampling=True, train_sampling_strategy=strategy, per_device_train_batch_size=4)
        settings["adversarial_epsilon"] = 0.0  # else it is asked for the loss of each batch twice
        run = finetune("pocket", data=data, **{**settings, "max_steps": 30})
        assert seen["training"] == {0: 60, 1: 60}
        assert run.history.examples_seen == 120 and run.history.epochs == 2
    plain = finetune("pocket", data=data, **small(per_device_train_batch_size=4, max_steps=1))
    assert run.history.initial == plain.history.initial
    plain = finetune("pocket", data=data, **small(logit_adjustment=0.0))
    weighted = finetune("pocket", data=data, **small(class_weights="balanced"))
    adjusted = finetune("pocket", data=data, **small(logit_adjustment=1.0))
    # Before the first step all are the same network, and its losses are neither weighted nor adjusted.
    assert weighted.history.initial == adjusted.history.initial == plain.history.initial
    assert weighted.history.train_losses != plain.history.train_losses != adjusted.history.train_losses


def test_adjustment_calls_the_rare_label_more_often(data):
    """A network of a few steps has learned little but how common the labels are: five sixths are ham."""
    settings = small(learning_rate=1e-2, warmup_steps=0.0, weight_average=0.0)
    spam = [
        finetune("pocket", data=data, **settings, logit_adjustment=tau).answers["train"]["scores"][:, 1].mean()
        for tau in (0.0, 0.5, 1.0)
    ]
    assert spam[0] < 1 / 6 and spam[2] > 2 * spam[0] and spam[0] + 0.01 < spam[1] < spam[2] - 0.01


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"balanced_sampling": True}])
def test_what_is_balanced_is_not_adjusted_as_well(settings, data):
    runs = [finetune("pocket", data=data, **small(**settings, logit_adjustment=tau)) for tau in (0.0, 1.0)]
    assert runs[0].history.train_losses == runs[1].history.train_losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"class_weights": "balanced"}, {"balanced_sampling": True}, {"logit_adjustment": 1.0}]
)
def test_several_processes_do_what_one_does(settings, data, tmp_path):
    """The same global batch on two processes, and on one that accumulates: the same losses to 1e-5."""
    data.save_to_disk(tmp_path / "data")
    settings = small(**settings, dropout=0.0, bpe_dropout=0.0, train_sampling_strategy="random", eval_freq=1)
    settings |= {"max_grad_norm": None, "weight_average": 0.0}
    one = finetune("pocket", data=data, per_device_train_batch_size=8, **settings).history.train_losses
    batch = {"per_device_train_batch_size": 4}
    cut = finetune("pocket", data=data, gradient_accumulation_steps=2, **batch, **settings).history.train_losses
    finetune_on(2, "pocket", tmp_path / "data", output_dir=tmp_path / "out", **batch, **settings)
    two = json.loads((tmp_path / "out" / "history.json").read_text())["train_losses"]
    assert two == pytest.approx(one, abs=1e-5) and len(set(one)) > 8
    # Its evaluations are over other batches: those of its own size, and as many.
    assert len(cut) == len(one) and cut[-1] == pytest.approx(one[-1], abs=0.1)


def test_undersampling_is_of_the_training_messages_alone(data):
    run = finetune("pocket", data=data, per_device_train_batch_size=4, **{**small(undersample=True), "max_steps": 5})
    assert run.history.epochs == 1 and run.history.examples_seen == 20
    whole = load_sms_spam("sample")["validation"]
    other = finetune("pocket", data=DatasetDict(train=data["train"], test=whole), **small(undersample=True))
    assert other.metrics["test"]["accuracy"] * len(whole) == pytest.approx(
        round(other.metrics["test"]["accuracy"] * len(whole))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "even"}, "class_weights must be balanced or none, got 'even'"),
        ({"logit_adjustment": -0.5}, "logit_adjustment must not be negative, got -0.5"),
        ({"class_weights": "balanced", "balanced_sampling": True}, "do the same twice: give one of them"),
        ({"balanced_sampling": True, "train_batch_tokens": 100}, "balanced_sampling has no batches of"),
    ],
)
def test_what_cannot_be_meant(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_base_for_other_labels_gives_all_but_its_head(data, tmp_path, caplog):
    """The head of a base is gone on with only where it is for these very labels."""
    first = finetune("pocket", data=data, output_dir=tmp_path / "base", **small())
    settings = {"base": tmp_path / "base", "vocab_size": None, "learning_rate": 1e-12, "max_steps": 1}
    settings |= {"weight_average": 0.0, "warmup_steps": 0.0}
    names = ["spam", "not spam"]  # in another order they are others
    for features_names in (["a", "b", "c"], names, label_names(data["train"])):
        caplog.clear()
        own = DatasetDict(train=data["train"].cast_column("label", _class_label(features_names)))
        with caplog.at_level(logging.INFO, logger="hf_spam"):
            run = finetune("pocket", data=own, **settings)
        same_labels = len(features_names) == 2  # spam and not spam are read by their names
        expected = dict(enumerate(label_names(data["train"]) if same_labels else features_names))
        assert run.model.config.id2label == expected
        assert torch.allclose(run.model.gpt.tok_emb.weight, first.model.gpt.tok_emb.weight, atol=1e-6)
        assert ("its head is not used" in caplog.text) is not same_labels
        if same_labels:
            assert torch.allclose(run.model.out_head.weight, first.model.out_head.weight, atol=1e-6)
        else:
            assert run.model.out_head.weight.shape == (3, 16)


def _class_label(names):
    from datasets import ClassLabel

    return ClassLabel(names=names)


def test_the_comparison_measures_each_on_the_same_folds(data, tmp_path):
    """The script, as it is run: the baseline is the same beside all but undersampling, which leaves it fewer rows."""
    data["train"].to_csv(tmp_path / "mine.csv", index=False)
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "compare_imbalance.py"))
    flags = ["--data", str(tmp_path / "mine.csv"), "--folds", "2", "--max-steps", "2", "--n-embd", "16"]
    flags += ["--vocab-size", "300", "--per-device-train-batch-size", "4"]
    results = json.loads(CliRunner().invoke(script["main"], [*flags, "--json"]).stdout)
    assert list(results) == ["nothing", "class weights", "balanced sampling", "undersampling", "logit adjustment"]
    baselines = {name: [run["baseline"] for run in result["runs"]] for name, result in results.items()}
    assert baselines.pop("undersampling") != baselines["nothing"] and len(baselines["nothing"]) == 2
    assert list(baselines.values()) == [baselines["nothing"]] * 4
    models = [result["runs"][0]["model"]["log_loss"] for result in results.values()]
    assert len(set(models)) == 5
