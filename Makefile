# Two commands for a fresh machine with Python >= 3.10, make and git:
#   make report   run notebooks 01-04, write results/<data set>/report.html
#   make test     everything that CI checks
#   make app      the application, in a browser at http://127.0.0.1:7860
# `make report DATA=folder ROOT=path/to/pictures` takes real pictures; SMOKE=1 makes it minutes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install scale report train bench app web fuzz load test lint unit notebooks-test notebooks format clean

PYTHON ?= python3
VENV ?= .venv
DATA ?= auto
ROOT ?=
SEEDS ?= 3
SMOKE ?=
RECIPES ?= all
PRECISION ?= float32
SCALE ?=
PORT ?= 7860
MODEL ?=

BIN := $(VENV)/bin
READY := $(VENV)/.installed
SCALED := $(VENV)/.installed-scale
# the project's own weights folder, where it lies beside the checkout; see batik_utils/weights.py
export BATIK_WEIGHTS_DIR ?= $(abspath $(wildcard ../shared/weights))
# glibc gives large tensors back to the system after each step and asks for them again in the next:
# page faults are up to a third of the CPU time of training. These keep the memory.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 17179869184

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -5

$(READY): requirements.txt constraints.txt
	@echo "Installing into $(VENV) (a few minutes, 6 GB with torch)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -c constraints.txt
	@touch $@

install: $(READY)
	@echo "$(VENV) is ready; it is installed again only when requirements or constraints change"

# the optional extra for clusters, several GPUs and MLflow, into the same environment
$(SCALED): $(READY) requirements-scale.txt
	@echo "Adding the extra 'scale' to $(VENV) (half a minute, 0.5 GB)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-scale.txt -c constraints.txt
	@touch $@

scale: $(SCALED)
	@echo "$(VENV) has Ray, Fabric and MLflow"

report: install
	$(BIN)/python -m batik_utils report --data '$(DATA)' --root '$(ROOT)' \
		$(if $(SMOKE),--smoke,-p SEEDS $(SEEDS))

train: install
	$(BIN)/python -m batik_utils train --data '$(DATA)' --root '$(ROOT)' \
		--recipes '$(RECIPES)' --seeds $(SEEDS) --precision $(PRECISION)

# How many times faster than the published way, in results/bench (about five minutes on two idle
# cores). SCALE=100000 sends so many pictures through instead (about two hours), and TRIED=1 times
# what else was tried. The tables are kept in the repository: run it on a machine that does nothing else.
bench: install
	$(BIN)/python -m batik_utils bench --data '$(DATA)' --root '$(ROOT)' --model '$(MODEL)' \
		$(if $(SCALE),--scale $(SCALE)) $(if $(TRIED),--tried)

# The application at http://127.0.0.1:7860 (PORT=... for another one, MODEL=... for another model)
app: install
	$(BIN)/python -m batik_utils app --port $(PORT) --model '$(MODEL)'

# The page that works in the browser alone, in build/web (needs npm)
web: install
	$(BIN)/python -m batik_utils web --output build/web --model '$(MODEL)'

# Twenty thousand damaged files, and twenty users for a minute on this machine: figures, no test
fuzz: install
	PYTHONPATH=. $(BIN)/python tests/fuzz_pictures.py

load: install
	PYTHONPATH=. $(BIN)/python tests/load_app.py --model '$(MODEL)' --csv results/bench/load.csv

test: install lint unit notebooks-test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(SCALED)
	$(BIN)/python -m pytest tests

# The committed 04 is compared by tests/test_notebook_checks.py, which also shows that a changed
# output is seen. Notebook results are kept under a name made from the code, so unchanged code is not trained again;
# BATIK_OFFLINE makes "auto" mean the synthetic set, as in the committed outputs.
CHECKED = .cache/notebooks/$(shell cat batik_utils/*.py constraints.txt | sha256sum | cut -c1-12)
SMOKED = $(CHECKED)/smoke
NBVAL = BATIK_OFFLINE=1 BATIK_RESULTS_DIR=$(abspath $(CHECKED)/results) $(BIN)/python -m pytest \
	--nbval-lax --nbval-current-env --nbval-cell-timeout 1800 -p no:cacheprovider

notebooks-test: $(READY)
	@if [ -d $(CHECKED)/results ]; then echo "Code unchanged: runs in $(CHECKED) are reused"; fi
	BATIK_OFFLINE=1 $(BIN)/python -m batik_utils run --smoke --output $(SMOKED) \
		-p RESULTS $(abspath $(CHECKED)/results) -p DATASET synthetic-limit10
	$(NBVAL) $(SMOKED)
	$(NBVAL) notebooks/01_exploration.ipynb notebooks/02_scratch_models.ipynb \
		notebooks/03_transfer_learning.ipynb notebooks/05_deployment.ipynb

# Refresh the committed outputs: 01, 02, 03, 05 on synthetic cloth, 04 from results/kaggle.
notebooks: $(READY)
	BATIK_OFFLINE=1 BATIK_RESULTS_DIR=$(abspath $(CHECKED)/results) \
		$(BIN)/python -m batik_utils run --refresh 01 02 03 05
	$(BIN)/python -m batik_utils run --refresh 04

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .cache results/synthetic results/*-limit* results/*/notebooks results/notebooks
