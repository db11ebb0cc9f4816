# Thin over `python -m experiments`: run that with --help for everything there is.
# Needs Python 3.11 or newer; `make demo PYTHON=python3.12` picks one.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-all lint clean

help:
	@echo "make demo      train, translate and score on the embedded corpus: minutes, on a CPU"
	@echo "make test      the tests: under ten minutes on two cores"
	@echo "make test-all  the slow ones too"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove the environment"
	@echo "$(BIN)/python -m experiments --help   everything else"

demo: $(VENV)/installed
	$(BIN)/python -m experiments demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
