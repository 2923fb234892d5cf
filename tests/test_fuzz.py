"""Damaged models and data files give a clear answer or a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_files.py"


@pytest.mark.slow
def test_damaged_files_give_clear_errors():
    """Runs `scripts/fuzz_files.py` with twenty cases of each kind, instead of its default of five hundred."""
    command = [sys.executable, str(SCRIPT), "--cases", "20", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "40 cases, none failed."
