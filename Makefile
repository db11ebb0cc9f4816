# Shortcuts for `python -m experiments`, which has more commands: see its --help.
# Needs Python 3.11 or newer; `make demo PYTHON=python3.12` selects an interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# For the tables: the scale paper, small or smoke (experiments/presets/scales.py), and the number of runs per row.
SCALE ?= paper
SEEDS ?= 1

.PHONY: help demo train-wmt table1 table2 table3 table4 notebooks notebooks-save notebooks-quick test test-slow test-all test-faults mutants check-targets lint bench docs clean

help:
	@echo "make demo             train, translate and score on the generated corpus: a few minutes on a CPU"
	@echo "make train-wmt        download WMT14 English-German, train the paper's base model and score it"
	@echo "make table1           reproduce Table 1: complexity of the layer types"
	@echo "make table2           reproduce Table 2, 3 or 4: train the rows that have no record yet. SEEDS=3 adds confidence"
	@echo "make table3             intervals; SCALE=smoke takes minutes on a CPU, SCALE=small hours"
	@echo "make table4             parsing; SCALE=paper needs your own copy of the Penn Treebank"
	@echo "make notebooks        execute the notebooks of experiments/notebooks/ on a CPU"
	@echo "make notebooks-save   execute them, and save the .ipynb files with their outputs"
	@echo "make notebooks-quick  check that the cells run, with every training cut to 30 steps"
	@echo "make test             run the tests: seven minutes on two cores"
	@echo "make test-slow        run the tests of a minute or more: devices, processes, kills, convergence"
	@echo "make test-all         run both"
	@echo "make test-faults      run the fault tests (a hundred kills, damaged files, full disks): twenty minutes"
	@echo "make mutants          mutation testing: break the code in a hundred ways, and count what no test detects"
	@echo "make check-targets    compile for GPUs and TPUs that need not be there, on every mesh: an hour"
	@echo "make lint             run ruff and mypy"
	@echo "make docs             build docs/ as HTML; warnings are errors"
	@echo "make bench            compare speed with PyTorch, transformers and CTranslate2 on a CPU (GPU: benchmarks/gpu.sh)"
	@echo "make clean            remove the virtual environment"
	@echo "$(BIN)/python -m experiments --help   lists all other commands"

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

table4: $(VENV)/installed
	$(BIN)/python -m experiments table 4 --scale $(SCALE) --seeds $(SEEDS)

notebooks: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py

notebooks-save: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py --save

notebooks-quick: $(VENV)/installed-dev
	$(BIN)/python experiments/notebooks/run.py --quick

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow and not faults" --ignore tests/transformer
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow tests/transformer

test-all: test test-slow

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

test-faults: $(VENV)/installed-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m faults --dist load tests/faults

check-targets: $(VENV)/installed-targets
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.check_targets

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -E -W --keep-going -q docs docs/_build/html
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

$(VENV)/installed-targets: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[targets]"
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV)
