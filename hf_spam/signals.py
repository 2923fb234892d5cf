"""Ctrl-C and SIGTERM: a training run finishes its step and saves before it stops; everything else stops at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

# Signals this close together count as one: `timeout` and some launchers send each signal twice.
SAME_SIGNAL_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work.

    Attributes:
        number: the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class RunInterrupted(Interrupted):
    """A signal ended a training run after its step; the message says what was saved and how to resume."""


@dataclass
class Interruption:
    """Record of Ctrl-C and SIGTERM during a run.

    Attributes:
        postpones: whether the first signal is only recorded. A second one, a second or more later, has its usual
            effect.
        number: the recorded signal; 0 for none.
    """

    postpones: bool = False
    number: int = 0


@contextmanager
def listening() -> Iterator[Interruption]:
    """Let a run postpone Ctrl-C and SIGTERM inside a `with` block."""
    interruption, recorded_at = Interruption(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal recorded_at
        if interruption.postpones and not interruption.number:
            interruption.number, recorded_at = number, time.monotonic()
        elif not interruption.number or time.monotonic() - recorded_at > SAME_SIGNAL_SECONDS:
            restore()
            signal.raise_signal(number)

    with _handling(handle) as restore:
        yield interruption


@contextmanager
def stopping_at_signals() -> Iterator[None]:
    """Raise `Interrupted` at Ctrl-C and SIGTERM inside a `with` block, so that files are closed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        # During an import no file is open yet, and libraries would turn the exception into an unrelated error.
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                os.write(2, b"\nhf-spam: interrupted\n")
                os._exit(128 + number)
            frame = frame.f_back
        raise Interrupted("interrupted", number)

    with _handling(stop):
        yield


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Handle Ctrl-C and SIGTERM inside a `with` block; yield a function that restores the previous handlers."""
    previous = {}

    def restore() -> None:
        for number, before in previous.items():
            signal.signal(number, before)

    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # `nohup` and shells make their children ignore signals
                previous[number] = before
                signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()
