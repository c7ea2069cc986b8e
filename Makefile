# Three commands do everything on a machine with Python >= 3.10 and make:
#   make demo      explain words of the embedded model; results in demo-output/
#   make test      lint, type check, tests: some minutes on two cores
#   make test-all  the slow tests too, kernels as plain Python, the oldest transformers
# PYTHON chooses the interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# Many threads make the tiny model slower, not faster.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Two processes; the tests of a file stay together, since they share models and servers.
TWO        := -n 2 --dist loadfile
TESTS      := $(ONE_THREAD) $(BIN)/python -m pytest $(TWO)

# The oldest transformers that pyproject.toml allows; the model tests run against it too.
OLDEST     := $(shell sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
OLDEST_BIN := .venv-oldest/bin

.PHONY: help demo test test-all test-oldest checks clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/causal-lvlm demo --out demo-output

checks: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests come last, so that their closing lines are the last thing to be read.
test: checks
	$(TESTS) -m 'not slow'

test-all: checks test-oldest
	@echo 'kernels with the compiler off:'
	NUMBA_DISABLE_JIT=1 $(TESTS) -q -W error::RuntimeWarning tests/kernels
	@echo 'everything:'
	$(TESTS)

# Model tests with the oldest transformers; what is skipped is listed with version and reason.
test-oldest: .venv-oldest/.installed
	$(ONE_THREAD) $(OLDEST_BIN)/python -m pytest $(TWO) -q tests/lvlm

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed; choose one with: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); \
	    echo 'the module venv does not work here (Debian and Ubuntu: install python3-venv)' >&2; exit 1; }

# Stamp files: a second run installs nothing unless the requirements changed.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed tests/inseq.txt
	$(PIP) install -c constraints.txt -e '.[test]'
	$(PIP) install --no-deps -r tests/inseq.txt
	@touch $@

# A small environment in front of the first one: what it does not hold comes from there.
.venv-oldest/.installed: $(VENV)/.installed-test pyproject.toml
	rm -rf .venv-oldest
	$(BIN)/python -m venv .venv-oldest
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(OLDEST_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newer.pth"
	$(OLDEST_BIN)/python -m pip --disable-pip-version-check install 'transformers==$(OLDEST)'
	@touch $@

clean:
	rm -rf $(VENV) .venv-oldest demo-output build dist *.egg-info
