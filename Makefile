# `make run` and `make test` make what they need first. Nothing outside this folder is touched.
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
ARGS ?=

# The first Python that fits; `make PYTHON=/path/to/python` names another.
FITS := import sys; sys.exit((sys.version_info.major, sys.version_info.minor) not in ((3, 11), (3, 12)))
VENVS := import ensurepip, venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
    if $$name -c '$(FITS)' && $$name -c '$(VENVS)'; then echo $$name; exit; fi; done 2>/dev/null; \
    for name in python3.11 python3.12 python3; do \
    if $$name -c '$(FITS)'; then echo $$name; exit; fi; done 2>/dev/null)
INSTALL := install Python 3.11 or 3.12 with its venv module (Debian, Ubuntu: python3.11 python3.11-venv; \
macOS: brew install python@3.11), or name one: make PYTHON=/path/to/python

.PHONY: python install run test test-all check format ui manifests audit clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

python:  ## the Python that .venv is made with
	@python='$(PYTHON)'; told() { echo "make: $$1; $(INSTALL)" >&2; exit 1; }; \
	test -n "$$python" || told "no Python 3.11 or 3.12 found"; \
	"$$python" -c '$(FITS)' 2>/dev/null || told "$$python is no Python 3.11 or 3.12"; \
	"$$python" -c '$(VENVS)' 2>/dev/null || told "$$python has no venv module"; \
	echo "$$python"

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(MAKE) --silent python
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pipeline,dev]"
	touch $@

install: $(VENV)/.installed  ## the environment in .venv

run: install  ## the whole pipeline on this machine; ARGS="--profile smoke" for the miniature
	$(BIN)/python flows/full_pipeline.py run $(ARGS)

# Files side by side, the longest first (tests/conftest.py), not by their number of tests as xdist would.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: install  ## the tests, the end-to-end run on the smoke profile included; JOBS=1 for one after the other
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: install  ## the tests and the long proofs
	$(PYTEST) -o faulthandler_timeout=5400 $(ARGS)

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

# What needs no pipeline has a small environment of its own; the manifests take .venv where there is one.
TOOLS := $(if $(wildcard $(VENV)/.installed),$(VENV),.venv-tools)

.venv-tools/.installed: constraints.txt
	@test -x .venv-tools/bin/python || $(MAKE) --silent python
	test -x .venv-tools/bin/python || "$(PYTHON)" -m venv .venv-tools
	.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    kubernetes-validate pyyaml pip-audit
	touch $@

manifests: $(TOOLS)/.installed  ## infra/ as build/manifests.yaml, checked against Kubernetes' schemas; no cluster
	$(TOOLS)/bin/python infra/manifests.py

audit: .venv-tools/.installed  ## known flaws of the versions in constraints.txt (asks pypi.org)
	.venv-tools/bin/python -m pip_audit --no-deps --disable-pip -r constraints.txt $(ARGS)

clean:  ## remove what runs made: data/, .metaflow/, build/, caches (not .venv)
	rm -rf data .metaflow build .venv-tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
