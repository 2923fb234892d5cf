"""A classifier that stops in the middle of its work, so that tests can kill its process there without any race."""

import threading

from hf_spam import SpamClassifier


class BlockingClassifier(SpamClassifier):
    """Answers two windows of messages, and then waits until it is killed."""

    windows = 2

    def __call__(self, texts: list[str], **options: bool) -> list:
        if self.windows == 0:
            threading.Event().wait()
        self.windows -= 1
        return super().__call__(texts, **options)
