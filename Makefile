# The commands that people and CI use. `make` alone lists them.
#
# PYTHON  the interpreter (3.11 or newer) that .venv is made with
# ARGS    more arguments for pytest, the benchmark or the demo, as in `make test ARGS="-k promote"`
# MINUTES how long `make fuzz` and `make soak` run
# JOBS    how many tests run at a time; each job has servers of its own, and waits for a good part of its time

PYTHON ?= python3
ARGS ?=
JOBS ?= 4
MINUTES ?=

# Without bytecode each job compiles all tests anew, and each run all of replisync.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help test quick check fix types coverage mutations demo picture bench fuzz soak minimum audit clean

help:
	@echo "make demo    run the main job on a real devpi-server and tell the story"
	@echo "make picture draw the terminal of the README from what the demo prints"
	@echo "make test    run all tests"
	@echo "make quick   run the unit and edge tests: a minute"
	@echo "make types   check the types alone"
	@echo "make coverage say which lines the unit and edge tests do not reach"
	@echo "make mutations break the code in places that matter: a test must fail each time"
	@echo "make fix     let ruff correct format and imports"
	@echo "make check   check format, lint, imports, types, and dependencies where their advisories can be asked"
	@echo "make bench   measure speed and memory, compared with devpi's own replica"
	@echo "make fuzz    feed mutated changelogs to their reader for MINUTES=10"
	@echo "make soak    follow a busy primary for MINUTES=20 while everything fails and is killed"
	@echo "make minimum run the quick tests with the oldest versions of all dependencies"
	@echo "make audit   ask PyPI for known vulnerabilities of what is installed"
	@echo "make clean   remove what the others made, .venv too"

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

quick: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder tests/unit tests/edges $(ARGS)

types: $(STAMP)
	$(BIN)/mypy

coverage: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --cov replisync --cov-report term-missing:skip-covered \
		tests/unit tests/edges $(ARGS)

mutations: $(STAMP)
	@$(BIN)/python -m tests.mutations $(ARGS)

fix: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/python -m tests.audit

picture: $(STAMP)
	@$(BIN)/python -m tests.picture $(ARGS)

demo: $(STAMP)
	@$(BIN)/python -m tests.demo $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks $(ARGS)

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(or $(MINUTES),10)

soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(or $(MINUTES),20) $(ARGS)

minimum:
	$(PYTHON) -m venv --clear .venv-minimum
	.venv-minimum/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--constraint tests/constraints.txt --editable '.[dev]'
	.venv-minimum/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile tests/unit tests/edges $(ARGS)

audit: $(STAMP)
	$(BIN)/python -m tests.audit --required

# A fresh machine has Python with pip and venv; all else comes from where pip is configured to look.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "replisync needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-minimum build dist *.egg-info .cache .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
