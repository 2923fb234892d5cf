"""A classifier that stops in the middle of its work, so that tests can kill its process there without any race."""

import sys
import threading
from pathlib import Path

from hf_spam import SpamClassifier
from hf_spam.inference.scoring import score_file


class BlockingClassifier(SpamClassifier):
    """Answers two windows of messages, and then waits until it is killed."""

    windows = 2

    def __call__(self, texts: list[str], **options: bool) -> list:
        if self.windows == 0:
            threading.Event().wait()
        self.windows -= 1
        return super().__call__(texts, **options)


if __name__ == "__main__":
    from blocking_classifier import BlockingClassifier  # under a name that other processes can import

    source, output = map(Path, sys.argv[1:])
    score_file(BlockingClassifier.from_pretrained(), source, output, window_size=16, num_processes=2)
