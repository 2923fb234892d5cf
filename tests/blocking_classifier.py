"""Classifiers that stop in the middle of their work, so that tests can act there without any race."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

from hf_spam import SpamClassifier


class BlockingClassifier(SpamClassifier):
    """Answers two windows of messages in each of two worker processes, which then wait until they are killed.

    If there is an `error`, they raise it instead. The process that starts them only answers when both have started.
    """

    error: Exception | None = None
    windows = 2

    def __call__(self, texts: list[str], **options: bool) -> list:
        if multiprocessing.parent_process() is None:
            while len(multiprocessing.active_children()) < 2:
                time.sleep(0.01)
        elif self.windows == 0:
            if self.error is not None:
                raise self.error
            threading.Event().wait()
        self.windows -= 1
        return super().__call__(texts, **options)


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
