# Two commands: `make demo` and `make test`. Everything is installed into .venv, nothing outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOT ?= runs/demo
# Processes of the tests, of about 2 GB each. Of `make test`, one starts Ray; of `make test-cluster`, each does.
JOBS ?= 2

.PHONY: demo install test test-cluster lint format clean

demo: install
	$(BIN)/raypipe demo --root $(ROOT)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raypipe needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing (torch and Ray are about 6 GB on disk; a minute on a fast line) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-cluster: install
	$(BIN)/python -m pytest -m cluster -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build *.egg-info
