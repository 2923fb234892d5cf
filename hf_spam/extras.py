"""Packages of an extra, which may not be installed."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an extra; if it is not installed, a `ValueError` says that `what` needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        message = f'{what} needs {package}, which is not installed: pip install "hf-spam[{extra}]"'
        raise ValueError(message) from error
