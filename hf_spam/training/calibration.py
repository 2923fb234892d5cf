"""Calibration: scores that are probabilities, and from which of them on a message is called spam.

Both are fitted after the training to messages that the weights have not seen, and kept in the model's configuration.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import DatasetDict
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from ..evaluation.intervals import LEVEL, wilson
from ..evaluation.metrics import lowest_threshold
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide, spam_index
from ..text import printable
from .recipes import Recipe

TEMPERATURES = (0.1, 10.0)  # beyond these no temperature is looked for


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted, and what comes of it on the messages that it was fitted to."""

    temperature: float
    """What logits are divided by."""
    temperature_scaling: bool
    """Whether that was fitted."""
    threshold: float | None
    """The score from which on a message is called spam. None: it is given the likeliest class."""
    target_fpr: float | None
    """The false-positive rate that the threshold is for. None: none was wanted."""
    fitted_on: str
    """What the messages are called, such as "of the validation split"."""
    messages: int
    loss_before: float
    """Their log loss at temperature 1."""
    loss: float
    """Their log loss at this temperature."""
    spam: str | None
    """The label that is called spam here; this and what follows is None where no threshold was wanted."""
    ham: int | None
    """How many are not spam."""
    false_alarms: int | None
    """Ham that is called spam."""
    missed: int | None
    """Spam that is not."""

    @property
    def is_met(self) -> bool:
        """Whether there is a threshold, if one was wanted."""
        return self.threshold is not None or self.target_fpr is None

    def in_words(self, fitted_on: str | None = None, named: Callable[[str], str] = printable) -> list[str]:
        """Sentences that say what was fitted, and how much that is worth.

        Args:
            fitted_on: what the messages are to be called; None: as they are.
            named: how the name of a label is written.
        """
        fitted_on, lines = fitted_on or self.fitted_on, []
        if self.temperature_scaling:
            where = f"{self.messages:,} messages {fitted_on}"
            effect = f"the log loss of {where} is {self.loss:.4f} with it, and {self.loss_before:.4f} without"
            if self.temperature == 1:
                effect = f"{where} tell of no other, since all are classified right"
            lines.append(f"Temperature {self.temperature:.4f}{self._bound_in_words()}: {effect}.")
        if self.target_fpr is not None:
            lines.append(self._threshold_in_words(fitted_on, named(self.spam)))
        return lines

    def _bound_in_words(self) -> str:
        """What to say of a temperature that the search ended with for no other reason than that it goes no further."""
        for bound, what in zip(TEMPERATURES, ("lowest", "highest"), strict=True):
            if math.isclose(self.temperature, bound, rel_tol=1e-4):
                return f", the {what} that is tried and not the best, which lies beyond"
        return ""

    def _threshold_in_words(self, fitted_on: str, name: str) -> str:
        ham = "ham" if self.spam.lower() == "spam" else f"messages other than {name}"
        allowed = f"a false-positive rate of {100 * self.target_fpr:g}%"
        if self.threshold is None:
            return f"No threshold keeps {allowed} or less: too many {ham} {fitted_on} have the highest of all scores."
        positives = self.messages - self.ham
        _, most = wilson(self.false_alarms, self.ham)
        return (
            f"Threshold {self.threshold:.7f}, for {allowed} or less: of {self.ham:,} {ham} {fitted_on} "
            f"{self.false_alarms:,} are called {name}, of {positives:,} {name} {positives - self.missed:,}. So many "
            f"{ham} tell of no rate below {1 / self.ham:.2%}; that of other messages may be {most:.2%} ({LEVEL:.0%} "
            "interval)."
        )


def uncalibrate(config: SpamGPTConfig) -> None:
    """Takes temperature and threshold out of a model's configuration."""
    config.temperature, config.threshold = 1.0, None


def calibrates(recipe: Recipe) -> bool:
    """Whether a recipe fits anything after the training."""
    return recipe.temperature_scaling or recipe.target_fpr is not None


def check_validation(recipe: Recipe, data: DatasetDict, config: SpamGPTConfig) -> None:
    """Looks, before the training, whether there will be something to fit to.

    Raises:
        ValueError: a recipe that fits something has no validation split, or none that will do.
    """
    if calibrates(recipe):
        what = "temperature_scaling" if recipe.temperature_scaling else "target_fpr"
        if "validation" not in data:
            raise ValueError(f"Recipe {recipe.name!r}: {what} needs a validation split, on which it is fitted.")
        labels = torch.tensor(data["validation"]["label"][:])
        _check_labels(labels, config, recipe.target_fpr, f"the validation split, which is for {what},")


def calibrate(
    config: SpamGPTConfig,
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    fitted_on: str,
    temperature_scaling: bool,
    target_fpr: float | None,
) -> Calibration:
    """Fits the temperature, then the threshold, and puts them into a model's configuration.

    The temperature is the one of the least log loss (Guo et al. 2017). Where every message is classified right, the
    loss would fall for ever as it goes to 0: they tell nothing of it, and it stays at 1. The threshold is that of
    `lowest_threshold`.

    Args:
        config: the model's.
        logits: the model's at temperature 1, (N, num_labels).
        labels: the classes of the messages, (N,).
        fitted_on: what the messages are called.
        temperature_scaling: whether to fit a temperature.
        target_fpr: the part of the ham that may be called spam; None: there is no threshold.

    Raises:
        ValueError: the messages are all of one class, or none is spam and there is to be a threshold.
    """
    _check_labels(labels, config, target_fpr, "the data")
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        return cross_entropy(exact / math.exp(log_temperature), labels).item()

    uncalibrate(config)
    if temperature_scaling and (logits.argmax(-1) != labels).any():
        bounds = [math.log(end) for end in TEMPERATURES]
        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
        config.temperature = math.exp(found.x)
    name = ham = false_alarms = missed = None
    if target_fpr is not None:
        probabilities = (logits / config.temperature).softmax(-1)  # as the model will compute them
        spam = spam_index(class_names(config))
        name, is_spam = class_names(config)[spam], labels == spam
        scores = probabilities[:, spam].double().numpy()
        config.threshold = lowest_threshold(is_spam.numpy(), scores, target_fpr)
        called = decide(config, probabilities) == spam
        ham, false_alarms, missed = (int(which.sum()) for which in (~is_spam, called & ~is_spam, ~called & is_spam))
    return Calibration(
        temperature=config.temperature,
        temperature_scaling=temperature_scaling,
        threshold=config.threshold,
        target_fpr=target_fpr,
        fitted_on=fitted_on,
        messages=len(labels),
        loss_before=loss(0.0),
        loss=loss(math.log(config.temperature)),
        spam=name,
        ham=ham,
        false_alarms=false_alarms,
        missed=missed,
    )


def _check_labels(labels: torch.Tensor, config: SpamGPTConfig, target_fpr: float | None, what: str) -> None:
    if len(labels.unique()) == 1:
        name = config.id2label[labels[0].item()]
        raise ValueError(f"Calibration needs messages of different labels; {what} has only {name!r}.")
    if target_fpr is None:
        return
    names = class_names(config)
    if len(names) > 2 and "spam" not in map(str.lower, names):
        raise ValueError(f"target_fpr needs a label named spam where there are more than two; {what} has none.")
    if not (labels == (spam := spam_index(names))).any():
        raise ValueError(f"A threshold needs {names[spam]} to be fitted to; {what} has none.")
