"""Evaluate a model during training, over the prepared loaders."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ..evaluation.metrics import Predictions
from ..modeling.configuration_spam_gpt import SpamGPTConfig, class_names, decide
from .calibration import Calibration, apply_calibration, fit_calibration, needs_calibration
from .loaders import Loaders, first_batches
from .recipes import Recipe
from .run import Metrics

BOOK_NAMES = {"train": "train", "validation": "val", "test": "test"}  # our names -> the book's
DIVERGED = "Training diverged: lower learning_rate or set max_grad_norm."


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over batches (as in the book), accuracy, logits (N, num_labels) and labels (N,)."""

    loss: float
    acc: float
    logits: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Measured:
    """Metrics of a model on whole splits.

    Attributes:
        metrics, predictions: of each split, as in `Run`.
        loss: loss on the validation split before calibration; None if not measured.
        calibration: calibration fitted on the validation split, if the recipe asks for one, or kept from the base.
    """

    metrics: dict[str, Metrics]
    predictions: dict[str, Predictions]
    loss: float | None
    calibration: Calibration | None


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a prepared model on the splits of a run. Nothing here changes the model or its configuration."""

    accelerator: Accelerator
    model: torch.nn.Module
    loaders: Loaders
    config: SpamGPTConfig
    recipe: Recipe
    calibration: Calibration | None = None  # kept from the base

    def estimate(self, what: str, batches: int, splits: Iterable[str] = ("train", "validation")) -> dict[str, float]:
        """Return `{split}_loss` or `{split}_acc` over the first batches of each split that exists."""
        return {
            f"{BOOK_NAMES[split]}_{what}": getattr(
                evaluate(self.accelerator, self.model, self.loaders.evaluation[split], batches), what
            )
            for split in splits
            if split in self.loaders.evaluation
        }

    def measure(self, splits: Iterable[str]) -> Measured:
        """Measure the model on all messages of the splits that exist, calibrating it if the recipe says so."""
        results = {split: self._predict(split) for split in splits if split in self.loaders.evaluation}
        calibration, config = self.calibration, self.config
        if needs_calibration(self.recipe):
            held_out = results["validation"]
            calibration = fit_calibration(
                held_out.logits,
                held_out.labels,
                class_names(config),
                fitted_on="the validation split",
                temperature_scaling=self.recipe.temperature_scaling,
                target_fpr=self.recipe.target_fpr,
                confidence=self.recipe.confidence,
            )
        if calibration is not None:
            config = copy.deepcopy(config)
            apply_calibration(config, calibration)
        predictions, names = {}, tuple(class_names(config))
        for split, result in results.items():
            probabilities = (result.logits / config.temperature).softmax(-1)
            predicted = decide(config, probabilities).numpy()
            predictions[split] = Predictions(names, result.labels.numpy(), predicted, probabilities.double().numpy())
        return Measured(
            metrics={split: given.metrics() for split, given in predictions.items()},
            predictions=predictions,
            loss=results["validation"].loss if "validation" in results else None,
            calibration=calibration,
        )

    def _predict(self, split: str) -> Evaluation:
        """Evaluate all messages of a split; logits and labels are in the order of the data."""
        loader, order = self.loaders.sorted_loader(split)
        result = evaluate(self.accelerator, self.model, loader)
        original = order.argsort()
        return Evaluation(result.loss, result.acc, result.logits[original], result.labels[original])


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, batches: int | None = None
) -> Evaluation:
    """Evaluate the first batches of a prepared loader (None: all), counting each message once."""
    model.eval()
    losses, all_logits, all_labels = [], [], []
    for batch in first_batches(loader, batches):
        labels = batch.pop("labels")
        # Gather before taking the loss, so that its mean is over the global batch, as on one process.
        logits, labels = accelerator.gather_for_metrics((model(**batch).logits.float(), labels))
        losses.append(cross_entropy(logits, labels).item())
        all_logits.append(logits.cpu())
        all_labels.append(labels.cpu())
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    if not logits.isfinite().all():
        raise ValueError(f"The loss is no longer a number. {DIVERGED}")
    return Evaluation(
        sum(losses) / len(losses), (logits.argmax(-1) == labels).sum().item() / len(labels), logits, labels
    )
