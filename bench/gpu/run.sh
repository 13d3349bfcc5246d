#!/usr/bin/env bash
# Measures this project on a GPU, from the folder that it lies in: see README.md beside it.
#   ./run.sh                  every stage, within 540 seconds
#   ./run.sh --only infer     one of them
#   ./run.sh --dry-run        small models on the CPU, to try the scripts themselves
#   ./run.sh --help
set -u
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
    echo "run.sh: there is no $python; set PYTHON to one of 3.11 or newer that has torch and timm" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "run.sh: $("$python" --version) is too old; set PYTHON to one of 3.11 or newer that has torch and timm" >&2
    exit 1
fi
exec "$python" -u "$here/stages.py" "$@"
