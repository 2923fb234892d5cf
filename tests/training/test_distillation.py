"""A network learns from the baseline too: the same spliced messages each time, on top of the training messages."""

import pytest
from datasets import DatasetDict
from small_reports import messages
from small_runs import NO_DROPOUT, SMALL, first_messages

from hf_spam import finetune
from hf_spam.data.splits import fingerprints
from hf_spam.evaluation.baseline import fit_baseline
from hf_spam.training import distillation
from hf_spam.training.distillation import spliced_messages

SETTINGS = {**SMALL, **NO_DROPOUT, "max_steps": 8, "eval_freq": 4, "spliced_messages": 20}


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return first_messages(train=64, validation=20, test=20)


def test_spliced_messages_are_made_of_pieces_and_judged_by_the_baseline():
    """Pieces of spam only must look like spam to the baseline, pieces of ham only like ham."""
    words = {0: "see you at home later then mum", 1: "win cash prize now call free"}
    texts = [(" ".join([word] * 5 + [words[label]]), label) for label, line in words.items() for word in line.split()]
    train = messages(texts)
    spliced, targets = spliced_messages(train, 300, seed=1)
    assert len(spliced) == len(targets) == 300 and len(set(spliced)) > 200
    assert (spliced, targets) == spliced_messages(train, 300, seed=1) != spliced_messages(train, 300, seed=2)
    known = {label: set(line.split()) for label, line in words.items()}
    for text, target in zip(spliced, targets, strict=True):
        found = set(text.split())
        assert found <= known[0] | known[1] and 0 < target < 1
        if len(found) > 2 and found <= known[1]:
            assert target > 0.5, text
        if len(found) > 2 and found <= known[0]:
            assert target < 0.5, text


def test_the_baseline_is_fitted_to_some_of_too_many_messages(monkeypatch):
    """Its n-grams would need too much memory."""
    train, fitted = messages([(f"word{i} {'win' if i % 2 else 'home'}", i % 2) for i in range(40)]), []
    monkeypatch.setattr(distillation, "MAX_MESSAGES", 20)
    monkeypatch.setattr(distillation, "fit_baseline", lambda some: fitted.append(len(some)) or fit_baseline(some))
    assert len(spliced_messages(train, 10, seed=1)[0]) == 10 and fitted == [20]


def test_more_than_two_classes_are_refused():
    train = messages([("x y", 0), ("z w", 1), ("v u", 2)], ["a", "b", "c"])
    with pytest.raises(ValueError, match="two classes"):
        spliced_messages(train, 10, seed=1)


def test_an_epoch_includes_them_and_measurements_do_not(data):
    """64 messages and 20 spliced ones are five batches of 16; metrics are of the 64."""
    run = finetune("pocket", data=data, **SETTINGS)
    assert run.history.steps_per_epoch == 5
    assert len(run.predictions["train"].labels) == 64
    assert run.history.splits == fingerprints(data)
