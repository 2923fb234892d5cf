"""The UCI SMS Spam Collection v.1: downloaded once, verified, and kept in the cache."""

import contextlib
import hashlib
import logging
import time
from pathlib import Path

import httpx2
from huggingface_hub import constants

from ..files import write_file
from ..text import first_line
from .formats import UCI_MEMBER, DataError, unzip

logger = logging.getLogger(__name__)

UCI_SIZE = 477_907
UCI_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
UCI_ADDRESSES = (
    "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip",
)
DOWNLOAD_LIMIT = 4_000_000  # bytes; the zip has about 200,000
SILENCE_LIMIT, DOWNLOAD_SECONDS = 15, 60  # seconds without an answer, and for one address in all


def uci_file() -> bytes:
    """The verified collection, from the cache under HF_HOME or else from the first address that has it."""
    cached = Path(constants.HF_HOME) / "hf_spam" / UCI_MEMBER
    with contextlib.suppress(OSError):  # such as that there is none
        if _is_uci(data := cached.read_bytes()):
            return data
    failures = []
    for address in UCI_ADDRESSES:
        try:
            _, data = unzip("the answer", _download(address), UCI_SIZE + 1)
            if not _is_uci(data):
                raise DataError("the answer has a wrong checksum")
        except (httpx2.HTTPError, OSError, DataError) as error:
            logger.info("%s: %s", address, first_line(error))
            failures.append(f"{address}: {first_line(error)}")
        else:
            _store(cached, data)
            return data
    advice = "download the zip by hand and pass its path, or use 'sample'"
    raise DataError(f"uci: not downloaded ({'; '.join(failures)}); {advice}")


def _is_uci(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == UCI_SHA256


def _download(address: str) -> bytes:
    deadline, data = time.monotonic() + DOWNLOAD_SECONDS, bytearray()
    with httpx2.stream("GET", address, timeout=SILENCE_LIMIT, follow_redirects=True) as response:
        if response.status_code != 200:
            raise DataError(f"HTTP status {response.status_code}")
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > DOWNLOAD_LIMIT:
                raise DataError(f"more than {DOWNLOAD_LIMIT:,} bytes, which the collection has not")
            if time.monotonic() > deadline:
                raise DataError(f"not complete after {DOWNLOAD_SECONDS} seconds")
    return bytes(data)


def _store(path: Path, data: bytes) -> None:
    """Write to the cache so that a reader sees the whole file or none; without a writable cache, go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        logger.warning("the collection is not cached: %s", error)
