"""Checkpoints: all that a run needs to go on exactly, in a folder that is whole or is not there.

    checkpoint-50/
        config.json, model.safetensors, tokenizer, card, metrics, history    a model like any other
        training_state/    what only a resumed run reads: tensors in safetensors, the rest in JSON, no pickle
        manifest.json      the sha256 of every file, versions, and which run it is of: recipe, data, processes

A checkpoint is numbered as the log and `history.json` count steps: from 0, as the book does.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from ..conversion.loading import load_config
from ..data.batching import EncodedMessages
from ..data.splits import digest
from ..files import MANIFEST, read_manifest
from ..modeling.configuration_spam_gpt import class_names
from ..text import one_line
from .lora import has_adapters
from .recipes import SOURCES, Recipe
from .run import History
from .sharding import shard_like, whole
from .zero import Moments, load_moments, moments

logger = logging.getLogger(__name__)

STATE = "training_state"


@dataclass
class Progress:
    """How far a run has come: what a checkpoint counts, beside weights and optimizer.

    `step` is the last optimizer step done, `epoch` the current one (from 1), `batch` the number of its batches that
    are done. `best_step` is the checkpoint of the lowest validation loss, `best_loss`. `run_id` names the run, through
    all its resumptions.
    """

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    step: int = -1
    epoch: int = 1
    batch: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    history: History = field(default_factory=History)

    def compare(self, loss: float | None) -> None:
        """Takes note of the validation loss of the current weights. None: there is no validation split."""
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss

    @property
    def is_best(self) -> bool:
        """Whether no checkpoint had a lower validation loss than the last weights that were compared."""
        return self.best_step == self.step


@dataclass
class TrainingState:
    """Everything that moves during training, on one process.

    `order` is the generator of all orders and `epoch_order` its state at the start of the epoch, from which the order
    of the epoch's batches can be drawn again; the global generator, which dropout draws from, is torch's own.
    `average` is that of the weights after each step, moving with `decay`; it is empty before the first step, and where
    there is none (0). `raw_weights` are those that are trained, while the averaged ones stand in their place. Of a
    model with adapters a checkpoint has the merged weights, from which the others could not be told again, and the
    state those. Weights, average and moments may be in shards; what is written is whole.
    """

    model: torch.nn.Module
    decay: float
    optimizer: Any  # Accelerate's
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None
    order: torch.Generator
    epoch_order: torch.Tensor | None = None
    progress: Progress = field(default_factory=Progress)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    raw_weights: dict[str, torch.Tensor] | None = None

    def update_average(self) -> None:
        """Takes the weights after a step into their average."""
        # By name, not by torch's AveragedModel: that copies the module, which one in shards does not allow.
        if self.decay and not self.average:
            self.average = self._copy()
        elif self.decay:
            for name, tensor in self.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - self.decay)

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Puts the averaged weights, which are those that the run keeps, in the model for the time being."""
        if not self.average:
            yield
            return
        self.raw_weights = self._copy()
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(self.raw_weights)
            self.raw_weights = None

    def random(self) -> dict[str, torch.Tensor]:
        """The random state of this process."""
        return {
            "order": self.order.get_state(),
            "epoch_order": self.epoch_order,
            "cpu": torch.get_rng_state(),
            **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
        }

    def tensors(self, *, keep: bool) -> dict[str, dict[str, torch.Tensor]]:
        """The files of tensors that `save` writes, by name: the moments, and the weights if the model has others.

        All processes have to call it, of which those that do not `keep` them get empty ones.
        """
        names, state = self._trained(), moments(self.optimizer, keep=keep)
        state = {f"{key} of {names[i]}": value for i, values in state.items() for key, value in values.items()}
        raw = self.model.state_dict() if has_adapters(self.model) else self.raw_weights
        files = {"optimizer": state} if raw is None else {"optimizer": state, "weights": raw}
        return {name: whole(tensors, keep=keep) for name, tensors in files.items()}

    def save(
        self, folder: Path, files: Mapping[str, dict[str, torch.Tensor]], random: Sequence[dict[str, torch.Tensor]]
    ) -> None:
        """Writes the state, from one process.

        Args:
            folder: where it goes, `training_state` of a checkpoint whose model has the kept weights.
            files: what `tensors` has given.
            random: the random states of all processes.
        """
        files = {**files, **{f"random-{rank}": tensors for rank, tensors in enumerate(random)}}
        for name, tensors in files.items():
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, folder / f"{name}.safetensors")
        state = {
            "progress": asdict(self.progress),
            "scheduled": self.scheduler.last_epoch,
            "scaler": self.scaler and self.scaler.state_dict(),
            "averaged": bool(self.average),
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    def load(self, checkpoint: Path, rank: int) -> Callable[[], None]:
        """Takes over the state of a checkpoint; learning rates and other settings are those of this run.

        Of a checkpoint with other settings it takes what there is: what is trained only now begins without moments,
        and a process that is new without a random state of its own.

        Returns:
            A function that sets the random state. It is called when the batches that are done have been skipped, whose
            order comes from the state at the start of the epoch.

        Raises:
            ValueError: what is there does not fit the run, such as a head for other labels.
        """
        folder = checkpoint / STATE
        try:
            saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            progress = saved["progress"]
            self.progress = Progress(**{**progress, "history": History(**progress["history"])})
            if (theirs := class_names(load_config(checkpoint))) != class_names(self.model.config):
                raise ValueError(f"its labels are {', '.join(theirs)}")
            kept = load_file(checkpoint / "model.safetensors")
            if self.decay and saved["averaged"]:
                self._load_weights(kept)
                self.average = self._copy()
            if (folder / "weights.safetensors").exists():
                kept = load_file(folder / "weights.safetensors")
            if has_adapters(self.model) != any(".lora_" in name for name in kept):
                raise ValueError("one of the two has adapters (lora_r), the other has none")
            self._load_weights(kept)
            self._load_optimizer(load_file(folder / "optimizer.safetensors"), saved["scheduled"])
            if self.scaler is not None and saved["scaler"] is not None:
                self.scaler.load_state_dict(saved["scaler"])
            own = folder / f"random-{rank}.safetensors"
            random = load_file(own if own.exists() else folder / "random-0.safetensors")
            self.epoch_order, order = random["epoch_order"], random["order"]
            self.order.set_state(self.epoch_order)
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{checkpoint} does not fit this run: {one_line(error)}") from error

        def restore_random() -> None:
            self.order.set_state(order)
            if own.exists():
                torch.set_rng_state(random["cpu"])
                if "cuda" in random and torch.cuda.is_available():
                    torch.cuda.set_rng_state(random["cuda"])

        return restore_random

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def _load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        own = self.model.state_dict()
        self.model.load_state_dict({name: shard_like(tensor, own.get(name)) for name, tensor in weights.items()})

    def _load_optimizer(self, tensors: dict[str, torch.Tensor], scheduled: int) -> None:
        """Sets the moments, by the names of the parameters, and the learning rates of a step of the schedule."""
        numbers, own = {name: i for i, name in enumerate(self._trained())}, self.model.state_dict()
        state: Moments = {}
        for name, tensor in tensors.items():
            key, _, parameter = name.partition(" of ")
            if parameter in numbers:
                of = own[parameter] if tensor.ndim else None  # the number of its steps is whole everywhere
                state.setdefault(numbers[parameter], {})[key] = shard_like(tensor, of)
        load_moments(self.optimizer, state)
        (rate,), (factor,), (group,) = self.scheduler.base_lrs, self.scheduler.lr_lambdas, self.optimizer.param_groups
        group["lr"] = rate * factor(scheduled)
        place = {"last_epoch": scheduled, "_last_lr": [group["lr"]]}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})

    def _trained(self) -> list[str]:
        """The names of the parameters that the optimizer counts."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def identity(
    recipe: Recipe, data: DatasetDict, encoded: Mapping[str, EncodedMessages], num_processes: int
) -> dict[str, Any]:
    """What a run must have in common with the checkpoint that it goes on from, whose manifest says it.

    Where the messages, the weights and the tokenizer came from may differ, as it does on another machine: the weights
    are in the checkpoint, and messages and their ids are compared themselves.
    """
    digests = {split: digest(messages, encoded[split].input_ids) for split, messages in data.items()}
    settings = {name: value for name, value in asdict(recipe).items() if name not in ("name", "summary", *SOURCES)}
    return {"recipe": settings, "data": digests, "num_processes": num_processes}


def differences(checkpoint: Path, here: dict[str, Any]) -> list[str]:
    """In what a run is another one than that of a checkpoint, in words.

    Raises:
        ValueError: the checkpoint does not say of which run it is.
    """
    try:
        there = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        recipe, digests, processes = dict(there["recipe"]), dict(there["data"]), there["num_processes"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint} does not say which run it is of.") from error
    found = [
        f"{name} was {recipe.get(name)!r} and is {value!r}"
        for name, value in here["recipe"].items()
        if recipe.get(name) != value
    ]
    found += [
        f"the {split} messages, or their tokenizer, are others"
        for split in {**digests, **here["data"]}
        if digests.get(split) != here["data"].get(split)
    ]
    if processes != here["num_processes"]:
        found.append(f"it had {processes} processes, not {here['num_processes']}")
    return found


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of an output directory.

    Args:
        output_dir: where they are, as `checkpoint-{step}`.
        save_total_limit: how many are kept, of which the best and the last always are (so 1 may keep 2). None: all.
    """

    output_dir: Path
    save_total_limit: int | None = None

    def path(self, step: int) -> Path:
        return self.output_dir / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """The steps that have a folder, rising."""
        found = [path.name.removeprefix("checkpoint-") for path in self.output_dir.glob("checkpoint-*")]
        return sorted(int(step) for step in found if step.isdecimal())

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; those that are not are named in the log. None: there is none."""
        for step in reversed(self.steps()):
            try:
                read_manifest(self.path(step))
            except ValueError as error:
                logger.warning("%s: passed over.", error)
            else:
                return self.path(step)
        return None

    def rotate(self, last: int, best_step: int | None) -> None:
        """Deletes the oldest beyond the limit, but neither the last that was written nor the best.

        Those of later steps are damaged ones, or of another run: they do not count, and stay.
        """
        if self.save_total_limit is None:
            return
        steps = [step for step in self.steps() if step <= last]
        spare = [step for step in steps if step not in (last, best_step)]
        for step in spare[: max(0, len(steps) - self.save_total_limit)]:
            self.delete(step)

    def delete(self, step: int) -> None:
        """Deletes a checkpoint, renamed first: what is half deleted is no checkpoint any more."""
        doomed = self.path(step).with_name(f".deleted-{step}-{uuid.uuid4().hex[:8]}")
        os.replace(self.path(step), doomed)
        shutil.rmtree(doomed)
