"""Settings for all tests: no network, temporary caches, one thread, and the real data if available.

The only Hub that a test can reach is a `LocalHub` in this process, which starts empty.
"""

import atexit
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from local_hub import LocalHub

from hf_spam.entry import QUIET

HOME = Path(tempfile.mkdtemp(prefix="hf-spam-tests-"))
HUB = LocalHub(HOME / "hub").start()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Set before any Hugging Face library is imported, since they read these once. Child processes inherit them.
os.environ |= {
    "HF_HOME": str(HOME),
    "HF_ENDPOINT": HUB.url,
    "HF_TOKEN": "hf_write",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    **QUIET,  # as on the command line
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms",
    "NO_PROXY": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
}
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_XET"):
    os.environ.pop(name, None)

# Programs that a shell starts in the background ignore Ctrl-C, and so do their children; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test may fail because the machine is busy.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# For tiny models a second thread is slower, and it would change the order of sums.
torch.set_num_threads(1)

DATA = Path(os.environ.get("HF_SPAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _no_plots() -> Iterator[None]:
    """Write placeholders instead of plots, which take half the time of a tiny run."""

    def write(*values: object, label: str, output_dir: Path, **about: object) -> None:
        for suffix in ("pdf", "png"):
            (output_dir / f"{label}-plot.{suffix}").write_bytes(b"a plot")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("hf_spam.training.saving.plot_values", write)
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_twice() -> Iterator[None]:
    """Split the same messages, and fit the same baseline to them, only once: most tests use the same file."""
    from datasets.fingerprint import Hasher
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import Pipeline

    split, fit, known = StratifiedGroupKFold.split, Pipeline.fit, {}

    def remember(key: object, compute: Callable[[], object]) -> object:
        key = Hasher.hash(key)
        if key not in known:
            known[key] = compute()
        return known[key]

    def fit_once(self: Pipeline, texts: list[str], labels: list[int]) -> Pipeline:
        vars(self).update(vars(remember([repr(self), texts, labels], lambda: fit(self, texts, labels))))
        return self

    def split_once(self: StratifiedGroupKFold, *columns: object) -> list:
        return remember([repr(self), *columns], lambda: list(split(self, *columns)))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(StratifiedGroupKFold, "split", split_once)
        monkeypatch.setattr(Pipeline, "fit", fit_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_javascript(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unless this is a run of the `runtimes`, export as if Transformers.js was not installed: it takes minutes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not any(item.get_closest_marker("runtimes") for item in request.session.items):
            monkeypatch.setattr("hf_spam.conversion.transformers_js.find_library", lambda: None)
        yield


@pytest.fixture(scope="session")
def onnx_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of the bundled model for ONNX Runtime, with a handler for Inference Endpoints. Not to be changed."""
    return _exported("onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def gpt2_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of the bundled model as a GPT-2, with a handler for Inference Endpoints. Not to be changed."""
    return _exported("gpt2", tmp_path_factory)


def _exported(format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from command_line import hf_spam

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    folder, data = base / f"export-{format}", tmp_path_factory.mktemp("data") / "few.csv"
    data.write_text("label,text\nspam,Free entry! Txt WIN to 10010\nham,okay\n")
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            done = hf_spam("export", "bundled", folder, "--format", format, "--handler", "--data", data)
            assert done.code == 0, done.err
    return folder


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Restore the log levels that a command may have changed in this process."""
    yield
    for name in ("hf_spam", "hf_spam.training.loop"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty Hub at HF_ENDPOINT, for this process and its children, without Xet except in tests of `both_transports`.

    The client's waits between its attempts are cut to 10 ms, in this process only.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    HUB.reset()
    HUB.xet = getattr(request, "param", "lfs") == "xet"
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
        pytest.skip(f"{name} is not in {DATA}; set HF_SPAM_TEST_DATA to its folder")
    return path


@pytest.fixture(scope="session")
def sms_collection() -> Path:
    """The file of the SMS Spam Collection, as UCI publishes it."""
    return _test_data("SMSSpamCollection")


@pytest.fixture(scope="session")
def gpt2_tokenizer_dir() -> Path:
    """Folder with GPT-2's `vocab.json` and `merges.txt`."""
    return _test_data("gpt2-tokenizer")
