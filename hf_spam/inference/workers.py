"""Start the processes that score a file together.

Imports nothing slow, so that their libraries can be imported while the first process imports its own.
"""

import multiprocessing
import os
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

SMALL_BYTES = 2**20  # a smaller file is not worth another process


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_context(*, quick: bool) -> BaseContext:
    """Return the start method: forks of a server, which imports the libraries once for all, torch unless `quick`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.scoring", *([] if quick else [f"{__package__}.classifier"])])
    return context


def start_forkserver(source: str, *, quick: bool) -> None:
    """Start the server now, since its imports take seconds, if the source is a file large enough to need it."""
    is_large = os.path.isfile(source) and os.path.getsize(source) > SMALL_BYTES
    if is_large and count_cores() > 1:
        worker_context(quick=quick)  # says what the server imports
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for the first process
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, handler)
