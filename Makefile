# The commands of the project. `make` lists them; each makes what it needs: a virtual environment of its own in .venv,
# the tools from pyproject.toml's dependency groups, and a release build of the native part.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The interpreter that .venv is made with: 3.11 or newer.
PYTHON ?= python3
# A program that prints a line "VERSION PATH" for each interpreter of the matrix, or for those named on its command
# line. Where there is none, the interpreters on PATH are taken.
PYTHONS ?= $(wildcard ../shared/tools/pythons)
# The matrix, or a part of it: make test-matrix ONLY="3.14 3.13t"
ONLY ?=
# What is measured (every room, if empty), and further options for the harness: make bench ROOM=timing BENCH_ARGS=--quick
ROOM ?=
BENCH_ARGS ?=
BENCH_RESULTS ?= benches/results
# What the demo reads: the interpreter's own standard library, if empty.
DEMO_PATH ?=
# Further options, for instance PYTEST_ARGS="-k timing -x" or CARGO_FLAGS=--locked
PYTEST_ARGS ?=
CARGO_FLAGS ?=

# Real input for the tests that want some; they are skipped, saying so, where it is missing.
ifndef FERRULE_TEST_DATA
ifneq ($(wildcard ../shared/data),)
export FERRULE_TEST_DATA := $(abspath ../shared/data)
endif
endif

# Another environment that happens to be active must not lead pip, maturin or PyO3 astray.
unexport VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV PYTHONPATH PYTHONHOME PYO3_PYTHON PIP_USER PIP_TARGET PIP_PREFIX
unexport CARGO_BUILD_TARGET CARGO_TARGET_DIR
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# rustup's home is not on the PATH of every login.
export PATH := $(PATH):$(HOME)/.cargo/bin

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
STAMPS := .venv/.stamps
# Cargo asks for the interpreter on every run: always the same answer, or it would compile PyO3 anew each time.
CARGO := PYO3_PYTHON=$(BIN)/python cargo

RUST_SOURCES := $(shell find src -name '*.rs' 2>/dev/null) $(wildcard build.rs Cargo.toml Cargo.lock pyproject.toml)

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(STAMPS)/build ## build the native part in release mode, into .venv

.PHONY: demo
demo: build ## one job over real input (DEMO_PATH=), and what was measured
	$(BIN)/python -m ferrule demo $(DEMO_PATH) --timeline target/demo-timeline.html

.PHONY: test test-cores test-package
test: test-cores test-package ## the Rust cores' tests, then pytest
test-cores: $(STAMPS)/venv
	@echo "--- cargo test: the cores, without Python"
	$(CARGO) test --no-default-features $(CARGO_FLAGS)
test-package: build $(STAMPS)/test $(STAMPS)/extras
	@echo "--- pytest: the package, on $$($(BIN)/python --version)"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: chaos
chaos: build $(STAMPS)/test ## 10,000 random kills of worker processes
	FERRULE_CHAOS=10000 $(BIN)/python -m pytest tests/test_chaos.py $(PYTEST_ARGS)

# In three parts, so that `make --keep-going lint` shows all that is wrong.
.PHONY: lint lint-rust lint-python lint-types
lint: lint-rust lint-python lint-types ## formatting, clippy, ruff, mypy, basedpyright, stubtest
lint-rust: $(STAMPS)/venv
	cargo fmt --check
	$(CARGO) clippy --all-targets $(CARGO_FLAGS) -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features $(CARGO_FLAGS) -- -D warnings
lint-python: $(STAMPS)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
lint-types: build $(STAMPS)/lint $(STAMPS)/test $(STAMPS)/extras $(STAMPS)/peers
	$(BIN)/mypy
	$(BIN)/basedpyright --warnings
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml ferrule._core

.PHONY: format
format: $(STAMPS)/lint ## format Rust and Python
	cargo fmt
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: test-matrix
test-matrix: $(STAMPS)/build-tools ## the tests on every interpreter (ONLY="3.14 3.13t" for some)
	$(BIN)/python scripts/matrix.py test --pythons="$(PYTHONS)" --only="$(ONLY)" --cargo-flags="$(CARGO_FLAGS)" -- $(PYTEST_ARGS)

.PHONY: bench
bench: $(STAMPS)/build-tools ## measure a room (ROOM=timing) against its peers (ONLY=3.11 for another interpreter)
	$(BIN)/python scripts/matrix.py bench --pythons="$(PYTHONS)" --only="$(ONLY)" --cargo-flags="$(CARGO_FLAGS)" -- $(ROOM) --json $(BENCH_RESULTS) $(BENCH_ARGS)

.PHONY: readme-table
readme-table: build ## write the tables of README and docs/performance.md from what was measured
	$(BIN)/python -m ferrule._compare.readme README.md $(filter %-3.14.json,$(wildcard $(BENCH_RESULTS)/*.json))
	$(BIN)/python -m ferrule._compare.readme docs/performance.md $(filter-out %-3.14.json,$(wildcard $(BENCH_RESULTS)/*.json))

.PHONY: docs
docs: $(STAMPS)/docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

.PHONY: clean
clean: ## remove all that the other commands made
	rm -rf .venv .matrix target site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis python/ferrule/_core*.so
	find python tests benches scripts examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- what the commands stand on -------------------------------------------------------------------------------------

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) must be Python 3.11 or newer; choose one with PYTHON=..." >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "make: Rust is needed: no cargo on PATH" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --upgrade 'pip>=25.1'
	@mkdir -p $(@D) && touch $@

$(STAMPS)/build-tools: $(STAMPS)/venv pyproject.toml
	$(PIP) install --group build
	@touch $@

$(STAMPS)/build: $(STAMPS)/build-tools $(RUST_SOURCES)
	VIRTUAL_ENV=$(VENV) PYO3_PYTHON=$(BIN)/python $(BIN)/maturin develop --release $(CARGO_FLAGS)
	@touch $@

$(STAMPS)/test $(STAMPS)/lint $(STAMPS)/docs: $(STAMPS)/%: $(STAMPS)/venv pyproject.toml
	$(PIP) install --group $*
	@touch $@

# Not every interpreter has a wheel for each of these.
$(STAMPS)/extras $(STAMPS)/peers: $(STAMPS)/%: $(STAMPS)/venv pyproject.toml
	$(BIN)/python scripts/matrix.py install $*
	@touch $@
