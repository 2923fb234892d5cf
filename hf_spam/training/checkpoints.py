"""Checkpoints: all that a run needs to go on exactly, in a folder that is whole or is not there.

    checkpoint-50/
        config.json, model.safetensors, tokenizer, card, metrics, history    a model like any other
        training_state/    what only a resumed run reads: tensors in safetensors, the rest in JSON, no pickle
        manifest.json      the sha256 of every file

A checkpoint is numbered as the log and `history.json` count steps: from 0, as the book does.
"""

import hashlib
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
from torch.optim.swa_utils import AveragedModel

from ..data.collation import EncodedMessages
from ..files import read_manifest
from .history import History
from .recipes import Recipe

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
    `raw_weights` are those that are trained, while the averaged ones stand in their place.
    """

    model: torch.nn.Module
    average: AveragedModel | None
    optimizer: Any  # Accelerate's
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None
    order: torch.Generator
    epoch_order: torch.Tensor | None = None
    progress: Progress = field(default_factory=Progress)
    raw_weights: dict[str, torch.Tensor] | None = None

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Puts the averaged weights, which are those that the run keeps, in the model for the time being."""
        if self.average is None:
            yield
            return
        self.raw_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.module.state_dict())
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

    def save(self, folder: Path, random: Sequence[dict[str, torch.Tensor]], identity: dict[str, Any]) -> None:
        """Writes the state, from one process.

        Args:
            folder: where it goes, `training_state` of a checkpoint whose model has the kept weights.
            random: the random states of all processes.
            identity: which run it belongs to (see `identity`).
        """
        for rank, tensors in enumerate(random):
            save_file(tensors, folder / f"random-{rank}.safetensors")
        optimizer = self.optimizer.state_dict()
        tensors = {f"{i}.{name}": value for i, values in optimizer["state"].items() for name, value in values.items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "optimizer.safetensors")
        if self.raw_weights is not None:
            save_file(self.raw_weights, folder / "weights.safetensors")
        state = {
            "identity": identity,
            "progress": asdict(self.progress),
            "param_groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "averaged": None if self.average is None else int(self.average.n_averaged),
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    def load(self, checkpoint: Path, rank: int) -> Callable[[], None]:
        """Takes over the state of a checkpoint.

        Returns:
            A function that sets the random state. It is called when the batches that are done have been skipped, whose
            order comes from the state at the start of the epoch.

        Raises:
            ValueError: what is there does not fit the run.
        """
        folder = checkpoint / STATE
        saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        try:
            kept = load_file(checkpoint / "model.safetensors")
            if self.average is not None:
                self.average.module.load_state_dict(kept)
                self.average.n_averaged.fill_(saved["averaged"])
                kept = load_file(folder / "weights.safetensors")
            self.model.load_state_dict(kept)
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in load_file(folder / "optimizer.safetensors").items():
                i, _, key = name.partition(".")
                moments.setdefault(int(i), {})[key] = tensor
            self.optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
            random = load_file(folder / f"random-{rank}.safetensors")
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise ValueError(f"{checkpoint} does not fit this run: {' '.join(str(error).split())}") from error
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**{**saved["progress"], "history": History(**saved["progress"]["history"])})
        self.epoch_order = random["epoch_order"]
        self.order.set_state(self.epoch_order)

        def restore_random() -> None:
            self.order.set_state(random["order"])
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and torch.cuda.is_available():
                torch.cuda.set_rng_state(random["cuda"])

        return restore_random


def identity(
    recipe: Recipe, data: DatasetDict, encoded: Mapping[str, EncodedMessages], num_processes: int
) -> dict[str, Any]:
    """What a run must have in common with the checkpoint that it goes on from.

    Where the messages, the weights and the tokenizer came from may differ, as it does on another machine: the weights
    are in the checkpoint, and messages and their ids are compared themselves.
    """
    digests = {}
    for split, messages in data.items():
        digest = hashlib.sha256()
        for row in zip(messages["text"][:], messages["label"][:], encoded[split].input_ids, strict=True):
            digest.update(f"{row}\n".encode("utf-8", "surrogatepass"))
        digests[split] = digest.hexdigest()
    elsewhere = ("name", "summary", "data", "base", "tokenizer")
    settings = {name: value for name, value in asdict(recipe).items() if name not in elsewhere}
    return {"settings": settings, "data": digests, "num_processes": num_processes}


def check_identity(checkpoint: Path, here: dict[str, Any]) -> None:
    """Compares a run with a checkpoint.

    Raises:
        ValueError: the run is another one; the message says in what they differ.
    """
    there = json.loads((checkpoint / STATE / "state.json").read_text(encoding="utf-8"))["identity"]
    differences = [
        f"{name} was {there['settings'].get(name)!r} and is {value!r}"
        for name, value in here["settings"].items()
        if there["settings"].get(name) != value
    ]
    digests, here_digests = there["data"], here["data"]
    differences += [
        f"the {split} messages, or their tokenizer, are others"
        for split in {**digests, **here_digests}
        if digests.get(split) != here_digests.get(split)
    ]
    if there["num_processes"] != here["num_processes"]:
        differences.append(f"it had {there['num_processes']} processes, not {here['num_processes']}")
    if differences:
        raise ValueError(
            f"{checkpoint} belongs to another run: {'; '.join(differences)}. Resume with what it had, or start anew "
            "in another --output-dir."
        )


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
            # Renamed first: what is half deleted is no checkpoint any more.
            doomed = self.path(step).with_name(f".deleted-{step}-{uuid.uuid4().hex[:8]}")
            os.replace(self.path(step), doomed)
            shutil.rmtree(doomed)
