"""Damaged models and data files in any shape give a clear answer or a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "cases", "last_line"),
    [("fuzz_files.py", 20, "20 cases, none failed."), ("mutate_files.py", 200, "200 files, none read wrongly.")],
)
def test_damaged_and_odd_files_give_clear_errors(script, cases, last_line):
    """Fewer cases than the default of five hundred."""
    command = [sys.executable, str(SCRIPTS / script), "--cases", str(cases), "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == last_line
