"""Linear baseline, trained on the same messages as the model: an SVM on TF-IDF of words and characters."""

import logging

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from ..data.labels import label_names
from ..text import first_line
from .metrics import Predictions, probability_table

logger = logging.getLogger(__name__)

BASELINE = "TF-IDF + linear SVM"
MAX_MESSAGES = 100_000  # above this, the character n-grams need too much memory


def fit_baseline(train: Dataset) -> Pipeline | None:
    """Fit a linear SVM on TF-IDF of words (1 to 2) and characters (2 to 5), with scikit-learn's default settings.

    Returns `None`, with a warning, if there are more than `MAX_MESSAGES`, they share one label or contain no words.
    """
    if len(train) > MAX_MESSAGES:
        logger.warning("No baseline: there are more than %d training messages.", MAX_MESSAGES)
        return None
    baseline = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LinearSVC(random_state=0),
    )
    try:
        return baseline.fit(train["text"][:], train["label"][:])
    except ValueError as error:
        logger.warning("No baseline: %s", first_line(error))
        return None


def predict_baseline(baseline: Pipeline, messages: Dataset) -> Predictions:
    """Classify messages with the baseline. For two classes, there are scores, which only rank the messages."""
    names, labels = label_names(messages), np.array(messages["label"][:])
    features, svm = baseline[:-1].transform(messages["text"][:]), baseline[-1]
    # The margins of two classes are those of class 1.
    table = probability_table(expit(svm.decision_function(features)), positive=1) if len(names) == 2 else None
    return Predictions(tuple(names), labels, svm.predict(features), table, only_ranks=True)


def measure_baseline(data: DatasetDict) -> dict[str, dict[str, float | None]]:
    """Fit the baseline to the split `train` and return its metrics on every other split, or an empty dict."""
    if len(data) == 1 or (baseline := fit_baseline(data["train"])) is None:
        return {}
    return {split: predict_baseline(baseline, data[split]).metrics() for split in data if split != "train"}


def ahead(model: float, baseline: float, threshold: float | None) -> str:
    """Describe whose F1 is higher, and the model's own threshold, which trades F1 for fewer false alarms."""
    better, worse = ("model", "baseline") if model > baseline else ("baseline", "model")
    verdict = f"the {better} is ahead of the {worse}, F1 {max(model, baseline):.4f} against {min(model, baseline):.4f}"
    if model == baseline:
        verdict = f"the model and the baseline are level, F1 {model:.4f}"
    return verdict + ("" if threshold is None else " (the model uses its threshold, the baseline has none)")
