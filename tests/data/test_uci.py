"""The download of the UCI collection, from a real HTTP server on 127.0.0.1: once, verified, or refused in one line."""

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
    """Serves the (status, body) pairs in `answers` by path, and keeps the paths asked for in `asked`."""

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
    """A loopback server in the place of both addresses, an empty cache, and the checksum of the small collection."""
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
    data = sms_collection.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (uci.UCI_SIZE, uci.UCI_SHA256)


def test_uci_is_downloaded_once(server, tmp_path):
    """The second call neither needs the network nor leaves anything but the one file in the cache."""
    server.answers = {"/1": (200, UCI_ZIP)}
    assert uci_file() == COLLECTION
    server.answers = {}
    assert uci_file() == COLLECTION
    assert server.asked == ["/1"]
    assert [path.name for path in (tmp_path / "home/hf_spam").iterdir()] == ["SMSSpamCollection"]


def test_the_downloaded_messages_are_read(server):
    """The source "uci" is this file."""
    server.answers = {"/1": (200, UCI_ZIP)}
    assert read_messages("uci").to_list() == [{"text": "see you", "label": 0}, {"text": "WIN now", "label": 1}]


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    """A file that somebody edited is not the collection any more."""
    cached = tmp_path / "home/hf_spam/SMSSpamCollection"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(COLLECTION[:-9])
    server.answers = {"/1": (200, UCI_ZIP)}
    assert uci_file() == COLLECTION
    assert cached.read_bytes() == COLLECTION


def test_a_cache_that_cannot_be_read_is_none(server, tmp_path):
    (tmp_path / "home/hf_spam/SMSSpamCollection").mkdir(parents=True)
    server.answers = {"/1": (200, UCI_ZIP)}
    assert uci_file() == COLLECTION


def test_without_a_writable_cache_the_download_is_used_all_the_same(server, tmp_path, caplog):
    """A read-only home is a reason to warn, not to stop."""
    (tmp_path / "home").write_text("a file where the folder should be")
    server.answers = {"/1": (200, UCI_ZIP)}
    assert uci_file() == COLLECTION
    assert "not cached" in caplog.text


BAD_ANSWERS = {
    "status": ((500, b"oops"), "HTTP status 500"),
    "checksum": ((200, zipped({"SMSSpamCollection": COLLECTION + b"ham\tx\n"})), "the answer has a wrong checksum"),
    "truncated": ((200, UCI_ZIP[:-30]), "the answer: broken zip (File is not a zip file)"),
    "web page": ((200, b"<html>"), "the answer: broken zip (File is not a zip file)"),
    "other zip": ((200, zipped({"x": b""})), "the answer: one data file expected in the zip, 0 found: []"),
    "endless": ((200, UCI_ZIP + bytes(4_000_000)), "more than 4,000,000 bytes, which the collection has not"),
}


@pytest.mark.parametrize("case", ["status", "checksum"])
def test_after_a_bad_answer_the_second_address_is_asked(server, case):
    """Neither a broken server nor a changed file stops the user, and nothing unverified is used."""
    server.answers = {"/1": BAD_ANSWERS[case][0], "/2": (200, UCI_ZIP)}
    assert uci_file() == COLLECTION
    assert server.asked == ["/1", "/2"]


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_two_bad_answers_are_one_line(server, case, tmp_path):
    """What happened at each address and what to do instead; nothing bad is left in the cache."""
    answer, reason = BAD_ANSWERS[case]
    server.answers = {"/1": answer, "/2": answer}
    with pytest.raises(DataError) as caught:
        uci_file()
    first, second = uci.UCI_ADDRESSES
    advice = "download the zip by hand and pass its path, or use 'sample'"
    assert str(caught.value) == f"uci: not downloaded ({first}: {reason}; {second}: {reason}); {advice}"
    assert not (tmp_path / "home").exists()


def test_with_nothing_listening_uci_is_one_line(server, monkeypatch):
    """The most common case of all: no network."""
    monkeypatch.setattr(uci, "UCI_ADDRESSES", ("http://127.0.0.1:1/a", "http://127.0.0.1:1/b"))
    with pytest.raises(
        DataError, match=r"^uci: not downloaded \(http://127.0.0.1:1/a: .*refused.*; http.*/b: .*\); down"
    ):
        uci_file()


def test_a_slow_answer_is_given_up(server, monkeypatch):
    """A server that drips bytes for ever must not hold a user for ever."""
    monkeypatch.setattr(uci, "DOWNLOAD_SECONDS", -1)
    server.answers = {"/1": (200, UCI_ZIP), "/2": (200, UCI_ZIP)}
    with pytest.raises(DataError, match="not complete after -1 seconds"):
        uci_file()
