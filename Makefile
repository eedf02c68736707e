# `make run` and `make test` make what they need first. Nothing outside this folder is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: install run test test-all check format ui clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

install: $(VENV)/.installed  ## the environment in .venv

run: install  ## the whole pipeline on this machine; ARGS="--profile smoke" for the miniature
	$(BIN)/python flows/full_pipeline.py run $(ARGS)

test: install  ## the tests, the end-to-end run on the smoke profile included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-all: install  ## the tests and the long proofs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

check: install  ## lint, format, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --noconftest tests/test_imports.py

format: install  ## apply the formatter
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install  ## MLflow on http://127.0.0.1:5000 (PORT=... for another)
	$(BIN)/python -m pipelines ui --port $(or $(PORT),5000)

clean:  ## remove what runs made: data/, .metaflow/, caches (not .venv)
	rm -rf data .metaflow .pytest_cache .mypy_cache .ruff_cache .hypothesis
