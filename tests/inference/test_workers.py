"""Processes for scoring are prepared while the first one imports its libraries, if the file is large enough."""

import signal

from command_line import hf_spam
from tiny_models import save_tiny

from hf_spam.inference import workers


def test_the_server_is_started_early_for_large_files_only(tmp_path, monkeypatch):
    """Ctrl-C must not reach it, and must reach the first process as before."""
    handlers = []
    monkeypatch.setattr(workers.forkserver, "ensure_running", lambda: handlers.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(workers, "count_cores", lambda: 2)
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_bytes(b"x")
    large.write_bytes(bytes(workers.SMALL_BYTES + 1))
    before = signal.getsignal(signal.SIGINT)
    for source in (small, large, "-", "alice/inbox", tmp_path):
        workers.start_forkserver(str(source), quick=True)
    assert handlers == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) == before
    monkeypatch.setattr(workers, "count_cores", lambda: 1)
    workers.start_forkserver(str(large), quick=True)
    assert len(handlers) == 1


def test_score_starts_the_server_if_several_processes_may_be_used(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(workers, "start_forkserver", lambda source, quick: started.append((source, quick)))
    source = tmp_path / "in.txt"
    source.write_text("see you at home\n")
    for flags in ((), ("--num-processes", "1")):
        done = hf_spam("score", source, tmp_path / f"out{len(flags)}.csv", *flags)
        assert done.code == 0, done.err
    assert hf_spam("score", source, "-").code == 0
    model = save_tiny(tmp_path / "tiny")
    assert hf_spam("score", source, tmp_path / "out.csv", "--model", model).code == 0
    assert started == [(str(source), True), (str(source), False)]
