#!/usr/bin/env bash
# Installs the package with its test requirements, checks the style and runs all tests. Arguments go to pytest.
# `-m runtimes` installs Transformers.js, selenium and, as root on Debian, Chromium as well.
case " $* " in *" -m runtimes "*) extra=dev,runtimes ;; *) extra=dev ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$extra"
if [ "$extra" != dev ]; then
  # What cannot be installed is no error: the tests that need it are skipped, and say what to install.
  packages=()
  command -v npm >/dev/null || packages+=(nodejs npm)
  command -v chromedriver >/dev/null || packages+=(chromium chromium-driver)
  if [ ${#packages[@]} != 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    (apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}") || true
  fi
  library=@huggingface/transformers version=4.3.1
  if ! grep -qs "\"version\": \"$version\"" "node_modules/$library/package.json" && command -v npm >/dev/null; then
    npm install --prefix . --no-save --no-package-lock --ignore-scripts --no-audit --no-fund "$library@$version" || true
  fi
fi
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile "$@"  # one thread per test; all tests of a file in one process
