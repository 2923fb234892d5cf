"""What every test stands on: no network, caches of its own, one thread, and the real data where it is to be found.

The only Hub within reach is a `LocalHub` of this process: empty, unless a test fills it.
"""

import atexit
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from local_hub import LocalHub

HOME = Path(tempfile.mkdtemp(prefix="hf-spam-tests-"))
HUB = LocalHub(HOME / "hub").start()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Before any library of Hugging Face's is imported, since they read these once. Processes that tests start inherit them.
os.environ |= {
    "HF_HOME": str(HOME),
    "HF_ENDPOINT": HUB.url,
    "HF_TOKEN": "hf_write",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms",
    "NO_PROXY": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
}
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_XET"):
    os.environ.pop(name, None)

# What a shell starts in the background ignores Ctrl-C, and hands that on; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test fails for being slow on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Tiny models: a second thread costs more than it brings, and sums stay in one order.
torch.set_num_threads(1)

DATA = Path(os.environ.get("HF_SPAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _no_plots() -> Iterator[None]:
    """A tiny run takes half of its time to draw: only runs in processes of their own have plots that show something."""

    def write(*values: object, label: str, output_dir: Path, **about: object) -> None:
        for suffix in ("pdf", "png"):
            (output_dir / f"{label}-plot.{suffix}").write_bytes(b"a plot")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("hf_spam.training.saving.plot_values", write)
        yield


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """What a command that ran in this process has made less or more of is as it was for the next test."""
    yield
    for name in ("hf_spam", "hf_spam.training.loop"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(params=["xet", pytest.param("lfs", marks=pytest.mark.slow)])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty Hub at HF_ENDPOINT, for this process and its children, that supports Xet; in slow tests, LFS only.

    Tests of what does not depend on the upload protocol ask for LFS alone, so that each run of the tests uses both. The
    client's waits between its attempts are cut to 10 ms, in this process only.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    HUB.reset()
    HUB.xet = request.param == "xet"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not HUB.xet)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(not HUB.xet)))
    # Only the client's `time.sleep`, not that of this package.
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.01))))
    yield HUB
    if not HUB.servers:
        HUB.start()
    bugs = HUB.bugs
    HUB.reset()
    assert not bugs, bugs[0]


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
