"""Runs that are killed with signal 9 and resumed leave what unbroken ones leave: `scripts/kill_runs.py` in short."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_runs.py"


@pytest.mark.slow
def test_runs_that_are_killed_and_resumed():
    """Five of one process and one of two; the script makes sixty, half of them of two."""
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("6 kills, 6 resumed runs the same to the bit")
