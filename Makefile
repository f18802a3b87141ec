# The two commands of a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint types tests

demo: .venv/ready
	$(BIN)/python train.py -m hydra/launcher=stacked experiment=lr_transfer hydra.sweep.dir=outputs/demo

test: lint types tests

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

tests: .venv/ready
	$(BIN)/python -m pytest -n 2 -q

test-slow: .venv/ready
	$(BIN)/python -m pytest -n 2 -q -m slow

# torch and torchvision are installed together and unpinned: each torchvision needs the torch it was built for
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@
