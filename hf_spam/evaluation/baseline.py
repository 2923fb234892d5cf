"""What a linear model of words and characters makes of the same messages: any network has to be better than that."""

import logging
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from ..data.labels import label_names
from ..modeling.configuration_spam_gpt import spam_index
from ..text import first_line
from .metrics import PROBABILISTIC, SpamMetrics

logger = logging.getLogger(__name__)

BASELINE = "TF-IDF + linear SVM"
MOST = 100_000  # training messages; the table of character sequences of more would not fit into a small machine


def fit_baseline(train: Dataset) -> Pipeline | None:
    """Fits TF-IDF of words (1 to 2) and characters (2 to 5) with a linear SVM, as it comes: nothing of it is tuned.

    Args:
        train: messages with columns `text` and `label`.

    Returns:
        None where nothing can be learned, since the messages are of one label or have no words, and where they are more
        than `MOST`.
    """
    if len(train) > MOST:
        logger.warning("No baseline: there are more than %d training messages.", MOST)
        return None
    if len(labels := set(train["label"][:])) < 2:
        only = f"all training messages are {label_names(train)[labels.pop()]!r}" if labels else "there are none"
        logger.warning("No baseline: it needs training messages of different labels, but %s.", only)
        return None
    baseline = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LinearSVC(),
    )
    try:
        return baseline.fit(train["text"][:], _targets(train))
    except ValueError as error:
        logger.warning("No baseline: %s", first_line(error))
        return None


def _targets(messages: Dataset) -> np.ndarray:
    """What the baseline learns, (N,): of two classes whether a message is of the positive one, else its class."""
    names, labels = label_names(messages), np.array(messages["label"][:])
    return labels if len(names) > 2 else (labels == spam_index(names)).astype(int)


def baseline_answers(baseline: Pipeline, messages: Dataset) -> dict[str, np.ndarray]:
    """What `baseline_metrics` are computed from: predictions and references, (N,).

    Of two classes these are whether a message is of the positive one, such as spam, and there are also scores, (N,) in
    (0, 1), above 0.5 for it. They rank messages, but are no probabilities.
    """
    actual = _targets(messages)
    if len(label_names(messages)) > 2:
        return {"predictions": baseline.predict(messages["text"][:]), "references": actual}
    scores = expit(baseline.decision_function(messages["text"][:]))
    return {"predictions": (scores > 0.5).astype(int), "references": actual, "scores": scores}


def baseline_metrics(answers: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, float | None]:
    """The metrics of a baseline's answers about classes of these names; those that ask for probabilities are None."""
    if len(names) > 2:
        return SpamMetrics(names).compute(**answers)
    return SpamMetrics().compute(**answers) | dict.fromkeys(PROBABILISTIC)


def ahead(model: float, baseline: float, threshold: float | None) -> str:
    """Who is ahead, by its F1, in words; the model has a threshold, or none."""
    if model == baseline:
        verdict = f"the model and the baseline are level, F1 {model:.4f}"
    else:
        first, second = ("model", "baseline") if model > baseline else ("baseline", "model")
        best, other = max(model, baseline), min(model, baseline)
        verdict = f"the {first} is ahead of the {second}, F1 {best:.4f} against {other:.4f}"
    # A threshold trades F1 for fewer false alarms.
    return verdict + ("" if threshold is None else " (the model goes by its threshold, the baseline by none)")


def measure_baseline(data: DatasetDict) -> dict[str, dict[str, float | None]]:
    """The metrics, on every other split, of the baseline fitted to the split `train`; empty if it cannot be fitted."""
    others = {split: messages for split, messages in data.items() if split != "train"}
    baseline = fit_baseline(data["train"]) if others else None
    if baseline is None:
        return {}
    return {
        split: baseline_metrics(baseline_answers(baseline, messages), label_names(messages))
        for split, messages in others.items()
    }
