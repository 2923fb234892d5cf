# Sourced by the other scripts: makes the virtual environment once, and again when what it is made from changes.
# Leaves `python` and `hf-spam` of the environment on the PATH. $1: an extra of the package to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=${1:-}
venv=${HF_SPAM_VENV:-.venv}
made_from=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
stamp="$venv/.made-from-${extra:-none}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$made_from" ]; then
  echo "Installing into $venv ..."
  python3 -m venv "$venv"
  # The constraint on torch is given by itself first: its exact version picks the small build where there is one.
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" -c constraints.txt
  "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
  echo "$made_from" >"$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
case "$venv" in /*) export PATH="$venv/bin:$PATH" ;; esac
