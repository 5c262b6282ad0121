# Every target that needs the environment makes it first; running one twice is cheap.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt

# vLLM pins other versions than we do, so it has an environment of its own (1.8 GB)
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip install --disable-pip-version-check --progress-bar on

# schemathesis is for one target only (100 MB)
FUZZ_VENV ?= .venv-fuzz
FUZZ_PIP := $(FUZZ_VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on

.PHONY: install demo test test-vllm test-browser test-fuzz lint serve clean
.PHONY: help
.DEFAULT_GOAL := help

help:
	@echo "make demo     measure shortest-first against first-come-first-served on this machine (about 3 minutes)"
	@echo "make test     lint, types and the whole test suite"
	@echo "make test-vllm  the tests inside a real vLLM, in an environment of its own (1.8 GB)"
	@echo "make test-browser  the live page in a headless Chromium, which has to be installed"
	@echo "make test-fuzz  schemathesis against the gateway's OpenAPI document, in an environment of its own (100 MB)"
	@echo "make serve    an OpenAI-compatible server with the bundled model on http://127.0.0.1:8080"
	@echo "make install  the environment with everything for development, training included"
	@echo "make lint     formatting, style, types and the direction of imports only"
	@echo "make clean    remove the environment and all results"

# --- environments: each stamp depends on what it installs from -----------------------------------------------------
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("ssjf needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "--- making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "--- installing ssjf with its engine and pictures (about 100 MB; no torch)"
	@$(PIP) -e '.[engine,plot]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@echo "--- installing the tools for tests and checks"
	@$(PIP) -e '.[engine,plot,parquet,dev]'
	@touch $@

$(VENV)/.stamp-train: $(VENV)/.stamp-dev
	@echo "--- installing what training needs (torch, CPU build: set TORCH_INDEX to the wheel index if yours lacks it)"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	@$(PIP) -e '.[engine,plot,parquet,dev,train]'
	@touch $@

$(VLLM_VENV)/.stamp: constraints-vllm.txt
	@echo "--- making $(VLLM_VENV) (torch, CPU build: set TORCH_INDEX to the wheel index if yours lacks it)"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints-vllm.txt torch
	@$(VLLM_PIP) --no-deps -r constraints-vllm.txt
	@touch $@

# ssjf itself, for its entry points: of the rest nothing is looked at again
$(VLLM_VENV)/.stamp-ssjf: $(VLLM_VENV)/.stamp pyproject.toml
	@echo "--- installing ssjf into $(VLLM_VENV)"
	@$(VLLM_PIP) --no-deps -e .
	@touch $@

$(FUZZ_VENV)/.stamp: Makefile
	@echo "--- making $(FUZZ_VENV)"
	@$(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_PIP) schemathesis==4.32.5
	@touch $@

install: $(VENV)/.stamp-train

# --- the work -------------------------------------------------------------------------------------------------------
demo: $(VENV)/.stamp-run
	@$(BIN)/ssjf demo --out out/demo

serve: $(VENV)/.stamp-run
	@$(BIN)/ssjf serve

lint: $(VENV)/.stamp-dev
	@$(BIN)/ruff format --check src tests benchmarks training examples
	@$(BIN)/ruff check src tests benchmarks training examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@$(BIN)/pytest

test-browser: $(VENV)/.stamp-dev
	@$(BIN)/pytest -m browser tests/browser

# their warnings are not ours
test-vllm: $(VLLM_VENV)/.stamp-ssjf
	@$(VLLM_BIN)/pytest -o filterwarnings= tests/vllm

test-fuzz: $(VENV)/.stamp-dev $(FUZZ_VENV)/.stamp
	@$(BIN)/python -m tests.gateway.http.fuzz_openapi $(FUZZ_VENV)/bin/schemathesis

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(FUZZ_VENV) out dist
