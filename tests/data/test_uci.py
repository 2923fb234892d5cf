"""The UCI collection is downloaded once and verified. The HTTP server is a real one on 127.0.0.1."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_spam.data import uci
from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages
from hf_spam.data.uci import uci_file


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


COLLECTION = b"ham\tsee you\nspam\tWIN now\n"
UCI_ZIP = zipped({"readme": b"...", "SMSSpamCollection": COLLECTION})


class Server(ThreadingHTTPServer):
    """Serve the (status, body) pairs in `answers` by path, and record the requested paths in `asked`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, body = self.server.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Replace both addresses with a local server and the checksum with the small collection's; empty the cache."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(uci.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uci, "UCI_SHA256", hashlib.sha256(COLLECTION).hexdigest())
    with Server() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(uci, "UCI_ADDRESSES", (f"{address}/1", f"{address}/2"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_checksum_is_the_collections(sms_collection):
    """A wrong constant would refuse every download."""
    assert hashlib.sha256(sms_collection.read_bytes()).hexdigest() == uci.UCI_SHA256


def test_uci_is_downloaded_once_and_read(server, tmp_path):
    """The second call needs no network, and the cache holds nothing else."""
    server.answers = {"/1": (200, UCI_ZIP)}
    found = read_messages("uci").select_columns(["text", "label"]).to_list()
    assert found == [{"text": "see you", "label": 0}, {"text": "WIN now", "label": 1}]
    server.answers = {}
    assert uci_file().read_bytes() == COLLECTION
    assert server.asked == ["/1"]
    assert [path.name for path in (tmp_path / "home/hf_spam").iterdir()] == ["SMSSpamCollection"]


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    cached = tmp_path / "home/hf_spam/SMSSpamCollection"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(COLLECTION[:-9])
    server.answers = {"/1": (200, UCI_ZIP)}
    assert uci_file() == cached and cached.read_bytes() == COLLECTION


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    server.answers = {"/1": (200, UCI_ZIP)}
    with pytest.raises(
        DataError, match=r"^uci: cannot be cached \(.*\); set HF_HOME to a folder that you can write to$"
    ):
        uci_file()


BAD_ANSWERS = {
    "status": ((500, b"oops"), "500 Server Error"),
    "checksum": (
        (200, zipped({"SMSSpamCollection": COLLECTION + b"ham\tx\n"})),
        "the zip does not hold the collection",
    ),
    "truncated": ((200, UCI_ZIP[:-30]), "File is not a zip file"),
    "web page": ((200, b"<html>"), "File is not a zip file"),
    "other zip": ((200, zipped({"x": b""})), "does not hold the collection"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_not_used(server, case, tmp_path):
    """The second address is tried. If both fail, one line gives both reasons, and the cache stays empty."""
    answer, reason = BAD_ANSWERS[case]
    server.answers = {"/1": answer, "/2": answer}
    with pytest.raises(DataError) as caught:
        uci_file()
    message, (first, second) = str(caught.value), uci.UCI_ADDRESSES
    assert message.startswith(f"uci: download failed ({first}: ") and f"; {second}: " in message
    assert message.count(reason) == 2 and "\n" not in message and message.endswith("'sample' works offline")
    assert not (tmp_path / "home").exists()
    server.answers = {"/1": answer, "/2": (200, UCI_ZIP)}
    assert uci_file().read_bytes() == COLLECTION


def test_without_a_network_the_error_is_one_line(server, monkeypatch):
    monkeypatch.setattr(uci, "UCI_ADDRESSES", ("http://127.0.0.1:1/a", "http://127.0.0.1:1/b"))
    with pytest.raises(
        DataError, match=r"^uci: download failed \(http://127.0.0.1:1/a: .*refused.*; http.*/b: .*\); check"
    ):
        uci_file()
