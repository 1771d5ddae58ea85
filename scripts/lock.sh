#!/bin/sh
# Write requirements/demo.txt and requirements/test.txt: every package that pyproject.toml asks for, directly or not, at
# the version in constraints.txt and with the hashes of its files, for each supported Python on Linux and Mac. Needs uv.
#
# The lists leave out PyTorch and its CUDA libraries (see scripts/setup.sh). test.txt holds what `dev` adds to demo.txt.
set -eu
command -v uv >/dev/null || { echo "uv is not installed: brew install uv (Mac), or pip install uv" >&2; exit 1; }
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

# Print the packages of list $2 that list $1 lacks.
subtract() {
    awk 'FILENAME == ARGV[1] { seen[$0]; next }
        /^[^ ]/ { skip = ($0 in seen) || /^(torch|triton|nvidia-[^=]*|cuda-[^=]*)==/ }
        !skip' "$1" "$2"
}

resolve() {
    uv pip compile --quiet --no-config --universal --python-version 3.11 --no-annotate --no-header --generate-hashes \
        --constraints constraints.txt "$@" pyproject.toml
}

resolve --output-file "$lists/demo"
resolve --output-file "$lists/test" --extra dev
header='# Written by scripts/lock.sh (make lock) from pyproject.toml and constraints.txt. Installed by scripts/setup.sh.'
{ echo "$header"; subtract /dev/null "$lists/demo"; } > requirements/demo.txt
{ echo "$header"; subtract "$lists/demo" "$lists/test"; } > requirements/test.txt
