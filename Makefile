# The front door. `make quickstart` and `make test` set up everything they need, and can be run again.
#
# PYTHON        interpreter that makes the virtual environment (3.11 or newer)
# VENV          where it lies
# QUICKSTART    options for `mtp quickstart`, such as QUICKSTART="--minutes 1"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3.11
VENV ?= .venv
QUICKSTART ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup quickstart test test-all lint format audit down clean

help:
	@echo "make quickstart   set up, then the whole way: text -> training -> registry -> endpoint"
	@echo "make test         set up, then lint, types and the tests that CI runs"
	@echo "make test-all     the same, and the long tests (an hour and more)"
	@echo "make setup        only the virtual environment in $(VENV)"
	@echo "make lint         ruff and mypy"
	@echo "make audit        known vulnerabilities of the pins (where they can be looked up), and sbom.json"
	@echo "make down         stop the cluster that quickstart left running"
	@echo "make clean        stop it and remove $(VENV)"

setup: $(STAMP)

# A new environment when what it is made of has changed; the stamp is written last, so a broken install is redone.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about 2.5 GB, a few minutes the first time."
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: install it, or name another with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt setuptools wheel
	$(PIP) install --progress-bar on --constraint constraints.txt --editable ".[dev]" | grep --line-buffered -E '^(Collecting|Building|Installing|Successfully)' | cut -c 1-100
	@$(BIN)/mtp --help >/dev/null && touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/mtp quickstart $(QUICKSTART)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -m "not long"

# Minutes each: sharding matrices, killed nodes, rollouts under load, statistics of millions of samples.
test-all: lint
	$(BIN)/python -m pytest

# pip-audit has an environment of its own: it is no dependency of ours, and must not change what it looks at.
audit: $(STAMP)
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/python -m pip --disable-pip-version-check install --quiet "pip-audit>=2.9,<3"; } || echo "pip-audit could not be installed; only sbom.json is made."
	$(BIN)/python -m cluster.audit --pip-audit $(VENV)-audit/bin/pip-audit

down: $(STAMP)
	$(BIN)/mtp down

clean:
	@if [ -x $(BIN)/mtp ]; then $(BIN)/mtp down; fi
	rm -rf $(VENV) $(VENV)-audit
