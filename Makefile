# Everything a newcomer needs; `make help` lists it. Each target installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check devserver clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install asyncsink with everything for development

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "asyncsink needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing asyncsink and its tools into $(VENV) (about a minute the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -e '.[dev]' 2>.venv/install.log \
	  || { cat .venv/install.log >&2; exit 1; }
	@touch $@

demo: $(STAMP) ## A real cohort into a real S3 server: export, verify, re-run
	@$(BIN)/asyncsink demo

check: $(STAMP) ## Style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then the whole test suite (starts its own S3 servers)
	$(BIN)/python -m pytest

devserver: $(STAMP) ## A throw-away S3 server on this machine
	@$(BIN)/asyncsink devserver

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
