#!/usr/bin/env bash
# Installs the package with its test requirements, checks the style and runs all tests. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile "$@"  # one thread per test; all tests of a file in one process
