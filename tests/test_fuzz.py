"""Damaged models and data get a clear answer or a clear error: `scripts/fuzz_files.py` in short."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_files.py"


def test_damaged_files_meet_the_command_line():
    """Twenty of each kind; the script makes five hundred."""
    command = [sys.executable, str(SCRIPT), "--cases", "20", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "40 cases, none failed."
