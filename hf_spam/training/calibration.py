"""Calibration: a temperature that makes scores probabilities, and a threshold for a false-positive rate.

Both are fitted after training, on messages that the weights have not seen, and stored in the model's configuration.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from datasets import DatasetDict
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from ..data.labels import label_names
from ..evaluation.intervals import LEVEL, allowed_false_alarms, ham_needed, wilson
from ..evaluation.metrics import lowest_threshold
from ..modeling.configuration_spam_gpt import SpamGPTConfig, spam_index
from ..text import printable
from .settings import Recipe

TEMPERATURES = (0.1, 10.0)  # range of the search


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A temperature and a threshold, and their effect on the messages they were fitted on."""

    temperature: float
    threshold: float | None  # score from which a message is called spam; None: predict the most likely class
    fitted_on: str  # the messages in words, such as "the validation split"
    messages: int = 0
    loss_before: float | None = None  # log loss at temperature 1; None if no temperature was fitted
    loss: float | None = None  # log loss at this temperature
    target_fpr: float | None = None  # highest allowed false-positive rate; None: no threshold was asked for
    confidence: float | None = None  # that new messages like these keep to it; None: not guaranteed
    spam: str | None = None  # name of the positive class; this and the following only with `target_fpr`
    ham: int | None = None  # messages of other classes
    false_alarms: int | None = None  # those of them that are called spam
    missed: int | None = None  # spam that is not found

    @property
    def is_met(self) -> bool:
        """Whether there is a threshold if one was asked for."""
        return self.threshold is not None or self.target_fpr is None

    def summary(self, quote: Callable[[str], str] = printable) -> list[str]:
        """Describe the calibration in sentences; `quote` formats a label."""
        lines = []
        if self.loss is not None:
            effect = f"log loss {self.loss:.4f} instead of {self.loss_before:.4f}"
            where = f"{self.messages:,} messages of {self.fitted_on}"
            lines.append(f"Temperature {self.temperature:.4f}: {effect} on {where}.")
        if self.target_fpr is not None:
            lines.append(self._threshold_summary(quote(self.spam)))
        if not lines:
            threshold = "no threshold" if self.threshold is None else f"threshold {self.threshold:.7f}"
            lines.append(f"Temperature {self.temperature:.4f} and {threshold} are those of the base.")
        return lines

    def _threshold_summary(self, spam: str) -> str:
        ham = "ham messages" if self.spam.lower() == "spam" else f"messages that are not {spam}"
        allowed = f"a false-positive rate of at most {100 * self.target_fpr:g}%"
        if self.threshold is None:
            return f"No threshold gives {allowed} on {self.fitted_on}: too many {ham} share the highest score."
        positives = self.messages - self.ham
        found = (
            f"Threshold {self.threshold:.7f} for {allowed}: on {self.fitted_on}, {self.false_alarms:,} of {self.ham:,} "
            f"{ham} are called {spam}, and {positives - self.missed:,} of {positives:,} {spam} are found."
        )
        if self.confidence is not None:
            return f"{found} With {100 * self.confidence:g}% confidence, new messages like these keep to this rate."
        _, upper = wilson(self.false_alarms, self.ham)
        return f"{found} The rate on new messages may be up to {upper:.2%} ({LEVEL:.0%} interval)."


def needs_calibration(recipe: Recipe) -> bool:
    """Return whether a recipe fits a temperature or a threshold."""
    return recipe.temperature_scaling or recipe.target_fpr is not None


def calibrated_config(config: SpamGPTConfig, calibration: Calibration | None) -> SpamGPTConfig:
    """Return a copy of a configuration with this calibration, or with none."""
    config = copy.deepcopy(config)
    config.temperature = 1.0 if calibration is None else calibration.temperature
    config.threshold = None if calibration is None else calibration.threshold
    return config


def calibration_of(config: SpamGPTConfig) -> Calibration | None:
    """Return the calibration of a base, which its corrected copy keeps: scores and threshold mean the same in both."""
    if config.temperature == 1 and config.threshold is None:
        return None
    base = "the data that the base was calibrated on"
    return Calibration(temperature=config.temperature, threshold=config.threshold, fitted_on=base)


def shift_of(calibration: Calibration | None, names: Sequence[str]) -> torch.Tensor:
    """Return the shift, (num_labels,), after which the largest uncalibrated logit is that of the class to predict."""
    shift = torch.zeros(len(names))
    if calibration is not None and calibration.threshold is not None:
        threshold = torch.tensor(calibration.threshold)
        shift[spam_index(names)] = -calibration.temperature * threshold.logit(eps=1e-6)
    return shift


def check_validation_split(recipe: Recipe, data: DatasetDict) -> None:
    """Raise `ValueError` before training if the validation split is not fit for the calibration of a recipe."""
    if not needs_calibration(recipe):
        return
    if "validation" not in data:
        raise ValueError(f"Recipe {recipe.name!r}: temperature_scaling and target_fpr need a validation split.")
    labels, names = torch.tensor(data["validation"]["label"][:]), label_names(data["validation"])
    _check_labels(labels, names, recipe, "the validation split")


def fit_calibration(
    logits: torch.Tensor, labels: torch.Tensor, names: Sequence[str], recipe: Recipe, fitted_on: str
) -> Calibration:
    """Fit the temperature and the threshold that a recipe asks for.

    The temperature minimizes the log loss (Guo et al. 2017, *On Calibration of Modern Neural Networks*). If every
    message is classified correctly, the loss has no minimum and the temperature stays at 1. The threshold is found by
    `lowest_threshold`; given a `confidence`, fewer false alarms are allowed, see `allowed_false_alarms`. `logits` are
    those of the uncalibrated model, (N, num_labels), and `labels` class indices, (N,).
    """
    _check_labels(labels, names, recipe, "the data")
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        return cross_entropy(exact / math.exp(log_temperature), labels).item()

    temperature, threshold, found = 1.0, None, {}
    if recipe.temperature_scaling:
        if (logits.argmax(-1) != labels).any():
            bounds = [math.log(end) for end in TEMPERATURES]
            temperature = math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
        found = {"loss_before": loss(0.0), "loss": loss(math.log(temperature))}
    if recipe.target_fpr is not None:
        spam, rate, confidence = spam_index(names), recipe.target_fpr, recipe.confidence
        scores = (logits / temperature).softmax(-1)[:, spam].double().numpy()  # in float32, as the model computes them
        is_spam = (labels == spam).numpy()
        ham = int((~is_spam).sum())
        found |= {"target_fpr": rate, "confidence": confidence, "spam": names[spam], "ham": ham}
        if confidence is not None:
            rate = allowed_false_alarms(ham, rate, confidence) / ham
        threshold = lowest_threshold(is_spam, scores, rate)
        called = scores >= threshold if threshold is not None else (logits.argmax(-1) == spam).numpy()
        found |= {"false_alarms": int((called & ~is_spam).sum()), "missed": int((~called & is_spam).sum())}
    return Calibration(temperature=temperature, threshold=threshold, fitted_on=fitted_on, messages=len(labels), **found)


def _check_labels(labels: torch.Tensor, names: Sequence[str], recipe: Recipe, what: str) -> None:
    """Raise `ValueError` if messages, `what` in words, are not fit for a calibration."""
    if len(labels.unique()) == 1:
        raise ValueError(
            f"Calibration needs messages of at least two classes; {what} has only {names[labels[0].item()]!r}."
        )
    rate, confidence = recipe.target_fpr, recipe.confidence
    if rate is None:
        return
    spam = spam_index(names)  # raises an error if none of several labels is spam
    if not (labels == spam).any():
        raise ValueError(f"A threshold needs messages labelled {names[spam]!r}; {what} has none.")
    ham = int((labels != spam).sum())
    if confidence is not None and allowed_false_alarms(ham, rate, confidence) is None:
        raise ValueError(
            f"A false-positive rate of at most {100 * rate:g}% with {100 * confidence:g}% confidence needs at least "
            f"{ham_needed(rate, confidence):,} messages that are not {names[spam]}; {what} has {ham:,}. Add messages, "
            "or allow a higher rate with --target-fpr."
        )
