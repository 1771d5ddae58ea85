# Every task of the project, by one name each: `make` lists them.
# Written for what a Mac has: GNU Make 3.81, a POSIX shell, BSD tools.

SHELL = /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-all torture check format notebook docs clean

PY := .venv/bin/python
NOTEBOOKS := $(wildcard analysis/*.ipynb)

# pyright runs what is installed, and neither looks for a newer one nor says that there is one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_FORCE_VERSION :=
export PYRIGHT_PYTHON_PYLANCE_VERSION :=
# A pip that installs for the user by default cannot install into an environment.
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The whole set-up, as one script of POSIX shell (`$$` is make's way to write `$`). An environment is kept if its
# interpreter runs, is the one that PYTHON names (if it names one), and the set-up was not broken off: pip cannot tell
# which of the packages it was copying are whole. It is complete if .venv/.installed, written last, holds where it was
# made (scripts in it hold that path) and from what. Otherwise it is made anew; one made by hand is kept and completed.
# python3.11 comes first because the pinned versions are tested with it most. A name on PATH proves nothing (pyenv has
# shims that fail when run), so each candidate has to run and say its version.
define SETUP
set -u
here=$$(pwd -P)
stamp="$$here: $$(cat pyproject.toml constraints.txt | cksum)"
installed=$$(cat .venv/.installed 2>/dev/null)
identity='import sys; print(sys.base_prefix, sys.version.split()[0])'
built=$$(.venv/bin/python -c "$$identity" 2>/dev/null) || built=
keep=yes
case $${built##* } in 3.11.*|3.12.*|3.13.*) ;; *) keep='' ;; esac
if [ -n "$${PYTHON:-}" ] && [ "$$("$$PYTHON" -c "$$identity" 2>/dev/null)" != "$$built" ]; then keep=''; fi
if [ -e .venv/.unfinished ]; then keep=''; fi
case $$installed in ""|"$$here: "*) ;; *) keep='' ;; esac
if [ -n "$$keep" ] && [ "$$installed" = "$$stamp" ]; then exit 0; fi

if [ -n "$$keep" ]; then
    echo "Bringing .venv (Python $${built##* }) up to date with pyproject.toml and constraints.txt ..."
    : > .venv/.unfinished
else
    if [ -n "$${PYTHON:-}" ]; then set -- "$$PYTHON"; else set -- python3.11 python3.12 python3.13 python3; fi
    python='' lacking=''
    for candidate in "$$@"; do
        version=$$("$$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null </dev/null) || continue
        case $$version in 3.11.*|3.12.*|3.13.*) ;; *) continue ;; esac
        if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then python=$$candidate; break; fi
        lacking="$$candidate is Python $$version without its venv module: apt install python$${version%.*}-venv"
    done
    if [ -z "$$python" ]; then
        if [ -n "$$lacking" ]; then echo "$$lacking"
        elif [ -n "$${PYTHON:-}" ]; then echo "PYTHON=$$PYTHON is no Python 3.11, 3.12 or 3.13 that runs here: name another one, or none"
        else echo "No Python 3.11, 3.12 or 3.13 found: brew install python@3.12 (Mac), apt install python3.12 python3.12-venv (Linux), or python.org/downloads"
        fi >&2
        exit 1
    fi
    if [ "$$(uname -s)" = Darwin ] && ! "$$python" -c 'import platform as p, sys; sys.exit(p.machine() != "arm64" or int(p.mac_ver()[0].split(".")[0]) < 14)'; then
        echo "$$python ($$version) cannot run PyTorch: it needs macOS 14 or later on Apple silicon, and a Python built for arm64" >&2
        exit 1
    fi
    echo "Setting up .venv with Python $$version: some minutes, once; downloads 0.5 GB, or 3 GB where PyTorch comes with CUDA ..."
    python=$$("$$python" -c 'import sys; print(sys._base_executable)')  # itself may be a part of .venv
    rm -rf .venv
    mkdir .venv
    : > .venv/.unfinished
    "$$python" -m venv .venv || exit 1
fi
rm -f .venv/.installed
if ! .venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"; then
    echo "Set-up failed for the reason that pip gives above; the same command tries again" >&2
    exit 1
fi
echo "$$stamp" > .venv/.unfinished
mv .venv/.unfinished .venv/.installed
endef
export SETUP

help: ## explain every target (this list)
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=/path/to/python chooses the interpreter of .venv (3.11 to 3.13), as in: make demo PYTHON=python3.12"

setup: ## make .venv and install into it; at once where that has been done
	@sh -c "$$SETUP"

demo: setup ## train the four architectures at size nano and print the comparison (10 minutes)
	@$(PY) -m src.train -m +experiment=demo

test: setup check ## lint, types, import floors, and all tests but the slow ones
	@$(PY) -m pytest -n auto --maxprocesses 8 -m "not slow"

test-all: setup check ## the same with the slow tests
	@$(PY) -m pytest -n auto --maxprocesses 8

torture: setup ## kill runs 400 times and compare to the bit; 300 other kills, 2,000 damaged files, 3,000 command lines
	@$(PY) -m tests.integration.torture 400
	@$(PY) -m tests.torture 2000 300
	@$(PY) -m tests.torture.command_lines 3000

check: setup ## format, lint, types, import floors, notebooks without outputs; changes nothing
	@$(PY) -m ruff format --check --quiet . || { echo "Not formatted: make format, or see ruff format --diff" >&2; exit 1; }
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) -m pyright
	@.venv/bin/lint-imports --no-logo
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout --verify $(NOTEBOOKS))

format: setup ## format the code, sort imports, strip the notebooks
	@$(PY) -m ruff check --quiet --fix --exit-zero .
	@$(PY) -m ruff format --quiet .
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout $(NOTEBOOKS))

notebook: setup ## open analysis/ in JupyterLab (installs it the first time)
	@$(PY) -c 'import jupyterlab' 2>/dev/null || $(PY) -m pip install --quiet -c constraints.txt -e ".[notebook]"
	@$(PY) -m jupyterlab analysis

docs: setup ## build the documentation into site/ (installs mkdocs the first time)
	@$(PY) -c 'import material' 2>/dev/null || $(PY) -m pip install --quiet -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site/index.html"

clean: ## remove .venv, site/ and caches; outputs/ stays
	@rm -rf .venv site .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
