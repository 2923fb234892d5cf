"""Runs killed with signal 9 and resumed give the results of uninterrupted ones (`scripts/kill_runs.py`, shortened)."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_runs.py"


@pytest.mark.slow
def test_killed_runs_resume_exactly():
    """Five runs on one process and one on two; by default the script kills sixty, half of them on two."""
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("6 kills, 6 resumed runs the same to the bit")
