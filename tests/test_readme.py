"""What the README shows runs, and prints what the README says it prints."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import click
import pytest

from hf_spam.cli import cli
from hf_spam.conversion.loading import BUNDLED

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def run(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        # A model that this reader has trained: here the bundled one stands in for it.
        exec(code.replace("runs/quickstart", str(BUNDLED)), {})
    return printed.getvalue()


def test_first_example_prints_what_stands_below_it():
    at = next(i for i, (language, _) in enumerate(BLOCKS) if language == "python")
    assert BLOCKS[at + 1][0] == "" and run(BLOCKS[at][1]) == BLOCKS[at + 1][1]


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"][1:])
def test_other_examples_run(code):
    assert run(code)


def test_commands_exist_with_their_flags():
    """Every `hf-spam` line is parsed by the real command line, up to the point where it would begin to work."""
    lines = [line.split(" #")[0] for language, code in BLOCKS if language == "bash" for line in code.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("hf-spam ")]
    assert len(commands) >= 6
    for _, name, *arguments in commands:
        command = cli.commands[name]
        with contextlib.suppress(click.exceptions.Exit):
            command.make_context(name, list(arguments))


def test_scripts_exist():
    names = set(re.findall(r"scripts/\w+\.(?:sh|py)", README))
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= names
    assert all((Path(__file__).parents[1] / name).is_file() for name in names)


def test_length():
    assert len(README.splitlines()) < 200
