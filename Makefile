# Everything runs from here, with Python 3.11 or newer and make. `make` alone lists the goals.

# Another interpreter: make PYTHON=/path/to/python3.13 test
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif

# The demo's size and its seed: the same seed tells the same story.
ORDERS ?= 200
SEED ?= 1

# A campaign's name; its seed is SEED. Its size is RUNS, MINUTES or N, whatever it counts, and its usual one without.
NAME ?= payments
SIZE = $(firstword $(RUNS) $(MINUTES) $(N))

# Test workers. Each has a PostgreSQL, a Kafka and a Valkey of its own, about 1 GB.
JOBS ?= 2

RUN := .venv/bin/python -m
LAB := $(RUN) orderloop_lab
PACKAGES := shared $(sort $(wildcard services/*)) deploy/lab
# what of them others depend on: installed from here, never from an index
OURS := orderloop-shared orderloop-order-core

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up down status verify campaign campaigns nightly mutants jaeger test bench check lint types imports dependencies docs docs-check \
	format lock audit clean always

help: ## list the goals
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## the lab: the whole system on this machine, state in .lab/, no Docker

demo: .venv/made ## orders from payment to money in the bank, ORDERS=200 SEED=1
	@$(LAB) demo --orders $(ORDERS) --seed $(SEED)

up: .venv/made ## start everything and leave it running
	@$(LAB) up

down: .venv/made ## stop everything
	@$(LAB) down

status: .venv/made ## what runs, where it listens
	@$(LAB) status

verify: .venv/made ## check every invariant of a running lab
	@$(LAB) verify

campaign: .venv/made ## one kind of trouble in all its forms, in a lab of its own: NAME=crash RUNS=200 SEED=1
	@$(LAB) campaign $(NAME) $(SIZE:%=--n %) --seed $(SEED)

nightly: .venv/made ## every campaign at full length, ten million orders, 15,000 lives, the mutants, and a summary: about three hours
	@$(RUN) tests.nightly

mutants: .venv/made ## put faults back that others have had, and see the named tests fail: MUTANTS=cursor for some
	@$(RUN) tests.mutants $(MUTANTS)

campaigns: .venv/made ## list the campaigns
	@$(LAB) campaigns

jaeger: .venv/made ## build Jaeger into the cache (once, needs Go, 4 minutes); the lab then uses it
	@$(LAB) jaeger

## the workspace

# Without the reorder, which would keep the few long files for the end.
test: .venv/made ## the whole suite, against real PostgreSQL, Kafka and Valkey
	@$(RUN) pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

bench: .venv/made ## the measurements behind the claims about speed
	@$(RUN) tests.bench

check: lint types imports dependencies docs-check test ## all that CI checks, in the same way

lint: .venv/made
	@$(RUN) ruff check
	@$(RUN) ruff format --check

types: .venv/made
	@$(RUN) pyright

imports: .venv/made
	@.venv/bin/lint-imports --no-cache

dependencies: .venv/made
	@for package in $(PACKAGES); do \
		.venv/bin/deptry $$package --config $$package/pyproject.toml \
			--package-module-name-map orderloop-shared=orderloop,orderloop-order-core=order_core || exit 1; done

docs-check: .venv/made
	@.venv/bin/python docs/generate.py --check

docs: .venv/made ## write the generated pages anew: docs/order-states.md, events.md, mutants.md, asyncapi/, .env.example
	@.venv/bin/python docs/generate.py
	@$(RUN) tests.mutants.page

format: .venv/made ## format, and mend what ruff can mend
	@$(RUN) ruff format
	@$(RUN) ruff check --fix

lock: .venv/made ## pin every dependency anew in requirements.lock
	@$(RUN) pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@.venv/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --upgrade $(OURS:%=--no-emit-package %) \
		--no-annotate --no-header --group dev --output-file requirements.lock $(PACKAGES:%=%/pyproject.toml)

audit: .venv/made ## known vulnerabilities of what is locked (asks the package index)
	@.venv/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

clean: ## stop the lab and remove what make has made; downloads stay in ~/.cache/orderloop
	@if [ -x .venv/bin/python ] && [ -d .lab ]; then $(LAB) down || true; fi
	@rm -rf .venv .lab .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew when what it is made from changes, when the folder was moved, and when its Python is gone.
.venv/made: requirements.lock $(PACKAGES:%=%/pyproject.toml)
ifeq ($(PYTHON),)
	@echo 'OrderLoop needs Python 3.11 or newer, and none is on the PATH: install one, or name it with make PYTHON=/path/to/python.' >&2; exit 1
endif
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'OrderLoop needs Python 3.11 or newer, and "$(PYTHON)" is none: name another with make PYTHON=/path/to/python.' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo '"$(PYTHON)" cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv).' >&2; exit 1; }
	@$(PYTHON) .ci/venv.py

ifneq ($(shell [ -x .venv/bin/python ] && cat .venv/made 2>/dev/null),$(CURDIR))
.venv/made: always
always:
endif
