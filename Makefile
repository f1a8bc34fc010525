# Everything a newcomer needs; `make help` lists it. Each target installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup slurm chromium page-shots demo demo-nipype test test-all check bench bench-quick devserver options servers screenshots docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install asyncsink with everything for development

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "asyncsink needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing asyncsink and its tools into $(VENV) (a minute or two the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -e '.[dev]' 2>$(VENV)/install.log \
	  || { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@

# Downloaded first, so that a network that does not answer leaves no package half installed.
SLURM := slurm-wlm slurmd slurmctld slurm-client munge parallel
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10
BROWSER := chromium fonts-dejavu-core
FETCH_BROWSER := timeout 180 env $(APT) install -y --no-install-recommends --download-only $(BROWSER)
FETCH := timeout 90 env $(APT) install -y --no-install-recommends --download-only $(SLURM)

slurm: ## Debian's Slurm and GNU parallel, which the tests of the recipes run on where they are installed
	@if command -v slurmctld >/dev/null && command -v parallel >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "Slurm is not installed, and needs root and apt: tests/slurm is skipped"; exit 0; fi; \
	echo "Installing Debian's Slurm ..."; \
	if { $(FETCH) || { timeout 90 env $(APT) update && $(FETCH); }; } >/dev/null 2>&1 && \
	  env $(APT) install -y --no-install-recommends $(SLURM) >/dev/null 2>&1; \
	then :; else echo "apt cannot install Slurm: tests/slurm is skipped"; fi

chromium: ## Debian's Chromium, in which the tests open the page of a run where it is installed
	@if command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "Chromium is not installed, and needs root and apt: tests/report/test_page_in_browser.py is skipped"; exit 0; fi; \
	echo "Installing Debian's Chromium ..."; \
	if { $(FETCH_BROWSER) || { timeout 90 env $(APT) update && $(FETCH_BROWSER); }; } >/dev/null 2>&1 && \
	  env $(APT) install -y --no-install-recommends $(BROWSER) >/dev/null 2>&1; \
	then :; else echo "apt cannot install Chromium: tests/report/test_page_in_browser.py is skipped"; fi

page-shots: $(STAMP) chromium ## The pictures of the page of a run, from a run of 5,000 files with faults (two minutes)
	@$(BIN)/python -m tests.support.page_pictures asyncsink/guide/images

demo: $(STAMP) ## A real cohort into a real S3 server: export, verify, re-run
	@$(BIN)/asyncsink demo

demo-nipype: $(STAMP) ## Nipype workflows that publish to S3 and go on from there, beside Nipype's own DataSink
	@$(BIN)/asyncsink demo --nipype

check: $(STAMP) ## Style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

options: $(STAMP) ## The guide's pages of all options and commands, from where they are declared
	@$(BIN)/python -c 'from tests.support.options_page import reference; print(reference(), end="")' > asyncsink/guide/options.md
	@$(BIN)/python -c 'from tests.support.commands_page import reference; print(reference(), end="")' > asyncsink/guide/commands.md

servers: $(STAMP) ## The guide's table of servers, by running asyncsink against each
	@$(BIN)/python -W ignore -c 'from tests.support.servers_page import write; write()'

screenshots: $(STAMP) ## The guide's pictures of the command at work, from real runs
	@$(BIN)/python -m tests.support.screenshots

docs: $(STAMP) ## The guide as a site, into build/site; a broken link is an error
	$(BIN)/python -m mkdocs build --quiet --strict --config-file .ci/mkdocs.yml
	@echo "The site: build/site/index.html"

test: check ## check, then the whole test suite (starts its own S3 servers)
	$(BIN)/python -m pytest -n auto

test-all: check ## The same with every seed of the long loops
	$(BIN)/python -m pytest -n auto -m "long or not long"

$(BENCH_STAMP): pyproject.toml
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@echo "Installing asyncsink and its contenders into $(BENCH) ..."
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip 2>$(BENCH)/install.log
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[contenders]' 2>>$(BENCH)/install.log \
	  || { cat $(BENCH)/install.log >&2; exit 1; }
	@touch $@

bench-quick: $(BENCH_STAMP) ## A few minutes of benchmarks beside other tools
	$(BENCH)/bin/python -m benchmarks targets small latency-20 large rerun --quick --rounds 2 --folder $(BENCH)/quick

bench: $(BENCH_STAMP) ## Every benchmark that is not measured yet, beside its bounds (an hour)
	$(BENCH)/bin/python -m benchmarks targets

devserver: $(STAMP) ## A throw-away S3 server on this machine
	@$(BIN)/asyncsink devserver

clean: ## Remove the environment and caches
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
