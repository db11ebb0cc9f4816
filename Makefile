# Thin over `python -m experiments`: run that with --help for everything there is.
# Needs Python 3.11 or newer; `make demo PYTHON=python3.12` picks one.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# For the tables: paper, small or smoke (experiments/presets/scales.py), and how many runs of each row.
SCALE ?= paper
SEEDS ?= 1

.PHONY: help demo train-wmt table1 table2 table3 notebooks notebooks-save notebooks-quick test test-slow test-all test-faults mutants lint bench docs clean

help:
	@echo "make demo      train, translate and score on the embedded corpus: minutes, on a CPU"
	@echo "make train-wmt WMT14 English-German, the paper's base model: download, train, score"
	@echo "make table1    the paper's tables, each row trained that has no record yet;"
	@echo "make table2        of 2 and 3, SCALE=smoke runs all on a CPU in minutes, SCALE=small in hours;"
	@echo "make table3        SEEDS=3 gives intervals"
	@echo "make notebooks execute experiments/notebooks/ in order, on a CPU;"
	@echo "make notebooks-save  and write their .ipynb with the outputs"
	@echo "make notebooks-quick  whether their cells run: each training is cut to 60 steps"
	@echo "make test      the tests: about ten minutes on two cores"
	@echo "make test-slow  those that take a minute or more each: devices, processes, kills, convergence"
	@echo "make test-all  both"
	@echo "make mutants   breaks the code in a hundred ways, one after the other, and counts those that no test sees"
	@echo "make test-faults  a hundred kills, damaged files, full disks: twenty minutes"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the pages of docs/ as HTML, warnings as errors"
	@echo "make bench     speed beside PyTorch, transformers and CTranslate2, on a CPU; benchmarks/gpu.sh: on a GPU"
	@echo "make clean     remove the environment"
	@echo "$(BIN)/python -m experiments --help   everything else"

demo: $(VENV)/installed
	$(BIN)/python -m experiments demo

train-wmt: $(VENV)/installed-wmt14
	$(BIN)/python -m experiments prepare wmt14-en-de-base
	$(BIN)/python -m experiments plan wmt14-en-de-base --no-measure
	$(BIN)/python -m experiments table 2 --rows en-de-base --seeds $(SEEDS)

table1: $(VENV)/installed
	$(BIN)/python -m experiments table 1

table2 table3: $(VENV)/$(if $(filter paper,$(SCALE)),installed-wmt14,installed)
	$(BIN)/python -m experiments table $(@:table%=%) --scale $(SCALE) --seeds $(SEEDS)

notebooks: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py

notebooks-save: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py --save

notebooks-quick: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py --quick

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m "slow and not faults"

test-all: test test-slow

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

test-faults: $(VENV)/installed-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m faults --dist load tests/faults

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.train small
	$(BIN)/python -m benchmarks.train tiny
	$(BIN)/python -m benchmarks.decode --random base --count 128
	$(BIN)/python -m benchmarks.decode --random small --count 1000
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.lengths --longest 2048
	$(BIN)/python -m benchmarks.startup small

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-wmt14: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[wmt14]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV)
