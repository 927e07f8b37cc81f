# `make` says what there is to make.
SHELL := bash
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-cluster test-long check format docs lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq

# The demo collects its dataset with OGBench's own oracle.
MAZE := pointmaze-medium-navigate
WORKERS ?= 2
RESULTS ?= results/maze

# How long `make test-long` is.
KILLS ?= 20
SEED ?= 0
PACKS ?= 100

help:  ## this list
	@echo "Latent Policy Steering against its baselines on OGBench."
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1@\2/p' Makefile | column -t -s @
	@echo
	@echo "Needs Python 3.11, 3.12 or 3.13 as python3; another one: make demo PYTHON=python3.12"

env: $(VENV)/.runtime  ## only the environment, in .venv

demo: $(VENV)/.runtime  ## LPS against cloning in a maze: data, training through Ray, table, report, animation (RESULTS=)
	@echo "[2/5] data: 200 episodes of $(MAZE) by OGBench's own oracle"
	@$(BIN)/python -m lps collect $(MAZE) --episodes 200 --workers $(WORKERS) --seed 0
	@echo "[3/5] training: LPS and two kinds of cloning, three seeds each, through Ray Tune and Ray Train"
	@$(BIN)/python sweeps/ogbench_all.py --preset demo --results $(RESULTS)
	@echo "[4/5] pictures: the policies in the maze"
	@$(MAKE) --silent $(RESULTS)/maze.gif
	@echo "[5/5] comparison"
	@set -o pipefail; $(BIN)/python analysis/compare.py $(RESULTS) | sed '/^written:/,$$d'
	@$(BIN)/python -m analysis report $(RESULTS) > /dev/null
	@echo "report       $(RESULTS)/report/report.html"
	@echo "figure       $(RESULTS)/maze.png"
	@echo "animation    $(RESULTS)/maze.gif"
	@echo "all curves   $(BIN)/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(abspath $(RESULTS))/mlflow.db}"

$(RESULTS)/maze.npz: $(wildcard $(RESULTS)/runs/*.json)
	@$(BIN)/python -m lps trajectories $(RESULTS) $@ --episodes 5

$(RESULTS)/maze.gif: $(RESULTS)/maze.npz
	@$(BIN)/python -m analysis maze $<

test: $(VENV)/.dev  ## the fast tests, a few minutes: no Ray, no GPU, no download of data
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev  ## the other tests: Ray on this machine, compiled updates, longer training
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m slow

test-cluster: $(VENV)/.dev  ## a night on cluster.yaml, in a cloud on this machine (Linux, root)
	@$(PIP) -c requirements.lock 'moto[server]==5.2.5'
	@$(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 tests/cluster/night.py

test-long: $(VENV)/.dev  ## an hour and more: kills (KILLS=, SEED=), pairs of drivers, no memory, 100 packs (PACKS=), a policy server
	@LPS_LONG_KILLS=$(KILLS) LPS_LONG_SEED=$(SEED) LPS_LONG_PACKS=$(PACKS) LPS_LONG_PAIRS=10 \
	  $(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 tests/long/{kills,raylet,memory,soak,server,tuning}.py tests/test_two_drivers.py

check: $(VENV)/.dev  ## format, lint and types
	@$(BIN)/ruff format --check --quiet . || { echo "format: 'make format' mends the files above"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(VENV)/.dev  ## bring every file into the one format
	@$(BIN)/ruff check --select I --fix --quiet .
	@$(BIN)/ruff format .

docs: $(VENV)/.docs  ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

# One resolution for all supported Pythons and platforms; tools of tests and docs and CUDA's libraries get own files.
COMPILE := build/lock/bin/uv pip compile --quiet --universal --fork-strategy fewest --no-annotate --no-header pyproject.toml
CUDA := ^(cuda|nvidia|triton)[-=]
lock:  ## resolve pyproject.toml to the newest versions that fit and write requirements*.lock
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install --disable-pip-version-check --quiet uv
	@$(COMPILE) --extra aws --extra minari --extra robot --extra serve --extra video > build/lock/all
	@for extra in dev docs; do \
	  $(COMPILE) --extra aws --extra minari --extra robot --extra serve --extra video --extra $$extra --constraints build/lock/all > build/lock/all-$$extra; done
	@{ echo "# Every package the project runs on, for Python 3.11 to 3.13. Written by 'make lock' from pyproject.toml; by hand:"; \
	   echo "#   pip install -c requirements.lock -c requirements-cuda.lock torch"; \
	   echo "#   pip install --no-deps -r requirements.lock"; \
	   echo "# mujoco and dm_control are the pair that LPS's authors ran; pyproject.toml says why these and why that torch."; \
	   grep -vE '$(CUDA)' build/lock/all; } > requirements.lock
	@{ echo "# What 'make test' and 'make check' need beyond requirements.lock. Written by 'make lock'."; \
	   grep -vxFf build/lock/all build/lock/all-dev; } > requirements-dev.lock
	@{ echo "# What 'make docs' needs beyond requirements.lock. Written by 'make lock'."; \
	   grep -vxFf build/lock/all build/lock/all-docs; } > requirements-docs.lock
	@{ echo "# The CUDA libraries of PyTorch's GPU build, as constraints: a CPU build installs none. Written by 'make lock'."; \
	   grep -E '$(CUDA)' build/lock/all; } > requirements-cuda.lock

clean:  ## remove the environment and all caches; results and data stay
	@rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that an install went through to its end; where there is none the environment is made anew.
# PyTorch comes first and with its dependencies, for only its GPU build knows its CUDA libraries; the rest needs no
# resolving: the lock is complete.
$(VENV)/.runtime: requirements.lock requirements-cuda.lock pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("error: $(PYTHON) is Python %d.%d; needed is 3.11, 3.12 or 3.13 (make PYTHON=python3.12 ...)" % sys.version_info[:2])'
	@echo "[1/5] environment: $(VENV) from requirements.lock (about 3 minutes)"
	@test -e $@ || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@rm -f $@
	@echo "      PyTorch"
	@$(PIP) -c requirements.lock -c requirements-cuda.lock torch
	@echo "      $$(grep -c == requirements.lock) locked packages"
	@$(PIP) --no-deps -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/.runtime requirements-%.lock
	@echo "      tools of requirements-$*.lock"
	@rm -f $@
	@$(PIP) --no-deps -r requirements-$*.lock
	@touch $@
