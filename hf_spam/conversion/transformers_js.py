"""Run an exported folder in Transformers.js, under Node.js or in a headless Chromium."""

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from ..files import write_json
from ..text import one_line

LIBRARY = "@huggingface/transformers"
SCRIPT = Path(__file__).with_suffix(".mjs")
DTYPES = {"fp32": "fp32", "int8": "q8"}  # what Transformers.js calls a precision
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run")
MAX_SECONDS = 3600
POLL_SECONDS = 100  # for a busy page to say whether it is done; Selenium itself gives up after 120
# The words of GPT-2, as in the library tokenizers.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def find_library() -> Path | None:
    """Return the folder of Transformers.js, or `None` if it is not installed.

    It is looked for in the folders of `NODE_PATH`, and in the `node_modules` of the current directory, of the folder of
    this file, and of the folders above them.
    """
    return _package(LIBRARY, Path.cwd(), SCRIPT.parent)


def missing_in_node() -> str | None:
    """Return what Transformers.js needs to run under Node.js, with a remedy, or `None` if it is all there."""
    if not shutil.which("node"):
        return "needs Node.js, from version 18: https://nodejs.org"
    if not find_library():
        return f"needs {LIBRARY}: npm install --ignore-scripts {LIBRARY}"
    return None


def missing_in_chromium() -> str | None:
    """Return what Transformers.js needs to run in Chromium, with a remedy, or `None` if it is all there."""
    if not find_library():
        return f"needs {LIBRARY}: npm install --ignore-scripts {LIBRARY}"
    if not (_browser() and shutil.which("chromedriver")):
        return "needs Chromium and its driver: apt-get install chromium chromium-driver"
    if not importlib.util.find_spec("selenium"):
        return 'needs selenium: pip install "hf-spam[runtimes]"'
    return None


def version_in_node() -> str:
    """Return the version of Transformers.js and that of Node.js."""
    return f"{_library_version()} (Node.js {_version_of('node').lstrip('v')})"


def version_in_chromium() -> str:
    """Return the version of Transformers.js and that of Chromium."""
    number = next((word for word in _version_of(_browser() or "").split() if word[:1].isdigit()), "?")
    return f"{_library_version()} (Chromium {number})"


def run_in_node(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Return the probability of each class for each text, (N, num_labels); a row of NaN where Transformers.js fails.

    Raises:
        ValueError: Transformers.js cannot load the folder.
    """
    library = find_library()
    command = ["node", SCRIPT, library / "dist" / "transformers.node.mjs"]
    done = subprocess.run(command, input=_request(folder.absolute(), texts, precision), capture_output=True)
    if done.returncode:
        raise ValueError(f"Transformers.js in Node.js failed: {_error_in(done.stderr.decode(errors='replace'))}")
    return _to_array(folder, json.loads(done.stdout.splitlines()[-1]))


def run_in_chromium(folder: Path, texts: Sequence[str], *, precision: str) -> np.ndarray:
    """Return the probability of each class for each text, (N, num_labels); a row of NaN where Transformers.js fails.

    Everything is served from this machine; Chromium runs the graph in WebAssembly.

    Raises:
        ValueError: Transformers.js cannot load the folder.
    """
    files = {"run.mjs": SCRIPT.read_bytes(), "request.json": _request("/model", texts, precision)}
    return _to_array(folder, run_in_page(_CLASSIFY, {"model": folder}, files))


def run_in_page(script: str, folders: dict[str, Path], files: dict[str, bytes]) -> Any:
    """Run JavaScript in a page of a headless Chromium, which can import Transformers.js by its name.

    Args:
        script: The body of an asynchronous function.
        folders: Folders to serve to the page under a name of one part.
        files: Files to serve to it.

    Returns:
        What the function returns.

    Raises:
        ValueError: The function fails.
    """
    from selenium.common import WebDriverException

    library = find_library()
    folders = {"library": library, "onnxruntime-web": _package("onnxruntime-web", library), **folders}
    page = f"""<!doctype html><title>Transformers.js</title>
<script type="importmap">{json.dumps({"imports": {LIBRARY: "/library/dist/transformers.min.js"}})}</script>"""
    try:
        with _serve(folders, {"page.html": page.encode(), **files}) as url, open_chromium() as browser:
            browser.set_script_timeout(POLL_SECONDS)
            browser.get(f"{url}/page.html")
            browser.execute_script(_START % script)
            end = time.monotonic() + MAX_SECONDS
            while not (answer := browser.execute_script("return window.answer")) and time.monotonic() < end:
                time.sleep(0.1)
    except WebDriverException as error:  # Chromium does not start, or has crashed
        answer = {"error": error.msg or type(error).__name__}
    if not answer or "error" in answer:
        reason = one_line(ValueError(answer["error"])) if answer else f"no answer in {MAX_SECONDS} seconds"
        raise ValueError(f"Transformers.js in Chromium failed: {reason}")
    return answer["found"]


# Selenium could wait for an answer too, but only for two minutes.
_START = """
(async () => {
  const { env } = await import("@huggingface/transformers");
  env.backends.onnx.wasm.wasmPaths = "/onnxruntime-web/dist/";  // by default, they come from a CDN
  return await (async () => { %s })();
})().then((found) => (window.answer = { found }), (error) => (window.answer = { error: String(error) }));
"""
_CLASSIFY = """
const library = await import("@huggingface/transformers");
const { probabilities } = await import("/run.mjs");
return probabilities(library, await (await fetch("/request.json")).json());
"""


def adapt_tokenizer(path: Path) -> None:
    """Change a `tokenizer.json` so that Transformers.js gives a text the same tokens as Python, where nothing changes.

    A word pattern in the file is translated to JavaScript; the one that Transformers.js has takes U+0085 for a symbol.
    A lone surrogate becomes U+FFFD before the normalizer may join it to another one.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words, normalizer = tokenizer["pre_tokenizer"] or {}, tokenizer["normalizer"]
    if words.get("type") == "ByteLevel" and words["use_regex"] and not words["add_prefix_space"]:
        split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, words | {"use_regex": False}]}
    if normalizer:
        replace = {"type": "Replace", "pattern": {"Regex": r"\p{Cs}"}, "content": "\ufffd"}
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [replace, normalizer]}
    write_json(path, tokenizer)


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Open a headless Chromium, and yield its Selenium driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _browser() or ""
    for flag in FLAGS:
        options.add_argument(flag)
    # With the path of a driver, Selenium downloads none.
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


class _Handler(SimpleHTTPRequestHandler):
    """Serves files from memory, and folders under a name of one part."""

    def do_GET(self) -> None:
        body = self.server.files.get(self.path.lstrip("/"))
        if body is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def translate_path(self, path: str) -> str:
        name, _, rest = path.lstrip("/").partition("/")
        self.directory = os.fspath(self.server.folders.get(name, os.devnull))
        return super().translate_path(f"/{rest}")

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def _serve(folders: dict[str, Path], files: dict[str, bytes]) -> Iterator[str]:
    """Serve folders and files to programs on this machine, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folders, server.files = folders, files
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _request(model: str | os.PathLike, texts: Sequence[str], precision: str) -> bytes:
    request = {"model": os.fspath(model), "dtype": DTYPES[precision], "texts": list(texts)}
    return json.dumps(request).encode("ascii")  # lone surrogates, which UTF-8 does not have, are escaped


def _to_array(folder: Path, found: list[list[float] | None]) -> np.ndarray:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    nothing = [np.nan] * len(config["id2label"])
    return np.array([nothing if scores is None else scores for scores in found], np.float32).reshape(-1, len(nothing))


def _package(name: str, *starts: Path) -> Path | None:
    """Return the folder of a package, looked for as Node.js does from each start."""
    places = [Path(path) for path in os.environ.get("NODE_PATH", "").split(os.pathsep) if path]
    places += [above / "node_modules" for start in map(Path.resolve, starts) for above in (start, *start.parents)]
    return next((place / name for place in places if (place / name / "package.json").is_file()), None)


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _library_version() -> str:
    return json.loads((find_library() / "package.json").read_text(encoding="utf-8"))["version"]


@cache
def _version_of(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()


def _error_in(output: str) -> str:
    """Return the line of Node.js's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it stopped without a message"]
    return one_line(ValueError(next((line for line in lines if "Error:" in line), lines[-1])))
