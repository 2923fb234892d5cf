"""The processes that share the work of scoring a file: how many, and how they are started.

Imports nothing slow, so that torch can be imported for them while the first process imports it too.
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


def worker_context() -> BaseContext:
    """Return how to start processes: forked from a server that imports this room once for all, but not on Windows."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.scoring"])
    return context


def start_early(source: str) -> None:
    """Start this server now if the source is a file for several processes: its imports take seconds."""
    is_large = os.path.isfile(source) and os.path.getsize(source) > SMALL_BYTES
    if is_large and count_cores() > 1 and worker_context().get_start_method() == "forkserver":
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for the first process
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, handler)
