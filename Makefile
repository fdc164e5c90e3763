# Everything runs in .venv, made on first use and again when pyproject.toml changes.
#
#   make demo       export, compile, check and upscale a short clip
#   make test       the tests, without the slow ones          make test-full  all of them
#   make lint       ruff, mypy, import-linter                 make bench      speed of every backend here
#   make docs       pages that are written from data          make clean      remove .venv and caches
#
# PYTHON    the interpreter to make .venv with: 3.11, 3.12 or 3.13 (default: the first of them that runs)
# TORCH     what pip installs for PyTorch; installed first, so that no other package picks its version
# JOBS      test processes (default 2); each SDK gets one thread, or two processes would contend for the cores
# ARGS      further arguments of the tool a target runs: make test ARGS='-k warp'

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := test
MAKEFLAGS += --no-print-directory

# A version manager's shim may be on the path and yet not run: ask each.
IS_SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c '$(IS_SUPPORTED)' 2>/dev/null && echo "$$p" && break; done)
TORCH ?= torch==2.13.0
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Twice quiet: errors still show; a machine's own package sources, which warnings would name, don't.
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 TVM_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
CODE := .

.PHONY: venv demo test test-full lint format bench docs clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(IS_SUPPORTED)' || { echo "PYTHON must be Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@echo "[1/3] virtual environment $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@echo "[2/3] PyTorch ($(TORCH))"
	@$(PIP) install '$(TORCH)'
	@echo "[3/3] superlower, its SDKs and the development tools: some minutes"
	@$(PIP) install --editable '.[all]' --group dev
	@touch $@

demo: $(STAMP)
	@$(BIN)/superlower demo $(ARGS)

test: $(STAMP)
	@$(PYTEST) -m 'not slow' $(ARGS)

test-full: $(STAMP)
	@$(PYTEST) $(ARGS)

# Each runs whatever the one before it found.
LINTERS := 'ruff check --quiet $(CODE)' 'ruff format --quiet --check $(CODE)' 'mypy' 'lint-imports --no-logo'

lint: $(STAMP)
	@status=0; for tool in $(LINTERS); do echo "$$tool"; $(BIN)/$$tool || status=1; done; exit $$status

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

bench: $(STAMP)
	@$(BIN)/python benchmarks/speed.py $(ARGS)

docs: $(STAMP)
	@$(BIN)/python docs/generate_targets.py
	@$(BIN)/python docs/generate_lowerings.py
	@$(BIN)/python docs/generate_known_bugs.py
	@$(BIN)/python docs/generate_models.py

clean:
	@rm -rf $(VENV) build dist demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
