"""Checkpoints: everything a run needs to resume exactly, in a folder that is either complete or absent.

    checkpoint-50/
        config.json, model.safetensors, tokenizer, card, metrics, history    a model like any other
        training_state/    read only by a resumed run: tensors in safetensors, the rest in JSON, no pickle
        manifest.json      SHA-256 of every file, versions, and the identity of the run: recipe, data, processes

Checkpoints are numbered by step, counted from 0 as in the book, the log and `history.json`.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.batching import EncodedMessages
from ..data.splits import digest
from ..files import MANIFEST, read_manifest
from ..text import one_line
from .recipes import SOURCES, Recipe
from .run import History, Progress
from .setup import Setup

logger = logging.getLogger(__name__)

STATE = "training_state"
Tensors = dict[str, torch.Tensor]


@dataclass
class TrainingState:
    """Everything that changes during training, on one process.

    Attributes:
        optimizer, scheduler, scaler: as Accelerate prepared them.
        order: random generator for the order of messages.
        averaged: moving average of the weights, which is saved in their place. None: no averaging.
    """

    setup: Setup
    optimizer: Any
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None
    order: torch.Generator
    averaged: AveragedModel | None
    progress: Progress = field(default_factory=Progress)
    _raw_weights: Tensors | None = None  # the model's own weights while averaged ones replace them
    _epoch_order: torch.Tensor | None = None  # state of `order` at the start of the epoch
    _resumed_rng_states: Tensors | None = None  # to restore after skipping the finished batches of the epoch

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights, if any, into the model for the duration of a `with` block."""
        if self.averaged is None or not self.averaged.n_averaged:
            yield
            return
        model = self.setup.model
        self._raw_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(self._raw_weights)
            self._raw_weights = None

    def start_epoch(self) -> None:
        """Remember the RNG state from which a resumed run can draw the epoch's batches again."""
        if self._resumed_rng_states is None:
            self._epoch_order = self.order.get_state()

    def restore_rng_states(self) -> None:
        """Restore the RNG states of a loaded checkpoint, unless this has been done already."""
        if self._resumed_rng_states is None:
            return
        states, self._resumed_rng_states = self._resumed_rng_states, None
        self.order.set_state(states["order"])
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])

    def rng_states(self) -> Tensors:
        """Return the RNG states of this process."""
        states = {"order": self.order.get_state(), "epoch_order": self._epoch_order, "cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def save(self, folder: Path, rng_states: Sequence[Tensors]) -> None:
        """Write the state and the RNG states of all processes into the folder `training_state` of a checkpoint."""
        moments = self.optimizer.state_dict()["state"]
        names = self._trained_names()
        files = {
            "optimizer": {f"{key} of {names[i]}": value for i, part in moments.items() for key, value in part.items()},
            **{f"random-{rank}": states for rank, states in enumerate(rng_states)},
        }
        # The weights in training cannot be recovered from merged adapters or averaged weights.
        if self.setup.adapters is not None:
            files["weights"] = self.setup.model.state_dict()
        elif self._raw_weights is not None:
            files["weights"] = self._raw_weights
        for name, tensors in files.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
        state = {
            "progress": asdict(self.progress),
            "scheduled": self.scheduler.last_epoch,
            "scaler": self.scaler and self.scaler.state_dict(),
            "averaged": self._raw_weights is not None,
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    def load(self, checkpoint: Path, rank: int) -> None:
        """Load the state of a checkpoint of the same run.

        Raises:
            ValueError: the checkpoint does not fit this run, although its manifest says so.
        """
        folder, model = checkpoint / STATE, self.setup.model
        try:
            saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            progress = saved["progress"]
            self.progress = Progress(**{**progress, "history": History(**progress["history"])})
            kept = load_file(checkpoint / "model.safetensors")
            if saved["averaged"]:
                self.averaged.module.load_state_dict(kept)
                self.averaged.n_averaged += 1
            if (folder / "weights.safetensors").exists():
                kept = load_file(folder / "weights.safetensors")
            model.load_state_dict(kept)
            self._load_optimizer(load_file(folder / "optimizer.safetensors"), saved["scheduled"])
            if self.scaler is not None:
                self.scaler.load_state_dict(saved["scaler"])
            self._resumed_rng_states = load_file(folder / f"random-{rank}.safetensors")
            self._epoch_order = self._resumed_rng_states["epoch_order"]
            self.order.set_state(self._epoch_order)
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{checkpoint} does not fit this run: {one_line(error)}") from error

    def _load_optimizer(self, tensors: Tensors, scheduled: int) -> None:
        """Restore the moments by parameter name, and the learning rate at a step of the schedule."""
        numbers = {name: i for i, name in enumerate(self._trained_names())}
        moments: dict[int, Tensors] = {}
        for name, tensor in tensors.items():
            key, _, parameter = name.partition(" of ")
            moments.setdefault(numbers[parameter], {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        (rate,), (factor,), (group,) = self.scheduler.base_lrs, self.scheduler.lr_lambdas, self.optimizer.param_groups
        group["lr"] = rate * factor(scheduled)
        place = {"last_epoch": scheduled, "_last_lr": [group["lr"]]}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})

    def _trained_names(self) -> list[str]:
        """Return the names of the parameters in the order in which the optimizer numbers them."""
        return [name for name, parameter in self.setup.model.named_parameters() if parameter.requires_grad]


def averaged_model(model: torch.nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of a model's weights; None for a decay of 0."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None


def identity(
    recipe: Recipe, data: DatasetDict, encoded: Mapping[str, EncodedMessages], num_processes: int
) -> dict[str, Any]:
    """Return what a run must share with the checkpoint it resumes from; stored in the manifest.

    Sources of messages, weights and tokenizer may differ between machines, so they are left out: the weights are in
    the checkpoint, and messages and token ids are compared by their hash. So is the length of the run, unless the
    learning rate depends on it: a run may be extended.
    """
    digests = {split: digest(messages, encoded[split].input_ids) for split, messages in data.items()}
    ignored = {"name", "summary", *SOURCES}
    if recipe.lr_scheduler_type == "constant" and not 0 < recipe.warmup_steps < 1:
        ignored |= {"num_train_epochs", "max_steps"}
    settings = {name: value for name, value in asdict(recipe).items() if name not in ignored}
    return {"recipe": settings, "data": digests, "num_processes": num_processes}


def differences(checkpoint: Path, here: dict[str, Any]) -> list[str]:
    """Describe how a checkpoint's run differs from this one, whose `identity` is `here`."""
    try:
        there = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        recipe, digests, processes = dict(there["recipe"]), dict(there["data"]), there["num_processes"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint} does not say which run it belongs to.") from error
    wanted = here["recipe"].items()
    found = [f"{name} was {recipe.get(name)!r} and is {value!r}" for name, value in wanted if recipe.get(name) != value]
    splits = [split for split in {**digests, **here["data"]} if digests.get(split) != here["data"].get(split)]
    found += [f"the {split} messages or their tokenizer differ" for split in splits]
    if processes != here["num_processes"]:
        found.append(f"it had {processes} processes, not {here['num_processes']}")
    return found


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in an output directory, in folders `checkpoint-{step}`.

    At most `save_total_limit` of them are kept (None: all).
    """

    output_dir: Path
    save_total_limit: int | None = None

    def path(self, step: int) -> Path:
        """Return the folder of a step."""
        return self.output_dir / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Return the steps that have a folder, in ascending order."""
        found = [path.name.removeprefix("checkpoint-") for path in self.output_dir.glob("checkpoint-*")]
        return sorted(int(step) for step in found if step.isdecimal())

    def latest(self) -> Path | None:
        """Return the newest intact checkpoint, logging damaged ones, or None."""
        for step in reversed(self.steps()):
            try:
                read_manifest(self.path(step))
            except ValueError as error:
                logger.warning("%s: skipped.", error)
            else:
                return self.path(step)
        return None

    def rotate(self, newest: int, best_step: int | None) -> None:
        """Delete the oldest checkpoints beyond the limit, but neither the newest nor the best.

        Checkpoints of later steps are damaged or belong to another run: they are neither counted nor deleted.
        """
        if self.save_total_limit is None:
            return
        steps = [step for step in self.steps() if step <= newest]
        spare = [step for step in steps if step not in (newest, best_step)]
        for step in spare[: max(0, len(steps) - self.save_total_limit)]:
            self.delete(step)

    def delete(self, step: int) -> None:
        """Delete a checkpoint. Renaming it first keeps a half-deleted one from looking like a checkpoint."""
        doomed = self.path(step).with_name(f".deleted-{step}-{uuid.uuid4().hex[:8]}")
        os.replace(self.path(step), doomed)
        shutil.rmtree(doomed)
