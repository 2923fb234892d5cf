"""Where and when a run is pushed. Imports no library, so that the command line can list the settings at once."""

import threading
from dataclasses import dataclass
from typing import Literal, get_args

MAIN = "main"  # the branch that every repository has
STATE_BRANCH = "training-state"
Strategy = Literal["end", "checkpoint", "every_save", "best"]


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Where a run is pushed, and when.

    Raises:
        ValueError: an unknown strategy, or a time that is none.
    """

    model_id: str
    """Repository, owner/name or name, created if there is none; from the command line the output directory's name."""
    strategy: Strategy = "end"
    """The final model; every checkpoint too (every_save), with the training state (checkpoint); or each that is the
    best by validation loss so far (best), which without a validation split are all."""
    private: bool = False
    """Make the repository a private one, if it is created."""
    revision: str = MAIN
    """Branch, created if there is none."""
    push_state: bool = False
    """Push the training state of the newest checkpoint too, to a branch of its own."""
    timeout: float = 600.0
    """Seconds to wait for uploads at the end."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"hub_strategy must be one of {', '.join(get_args(Strategy))}, got {self.strategy!r}.")
        if not 0 <= self.timeout <= threading.TIMEOUT_MAX:  # nor is it where it is no number
            raise ValueError(f"The time to wait for uploads must be seconds, 0 or more, got {self.timeout}.")

    @property
    def pushes_state(self) -> bool:
        """Whether checkpoints are pushed to go on from."""
        return self.push_state or self.strategy == "checkpoint"

    @property
    def state_branch(self) -> str:
        """The branch of the training state."""
        return STATE_BRANCH if self.revision == MAIN else f"{self.revision}-{STATE_BRANCH}"
