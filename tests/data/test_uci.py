"""The UCI collection is downloaded once and verified. The HTTP server is a real one on 127.0.0.1."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_data import rows, zipped

from hf_spam.data import uci
from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages
from hf_spam.data.uci import uci_file

COLLECTION = b"ham\tsee you\nspam\tWIN now\n"
UCI_ZIP = zipped({"readme": b"...", "SMSSpamCollection": COLLECTION})


@pytest.fixture
def www(monkeypatch, tmp_path) -> Iterator[Path]:
    """A folder on a local server that has both addresses, 1 and 2. The checksum is that of the small collection."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(uci.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uci, "UCI_SHA256", hashlib.sha256(COLLECTION).hexdigest())
    (folder := tmp_path / "www").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(uci, "UCI_ADDRESSES", (f"{address}/1", f"{address}/2"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_the_checksum_is_the_collections(sms_collection):
    """A wrong constant would refuse every download."""
    assert hashlib.sha256(sms_collection.read_bytes()).hexdigest() == uci.UCI_SHA256


@pytest.mark.parametrize("damaged", [None, COLLECTION[:-9]])
def test_uci_is_downloaded_once_and_read(www, tmp_path, damaged):
    """The second call needs no network, and the cache holds nothing else. A damaged one is fetched again."""
    cached = tmp_path / "home/hf_spam/SMSSpamCollection"
    if damaged is not None:
        cached.parent.mkdir(parents=True)
        cached.write_bytes(damaged)
    (www / "1").write_bytes(UCI_ZIP)
    assert rows(read_messages("uci")) == [(0, "see you"), (1, "WIN now")]
    (www / "1").unlink()
    assert uci_file() == cached and cached.read_bytes() == COLLECTION
    assert list(cached.parent.iterdir()) == [cached]


def test_a_cache_that_cannot_be_written_is_one_line(www, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    (www / "1").write_bytes(UCI_ZIP)
    with pytest.raises(DataError, match=r"^uci: cannot be cached \(.*\); set HF_HOME to a folder that you can wr"):
        uci_file()


BAD_ANSWERS = {
    "no such file": (None, "404 Client Error"),
    "other collection": (zipped({"SMSSpamCollection": COLLECTION + b"ham\tx\n"}), "does not hold the collection"),
    "truncated": (UCI_ZIP[:-30], "File is not a zip file"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_not_used(www, case, tmp_path):
    """The second address is tried. If both fail, one line gives both reasons, and the cache stays empty."""
    answer, reason = BAD_ANSWERS[case]
    for name in ("1", "2") if answer else ():
        (www / name).write_bytes(answer)
    with pytest.raises(DataError) as caught:
        uci_file()
    message, (first, second) = str(caught.value), uci.UCI_ADDRESSES
    assert message.startswith(f"uci: download failed ({first}: ") and f"; {second}: " in message
    assert message.count(reason) == 2 and "\n" not in message and message.endswith("'sample' works offline")
    assert not (tmp_path / "home").exists()
    (www / "2").write_bytes(UCI_ZIP)
    assert uci_file().read_bytes() == COLLECTION
