# Set-up, workflow and checks. `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help env reproduce smoke report verify bench test test-slow theorems lint

VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

# `dev` draws 50 examples a property; `ci` draws 200, the same ones each time.
export HYPOTHESIS_PROFILE ?= dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(INSTALLED) ## create the environment in .venv, every version pinned

$(INSTALLED): requirements.lock pyproject.toml scripts/create_venv.sh
	@sh scripts/create_venv.sh $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

reproduce: $(INSTALLED) ## everything at the desk scale: data, editors, tables, figures, summary
	$(RUN) snakemake --cores all

smoke: $(INSTALLED) ## the same workflow, end to end, at the smallest scale
	$(RUN) snakemake --cores all --configfile config/smoke.yaml

report: $(INSTALLED) ## the desk scale's report alone, results/desk/report.html
	$(RUN) snakemake --cores all results/desk/report.html

verify: $(INSTALLED) ## compare the desk scale with the reference results
	$(RUN) snakemake --cores all verify

bench: $(INSTALLED) ## time and memory beside the released procedures, to results/bench
	$(RUN) python -m benchmarks.speed

test: $(INSTALLED) ## the tests, without the slow ones
	$(RUN) python -m pytest

test-slow: $(INSTALLED) ## the slow tests alone
	$(RUN) python -m pytest -m slow

theorems: $(INSTALLED) ## the properties of the normal equation alone, each by name
	$(RUN) python -m pytest -m theorem -v

lint: $(INSTALLED) ## lint, format and types of the code and of the workflow
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint
