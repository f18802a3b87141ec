# `make` lists the targets. All of them use .venv, which the first one of them sets up.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint types tests test-slow format measure figures docs docs-serve mutants

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready  ## train 270 small networks, print a table, draw outputs/demo/lr_transfer.png
	$(BIN)/python train.py -m hydra/launcher=stacked experiment=lr_transfer seed=0,1,2 hydra.sweep.dir=outputs/demo

test: lint types tests  ## lint, types and tests: what must pass before a change is merged

lint: .venv/ready  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## check types
	$(BIN)/mypy

tests: .venv/ready  ## run the tests, two at a time
	$(BIN)/python -m pytest -n 2 -q

test-slow: .venv/ready  ## run the tests that take more than ten seconds each
	$(BIN)/python -m pytest -n 2 -q -m slow

format: .venv/ready  ## put imports and lines in order
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

measure: .venv/ready  ## measure how plain the code of mupl/ is; REV=... compares a git revision
	$(BIN)/python scripts/measure_code.py $(if $(REV),--compare $(REV)) mupl

figures: .venv/ready  ## draw the figures of docs that have kept tables, and say which differ; WRITE=1 replaces them
	$(BIN)/python scripts/reproduce.py --figures $(if $(WRITE),--write)

docs: .venv/ready  ## build the site of the docs into site/, which opens without a server
	$(BIN)/python -m mkdocs build --strict

docs-serve: .venv/ready  ## show the site at http://127.0.0.1:8000 while pages are written
	$(BIN)/python -m mkdocs serve

mutants: .venv/ready  ## spoil one line at a time and see that the tests notice
	$(BIN)/python scripts/mutants.py

# torch and torchvision are installed together and unpinned: each torchvision needs the torch it was built for.
# Nothing is compiled beforehand: most modules are never imported, and Python compiles those that are.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mupl needs Python 3.11 or newer; say make PYTHON=...")'
	@echo "setting up .venv: some minutes without a word, and 7 GB of disk"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile -e ".[dev]"
	touch $@
