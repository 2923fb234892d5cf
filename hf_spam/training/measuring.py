"""Loss, accuracy and all the metrics of a model in training, over its prepared loaders."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ..evaluation.metrics import SpamMetrics
from ..modeling.configuration_spam_gpt import SpamGPTConfig, decide
from .batches import Batches, first
from .calibration import Calibration, calibrate, calibrates

# The splits by their names in the data and in the book's lists.
SPLITS = {"train": "train", "validation": "val", "test": "test"}

DIVERGED = "Training diverged: lower learning_rate or set max_grad_norm."


@dataclass(frozen=True)
class Measuring:
    """Measures a prepared model, whose configuration is `config`, on the splits of a run."""

    accelerator: Accelerator
    model: torch.nn.Module
    batches: Batches
    config: SpamGPTConfig

    def first(self, what: str, batches: int, splits: Iterable[str] = ("train", "validation")) -> dict[str, float]:
        """`{split}_{what}`, `loss` or `acc`, over the first batches of a pass over each split that there is."""
        loaders = self.batches.evaluation
        return {
            f"{SPLITS[split]}_{what}": getattr(evaluate(self.accelerator, self.model, loaders[split], batches), what)
            for split in splits
            if split in loaders
        }

    def whole(self, splits: Iterable[str]) -> "Measured":
        """All answers on the whole of each split that there is, and their metrics.

        If the recipe wants it, the model is calibrated on the validation split before, which is put into its
        configuration; answers are then those of the calibrated model.
        """
        loaders, recipe, calibration = self.batches.whole, self.batches.recipe, None
        results = {
            split: evaluate(self.accelerator, self.model, loaders[split]) for split in splits if split in loaders
        }
        if calibrates(recipe):
            calibration = calibrate(
                self.config,
                results["validation"].logits,
                results["validation"].labels,
                fitted_on="of the validation split",
                temperature_scaling=recipe.temperature_scaling,
                target_fpr=recipe.target_fpr,
            )
        answers = {}
        for split, result in results.items():
            probabilities = (result.logits / self.config.temperature).softmax(-1)
            predictions = decide(self.config, probabilities).numpy()
            answers[split] = {
                "predictions": predictions,
                "references": result.labels.numpy(),
                "scores": probabilities.numpy(),
            }
        metrics = {split: SpamMetrics(self.batches.names).compute(**given) for split, given in answers.items()}
        return Measured(metrics, answers, results["validation"].loss if "validation" in results else None, calibration)


@dataclass(frozen=True)
class Measured:
    """What a model answers on the whole of some splits, and how good that is."""

    metrics: dict[str, dict[str, float | None]]
    answers: dict[str, dict[str, np.ndarray]]
    """What `SpamMetrics` compute the metrics from: predictions (N,), references (N,) and scores (N, num_labels)."""
    loss: float | None
    """On the validation split, before the model is calibrated. None: that is not one of them."""
    calibration: Calibration | None
    """What was fitted to the validation split."""


@dataclass(frozen=True)
class Evaluation:
    """Loss (the mean over batches of their mean losses, as in the book) and accuracy of a pass, with its answers."""

    loss: float
    acc: float
    labels: torch.Tensor  # (N,)
    logits: torch.Tensor  # (N, num_labels), in float32


@torch.no_grad()  # not inference_mode: weights gathered from shards in it could not be trained with
def evaluate(
    accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, batches: int | None = None
) -> Evaluation:
    """Evaluates the first `batches` batches of a prepared loader (all, if None), each message counted once."""
    model.eval()
    losses, all_logits, all_labels = [], [], []
    for batch in first(loader, batches):
        labels = batch.pop("labels")
        # Gathered before the loss is taken: its mean is over the global batch, as on one process.
        logits, labels = accelerator.gather_for_metrics((model(**batch).logits.float(), labels))
        losses.append(cross_entropy(logits, labels).item())
        all_logits.append(logits.cpu())
        all_labels.append(labels.cpu())
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    if not logits.isfinite().all():
        raise ValueError(f"The loss is no longer a number. {DIVERGED}")
    correct = (logits.argmax(-1) == labels).sum().item()
    return Evaluation(sum(losses) / len(losses), correct / len(labels), labels, logits)
