"""Ctrl-C and SIGTERM: a training run finishes its step and saves before it stops."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# Signals this close together count as one: `timeout` and some launchers send each signal twice.
SAME_SIGNAL_SECONDS = 1.0


class RunInterrupted(KeyboardInterrupt):
    """A signal, `number`, ended a training run after its step; the message says what was saved and how to resume."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


@dataclass
class Interruption:
    """Record of Ctrl-C and SIGTERM during a run."""

    postpones: bool = False
    """Whether the first signal is only recorded. A second one, a second or more later, has its usual effect."""
    number: int = 0
    """The recorded signal; 0 for none."""


@contextmanager
def listening() -> Iterator[Interruption]:
    """Let a run postpone Ctrl-C and SIGTERM inside a `with` block."""
    interruption, recorded_at, previous = Interruption(), 0.0, {}

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal recorded_at
        if interruption.postpones and not interruption.number:
            interruption.number, recorded_at = number, time.monotonic()
        elif not interruption.number or time.monotonic() - recorded_at > SAME_SIGNAL_SECONDS:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # shells make background children ignore signals
                previous[number] = signal.signal(number, handle)
    try:
        yield interruption
    finally:
        restore()
