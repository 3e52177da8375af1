# Two commands on a fresh machine with Python and make; each sets up what it needs and can be repeated.
#   make quickstart   train six SAEs on the embedded model, measure them, draw the curve
#   make test         lint, types, tests, notebooks, examples, documentation

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
export HF_HUB_OFFLINE ?= 1

.PHONY: help quickstart test lint types tests notebooks examples docs install clean

help:
	@sed -n 's/^#   //p' Makefile

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# torch first and pinned: a later `pip install` then keeps it, and takes no build with CUDA packages in its place.
$(STAMPS)/package: $(STAMPS)/venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[embedded,dev,docs]"
	touch $@

$(STAMPS)/embedded: $(STAMPS)/package sae_lens_ext/embedded/requirements.txt
	$(BIN)/sae-lens-ext install-embedded
	touch $@

install: $(STAMPS)/embedded

quickstart: $(STAMPS)/embedded
	$(BIN)/sae-lens-ext quickstart

test: lint types tests notebooks examples docs

lint: $(STAMPS)/package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMPS)/package
	$(BIN)/pyright --pythonpath $(BIN)/python

tests: $(STAMPS)/embedded
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

notebooks: $(STAMPS)/embedded
	$(BIN)/python notebooks/execute.py

examples: $(STAMPS)/embedded
	$(BIN)/python examples/run_all.py

docs: $(STAMPS)/package
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) quickstart site .pytest_cache .ruff_cache .hypothesis
