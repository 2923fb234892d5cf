#!/usr/bin/env bash
# Installs the package with what the tests need, checks the style and runs every test. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile "$@"  # each test on one thread, the tests of a file on one process
