# Quartet. `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run install dev test proof check bench lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

run: install ## The whole shop on this machine: stores, demo data, API, worker
	@$(BIN)/quartet up

install: $(VENV)/.installed ## .venv with the `quartet` command

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quartet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 " )'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dev: $(VENV)/.dev ## What tests and checks need, into .venv

$(VENV)/.dev: requirements-dev.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

check: dev ## ruff, mypy --strict, import-linter, bandit
	@$(BIN)/ruff check src tests proofs bench
	@$(BIN)/ruff format --check src tests proofs bench
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit -q -r src -c pyproject.toml

test: dev ## Every test, on local servers (15 minutes at most)
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests

proof: dev ## The long proofs: crashes, convergence, every engine (45 minutes at most)
	@$(BIN)/python -m pytest proofs

bench: dev ## The benchmarks of docs/BENCHMARKS.md
	@$(BIN)/python -m bench

lock: ## Renews the two lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock

clean: ## Removes .venv and caches, never the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests proofs bench -name __pycache__ -prune -exec rm -rf {} +
