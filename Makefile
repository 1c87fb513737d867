# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two files at a time: half of their time is waiting.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: quickstart test check fast install clean

# torch first and pinned: a bare torch brings gigabytes of CUDA on a machine without a GPU.
$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

install: $(BIN)/.installed

quickstart: install
	$(BIN)/sparseae run tune_configs/quickstart.yaml
	$(BIN)/sparseae analyze results/quickstart
	$(BIN)/sparseae report results/quickstart

# Lint, types, every test.
test: check
	$(TESTS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Without the tests that need a Ray cluster or a browser.
fast: install
	$(BIN)/ruff check .
	$(TESTS) -m "not slow"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
