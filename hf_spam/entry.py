"""Run a command line: signals, errors, exit codes and logging."""

import logging
import os
import signal
import sys
from typing import NoReturn

import click

from .signals import RunInterrupted
from .text import printable

# The libraries read these when they are imported. This package reports what a user needs to know.
QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # it warns about every retry
    "TRANSFORMERS_VERBOSITY": "error",
}


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command line and exit. A user's mistake is reported in one line on standard error."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # an exception closes files
    try:
        command(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        hint = f" (see {error.ctx.command_path} --help)" if getattr(error, "ctx", None) else ""
        _fail(name, error.format_message() + hint, error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error  # Click raises Abort from KeyboardInterrupt
        number = cause.number if isinstance(cause, RunInterrupted) else signal.SIGINT
        if not is_main_process():
            sys.exit(128 + number)
        _fail(name, str(cause) or "interrupted", 128 + number)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        sys.stdout = None
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == __package__:  # a bug
            raise
        _fail(name, f'{package} is not installed: pip install "hf-spam[train]"', 1)
    except (ValueError, OSError) as error:
        _fail(name, str(error), 1)
    sys.exit(0)


def _fail(name: str, message: str, code: int) -> NoReturn:
    """Print an error and exit. The message may quote file names and contents, so it is made printable."""
    first, *rest = message.strip().splitlines() or ["failed"]
    if not any(line.startswith("  ") for line in rest):  # an indented list of findings keeps its lines
        first, rest = " ".join([first, *rest]), []
    click.echo("\n".join(map(printable, [f"{name}: {first}", *rest])), err=True)
    sys.exit(code)


def is_main_process() -> bool:
    """Return whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"  # asking Accelerate would fix its state before the run sets it up


def show_log() -> None:
    """Send the log of this package to standard error, from the main process only."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hf_spam").setLevel(logging.INFO if is_main_process() else logging.WARNING)
