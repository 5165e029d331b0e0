# Everything runs in a virtual environment that the first target makes and the next ones find as it was.
.DEFAULT_GOAL := help
.PHONY: help install demo test check migrations-check bench study ci

PYTHON ?= python3
SKILLS ?= 2
BENCH ?= --steps 10 --score-steps 48
STUDY ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEER := $(VENV)/.installed-bench

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED) ## Make .venv with everything pinned
$(INSTALLED): pyproject.toml constraints.txt worker/hf/token_pass.c worker/hf/token_pass_vectors.h
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[worker,test]'
	@touch $@

# The trainer that ours is compared with, and lm-evaluation-harness; the demo does without.
$(PEER): $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[bench,lm-eval]'
	@touch $@

demo: $(INSTALLED) ## Train two skills, one on top of the other (SKILLS=1 or 3; COMPARE=1: plain fine-tuning too)
	$(BIN)/sdft demo --skills $(SKILLS) $(if $(COMPARE),--compare)

test: $(PEER) ## Run every test against real servers and live processes
	$(BIN)/pytest

check: $(INSTALLED) ## Format, lint, types, and the arrows between rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

migrations-check: $(INSTALLED) ## Migrations go up, match the models, go down and up again
	$(BIN)/pytest -q tests/worker/test_migrations.py

bench: $(PEER) ## Time a step beside TRL's on the same work: tables and JSON in build/bench (BENCH="--steps 3": minutes)
	$(BIN)/python -m benchmarks.run $(BENCH)

study: $(INSTALLED) ## What each way to train teaches and what it forgets: table and plot in build/study (hours; may be killed and begun again)
	$(BIN)/python -m benchmarks.forgetting $(STUDY)

ci: check test ## What has to pass before a change lands
