#!/usr/bin/env bash
# tests/installed.sh PYTHON FILE: installs a wheel or an sdist into an environment of its own, with what decisions need,
# and runs it where nothing of the clone can be imported.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$1" -m venv "$place/venv"
"$place/venv/bin/pip" install --progress-bar off -q "$(realpath "$2")[cpu]"
cd "$place"
decision=$(venv/bin/speckv select --signals 0.9 0.82 1.7 0.55 --compression nf4 --json)
echo "$decision" | grep -q '"gamma": 8'
venv/bin/python -c "
from importlib.metadata import files
from runtime import GammaSelector
from runtime.artifacts import MODELS
from runtime.manifest import read_files, read_manifest
assert 'site-packages' in str(MODELS), MODELS
assert GammaSelector().select((0.9, 0.82, 1.7, 0.55), 'nf4').gamma == 8
for package in MODELS.iterdir():
    read_files(package, *read_manifest(package).hashes)
names = [str(file) for file in files('speckv')]
assert sum(name.endswith(('LICENSE', 'NOTICE')) and 'licenses' in name for name in names) == 5, names
assert not any(name.startswith('tests/') for name in names)
"
if venv/bin/speckv generate Hello 2> error; then exit 1; fi  # torch is not there: one line, and what to install
grep -q "pip install 'speckv\[loop\]'" error
[ "$(wc -l < error)" = 1 ]
echo "$(basename "$2"): installed and run"
