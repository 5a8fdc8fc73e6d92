# Everything from nothing: `make train`, `make test`. Needs Python 3.11 or later with pip, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps: what training needs is installed; what tests and linters need, too.
TRAIN := $(VENV)/.train
DEV := $(VENV)/.dev

# Where this is set, every process would compile torch, Lightning and the tests anew, which takes longer than most tests.
unexport PYTHONDONTWRITEBYTECODE

# An environment of its own for another release of torch_xla: constraints.txt without torch and what comes with it.
XLA ?= 2.8
XLA_VENV := .venv-xla-$(XLA)

MEMBERS := logs/train/multiruns/members_$(shell date +%Y-%m-%d_%H-%M-%S)
RESOLUTIONS := $(MEMBERS)/192,$(MEMBERS)/224,$(MEMBERS)/331,$(MEMBERS)/512

SITE_SCRIPTS := build/npm/mermaid.min.js build/npm/iframe-worker.js

# More processes than cores, as tests wait for servers and other processes. The tests of a file of commands stay
# together, as they share what they have trained.
WORKERS := $(shell expr $$(nproc 2> /dev/null || sysctl -n hw.ncpu) \* 3 / 2)
IN_PARALLEL := -n $(WORKERS) --dist loadfile
BALANCED := -n auto --dist worksteal
# Its bound is in seconds of processor time, which grow when all cores are busy.
ALONE := tests/slow/test_start.py

.DEFAULT_GOAL := help
.PHONY: help setup train ensemble test test-unit test-slow test-xla slurm lint format docs clean

help:  ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV)  ## Create .venv with everything: training, tests, linters.

$(TRAIN): pyproject.toml setup.py constraints.txt
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $@

$(DEV): $(TRAIN)
	@$(PYTHON) scripts/install.py $(VENV) dev
	@touch $@

train: $(TRAIN)  ## Train the default model on the built-in data set. ARGS="..." are passed on.
	$(BIN)/python src/train.py $(ARGS)
	@echo
	@echo 'Make it your own:   python scripts/rename.py my_project    renames the package, its settings and its commands'
	@echo 'Your data or model: docs/your-own.md                       a Python file and a YAML file for each'

ensemble: $(TRAIN)  ## A member at each resolution of the built-in data set, blended. ARGS="..." go to the blend.
	$(BIN)/python src/train.py --multirun 'experiment=glob(member_*)' hydra.sweep.dir=$(MEMBERS) 'hydra.sweep.subdir=$${data.image_size}'
	$(BIN)/python src/predict.py --multirun run=$(RESOLUTIONS) split=val,test tta.symmetries=flip
	$(BIN)/python src/ensemble.py 'runs=["$(MEMBERS)/*"]' $(ARGS)

test: $(DEV)  ## Run the tests that every commit must pass. ARGS="..." are passed on.
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow" tests/unit tests/commands $(ARGS)

test-unit: $(DEV)  ## Run the tests of one module at a time: the first to run while you work.
	$(BIN)/python -m pytest $(BALANCED) tests/unit $(ARGS)

test-slow: $(DEV)  ## Run the rest: kills, many processes, XLA, fuzzing, memory, benchmarks.
	$(BIN)/python -m pytest $(IN_PARALLEL) -m slow tests --ignore=$(ALONE) $(ARGS)
	$(BIN)/python -m pytest $(ALONE) $(ARGS)

test-xla:  ## Run the tests of trainer=tpu on another release of torch_xla: XLA=2.8.
	$(PYTHON) -m venv $(XLA_VENV)
	grep -vE '^(torch|torch-xla|torchvision|triton|nvidia-[a-z0-9-]+)==' constraints.txt > $(XLA_VENV)/constraints.txt
	$(XLA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(XLA_VENV)/constraints.txt torch==$(XLA).0 torch_xla==$(XLA).0 --editable '.[dev]'
	$(XLA_VENV)/bin/python -m pytest tests/unit/training/xla tests/slow/xla $(ARGS)

slurm: build/slurm  ## Unpack SLURM for its tests. Needs Debian or Ubuntu.

# Not installed: where Lightning finds srun, each training warns that it was not started with it.
build/slurm:
	@rm -rf $@.part && mkdir -p $@.part
	cd $@.part && apt-get download -qq slurmctld slurmd slurm-client slurm-wlm-basic-plugins libhwloc15 libmunge2
	cd $@.part && set -e && for package in *.deb; do dpkg -x $$package . && rm $$package; done
	@mv $@.part $@

lint: $(DEV)  ## Check style, types and files, as pre-commit does.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files

docs: $(DEV) $(SITE_SCRIPTS)  ## Build the documentation as a site in build/site. Needs npm, for two scripts.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# They draw the diagrams and search without a server. The theme would load them from one.
build/npm/mermaid.min.js:
	mkdir -p $(@D) && cd $(@D) && npm pack --silent mermaid@11.17.2
	tar xzOf $(@D)/mermaid-11.17.2.tgz package/dist/mermaid.min.js > $@

build/npm/iframe-worker.js:
	mkdir -p $(@D) && cd $(@D) && npm pack --silent iframe-worker@1.0.4
	tar xzOf $(@D)/iframe-worker-1.0.4.tgz package/shim/index.js > $@

format: $(DEV)  ## Fix what ruff can fix.
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

clean:  ## Remove .venv and caches; data/ and logs/ stay.
	rm -rf $(VENV) .venv-xla-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
