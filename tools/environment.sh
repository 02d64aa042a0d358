# Sourced by tools/demo and tools/test: sets up .venv inside the checkout, and only what has changed since.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "agf-fx needs Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setting up .venv with $("$python" --version) ..."
    if ! "$python" -m venv --clear .venv; then
        echo "the virtual environment could not be made; on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi

# What pip says, less all but the packages of a megabyte and more: a line when each of them starts to come.
progress() {
    sed -u -n -E \
        -e 's/^ *(Downloading|Using cached) ([^ ]+) (\([0-9.]+ [MG]B\)).*/  \2 \3/p' \
        -e 's/^Installing collected packages:.*/  unpacking them .../p'
}

wanted=$(cat pyproject.toml constraints.txt tools/environment.sh | sha256sum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "installing agf-fx with the pinned torch and torchvision; the first time this takes a few minutes ..."
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' |
        progress
    echo "$wanted" >.venv/installed
fi
