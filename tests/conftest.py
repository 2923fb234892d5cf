"""What every test stands on: no network, caches of its own, one thread, and the real data where it is to be found."""

import os
import tempfile
from pathlib import Path

# Before any library is imported, since they read these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-spam-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

# Tiny models: a second thread costs more than it brings, and sums stay in one order.
torch.set_num_threads(1)

DATA = Path(os.environ.get("HF_SPAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _test_data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA}; name its folder in HF_SPAM_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def sms_collection() -> Path:
    """The SMS Spam Collection's file, as UCI ships it."""
    return _test_data("SMSSpamCollection")


@pytest.fixture(scope="session")
def gpt2_tokenizer_dir() -> Path:
    """A folder with GPT-2's `vocab.json` and `merges.txt`."""
    return _test_data("gpt2-tokenizer")
