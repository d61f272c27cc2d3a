# RainStorm: `make help` lists the targets. Each one creates the environment if it is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The suite starts some thousand short-lived processes. Without the bytecode cache each of them compiles all of its
# modules again, which doubles the time that it needs to start.
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
SEEDS ?= 100
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/all.lock
STAMP := $(VENV)/.installed

PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-options \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --annotation-style=line
LINTED := agent ops tests examples $(wildcard experiments) $(wildcard fabfile.py)

.PHONY: help demo test test-lab check check-static check-tests shake simulate simulate-power coverage mutants lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

demo: $(STAMP) ## run a million rows on five nodes, kill a task and a node, check the result
	@exec $(BIN)/python -m ops.demo.run

# Three processes keep two cores busy, because tests of real agents wait much of their time.
test: $(STAMP) ## run the whole test suite
	@exec $(BIN)/python -m pytest -n 3 tests

test-lab: $(STAMP) ## run the tests on real VMs, in the lab on this machine (needs root)
	@exec $(BIN)/python -m pytest tests/lab -m lab

check: $(STAMP) ## run lint, types, layering, unit tests and a quick simulation (under a minute)
	@echo "check: ruff and mypy run beside the tests; each prints when it is done"
	@$(MAKE) -j2 --output-sync=target check-static check-tests

check-static:
	@$(BIN)/ruff check --quiet $(LINTED)
	@$(BIN)/mypy --no-error-summary $(LINTED)
	@echo "check: ruff and mypy found no problems"

check-tests:
	@$(BIN)/python -m pytest -q -n 3 --hypothesis-profile=quick tests/unit tests/simulation -m "not integration and not slow and (not simulation or simulation_quick)"

# The simulator has threads of its own, which this cannot delay.
shake: $(STAMP) ## run the unit tests with threads delayed at random; SHAKE_SEED=N repeats the delays
	@exec $(BIN)/python -m pytest -p tests.shake -n 2 tests/unit --ignore tests/unit/simulation

simulate: $(STAMP) ## run SEEDS=100 fault schedules in the deterministic simulator
	@exec $(BIN)/python -m tests.simulation.run --seeds $(SEEDS)

simulate-power: $(STAMP) ## plant known bugs one by one; the simulator must find each
	@exec $(BIN)/python -m tests.simulation.power

# Only the unit tests of the agents: what the simulation happens to run does not count.
coverage: $(STAMP) ## branch coverage of the agents' unit tests, room by room; below its floor a room fails
	@$(BIN)/python -m pytest -q -n 2 --hypothesis-profile=quick tests/unit -m "not integration and not slow" \
		--ignore tests/unit/simulation --ignore tests/unit/ops --cov=agent --cov-report=json:.coverage.json
	@exec $(BIN)/python -m tests.gates.coverage .coverage.json

mutants: $(STAMP) ## break one safety rule after the other in a copy: its tests must fail
	@exec $(BIN)/python -m tests.gates.mutants

lock: $(STAMP) ## update requirements/*.lock from pyproject.toml (UPGRADE=1: newest versions)
	@echo "lock: requirements/agent.lock"
	@CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) $(if $(UPGRADE),--upgrade) \
		-o requirements/agent.lock pyproject.toml
	@echo "lock: $(LOCK)"
	@CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) $(if $(UPGRADE),--upgrade) --extra ops --extra dev \
		-o $(LOCK) pyproject.toml

clean: ## stop a running local cluster; remove .local, .venv and caches
	@if [ -d .local ] && [ -x $(BIN)/fab ]; then echo "clean: stopping the local cluster"; $(BIN)/fab local.down; fi
	@rm -rf .local $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"

# compat: a path instead of an import hook, which costs every process of the suite 20 ms and every agent 0.3 MB.
# The stamp contains the checksum of what was installed, because a git checkout changes timestamps without changing a lock.
$(STAMP): $(LOCK) pyproject.toml
	@wanted=$$(cat $(LOCK) pyproject.toml | sha256sum); \
	if [ -x $(BIN)/python ] && [ "$$(cat $@ 2>/dev/null)" = "$$wanted" ]; then touch $@; exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "RainStorm needs Python 3.11 or newer; name one with: make PYTHON=python3.11" >&2; exit 1; }; \
	echo "environment: creating $(VENV) (once; takes a minute or two)"; \
	$(PYTHON) -m venv $(VENV); \
	$(PIP) install --require-hashes -r $(LOCK); \
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .; \
	echo "$$wanted" > $@; \
	echo "environment: ready"
