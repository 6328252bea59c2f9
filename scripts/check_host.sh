#!/bin/sh
# What the set-up needs of the host, checked before anything is downloaded. Argument: the Python to use.
python="${1:-python3}"

fail() {
    echo "set-up stopped: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "no $python here; install Python 3.10 or newer (apt install python3), or name one: make PYTHON=python3.12"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version 2>&1) is too old; Python 3.10 or newer is needed: make PYTHON=python3.12"

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; apt install python3-venv"

"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    fail "the C headers of $python are missing, and the ROS interfaces are built against them; apt install python3-dev"

for compiler in "${CC:-gcc}" "${CXX:-g++}"; do
    command -v "$compiler" >/dev/null 2>&1 ||
        fail "no compiler $compiler, and the ROS interfaces are compiled here; apt install build-essential"
done
