# On a fresh machine with Python >= 3.10, make and git:
#   make report      notebooks 01-04 and results/<data set>/report.html; SMOKE=1 shorter, FULL=1 hours
#   make test        everything but the optional extra
#   make app         the application at http://127.0.0.1:7860 (PORT=, MODEL=)
# Others: install, bench (RAY=1), test-all, notebooks (refresh the committed outputs), format, clean.
# Real pictures: DATA=folder ROOT=path/to/pictures

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install report app bench test test-all notebooks format clean

PYTHON ?= python3
VENV ?= .venv
DATA ?= auto
ROOT ?=
SEEDS ?=
SMOKE ?=
FULL ?=
RAY ?=
PORT ?= 7860
MODEL ?=

# relative to this folder, so that its own path may have spaces
BIN := $(VENV)/bin
READY := $(VENV)/.installed
SCALED := $(VENV)/.installed-scale
BATIK := $(BIN)/python -m batik_utils
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# the project's own weights folder, where it lies beside the checkout; see batik_utils/weights.py
ifneq ($(wildcard ../shared/weights),)
export BATIK_WEIGHTS_DIR ?= $(CURDIR)/../shared/weights
endif
# glibc gives large tensors back to the system after each step and asks for them again in the next:
# page faults are up to a third of the CPU time of training. These keep the memory.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 17179869184

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -6

# the package itself is linked, so that a notebook finds it from any folder
$(READY): requirements.txt constraints.txt
	@echo "Installing into $(VENV) (a few minutes, 6 GB with torch)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt -c constraints.txt
	$(BIN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), \
		'batik_utils.pth').write_text(str(pathlib.Path.cwd()))"
	@touch $@

install: $(READY)
	@echo "$(VENV) is ready; it is installed again only when requirements or constraints change"

# the optional extra for clusters, several GPUs and MLflow, into the same environment
$(SCALED): $(READY) requirements-scale.txt
	@echo "Adding the extra 'scale' to $(VENV) (half a minute, 0.5 GB)"
	$(PIP) -r requirements-scale.txt -c constraints.txt
	@touch $@

report: install
	$(BATIK) report --data '$(DATA)' --root '$(ROOT)' $(if $(SEEDS),-p SEEDS $(SEEDS)) \
		$(if $(SMOKE),--smoke) $(if $(FULL),--full)

app: install
	$(BATIK) app --port $(PORT) --model '$(MODEL)'

# How close this is to the limit of the machine, in results/bench (three minutes on two idle cores).
# The tables are kept in the repository: run it on a machine that does nothing else.
bench: install $(if $(RAY),$(SCALED))
	$(BATIK) bench --data '$(DATA)' --root '$(ROOT)' --model '$(MODEL)' $(if $(RAY),--ray local)

CHECK = BATIK_OFFLINE=1 $(BIN)/python -m pytest

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CHECK) tests -m "not scale"

# also the tests that need Ray, Fabric or MLflow; a process a file, as Ray starts badly twice in one
test-all: test $(SCALED)
	for file in tests/scale/test_*.py; do $(CHECK) -m scale "$$file"; done

REFRESH = $(BIN)/python -c 'import sys; from batik_utils import notebook as n; \
	list(map(n.refresh, n.find(sys.argv[1:])))'

# 01, 02, 03 and 05 on drawn cloth, 04 from the committed results
notebooks: $(READY)
	BATIK_OFFLINE=1 BATIK_RESULTS_DIR="$$($(BIN)/python tests/notebook_cache.py)" \
		$(REFRESH) 01 02 03 05
	$(REFRESH) 04

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .cache results/synthetic results/*-limit* results/*/notebooks results/notebooks

# targets of earlier versions
scale := make test-all installs the extra; by hand: pip install -r requirements-scale.txt
train := $(BATIK) train
web := $(BATIK) export --format web
fuzz := $(BIN)/python tests/fuzz_pictures.py
load := $(BIN)/python tests/load_app.py
scale train web fuzz load lint unit notebooks-test:
	@echo "There is no target '$@' any more: $(or $($@),make test)"; exit 2
