"""Run JavaScript with Transformers.js in a page of a headless Chromium, with everything served from this machine."""

import json
import shutil
import tempfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hf_spam.conversion.transformers_js import LIBRARY, find_library

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run")
POLL_SECONDS, MAX_SECONDS = 100, 3600  # Selenium itself gives up on a busy page after 120
PAGE = f"""<!doctype html><title>Transformers.js</title>
<script type="importmap">{json.dumps({"imports": {LIBRARY: "/library/dist/transformers.min.js"}})}</script>"""
START = """
(async () => {
  const { env } = await import("@huggingface/transformers");
  env.backends.onnx.wasm.wasmPaths = "/onnxruntime-web/dist/";  // by default, they come from a CDN
  return await (async () => { %s })();
})().then((found) => (window.answer = { found }), (error) => (window.answer = { error: String(error) }));
"""


def skip_without_chromium() -> None:
    """Skip a test if something that it needs is not installed."""
    pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    if not find_library():
        pytest.skip(f"needs {LIBRARY}: npm install --ignore-scripts {LIBRARY}")


def open_chromium(**capabilities: Any) -> Any:
    """Return the Selenium driver of a headless Chromium; it is a context manager."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    for name, value in capabilities.items():
        options.set_capability(name, value)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *about: object) -> None:
        pass


def run_in_page(script: str, folders: dict[str, Path], files: dict[str, bytes]) -> Any:
    """Return what the body of an asynchronous function returns; folders and files are served under their names."""
    library = find_library()
    places = (library / "node_modules", library.parents[1])
    web = next(place / "onnxruntime-web" for place in places if (place / "onnxruntime-web").is_dir())
    with tempfile.TemporaryDirectory() as root:
        for name, folder in {"library": library, "onnxruntime-web": web, **folders}.items():
            Path(root, name).symlink_to(folder)
        for name, content in {"page.html": PAGE.encode(), **files}.items():
            Path(root, name).write_bytes(content)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=root))
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with open_chromium() as browser:
                browser.set_script_timeout(POLL_SECONDS)
                browser.get(f"http://127.0.0.1:{server.server_port}/page.html")
                browser.execute_script(START % script)
                end = time.monotonic() + MAX_SECONDS
                while not (answer := browser.execute_script("return window.answer")):
                    assert time.monotonic() < end
                    time.sleep(0.1)
        finally:
            server.shutdown()
            server.server_close()
    assert "error" not in answer, answer
    return answer["found"]
