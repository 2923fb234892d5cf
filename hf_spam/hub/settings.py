"""Where and when a run is pushed. Imports no library, so that the command line can list the settings at once."""

from dataclasses import dataclass

from .snapshots import MAIN, Strategy


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Where a run is pushed, and when."""

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
