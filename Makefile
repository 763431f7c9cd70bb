# make demo: everything, on the shipped sample, in a few minutes.    make test: every test.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
DEMO_TRIALS ?= 6
BIN := $(VENV)/bin

.PHONY: demo test lint types check clean

demo: $(VENV)/installed
	mkdir -p $(DEMO)
	$(BIN)/hpo launch --trials $(DEMO_TRIALS) --runs $(DEMO)/runs
	$(BIN)/hpo export bbh --runs $(DEMO)/runs --out $(DEMO)/emulator
	$(BIN)/hpo evaluate $(DEMO)/emulator sample
	$(BIN)/hpo plot $(DEMO)/emulator contours --data sample --out $(DEMO)/contours.png
	@echo
	@echo "study      $(CURDIR)/$(DEMO)/runs/bbh"
	@echo "emulator   $(CURDIR)/$(DEMO)/emulator"
	@echo "picture    $(CURDIR)/$(DEMO)/contours.png"

test: $(VENV)/installed-dev
	$(BIN)/pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv is missing: on Debian, apt install python3-venv" >&2; exit 1; }

$(VENV)/installed: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --editable '.[dev]'
	@touch $@ $(VENV)/installed
