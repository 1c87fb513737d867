# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip's warnings (of an index that has not every package) would fill the screen; its errors show.
PIP := $(BIN)/pip -qq install --constraint constraints.txt
# Four files at a time, those with a cluster first: a third of their time is waiting. Otherwise in an order
# that no test was written in, and the same each time; `make test SEED=2` tries another.
SEED ?= 150505561
TESTS := $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder \
	--randomly-seed $(SEED)

# Where torch's build for CPUs is: the one on PyPI brings gigabytes of CUDA on Linux. Empty, as where
# there is a GPU: PyPI's. Where this place cannot be reached, PyPI's too.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)

.PHONY: quickstart test test-all check fast mutants sample install clean docs

# What running needs.
$(BIN)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	-@$(PIP) -q --no-deps --retries 0 --timeout 20 --index-url $(TORCH_INDEX) torch
endif
	$(PIP) --editable .
	touch $@

# And the tests.
$(BIN)/.dev: $(BIN)/.run
	$(PIP) --editable ".[dev]"
	touch $@

install: $(BIN)/.run

quickstart: install
	$(BIN)/sparseae quickstart

# Lint, types, every test but those that take minutes each.
test: check
	$(TESTS) -m "not minutes"

test-all: check
	$(TESTS)

check: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Without the tests that need a Ray cluster or a browser.
fast: $(BIN)/.dev
	$(BIN)/ruff check .
	$(TESTS) -m "not slow and not minutes"

# Which changes of the product does no test notice? Hours for all; MODULES="model/activations.py" for
# some. CI tries a sample, drawn by the commit, that takes less than two minutes.
mutants: $(BIN)/.dev
	$(BIN)/python -m tests.mutation $(MODULES)

sample: $(BIN)/.dev
	$(BIN)/python -m tests.mutation --children 2 --sample "$$(git rev-parse HEAD || echo none)"

# The site, in site/; its reference pages are made from the code.
docs: $(BIN)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
