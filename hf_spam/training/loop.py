"""The training loop: the book's `train_classifier_simple` (chapter 6), through Accelerate.

With recipe `book`, one process and fp32, losses and accuracies match the book's plain PyTorch loop under
`torch.manual_seed(recipe.seed)`: training and evaluations draw their order of messages from the same random stream.
"""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers import get_scheduler

from ..data.splits import fingerprints
from ..evaluation.eval_data import learned_from_others
from ..modeling.configuration_spam_gpt import class_names
from ..signals import Interruption, RunInterrupted
from .calibration import apply_calibration, shift_of
from .checkpoints import TrainingState, averaged_model, differences, identity
from .corrections import keep_within_bound
from .evaluator import BOOK_NAMES, DIVERGED, Evaluator, Measured
from .loaders import Batch, Loaders
from .objective import Objective, log_priors
from .recipes import Recipe
from .run import Run
from .saving import Saver
from .setup import Setup

logger = logging.getLogger(__name__)

EPOCHS_LOGGED = 10  # about this many epochs are logged; the history has all of them
INITIAL_ACCURACY_BATCHES, INITIAL_LOSS_BATCHES = 10, 5  # the book's evaluation of the untrained model


class TrainingLoop:
    """Trains a model on one or several processes, and writes checkpoints to resume from, if there is a `saver`."""

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: Recipe,
        setup: Setup,
        data: DatasetDict,
        saver: Saver | None,
        interruption: Interruption,
    ):
        self.accelerator, self.recipe, self.setup, self.saver = accelerator, recipe, setup, saver
        self.interruption = interruption
        self.loaders = Loaders(accelerator, recipe, setup, data)
        self.steps_per_epoch = self.loaders.steps_per_epoch
        self.total_steps = recipe.max_steps or self.steps_per_epoch * recipe.num_train_epochs
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)

        trained = [parameter for parameter in setup.model.parameters() if parameter.requires_grad]
        self.trained_parameters = sum(parameter.numel() for parameter in trained)
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        adjustment = None
        if recipe.logit_adjustment:
            priors = log_priors(data["train"]["label"][:], len(class_names(setup.model.config)))
            adjustment = recipe.logit_adjustment * priors
        elif setup.base is not None:
            # The loss of a message then depends on its distance from the threshold, which a correction must pass.
            adjustment = shift_of(setup.base[1], class_names(setup.model.config))
        objective = Objective(self.loaders.network, recipe.ignore_index, recipe.adversarial_epsilon, adjustment)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        constant = recipe.lr_scheduler_type == "constant"  # the library's "constant" has no warmup
        self.scheduler = get_scheduler(  # not prepared: Accelerate would step it once per process
            "constant_with_warmup" if constant else recipe.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=_warmup_steps(recipe.warmup_steps, self.total_steps),
            num_training_steps=self.total_steps,
        )
        self.averaged = averaged_model(setup.model, recipe.weight_average)
        self.evaluator = Evaluator(
            accelerator, self.objective, self.loaders, setup.model.config, recipe, setup.base and setup.base[1]
        )
        self.state = TrainingState(
            setup, self.optimizer, self.scheduler, accelerator.scaler, self.loaders.rng, self.averaged
        )
        self.identity = identity(recipe, data, setup.encoded, accelerator.num_processes)
        self.splits = fingerprints(data)

    def run(self) -> Run:
        """Train to the end. A signal raises `RunInterrupted`, after a checkpoint if there is a saver."""
        recipe, progress, history = self.recipe, self.state.progress, self.state.progress.history
        history.steps_per_epoch = self.steps_per_epoch
        self._start_clock()
        for epoch in range(progress.epoch, self.epochs + 1):
            progress.epoch = epoch
            for batch in self._batches(epoch):
                self._backward(batch)
                if not self.accelerator.sync_gradients:  # accumulating gradients
                    continue
                self._finish_step()
                if progress.step % recipe.eval_freq == 0:
                    losses = self.evaluator.estimate("loss", recipe.eval_iter)
                    history.add_losses(progress.step, losses)
                    self._log(epoch, losses, learning_rate=self.scheduler.get_last_lr()[0])
                self._save_or_stop()
            progress.batch = 0
            accuracies = self.evaluator.estimate("acc", recipe.eval_iter)
            history.add_accuracies(accuracies)
            self._log(epoch, accuracies)
        return self._finish()

    def start(self, base: str) -> None:
        """Seed the run and evaluate the untrained model, as the book does; `base` names the starting weights."""
        self._seed()
        self.loaders.rng.manual_seed(self.recipe.seed)
        history = self.state.progress.history
        history.initial |= self.evaluator.estimate("acc", INITIAL_ACCURACY_BATCHES, BOOK_NAMES)
        history.initial |= self.evaluator.estimate("loss", INITIAL_LOSS_BATCHES, BOOK_NAMES)
        logger.info("Before training: %s", _format(history.initial))
        self.loaders.rng.manual_seed(self.recipe.seed)
        history.splits = self.splits
        history.trained_before = learned_from_others(base, self.setup.model.config, self.splits)
        if history.trained_before and self.setup.base is None:
            logger.warning("The base is already a classifier, and may have been trained on messages of any split.")

    def resume(self, checkpoint: Path) -> None:
        """Load a checkpoint, or raise `ValueError` if it belongs to another run or to a step after this one's last."""
        if found := differences(checkpoint, self.identity):
            raise ValueError(
                f"{checkpoint} belongs to another run: {'; '.join(found)}. Resume with the same settings, or start a "
                f"new run from its weights: --base {checkpoint} and another --output-dir."
            )
        self.state.load(checkpoint, self.accelerator.process_index)
        if (done := self.state.progress.step + 1) > self.total_steps:
            raise ValueError(f"{checkpoint} has done {done} steps, more than the {self.total_steps} of this run.")
        logger.info("Resuming from %s.", checkpoint)
        self._seed()

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the remaining batches of an epoch, restoring the RNG states of a resumed run."""
        self.state.start_epoch()
        steps_left = self.total_steps - (epoch - 1) * self.steps_per_epoch
        batches = self.loaders.training_batches(epoch, steps_left)
        for _ in range(self.state.progress.batch):
            next(batches, None)
        self.state.restore_rng_states()
        yield from batches

    def _backward(self, batch: Batch) -> None:
        """Run a batch forward and backward; step the optimizer if accumulation is complete."""
        accelerator, progress = self.accelerator, self.state.progress
        self.objective.train()
        with accelerator.accumulate(self.objective):
            loss = self.objective(**batch).loss
            if not loss.isfinite() and accelerator.scaler is None:  # with fp16 the scaler skips such a step
                where = f"in epoch {progress.epoch}, batch {progress.batch + 1}, after step {progress.step}"
                raise ValueError(f"The loss is {loss.item()} {where}. {DIVERGED}")
            accelerator.backward(loss)
            if accelerator.sync_gradients and self.recipe.max_grad_norm is not None:
                accelerator.clip_grad_norm_(self.objective.parameters(), self.recipe.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        count = torch.tensor(len(batch["labels"]), device=loss.device)
        progress.history.examples_seen += int(accelerator.reduce(count))
        progress.batch += 1

    def _finish_step(self) -> None:
        """Count an optimizer step, and update learning rate and averaged weights."""
        progress = self.state.progress
        progress.step += 1
        if not self.accelerator.optimizer_step_was_skipped:  # fp16 skips steps whose gradients overflow
            self.scheduler.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.setup.model)
        progress.history.epochs = (progress.step + 1) / self.steps_per_epoch
        self.bar.update()

    def _save_or_stop(self) -> None:
        """Write a checkpoint if one is due or a signal arrived; in the latter case, stop."""
        step, signal = self.state.progress.step, self._signal()
        if signal:
            logger.info("Stopping after step %d ...", step)
        if self.saver and (signal or self.saver.is_due(step)):
            self._checkpoint()
        if signal:
            how = self.saver.how_to_resume(step) if self.saver else "nothing is saved without an output_dir"
            raise RunInterrupted(f"interrupted after step {step}; {how}", signal)

    def _checkpoint(self) -> None:
        progress = self.state.progress
        progress.history.seconds = time.perf_counter() - self.started
        finite = all(bool(tensor.isfinite().all()) for tensor in self.setup.model.state_dict().values())
        if not all(gather_object([finite])):
            raise ValueError(f"The weights are no longer numbers after step {progress.step}. {DIVERGED}")
        with self.state.averaged_weights():
            measured = self.evaluator.measure(["validation"])
            progress.update_best(measured.loss)
            self.saver.save(self.accelerator, self.state, self._run(measured), self.identity)

    def _finish(self) -> Run:
        """Measure the final weights on all splits, and calibrate the model if the recipe asks for it."""
        history = self.state.progress.history
        self.bar.close()
        history.seconds = time.perf_counter() - self.started
        if self.averaged is not None:
            self.setup.model.load_state_dict(self.averaged.module.state_dict())
        if self.setup.base is not None:
            found = keep_within_bound(self.evaluator, self.setup.model, self.setup.base[0], self.recipe.max_drop)
            history.before, history.kept = found
        measured = self.evaluator.measure(BOOK_NAMES)
        self.state.progress.update_best(measured.loss)
        for split, given in measured.predictions.items():  # of the most likely class, ignoring the threshold
            correct = given.probabilities.argmax(-1) == given.labels
            counted = self.loaders.draw_training_messages() if split == "train" else slice(None)
            history.final_accs[split] = float(correct[counted].mean())
        if measured.calibration is not None:
            level = logging.INFO if measured.calibration.is_met else logging.WARNING
            for line in measured.calibration.summary():
                logger.log(level, line)
        final = {f"{BOOK_NAMES[split]}_final_acc": values["accuracy"] for split, values in measured.metrics.items()}
        self.accelerator.log(final, step=self.state.progress.step)
        run = self._run(measured)
        apply_calibration(run.model.config, run.calibration)
        return run

    def _run(self, measured: Measured) -> Run:
        return Run(
            recipe=self.recipe,
            model=self.setup.merged_model(),
            tokenizer=self.setup.tokenizer,
            history=self.state.progress.history,
            metrics=measured.metrics,
            predictions=measured.predictions,
            trained_parameters=self.trained_parameters,
            calibration=measured.calibration,
        )

    def _seed(self) -> None:
        set_seed(self.recipe.seed, device_specific=True)  # dropout differs between processes

    def _start_clock(self) -> None:
        progress = self.state.progress
        self.started = time.perf_counter() - progress.history.seconds
        hidden = None if self.accelerator.is_local_main_process else True  # None: show it on a terminal only
        self.bar = tqdm(total=self.total_steps, initial=progress.step + 1, desc="Training", unit="step", disable=hidden)
        self.interruption.postpones = True

    def _log(self, epoch: int, values: dict[str, float], **more: float) -> None:
        """Log measurements; with many epochs, most at a lower level."""
        every = math.ceil(self.epochs / EPOCHS_LOGGED)
        level = logging.INFO if epoch % every == 0 or epoch == self.epochs else logging.DEBUG
        step = self.state.progress.step
        is_losses = "train_loss" in values
        if is_losses:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
        where = f"Epoch {epoch}, step {step:06d}" if is_losses else f"Epoch {epoch}"
        logger.log(level, "%s: %s", where, _format(values))
        self.accelerator.log({**values, **more}, step=step)

    def _signal(self) -> int:
        """Return the signal that any process received, 0 if none, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return self.interruption.number
        own = torch.tensor([self.interruption.number], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())


def _warmup_steps(setting: float, total_steps: int) -> int:
    """Return the number of warmup steps; below 1 the setting is a fraction of all steps, as in the Trainer."""
    return int(setting) if setting >= 1 else math.ceil(setting * total_steps)


def _format(values: dict[str, float]) -> str:
    """Format measurements: `{"train_loss": 0.5, "val_acc": 0.975}` -> "train loss 0.500, val acc 97.50%"."""
    return ", ".join(
        f"{name.replace('_', ' ')} " + (f"{value:.2%}" if name.endswith("acc") else f"{value:.3f}")
        for name, value in values.items()
    )
