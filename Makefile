# make run, make test, make test-all; PYTHON=python3.13 and PORT=9000 are yours to set.
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
PORT ?= 8000
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
# With it, every process that a test starts compiles what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run install test test-all lint format audit release-check image bench bench-others picture

run: $(VENV)/runs
	@$(BIN)/flask serve --sandbox --port $(PORT)

install: $(VENV)/runs

PYTEST = $(BIN)/python -m pytest -n 4 --dist worksteal

# What a change to the service needs, in two minutes.
test: lint
	$(PYTEST) -m "not slow"

# And what builds, installs on every Python, replicates, or breaks the contract on purpose.
test-all: test
	$(PYTEST) -m slow

lint: $(VENV)/tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/tests
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Fails for a known vulnerability, and when its data can't be had.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement requirements.txt

# What the release workflow checks before it publishes, here without a tag, or with TAG=v0.3.0.
release-check:
	@PYTHON=$(PYTHON) .ci/release-check $(TAG)

# With Docker, or with podman: make image CONTAINER=podman BUILD="--format docker"
CONTAINER ?= docker
image:
	$(CONTAINER) build $(BUILD) --tag qyvo-standin .

# The figures of docs/performance.md; bench-others measures those that have peers alone.
bench: $(VENV)/tests
	@$(BIN)/python -m bench

bench-others: $(VENV)/tests
	@$(BIN)/python -m bench run request load start memory

# The picture of the sandbox's page in the README, taken anew.
picture: $(VENV)/tests
	@$(BIN)/python docs/picture.py

$(VENV)/runs: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@test -e .venv || ln -s $(VENV) .venv
	@touch $@

$(VENV)/tests: $(VENV)/runs requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
