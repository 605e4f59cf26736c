# Everything a person does with this repository; `make` alone lists it.
# Paths are relative, so that a clone may lie in a folder with spaces in its name.

PYTHON ?= python3
DATA ?=
PYTEST_ARGS ?=
PINS_ARGS ?=
WORKERS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
# uv installs in seconds what takes pip minutes. What it is to install comes through a
# pipe: it would build again, every time, what stands on its command line.
UV := $(PY) tools/run_uv.py
PINS := requirements/tested.txt
INSTALL := $(UV) pip install --python $(PY) -c $(PINS) -b $(PINS) \
    -r requirements/opencv.txt -r -
SHELL := /bin/sh

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo demo-transfer test test-fast test-gpu lint format docs pins clean

help:  ## Show this list
	@echo "saim_mm: make TARGET [PYTHON=python3.12] [DATA=FOLDER] [WORKERS=2] [PYTEST_ARGS=...]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | \
	    awk -F '|' '{ printf "%-14s %s\n", $$1, $$2 }'

# Not a file target: an interrupted `python -m venv` leaves a folder without pip.
.PHONY: venv
venv:
	@if [ -x $(PY) ] && $(PY) -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v "$(PYTHON)" >/dev/null 2>&1; then \
	    echo "error: no '$(PYTHON)'. Install Python 3.10, 3.11 or 3.12, or name" \
	        "one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi; \
	if ! "$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then \
	    echo "error: Python 3.10 to 3.12 is needed and '$(PYTHON)' is" \
	        "$$("$(PYTHON)" --version 2>&1). Name another one:" \
	        "make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi; \
	echo "[setup] a virtual environment in $(VENV)"; \
	if ! "$(PYTHON)" -m venv --clear $(VENV); then \
	    echo "error: '$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs:" \
	        "apt-get install python3-venv" >&2; exit 1; fi

setup: venv  ## Set up .venv for pretraining (mmcv without compiled ops)
	@echo '-e .[onedl,speed]' | $(INSTALL)

setup-test: venv  ## Set up .venv for tests, detection and segmentation (compiles mmcv once)
	@echo '-e .[onedl,speed,downstream,demo,convert,export,parquet,huggingface,bands,test,dev,docs,build]' | $(INSTALL)
	@$(PY) tools/build_mmcv.py

demo: venv  ## Pretrain a small SAIM on sample photographs, or on DATA=FOLDER
	@echo '-e .[onedl,speed,demo]' | $(INSTALL)
	@$(PY) tools/demo.py --data "$(DATA)"

demo-transfer: setup-test  ## Pretrain, then classify, detect, segment with and without
	@$(PY) -m projects.transfer_shapes

test: setup-test  ## Lint, check types and run all tests
	$(PY) -m ruff check .
	$(PY) -m mypy saim_mm
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-fast: venv  ## Run the fast tests
	@echo '-e .[onedl,speed,demo,test,dev]' | $(INSTALL)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(PYTEST_ARGS)

test-gpu: setup-test  ## Run the tests that need a GPU; all others hide it
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)

lint: venv  ## Check style, formatting and types
	@echo '-e .[onedl,dev]' | $(INSTALL)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy saim_mm

format: venv  ## Format the code and mend what ruff can mend
	@echo '-e .[onedl,dev]' | $(INSTALL)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: venv  ## Build the documentation as a site in build/site
	@echo '-e .[onedl,docs]' | $(INSTALL)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

# Not of this machine's extra indexes: what is tested has to be there for everybody.
# Python 3.10 has the oldest versions, and one list for all three keeps results alike.
pins: venv  ## Choose the tested versions again (PINS_ARGS="--upgrade-package torch")
	UV_INDEX= UV_FIND_LINKS= $(UV) pip compile pyproject.toml requirements/opencv.txt \
	    --extra onedl --extra speed --extra downstream --extra demo --extra convert \
	    --extra export --extra parquet --extra huggingface --extra bands --extra test \
	    --extra dev --extra docs --extra build \
	    --python-version 3.10 --no-annotate --custom-compile-command "make pins" \
	    --quiet --output-file $(PINS) $(PINS_ARGS)

clean:  ## Remove .venv, builds and caches; keep work_dirs, data and built wheels
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
