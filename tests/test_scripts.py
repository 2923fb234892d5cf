"""Scripts that damage files and kill runs at random find nothing, in a short form."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fuzz_files.py --cases 20 --seed 3", ["20 cases, none failed."]),
        ("mutate_files.py --cases 200 --seed 3", ["200 files, none read wrongly."]),
        ("kill_runs.py --kills 6 --seed 1", ["6 kills, 6 resumed runs the same to the bit"]),
        # This seed starts with a killed command of three processes.
        ("soak_scoring.py --minutes 0 --rows 200 --seed 3", ["command killed", "no row lost, doubled or changed."]),
    ],
)
def test_a_script_finds_nothing(command, words):
    name, *arguments = command.split()
    done = subprocess.run([sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and all(word in done.stdout for word in words), done.stdout + done.stderr
