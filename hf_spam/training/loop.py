"""The training loop: the book's `train_classifier_simple` (chapter 6), through Accelerate.

With recipe `book`, one process and fp32, losses and accuracies match the book's plain PyTorch loop under
`torch.manual_seed(recipe.seed)`: training and evaluations draw their order of messages from the same random stream.
"""

import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm
from transformers import get_scheduler

from ..data.splits import fingerprints
from ..evaluation.eval_data import learned_from_others
from ..signals import Interruption, RunInterrupted
from .calibration import calibrated_config
from .checkpoints import Checkpoints, TrainingState, identity
from .corrections import keep_within_bound
from .evaluator import BOOK_NAMES, DIVERGED, Evaluator
from .loaders import Batch, Loaders
from .objective import Objective
from .run import Run
from .settings import RunOptions
from .setup import Setup
from .subwords import without_ngrams

logger = logging.getLogger(__name__)


class TrainingLoop:
    """Trains a model on one or several processes, and writes `checkpoints` to resume from, unless these are None."""

    def __init__(self, accelerator: Accelerator, setup: Setup, options: RunOptions, checkpoints: Checkpoints | None):
        self.accelerator, self.setup, self.options, self.checkpoints = accelerator, setup, options, checkpoints
        self.recipe = recipe = setup.recipe
        self.loaders = Loaders(accelerator, setup)
        self.steps_per_epoch = math.ceil(len(self.loaders.train) / recipe.gradient_accumulation_steps)
        self.total_steps = recipe.max_steps or self.steps_per_epoch * recipe.num_train_epochs
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)

        trained = [weights for weights in setup.model.parameters() if weights.requires_grad]
        saved = without_ngrams(setup.model).parameters()
        self.trained = sum(weights.numel() for weights in saved if weights.requires_grad)
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        objective = Objective(self.loaders.network, recipe.ignore_index, recipe.adversarial_epsilon, setup.adjustment)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        schedule, warmup = recipe.lr_scheduler_type, recipe.warmup_steps
        if schedule == "constant":  # the library's "constant" has no warmup
            schedule = "constant_with_warmup"
        self.scheduler = get_scheduler(  # not prepared: Accelerate would step it once per process
            schedule,
            self.optimizer,
            # Below 1, it is a fraction of all steps, as in the Trainer.
            num_warmup_steps=int(warmup) if warmup >= 1 else math.ceil(warmup * self.total_steps),
            num_training_steps=self.total_steps,
        )
        average = get_ema_multi_avg_fn(recipe.weight_average)
        self.averaged = AveragedModel(setup.model, multi_avg_fn=average) if recipe.weight_average else None
        self.evaluator = Evaluator(accelerator, self.objective, self.loaders, setup)
        about = identity(setup, accelerator.num_processes)
        self.state = TrainingState(setup, self.optimizer, self.scheduler, self.loaders.rng, self.averaged, about)
        self.state.progress.history.splits = fingerprints(setup.splits)
        set_seed(recipe.seed, device_specific=True)  # dropout differs between processes

    def run(self, interruption: Interruption) -> Run:
        """Train to the end. A signal raises `RunInterrupted`, after a checkpoint unless `checkpoints` is None."""
        accelerator, recipe, self.interruption = self.accelerator, self.recipe, interruption
        progress, history = self.state.progress, self.state.progress.history
        history.steps_per_epoch = self.steps_per_epoch
        self.started = time.perf_counter() - history.seconds
        hidden = not accelerator.is_local_main_process or None  # None: show it on a terminal only
        self.bar = tqdm(total=self.total_steps, initial=progress.step + 1, desc="Training", unit="step", disable=hidden)
        interruption.postpones = True
        for epoch in range(progress.epoch, self.epochs + 1):
            progress.epoch = epoch
            for batch in self._batches(epoch):
                self.objective.train()
                with accelerator.accumulate(self.objective):
                    loss = self.objective(**batch).loss
                    if not loss.isfinite():
                        raise ValueError(f"The loss is {loss.item()} after step {progress.step}. {DIVERGED}")
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                        accelerator.clip_grad_norm_(self.objective.parameters(), recipe.max_grad_norm)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                history.examples_seen += self.loaders.global_batch
                progress.batch += 1
                if not accelerator.sync_gradients:  # accumulating gradients
                    continue
                self.scheduler.step()
                if self.averaged is not None:
                    self.averaged.update_parameters(self.setup.model)
                progress.step += 1
                history.epochs = (progress.step + 1) / self.steps_per_epoch
                self.bar.update()
                if progress.step % recipe.eval_freq == 0:
                    history.steps.append(progress.step)
                    losses = self.evaluator.estimate("loss", recipe.eval_iter)
                    rate = self.scheduler.get_last_lr()[0]
                    self._record(f"Epoch {epoch}, step {progress.step:06d}", losses, learning_rate=rate)
                self._save_or_stop()
            progress.batch = 0
            self._record(f"Epoch {epoch}", self.evaluator.estimate("acc", recipe.eval_iter))
        return self._finish()

    def start(self, seconds: float) -> None:
        """Evaluate the untrained model on as many batches as the book does; `seconds` have gone into pretraining."""
        history, rng = self.state.progress.history, self.loaders.rng
        history.seconds = seconds
        rng.manual_seed(self.recipe.seed)
        history.initial |= self.evaluator.estimate("acc", 10, BOOK_NAMES)
        history.initial |= self.evaluator.estimate("loss", 5, BOOK_NAMES)
        rng.manual_seed(self.recipe.seed)
        logger.info("Before training: %s", _format(history.initial))
        history.trained_before = learned_from_others(self.recipe.base, self.setup.model.config, history.splits)
        if history.trained_before and self.setup.base_weights is None:
            logger.warning("The base is already a classifier, and may have been trained on messages of any split.")

    def resume(self, checkpoint: Path) -> None:
        """Load a checkpoint, or raise `ValueError` if it belongs to another run or to a step after this one's last."""
        self.state.load(checkpoint, self.accelerator.process_index)
        if (done := self.state.progress.step + 1) > self.total_steps:
            raise ValueError(f"{checkpoint} has done {done} steps, more than the {self.total_steps} of this run.")
        logger.info("Resuming from %s.", checkpoint)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the remaining batches of an epoch, restoring the RNG states of a resumed run."""
        self.state.epoch_order = self.loaders.rng.get_state()
        steps_left = self.total_steps - (epoch - 1) * self.steps_per_epoch
        batches = self.loaders.training_batches(epoch, steps_left)
        for _ in range(self.state.progress.batch):
            next(batches, None)
        self.state.restore_rng_states()
        yield from batches

    def _record(self, where: str, values: dict[str, float], **tracked: float) -> None:
        """Add losses or accuracies to the history and the log; the tracker also gets the `tracked` values."""
        progress = self.state.progress
        for name, value in values.items():  # such as `train_loss`
            getattr(progress.history, name.replace("loss", "losses").replace("acc", "accs")).append(value)
        every = math.ceil(self.epochs / 10)  # about ten epochs are logged; the history has all of them
        is_logged = progress.epoch % every == 0 or progress.epoch == self.epochs
        logger.log(logging.INFO if is_logged else logging.DEBUG, "%s: %s", where, _format(values))
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
        self.accelerator.log(values | tracked, step=progress.step)

    def _save_or_stop(self) -> None:
        """Write a checkpoint if one is due or a signal arrived; in the latter case, stop."""
        progress, signal, every = self.state.progress, self._signal(), self.options.save_steps
        if signal:
            logger.info("Stopping after step %d ...", progress.step)
        is_due = every is not None and progress.step > 0 and progress.step % every == 0
        if self.checkpoints and (signal or is_due):
            progress.history.seconds = time.perf_counter() - self.started
            self.state.swap_averaged_weights()
            run = self._measured_run(["validation"])
            self.checkpoints.save(self.accelerator, self.state, run)
            self.state.swap_averaged_weights()
        if signal:
            resume = "resume with the same command and --resume-from-checkpoint auto"
            how = "nothing is saved without an output_dir"
            if self.checkpoints:
                how = resume if self.checkpoints.steps() else "no checkpoint could be written"
            raise RunInterrupted(f"interrupted after step {progress.step}; {how}", signal)

    def _signal(self) -> int:
        """Return the signal that any process received, 0 if none, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return self.interruption.number
        own = torch.tensor([self.interruption.number], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())

    def _finish(self) -> Run:
        """Measure the final weights on all splits."""
        self.interruption.postpones = self.checkpoints is not None  # otherwise nothing is lost
        setup, history = self.setup, self.state.progress.history
        self.bar.close()
        history.seconds = time.perf_counter() - self.started
        self.state.swap_averaged_weights()
        if setup.base_weights is not None:
            history.before, history.kept = keep_within_bound(self.evaluator)
        run = self._measured_run(BOOK_NAMES)
        for split, given in run.predictions.items():  # of the most likely class, ignoring the threshold
            correct = given.probabilities.argmax(-1) == given.labels
            counted = self.loaders.draw_training_messages() if split == "train" else slice(None)
            history.final_accs[split] = float(correct[counted].mean())
        if run.calibration is not None:
            for line in run.calibration.summary():
                logger.log(logging.INFO if run.calibration.is_met else logging.WARNING, line)
        return run

    def _measured_run(self, splits: Iterable[str]) -> Run:
        """Measure the current weights; the model of the result is a calibrated copy."""
        setup, progress = self.setup, self.state.progress
        predictions, calibration, loss = self.evaluator.measure(splits)
        progress.update_best(loss)
        merged = setup.model if setup.adapters is None else copy.deepcopy(setup.adapters).merge_and_unload()
        model = copy.copy(without_ngrams(merged)).eval()
        model.config = calibrated_config(model.config, calibration)
        return Run(
            self.recipe, self.options, model, setup.tokenizer, progress.history, predictions, self.trained, calibration
        )


def _format(values: dict[str, float]) -> str:
    """Format measurements as the book does: "train loss 0.500, val loss 0.600", "train acc 95.00%, val acc 90.00%"."""
    formats = {name: ".2%" if name.endswith("acc") else ".3f" for name in values}
    return ", ".join(f"{name.replace('_', ' ')} {value:{formats[name]}}" for name, value in values.items())
