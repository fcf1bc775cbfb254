# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo   set up and run the main job
#   make test   set up and run the checks and the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-all lint types wheel clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# csim needs this package's ap_int headers only, none of what it depends on
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'hls4ml==1.3.0' || true
	touch $@

demo: $(STAMP)
	$(BIN)/tilewright codesign examples/gpt2_medium_lora.yaml --out out/gpt2_medium_lora

test: lint types
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/python scripts/check_types.py

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
