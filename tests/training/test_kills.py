"""Runs that are killed with signal 9 and resumed end like uninterrupted ones (`scripts/kill_runs.py` in short)."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_runs.py"


@pytest.mark.slow
def test_killed_and_resumed_runs_end_like_uninterrupted_ones():
    """Five runs on one process and one on two; the script by itself kills sixty, half of them on two."""
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("6 kills, 6 resumed runs the same to the bit")
