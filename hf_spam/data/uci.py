"""The UCI SMS Spam Collection v.1: downloaded once, verified, and kept in the cache."""

import logging
import tempfile
import zipfile
import zlib
from pathlib import Path

import pooch
from huggingface_hub import constants

from ..files import write_file
from ..text import first_line
from .formats import UCI_MEMBER, DataError

UCI_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"  # of the file in the zip
UCI_ADDRESSES = (
    "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip",
)
TIMEOUT_SECONDS = 15


def cached_uci() -> Path | None:
    """Return the path of the verified collection in the cache under HF_HOME; `None` if it is not there."""
    cached = Path(constants.HF_HOME) / "hf_spam" / UCI_MEMBER
    return cached if cached.is_file() and pooch.file_hash(cached) == UCI_SHA256 else None


def uci_file() -> Path:
    """Return the path of the verified collection in the cache under HF_HOME, downloading it if necessary."""
    if (cached := cached_uci()) is not None:
        return cached
    cached = Path(constants.HF_HOME) / "hf_spam" / UCI_MEMBER
    failures = []
    for address in UCI_ADDRESSES:
        try:
            data = _download(address)
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            failures.append(f"{address}: {first_line(error)}")
            continue
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_file(cached, data)
        except OSError as error:
            raise DataError(f"uci: cannot be cached ({error}); set HF_HOME to a folder that you can write to") from None
        return cached
    advice = "check the network, or download the zip by hand and give its path as the data; 'sample' works offline"
    raise DataError(f"uci: download failed ({'; '.join(failures)}); {advice}")


def _download(address: str) -> bytes:
    """Return the collection from the zip at an address, or raise any error."""
    pooch.get_logger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        unpack = pooch.Unzip(members=[UCI_MEMBER])
        fetch = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
        # The two zips may differ in their bytes; the file in them must not.
        paths = pooch.retrieve(address, None, "uci.zip", folder, processor=unpack, downloader=fetch)
        if not paths or pooch.file_hash(paths[0]) != UCI_SHA256:
            raise DataError("the zip does not hold the collection")
        return Path(paths[0]).read_bytes()
