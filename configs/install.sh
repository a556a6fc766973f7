#!/bin/sh
# Installs packages in the lock's versions: sh install.sh PYTHON ARGUMENTS..., as `pip install` takes them.
# uv does it where it can be had, since it is about ten times faster; pip does it where uv cannot (an index or a proxy that
# only pip's own configuration knows).
set -e
python=$1; shift
here=$(dirname "$0")
versions=$(mktemp); trap 'rm -f "$versions"' EXIT
# PyTorch's build is chosen before all else (CPU or CUDA, from whichever index): whatever is there stays.
{ grep -v '^torch==' "$here/requirements.lock"; "$python" -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])'; } > "$versions"
if "$python" -m uv --version >/dev/null 2>&1 || "$python" -m pip install -q --disable-pip-version-check -c "$versions" uv; then
    "$python" -m uv pip install -q --compile-bytecode --python "$python" -c "$versions" "$@" && exit
    echo "uv could not install that; pip tries" >&2
fi
"$python" -m pip install -q --disable-pip-version-check -c "$versions" "$@"
