"""Measure the bundled model on the tenth of its messages that it was not trained on, beside a linear SVM.

    python scripts/measure_bundled.py --uci SMSSpamCollection PHILIPPINES SMISHING THAI MENDELEY

Takes the arguments of `train_bundled.py`, and prints the numbers of model_card.md.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from train_bundled import training_splits

from hf_spam import SpamClassifier, entry
from hf_spam.data.obfuscation import leet, spacing
from hf_spam.data.sources import read_messages
from hf_spam.evaluation.baseline import fit_baseline, predict_baseline
from hf_spam.evaluation.intervals import wilson
from hf_spam.inference.scoring import load_scorer

LEAST = {"source": 1, "category": 30, "language": 20}  # messages of a group that is shown
REPEATS = 5  # of the timing
LABELS = ("", "spam", "ham", "scam", "smishing", "ok")  # categories that only repeat a label


@click.command()
@click.option("--uci", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--promotions", type=click.Path(exists=True), help="Promotions, to count those that are called spam.")
@click.argument("public", nargs=-1, type=click.Path(exists=True))
def main(uci: str, promotions: str | None, public: tuple[str, ...]) -> None:
    """Measure the bundled model; PUBLIC are the files of the public sets."""
    torch.set_num_threads(1)
    splits, classifier = training_splits([uci, "sample", *public]), SpamClassifier.from_pretrained()
    messages = splits["validation"]
    texts, is_spam = messages["text"][:], np.array(messages["label"][:]) == 1

    def called(texts: Sequence[str]) -> np.ndarray:
        return np.array(classifier.predict(texts)) == "spam"

    baseline = predict_baseline(fit_baseline(splits["train"]), messages)
    answers = {"model": called(texts), "SVM": baseline.predicted_spam}
    scores = {"model": classifier.predict_proba(texts)[:, 1], "SVM": baseline.scores}

    def show(name: str, chosen: np.ndarray) -> None:
        spam, ham = chosen & is_spam, chosen & ~is_spam
        found, alarms = ([rate(answer[rows]) for answer in answers.values()] for rows in (spam, ham))
        click.echo(f"| {name} | {spam.sum():,} | {' | '.join(found)} | {ham.sum():,} | {' | '.join(alarms)} |")

    click.echo("| messages | spam | found, % | SVM | ham | false alarms, % | SVM |\n|---|---|---|---|---|---|---|")
    show("**all**", np.full(len(texts), True))
    for by, least in LEAST.items():
        values = np.array([Path(value).name for value in messages[by][:]])
        for name in sorted({*values} - {*LABELS}):
            if (values == name).sum() >= least:
                show(f"{by} `{name}`", values == name)
    for kind, score in scores.items():
        recalls = [f"{(score[is_spam] > np.quantile(score[~is_spam], 1 - rate)).mean():.3f}" for rate in (0.01, 0.02)]
        auc = roc_auc_score(is_spam, score)
        click.echo(f"{kind}: ROC AUC {auc:.3f}, found at a false-positive rate of 1 and 2 %: {', '.join(recalls)}")
    spam, rng = [text for text, label in zip(texts, is_spam, strict=True) if label], random.Random(0)
    changes: dict[str, Callable[[str], str]] = {
        "as it is": str,
        "in leet": lambda text: leet(text, 0.3, rng.random),
        "with words spaced out": lambda text: spacing(text, 0.3, rng.random),
        "in capitals": str.upper,
    }
    for name, change in changes.items():
        click.echo(f"Spam {name}: {called([change(text) for text in spam]).mean():.3f} found")
    for source in ("marketing", *filter(None, [promotions])):
        others = read_messages(source, allow_single_label=True)["text"][:]
        click.echo(f"{Path(source).name}: {called(others).mean():.3f} of {len(others)} called spam")
    runtimes, seconds = {"PyTorch": classifier, "ONNX Runtime, as in hf-spam score": load_scorer()}, defaultdict(list)
    for name in [*runtimes] * REPEATS:
        started = time.perf_counter()
        runtimes[name](texts)
        seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        click.echo(f"{name}: {len(texts) / median(times):,.0f} messages a second on one core")


def rate(answers: np.ndarray) -> str:
    """Return the share of true answers in percent, with its Wilson interval."""
    interval = wilson(answers.sum(), len(answers))
    return "-" if interval is None else f"{100 * answers.mean():.0f} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"


if __name__ == "__main__":
    entry.run(main, "measure_bundled.py")
