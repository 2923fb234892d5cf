"""Options for saving, resuming and pushing a run."""

import math
import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that do not change the result of a run, and so are not part of the recipe.

    Raises:
        ValueError: An option is invalid, or needs another one.
    """

    output_dir: str | None = None
    """Directory for the model, its card, history, metrics and plots. None: nothing is saved."""
    overwrite_output_dir: bool = False
    """Replace the files of an earlier run in output_dir."""
    report_to: str | None = None
    """Experiment tracker that Accelerate knows, such as tensorboard."""
    save_steps: int | None = None
    """Optimizer steps between two checkpoints. None: no checkpoints."""
    save_total_limit: int | None = None
    """Number of checkpoints to keep; the best and the newest are always kept. None: all."""
    resume_from_checkpoint: str | None = None
    """Checkpoint to resume from: a folder, auto (newest in output_dir), or hub (pushed by an earlier run)."""
    push_to_hub: bool = False
    """Push the model to the Hub."""
    hub_model_id: str | None = None
    """Repository (owner/name or name); created if missing. None: the name of output_dir."""
    hub_strategy: Literal["end", "checkpoint", "every_save", "best"] = "end"
    """Push only the final model (end), also every checkpoint (every_save), also its training state (checkpoint), or
    each checkpoint with the lowest validation loss so far (best)."""
    hub_private_repo: bool = False
    """Make the repository private when it is created."""
    hub_revision: str = "main"
    """Branch to push to; created if missing."""
    hub_push_state: bool = False
    """Push the training state of the newest checkpoint to a branch of its own, so that another machine can resume."""
    hub_timeout: float = 600.0
    """Seconds to wait for uploads at the end."""
    license: str | None = None
    """License of the model for its card: an id of the Hub, such as mit or apache-2.0."""
    language: str | None = None
    """Languages of the messages for the card, such as en or en,de. None: those of the data, if known."""

    def __post_init__(self) -> None:
        for name, example in (("license", "mit or apache-2.0"), ("language", "en or en,de")):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.,+-]*", value):
                raise ValueError(f"{name} must be written as on the Hub, such as {example}, got {value!r}.")
        for name in ("save_steps", "save_total_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.output_dir is None and (self.save_steps or self.resume_from_checkpoint or self.push_to_hub):
            raise ValueError("Saving checkpoints, resuming and pushing need output_dir (--output-dir).")
        if self.push_to_hub and self.save_steps is None and (self.hub_strategy != "end" or self.hub_push_state):
            raise ValueError(
                "Pushing checkpoints needs save_steps (--save-steps); hub_strategy end pushes the final model."
            )
        if self.resume_from_checkpoint == "hub" and not self.push_to_hub:
            raise ValueError("Resuming from the Hub needs the repository: add --push-to-hub and --hub-model-id.")
        if not 0 <= self.hub_timeout < math.inf:
            raise ValueError(f"hub_timeout must be 0 or more seconds, got {self.hub_timeout}.")
