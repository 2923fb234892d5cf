"""Ctrl-C and SIGTERM: a run ends its step and saves before it stops; what has nothing to save stops at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

TOGETHER = 1.0  # seconds within which signals count as one: `timeout` and some launchers send each of theirs twice


class Interrupted(KeyboardInterrupt):
    """A signal stops at once what was going on.

    Attributes:
        number: the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class RunInterrupted(Interrupted):
    """A signal has ended a run, in good order; the message says what is saved and how to go on."""


@dataclass
class Interruption:
    """What has been heard of Ctrl-C and SIGTERM.

    Attributes:
        postpones: whether the first signal is only taken note of. One that comes a second after it, or while this is
            not set, acts at once.
        number: the signal that was taken note of. 0: none.
    """

    postpones: bool = False
    number: int = 0


@contextmanager
def listening() -> Iterator[Interruption]:
    """Lets a run put off Ctrl-C and SIGTERM, which otherwise do what they did before."""
    interruption, noted = Interruption(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if interruption.postpones and not interruption.number:
            interruption.number, noted = number, time.monotonic()
        elif not interruption.number or time.monotonic() - noted > TOGETHER:
            restore()
            signal.raise_signal(number)

    with _handling(handle) as restore:
        yield interruption


@contextmanager
def stopping_at_signals() -> Iterator[None]:
    """For a command: Ctrl-C and SIGTERM raise `Interrupted`, so that what is open is closed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        # Nothing is open while libraries are being imported, and they turn what is raised then into odd errors.
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
    """Sets the handler of Ctrl-C and SIGTERM; gives a function that sets those that were there before."""
    previous = {}

    def restore() -> None:
        for number, before in previous.items():
            signal.signal(number, before)

    if threading.current_thread() is threading.main_thread():  # no other may, and no other is told of signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # what `nohup` starts, or a shell behind it, is not to hear of it
                previous[number] = before
                signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()
