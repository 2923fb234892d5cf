"""Classifiers that stop in the middle of their work, so that tests can act there without any race."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

from hf_spam import SpamClassifier


class PausingClassifier(SpamClassifier):
    """Answers two windows of messages in the process of the test, and then waits until it is `released`."""

    released = threading.Event()
    windows = 2

    def __call__(self, texts: list[str], **options: bool) -> list:
        if self.windows == 0:
            self.pause()
        self.windows -= 1
        return super().__call__(texts, **options)

    def pause(self) -> None:
        if multiprocessing.parent_process() is None:
            self.released.wait()


class BlockingClassifier(PausingClassifier):
    """Does so in the other processes as well, but waits there until it is killed."""

    def pause(self) -> None:
        super().pause()
        if multiprocessing.parent_process() is not None:
            threading.Event().wait()


class GatedClassifier(SpamClassifier):
    """Answers two windows of messages in each process, and then waits until there is a file called `open` in `gate`.

    It leaves a file there, called by its process.
    """

    gate: Path
    windows = 2

    def __call__(self, texts: list[str], **options: bool) -> list:
        (self.gate / f"pid-{os.getpid()}").touch()
        while self.windows == 0 and not (self.gate / "open").exists():
            time.sleep(0.01)
        self.windows -= 1
        return super().__call__(texts, **options)
