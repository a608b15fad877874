# make demo       pictures from words, and a small model trained before your eyes; writes demo/index.html
# make test       the whole test suite
# make soak       kill trainings, comparisons and tokenizing at every call of the file system, and at random times; some minutes
# make hostile    a thousand damaged and hostile files, run through the command line with limits, and thousands of random sets
# make lint types contract       ruff, mypy, and the direction of imports
# make clean      remove what make made
#
# All of them need .venv, which is made on the way: nothing is installed outside this folder.

# The caller's Python settings would decide what is imported; .venv alone must.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE VIRTUAL_ENV

PIP_OPTIONS ?=
# Read by tests alone, each for its data or as a public implementation to agree with, never imported by the library: their own requirements
# (a compiled voice detector, among others) are not needed.
WITHOUT_REQUIREMENTS := resemblyzer efficientnet-lite-pytorch
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two workers of one thread each: on the small machines that this suite is sized for, more threads only get in each other's way.
# Each takes tests of neighbouring files (worksteal), so that few fixtures of a file are made by both.
WORKERS ?= 2
PYTEST_OPTIONS ?=

.PHONY: demo test soak hostile lint types contract clean
.DEFAULT_GOAL := demo

demo: $(INSTALLED)
	$(BIN)/jielong demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_OPTIONS)

soak: $(INSTALLED)
	SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/training/test_soak.py

hostile: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.hostile.run --jobs $(WORKERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=thorough tests/data/test_random_sets.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

contract: $(INSTALLED)
	$(BIN)/lint-imports

.venv: $(INSTALLED)

# Made again when the requirements change; until then every target starts at once.
$(INSTALLED): Makefile pyproject.toml zoo/pyproject.toml constraints.txt scripts/make_venv.sh
	@sh scripts/make_venv.sh $(VENV)
	@echo "installing Jielong and what it needs into $(VENV); this takes some minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt -e '.[all,dev]' -e ./zoo
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt --no-deps $(WITHOUT_REQUIREMENTS)
	@touch $@

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info zoo/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
