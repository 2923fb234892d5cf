"""Runs `hf-spam` in the process of the tests, which saves the seconds that a new process needs to import torch."""

import sys
from typing import NamedTuple
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from hf_spam.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


def flags_of(settings: dict[str, object]) -> list[str]:
    """Return settings as arguments of the command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def hf_spam(*arguments: object, stdin: str | bytes = "") -> Result:
    """Run the command line, and return its exit code and what it prints."""
    argv = ["hf-spam", *map(str, arguments)]
    with CliRunner().isolation(input=stdin) as (out, err, _), patch.object(sys, "argv", argv):
        with pytest.raises(SystemExit) as exit:
            main()
        sys.stdout.flush()
        sys.stderr.flush()
    return Result(exit.value.code, out.getvalue().decode(), err.getvalue().decode())
