# Every task of the project, by one name each: `make` lists them.
# Written for what a Mac has: GNU Make 3.81, a POSIX shell, BSD tools.

SHELL = /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-all torture check format notebook docs lock clean

PY := .venv/bin/python
# A worker a core; each begins with tests of its own files, so that fixtures of a file are made once.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
NOTEBOOKS := $(wildcard analysis/*.ipynb)

# pyright runs what is installed, and neither looks for a newer one nor says that there is one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_FORCE_VERSION :=
export PYRIGHT_PYTHON_PYLANCE_VERSION :=
# A pip that installs for the user by default cannot install into an environment.
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## explain every target (this list)
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=/path/to/python chooses the interpreter of .venv (3.11 to 3.14), as in: make demo PYTHON=python3.12"
	@echo "uv installs if it is there, else pip; UV= chooses pip"

setup: ## make .venv with all that runs, tests and checks the program; does nothing if that is there
	@sh scripts/setup.sh test

demo: ## compare four small architectures in ten minutes and say which learned most; installs only what runs
	@sh scripts/setup.sh demo
	@$(PY) -m src.demo

test: setup check ## lint, types, import floors, and all tests but the slow ones
	@$(PY) -m pytest $(PARALLEL) -m "not slow"

test-all: setup check ## the same with the slow tests, among them those in other programs (llama.cpp)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[clients,cuda]'
	@$(PY) -m pytest $(PARALLEL)

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

lock: ## write the hashed lists in requirements/ from pyproject.toml and constraints.txt (needs uv)
	@sh scripts/lock.sh

clean: ## remove .venv, site/ and caches; outputs/ stays
	@rm -rf .venv site .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
