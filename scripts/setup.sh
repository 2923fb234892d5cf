# Sourced by the other scripts: creates the virtual environment, and updates it when its requirements have changed.
# Puts `python` and `hf-spam` of the environment on the PATH. $1: an extra of the package to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=${1:-}
venv=${HF_SPAM_VENV:-.venv}
requirements=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
stamp="$venv/.made-from-${extra:-none}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$requirements" ]; then
  echo "Installing into $venv; this takes a few minutes ..."
  python3 -m venv "$venv"
  # Torch first, alone and with its exact version: that picks the small CPU build where there is one.
  # Not byte-compiled: Python compiles those modules that are imported, at their first import, which is faster.
  "$venv/bin/pip" install -qq --no-compile --disable-pip-version-check "$(grep '^torch==' constraints.txt)" -c constraints.txt
  "$venv/bin/pip" install -qq --no-compile --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
  echo "$requirements" >"$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
case "$venv" in /*) export PATH="$venv/bin:$PATH" ;; esac
