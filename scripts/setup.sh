#!/bin/sh
# Make .venv and install into it. The argument says how much: `demo` for what the program needs to run, `test` for the
# development tools as well. Written for what a Mac has: a POSIX shell and BSD tools.
#
# The packages come from requirements/: exact versions with hashes, so pip has nothing to resolve. PyTorch is not in
# there, because its builds (CPU, CUDA, ROCm, Mac) differ in hashes and in what they need; constraints.txt pins it, and
# installing the project itself brings it.
#
# .venv/.installed, written last, holds the folder (scripts in .venv contain its path), the level and a checksum of the
# files that the versions come from. .venv/.unfinished exists while packages are copied: after an interruption nobody
# knows which of them are whole. .venv is made again if that file exists, if the folder was moved, if its interpreter
# does not run or if PYTHON names another one. Otherwise it is kept, one that was made by hand too.
set -u
level=${1-}
case $level in demo|test) ;; *) echo "usage: sh scripts/setup.sh demo|test" >&2; exit 2 ;; esac
sources='pyproject.toml constraints.txt requirements/demo.txt requirements/test.txt'
here=$(pwd -P)
# shellcheck disable=SC2086
checksum=$(cat $sources | cksum)
identity='import sys; print(sys.base_prefix, sys.version.split()[0])'

is_supported() { case $1 in 3.11.*|3.12.*|3.13.*|3.14.*) ;; *) return 1 ;; esac; }

# Without output: a name on PATH need not run (pyenv has shims that fail).
ask() { "$1" -c "$2" 2>/dev/null </dev/null; }

built=$(ask .venv/bin/python "$identity") || built=
installed=$(cat .venv/.installed 2>/dev/null)
keep=yes
is_supported "${built##* }" || keep=''
if [ -n "${PYTHON:-}" ] && [ "$(ask "$PYTHON" "$identity")" != "$built" ]; then keep=''; fi
if [ -e .venv/.unfinished ]; then keep=''; fi
case $installed in ""|"$here: "*) ;; *) keep='' ;; esac
if [ -n "$keep" ]; then
    case $installed in "$here: $level $checksum"|"$here: test $checksum") exit 0 ;; esac
fi

uv=$(command -v "${UV-uv}") || uv=''
if [ -n "$keep" ]; then
    python=.venv/bin/python
else
    # 3.11 comes first because the versions are tested with it most.
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"
    else set -- python3.11 python3.12 python3.13 python3.14 python3 ${uv:+"$("$uv" python find --system '>=3.11,<3.15' 2>/dev/null)"}
    fi
    python='' lacking=''
    for candidate in "$@"; do
        version=$(ask "$candidate" 'import sys; print("%d.%d.%d" % sys.version_info[:3])') || continue
        is_supported "$version" || continue
        if [ -n "$uv" ] || ask "$candidate" 'import ensurepip, venv'; then python=$candidate; break; fi
        lacking="$candidate is Python $version without its venv module: apt install python${version%.*}-venv"
    done
    if [ -z "$python" ]; then
        if [ -n "$lacking" ]; then echo "$lacking"
        elif [ -n "${PYTHON:-}" ]; then echo "PYTHON=$PYTHON is no Python 3.11 to 3.14 that runs here: name another one, or none"
        else echo "No Python 3.11 to 3.14 found: brew install python (Mac), apt install python3 python3-venv (Linux), or python.org/downloads"
        fi >&2
        exit 1
    fi
    if [ "$(uname -s)" = Darwin ] && ! ask "$python" 'import platform as p, sys; sys.exit(p.machine() != "arm64" or int(p.mac_ver()[0].split(".")[0]) < 14)'; then
        echo "$python ($version) cannot run PyTorch: it needs macOS 14 or later on Apple silicon, and a Python built for arm64" >&2
        exit 1
    fi
    python=$(ask "$python" 'import sys; print(sys._base_executable)')  # the candidate itself may be part of .venv
fi

# uv does not read pip's settings: where they name other places for packages, pip installs.
if [ -n "$uv" ]; then
    case $("$python" -m pip config list 2>/dev/null) in *index*|*find-links*) uv='' ;; esac
fi
# Neither compiles all modules to bytecode, which takes longer than the rest.
install() {
    if [ -n "$uv" ]; then "$uv" pip install --quiet --python .venv/bin/python "$@"
    else .venv/bin/python -m pip install --quiet --no-compile "$@"
    fi
}

if [ -n "$keep" ]; then
    echo "Updating .venv (Python ${built##* }) from $sources ..."
else
    echo "Setting up .venv with Python $version: a few minutes, once; downloads 0.4 GB, or 3 GB where PyTorch comes with CUDA ..."
    rm -rf .venv
    mkdir .venv
fi
: > .venv/.unfinished
rm -f .venv/.installed
if [ -z "$keep" ]; then
    if [ -n "$uv" ]; then "$uv" venv --quiet --allow-existing --seed --python "$python" .venv
    else "$python" -m venv .venv
    fi || exit 1
fi
set -- -r requirements/demo.txt
if [ "$level" = test ]; then set -- "$@" -r requirements/test.txt; fi
if ! install --no-deps --require-hashes "$@" || ! install --no-build-isolation -c constraints.txt -e .; then
    echo "Set-up failed for the reason given above; the same command tries again" >&2
    exit 1
fi
if [ "$level" = test ]; then
    # Compiling can warn, and warnings are errors in tests: compile before. Some packages hold files of other Pythons.
    .venv/bin/python -W ignore -m compileall -qq -j 0 .venv/lib || true
else
    # Compile what a job imports: otherwise the first one starts half as fast, and all where bytecode is not written.
    PYTHONDONTWRITEBYTECODE='' .venv/bin/python -W ignore -c 'import torch._dynamo, src.runs.runner, src.sweep.launch' || true
fi
echo "$here: $level $checksum" > .venv/.unfinished
mv .venv/.unfinished .venv/.installed
