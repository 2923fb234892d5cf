"""Evaluate a model during training, over the prepared loaders."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ..evaluation.metrics import Predictions
from ..modeling.configuration_spam_gpt import class_names, decide
from .calibration import Calibration, calibrated_config, fit_calibration, needs_calibration
from .loaders import Loaders, first_batches
from .setup import Setup

BOOK_NAMES = {"train": "train", "validation": "val", "test": "test"}  # our names -> the book's
DIVERGED = "Training diverged: lower learning_rate or set max_grad_norm."


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a prepared model on the splits of a run. Nothing here changes the model or its configuration."""

    accelerator: Accelerator
    model: torch.nn.Module
    loaders: Loaders
    setup: Setup

    def estimate(self, what: str, batches: int, splits: Iterable[str] = ("train", "validation")) -> dict[str, float]:
        """Return `{split}_loss` or `{split}_acc` over the first batches of each split that exists."""
        found = {}
        for split in splits:
            if split in self.loaders.evaluation:
                loss, logits, labels = self.evaluate(self.loaders.evaluation[split], batches)
                accuracy = (logits.argmax(-1) == labels).sum().item() / len(labels)
                found[f"{BOOK_NAMES[split]}_{what}"] = loss if what == "loss" else accuracy
        return found

    def measure(self, splits: Iterable[str]) -> tuple[dict[str, Predictions], Calibration | None, float | None]:
        """Measure the model on all messages of the splits that exist.

        Returns the predictions for each split; the calibration, fitted on the validation split if the recipe asks for
        one, or kept from the base of corrections; and the loss on the validation split before calibration, if any.
        """
        losses, logits, labels = {}, {}, {}
        for split in splits:
            if split in self.loaders.by_length:
                loader, order = self.loaders.by_length[split]
                losses[split], *found = self.evaluate(loader)
                logits[split], labels[split] = (values[order.argsort()] for values in found)
        calibration, names = self.setup.calibration, class_names(self.setup.model.config)
        if needs_calibration(self.setup.recipe):
            given = logits["validation"], labels["validation"]
            calibration = fit_calibration(*given, names, self.setup.recipe, "the validation split")
        config = calibrated_config(self.setup.model.config, calibration)
        predictions = {}
        for split in logits:
            probabilities = (logits[split] / config.temperature).softmax(-1)
            predicted, table = decide(config, probabilities).numpy(), probabilities.double().numpy()
            predictions[split] = Predictions(tuple(names), labels[split].numpy(), predicted, table)
        return predictions, calibration, losses.get("validation")

    @torch.no_grad()
    def evaluate(self, loader: DataLoader, batches: int | None = None) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Evaluate the first batches of a prepared loader (None: all), counting each message once.

        Returns the mean loss over the batches (as in the book), logits (N, num_labels) and labels (N,).
        """
        self.model.eval()
        losses, all_logits, all_labels = [], [], []
        for batch in first_batches(loader, batches):
            labels = batch.pop("labels")
            # Gather before taking the loss, so that its mean is over the global batch, as on one process.
            logits, labels = self.accelerator.gather_for_metrics((self.model(**batch).logits.float(), labels))
            losses.append(cross_entropy(logits, labels).item())
            all_logits.append(logits.cpu())
            all_labels.append(labels.cpu())
        logits, labels = torch.cat(all_logits), torch.cat(all_labels)
        if not logits.isfinite().all():
            raise ValueError(f"The loss is no longer a number. {DIVERGED}")
        return sum(losses) / len(losses), logits, labels
