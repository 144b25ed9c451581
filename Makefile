# Everything a newcomer, a developer and CI run. Each target makes what it needs: only Python 3.11+, git and make are
# asked for. uv comes from PyPI into .venv when it is not on the machine.

PYTHON ?= python3
VENV := .venv
UV := $(shell command -v uv 2>/dev/null || echo $(VENV)/bin/uv)
STAMP := $(VENV)/.synced

.PHONY: help setup demo demo-full test check bench campaign docs build clean

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | sort -u | expand -t 12

# The install holds a copy of what other programs load by name, so it is made anew when that changes.
$(STAMP): pyproject.toml uv.lock $(wildcard cli/outside/runfold/*.py)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null 2>&1 || test -x $(VENV)/bin/uv || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) sync --frozen --inexact --all-extras --quiet --reinstall-package runfold
	@touch $@

setup: $(STAMP)  ## Make the virtual environment

demo: $(STAMP)  ## Record a part of networkx's test suite in four shards (about a minute)
	$(VENV)/bin/python docs/tutorial/demo.py

demo-full: $(STAMP)  ## Record all of it
	$(VENV)/bin/python docs/tutorial/demo.py --full

test: $(STAMP)  ## Run the tests, PostgreSQL included
	$(VENV)/bin/python -m pytest tests --numprocesses=logical --maxprocesses=4 --dist=loadfile

check: $(STAMP)  ## Run the lints: format, ruff, types, import contracts
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(STAMP)  ## Measure, as ratios against peers and the raw databases
	$(UV) sync --frozen --inexact --all-extras --group bench --quiet
	$(VENV)/bin/python tests/benchmarks/run.py

campaign: $(STAMP)  ## Run the long forms of the fault and model tests
	RUNFOLD_CAMPAIGN=1 $(VENV)/bin/python -m pytest tests --timeout=7200

docs: $(STAMP)  ## Write the pages and schemas that the code says itself
	$(VENV)/bin/python docs/reference/generate.py

build: $(STAMP)  ## Build the wheel and the source distribution
	$(UV) build --quiet

clean:  ## Remove what was made
	rm -rf $(VENV) dist .demo .mypy_cache .ruff_cache .hypothesis .import_linter_cache
