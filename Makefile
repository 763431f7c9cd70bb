# make demo: everything, on the shipped sample, in a few minutes.
# make test: the tests, in two processes.    make stress: those that take minutes by nature.
# make soak: 2,000 short trials through kills and restarts; SOAK='--trials 200' and the like change it.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
DEMO_TRIALS ?= 10
SOAK ?=
MINUTES ?= 5
EXAMPLES ?= 10
PROCESSES ?= 2
TOGETHER := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin

.PHONY: demo test stress lint types docs check soak fuzz audit clean

demo: $(VENV)/installed
	mkdir -p $(DEMO)
	$(BIN)/hpo launch --trials $(DEMO_TRIALS) --runs $(DEMO)/runs
	$(BIN)/hpo export bbh --runs $(DEMO)/runs --out $(DEMO)/emulator
	$(BIN)/hpo evaluate $(DEMO)/emulator sample
	$(BIN)/hpo plot contours $(DEMO)/emulator --data sample --out $(DEMO)/contours.png
	@echo
	@echo "study      $(abspath $(DEMO))/runs/bbh"
	@echo "emulator   $(abspath $(DEMO))/emulator"
	@echo "picture    $(abspath $(DEMO))/contours.png"

test: $(VENV)/installed-dev
	$(BIN)/pytest $(TOGETHER)

stress: $(VENV)/installed-dev
	$(BIN)/pytest $(TOGETHER) tests/stress

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

# Nothing is fetched, and a link to nowhere ends it: not with --quiet, under which mkdocs counts no
# warning. The variable silences a notice of the theme's.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "documentation  $(CURDIR)/site/index.html"

check: lint types docs test

soak: $(VENV)/installed-dev
	$(BIN)/python -m tests.stress.soak $(SOAK)

# Hunts for defects in what reads strangers' files: so many minutes for each reader, led by coverage,
# then so many times the examples of tests/fuzz, at random. What is found ends it.
fuzz: $(VENV)/installed-fuzz
	targets=$$($(BIN)/python -m tests.fuzz.guided --list) && test -n "$$targets" || exit 1; \
	for target in $$targets; do \
	  $(BIN)/python -m tests.fuzz.guided $$target --minutes $(MINUTES) || exit 1; done
	HPO_FUZZ=$(EXAMPLES) $(BIN)/pytest tests/fuzz

# Asks a service that a mirror of the package index lacks: see .ci/audit.
audit:
	@PYTHON=$(PYTHON) .ci/audit

clean:
	rm -rf $(VENV) $(DEMO) site .fuzz .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv is missing: on Debian, apt install python3-venv" >&2; exit 1; }

$(VENV)/installed: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/pip install --editable '.[docs]'
	@touch $@

$(VENV)/installed-fuzz: $(VENV)/installed-dev
	$(BIN)/pip install --editable '.[fuzz]'
	@touch $@
