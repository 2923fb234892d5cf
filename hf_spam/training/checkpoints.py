"""Checkpoints: everything a run needs to resume exactly, in a folder that is either complete or absent.

checkpoint-50/         numbered by step, counted from 0 as in the book, the log and `history.json`
    config.json, model.safetensors, tokenizer, card, metrics, history    a model like any other
    training_state/    read only by a resumed run: tensors in safetensors, the rest in JSON, no pickle
    manifest.json      SHA-256 of every file, versions, and the identity of the run: recipe, data, processes
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ..conversion.loading import WEIGHTS, errors_as
from ..data.splits import digest
from ..files import MANIFEST, read_manifest, versions, write_folder, write_json
from ..hub.push import Uploader
from .run import History, Progress, Run
from .saving import write_model
from .settings import SOURCES
from .setup import Setup

logger = logging.getLogger(__name__)

STATE = "training_state"
Tensors = dict[str, torch.Tensor]


@dataclass
class TrainingState:
    """Everything that changes during training, on one process."""

    setup: Setup
    optimizer: Any  # that Accelerate prepared
    scheduler: LRScheduler
    order: torch.Generator  # draws the order of messages
    averaged: AveragedModel | None  # moving average of the weights, which is saved in their place
    identity: dict[str, Any]  # what a run must share with the checkpoint it resumes from
    progress: Progress = field(default_factory=Progress)
    epoch_order: torch.Tensor | None = None  # state of `order` at the start of the epoch, to draw its batches again
    _resumed_rng_states: Tensors | None = None  # to restore after skipping the finished batches of the epoch

    def swap_averaged_weights(self) -> None:
        """Exchange the weights of the model with the averaged ones, if any."""
        if self.averaged is not None:
            for own, mean in zip(self.setup.model.parameters(), self.averaged.module.parameters(), strict=True):
                own.data, mean.data = mean.data, own.data

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
        states = {"order": self.order.get_state(), "epoch_order": self.epoch_order, "cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def save(self, folder: Path, rng_states: Sequence[Tensors]) -> None:
        """Write the state and the RNG states of all processes into the folder `training_state` of a checkpoint.

        The averaged weights, if any, are in the model (see `swap_averaged_weights`).
        """
        model, averaged = self.setup.model, self.averaged
        moments = self.optimizer.state_dict()["state"]  # by the number of the parameter
        files = {f"random-{rank}": states for rank, states in enumerate(rng_states)}
        files["optimizer"] = {f"{i}.{name}": value for i, part in moments.items() for name, value in part.items()}
        # The weights in training cannot be recovered from merged adapters, averages, or embeddings with their n-grams.
        composed = self.setup.recipe.subword_embeddings
        if self.setup.adapters is not None or averaged is not None or composed:
            files["weights"] = (model if averaged is None else averaged.module).state_dict()
        if averaged is not None and composed:
            files["averaged"] = model.state_dict()
        for name, tensors in files.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
        progress, scheduler = asdict(self.progress), self.scheduler.state_dict()
        write_json(folder / "state.json", {"progress": progress, "scheduler": scheduler})

    def load(self, checkpoint: Path, rank: int) -> None:
        """Load the state of a checkpoint; raise `ValueError` if it belongs to another run, or does not fit this one."""
        check_identity(checkpoint, self.identity)
        folder, model = checkpoint / STATE, self.setup.model
        with errors_as(f"{checkpoint} does not fit this run"):
            saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            progress = saved["progress"]
            self.progress = Progress(**progress | {"history": History(**progress["history"])})
            saved_as = {name: folder / f"{name}.safetensors" for name in ("weights", "averaged")}
            saved_as = {name: path if path.exists() else checkpoint / WEIGHTS for name, path in saved_as.items()}
            model.load_state_dict(load_file(saved_as["weights"]))
            if self.averaged is not None:
                self.averaged.module.load_state_dict(load_file(saved_as["averaged"]))
                self.averaged.n_averaged += 1
            moments: dict[int, Tensors] = {}
            for key, tensor in load_file(folder / "optimizer.safetensors").items():
                number, _, name = key.partition(".")
                moments.setdefault(int(number), {})[name] = tensor
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
            self.scheduler.load_state_dict(saved["scheduler"])
            self.optimizer.param_groups[0]["lr"] = self.scheduler.get_last_lr()[0]
            self._resumed_rng_states = load_file(folder / f"random-{rank}.safetensors")
            self.order.set_state(self._resumed_rng_states["epoch_order"])


def identity(setup: Setup, num_processes: int) -> dict[str, Any]:
    """Return the `identity` of a run, which is stored in the manifest.

    Messages, weights and tokenizer may have other names on other machines: messages, token ids and weights that are not
    trained are compared by their hash. A run may be extended, so its length is left out too, unless the learning rate
    depends on it.
    """
    recipe, ignored = setup.recipe, {"name", "summary", *SOURCES}
    if recipe.lr_scheduler_type == "constant" and not 0 < recipe.warmup_steps < 1:
        ignored |= {"num_train_epochs", "max_steps"}
    settings = {name: value for name, value in asdict(recipe).items() if name not in ignored}
    for split, messages in setup.splits.items():
        settings[f"hash of the {split} messages"] = digest(messages, setup.encoded[split].input_ids)
    texts = repr(setup.extra[0]).encode("utf-8", "surrogatepass")
    settings["hash of the texts beside them"] = hashlib.sha256(texts).hexdigest()
    fixed = {name: weights for name, weights in setup.model.named_parameters() if not weights.requires_grad}
    sha256 = hashlib.sha256()
    for name, weights in (fixed | (setup.base_weights or {})).items():
        sha256.update(name.encode())
        sha256.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings["hash of the weights that are not trained"] = sha256.hexdigest()
    return settings | {"num_processes": num_processes}


def check_identity(checkpoint: Path, here: dict[str, Any]) -> None:
    """Raise `ValueError` if a checkpoint does not belong to the run whose `identity` is `here`."""
    there = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")).get("run")
    remedy = f"start a new run from its weights: --base {checkpoint} and another --output-dir."
    if there is None:
        older = "an older version may have written it"
        raise ValueError(f"{checkpoint} does not say which run it belongs to; {older}: {remedy}")
    names = [name for name in there | here if there.get(name) != here.get(name)]
    if found := "; ".join(f"{name} was {there.get(name)!r} and is {here.get(name)!r}" for name in names):
        raise ValueError(f"{checkpoint} belongs to another run: {found}. Resume with the same settings, or {remedy}")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run: the folders `checkpoint-{step}` in its output directory."""

    output_dir: Path
    save_total_limit: int | None = None  # None: keep all
    uploader: Uploader | None = None

    def save(self, accelerator: Accelerator, state: TrainingState, run: Run) -> None:
        """Write a checkpoint; call this on every process. A failure is logged, and training continues."""
        progress, rng_states = state.progress, gather_object([state.rng_states()])
        folder = self.path(progress.step)

        def fill(folder: Path) -> None:
            (folder / STATE).mkdir()
            write_model(run, folder)
            state.save(folder / STATE, rng_states)

        if accelerator.is_main_process:
            try:
                write_folder(folder, fill, {"step": progress.step, "versions": versions(), "run": state.identity})
                if self.uploader is not None:
                    self.uploader.submit(folder, progress.step, "checkpoint", is_best=progress.is_best)
                self.rotate(progress.step, progress.best_step)
            except (OSError, SafetensorError) as error:
                logger.warning("Step %d: no checkpoint was written (%s).", progress.step, error)
        accelerator.wait_for_everyone()

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
        """Delete a checkpoint. If that fails halfway, what is left is skipped as damaged."""
        shutil.rmtree(self.path(step), ignore_errors=True)
