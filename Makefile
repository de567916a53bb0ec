# Every target sets up what it needs; no root, nothing outside this folder (PYTHON=python3.12 picks another interpreter).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-steps bench-grpc bench-control-plane bench-rotation clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml
	@echo "==> creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "proxyless needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing proxyless and its tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(READY)  ## a whole mesh on this machine: a canary rollout, measured
	@$(BIN)/proxyless demo

# Three at a time: most of a test's time it waits for processes to start and to drain.
test: $(READY)  ## all tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

lint: $(READY)  ## style, types, layer rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-control-plane: $(READY)  ## how the control plane scales; ARGS='--services 100 --clients 50' for a quick look
	@$(BIN)/python -m benchmarks.control_plane --grow $(ARGS)

bench: $(READY)  ## what a request costs, beside plain clients and a pair of Envoys (ARGS=--quick takes 3 minutes)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.requests $(ARGS)

bench-steps: $(READY)  ## bytecode instructions of a request, function by function: the same on a machine that is busy
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.steps $(ARGS)

bench-grpc: $(READY)  ## what a gRPC call costs, beside grpcio, its own xDS and a pair of Envoys (ARGS=--quick takes 2 minutes)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks.grpc_calls $(ARGS)

bench-rotation: $(READY)  ## p99 while certificates change, and that no request fails
	@$(BIN)/python -m benchmarks.rotation $(ARGS)

clean:  ## remove everything the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache
