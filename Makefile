# Everything is installed into .venv. The only requirements are make and Python 3.11.
#
# TORCH_INDEX is the index that pip installs torch from; by default, pip's own. On Linux, its build of torch includes
# gigabytes of CUDA. Without an NVIDIA GPU, set TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv
# Environment for comparing codecs with their original packages, whose requirements conflict with those in VENV
ORIGINALS ?= .venv-originals
# Environment for testing the oldest versions
OLDEST ?= .venv-oldest

PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BEGAN := $(shell date +%s)
# Packages that `make demo` needs
NEEDED := $(addprefix plugins/codecdiff-,starter unet dac t5 eval)
# Codecs that have an original package
COPIES := $(wildcard $(addprefix plugins/codecdiff-,dac encodec snac))
# Packages that are tested with the oldest versions of their requirements: .ci/oldest.py
OLD := $(addprefix plugins/codecdiff-,clap controls dac datasets dit encodec eval mert minilm starter t5 unet)
READY := $(VENV)/.ready
WHOLE := $(VENV)/.whole
RUN = $(VENV)/bin/python -m
INSTALL = $(RUN) pip install --quiet --no-compile --constraint constraints.txt
# bfloat16 is nearly twice as fast on processors with AMX, and slower on others
PRECISION := $(if $(shell grep -ls amx_bf16 /proc/cpuinfo),bf16,no)
# By default, accelerate uses one core per process, and warns about options that are not set
LAUNCH := $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision $(PRECISION) --dynamo_backend no \
	--num_cpu_threads_per_process $(CORES)
SOAK = OMP_NUM_THREADS=1 $(RUN:-m=) tests/soak
PYTEST = OMP_NUM_THREADS=1 $(RUN) pytest

unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-integration test-browser wheels test-wheels test-originals test-oldest oldest test-slow test-hub soak docs \
	lint types clean
.DEFAULT_GOAL := help

help:  ## list all commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(WHOLE)  ## install everything into .venv

demo: $(READY)  ## compose music, train both stages on it, generate, and write runs/demo/index.html
	$(RUN) codecdiff_starter.composer runs/demo/music --count 300
	$(LAUNCH) recipes/discodiff.py output=runs/demo data.audio=runs/demo/music \
		conditioner.conditioners.tempo-and-key.usual_bpm=108
	$(RUN) codecdiff_starter.demo runs/demo --since $(BEGAN)

test: $(WHOLE)  ## run the fast tests
	$(PYTEST) --numprocesses 2 --dist worksteal

test-integration: $(WHOLE)  ## run the tests of whole commands and models, which take seconds each
	$(PYTEST) --numprocesses 2 --dist worksteal -m integration

wheels: $(WHOLE)  ## build the wheels of all packages into dist/
	$(RUN:-m=) .ci/wheels.py --build dist

test-wheels: $(WHOLE)  ## build wheels, and test them and plugins written by `codecdiff new-plugin` in a clean environment
	$(RUN:-m=) .ci/wheels.py

test-browser: $(WHOLE)  ## run the tests of web pages in a browser; needs Chromium
	$(PYTEST) -m browser tests/browser

test-slow: $(WHOLE)  ## run the slow tests
	$(PYTEST) --numprocesses 2 -m slow

soak: $(WHOLE)  ## test kills, full disks, damaged files, races and fuzzed inputs for a day; resumes
	mkdir -p runs/soak
	$(SOAK)/accidents.py kill full --every $(or $(EVERY),1) --state runs/soak/operations.json
	$(SOAK)/accidents.py chain --trials $(or $(CHAINS),100) --state runs/soak/chains.json
	$(SOAK)/accidents.py damage --trials $(or $(DAMAGES),10000) --state runs/soak/damage.json
	$(SOAK)/races.py --trials $(or $(RACES),100) --state runs/soak/races.json
	$(SOAK)/fuzz.py --total $(or $(INPUTS),10000000) --state runs/soak/fuzz.json

test-hub: $(WHOLE) $(ORIGINALS)/.ready  ## download the released models, check them, and compare them with their packages: runs/hub.json
	mkdir -p runs && $(RUN:-m=) tests/hub/released.py runs/hub.json
	$(ORIGINALS)/bin/python tests/hub/released.py runs/hub.json dac encodec

$(ORIGINALS)/.ready: override VENV := $(ORIGINALS)
test-originals: override VENV := $(ORIGINALS)
test-originals: $(ORIGINALS)/.ready  ## compare codecs with their original packages, in a separate environment
	$(PYTEST) --disable-warnings tests/originals

$(OLDEST)/.ready: override VENV := $(OLDEST)
test-oldest: override VENV := $(OLDEST)
test-oldest: $(OLDEST)/.ready  ## run some of the fast tests with the oldest allowed versions, in a separate environment
	$(VENV)/bin/codecdiff doctor
	$(PYTEST) --disable-warnings $(addprefix tests/test_,adapters.py audio_formats.py codecs.py command_line.py conditioners.py config.py \
		controls.py edits.py manifest.py pipeline.py registry.py samplers.py training.py) \
		plugins/codecdiff-controls/tests plugins/codecdiff-eval/tests/test_evaluation.py

oldest: $(WHOLE)  ## resolve the oldest allowed versions into constraints-oldest.txt
	$(RUN) pip install --quiet uv
	$(RUN:-m=) .ci/oldest.py

docs: $(VENV)/.docs  ## build the documentation, with the API reference, into runs/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo 'Open runs/docs/index.html'

lint: $(WHOLE)  ## check style and layout
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(WHOLE)  ## check types
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

clean:  ## remove environments and caches, but not runs
	rm -rf $(VENV) $(ORIGINALS) $(OLDEST) .pytest_cache
	find . \( -name __pycache__ -o -name .ruff_cache \) -prune -exec rm -rf {} +

# torch is installed first and separately, because it may have its own index; its dependencies follow with the others.
# pip does not compile modules, which would double the time: `codecdiff doctor` imports and thereby compiles those in use.
define NEW_VENV
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools
	$(INSTALL) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
endef

$(READY): pyproject.toml $(addsuffix /pyproject.toml,$(NEEDED)) constraints.txt
	@echo "Installing into $(VENV): about three minutes"
	$(NEW_VENV)
	$(INSTALL) --no-build-isolation --editable '.[train]' \
		$(addprefix --editable ,$(filter-out %-starter,$(NEEDED))) --editable 'plugins/codecdiff-starter[demo]'
	$(VENV)/bin/codecdiff doctor
	touch $@

$(WHOLE): $(READY) $(addsuffix /pyproject.toml,$(PLUGINS))
	$(INSTALL) --no-build-isolation --editable '.[train,dev]' $(addprefix --editable ,$(PLUGINS))
	$(VENV)/bin/codecdiff doctor
	touch $@

$(VENV)/.docs: $(WHOLE)
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	touch $@

$(ORIGINALS)/.ready: pyproject.toml $(addsuffix /pyproject.toml,$(COPIES)) constraints.txt tests/originals/requirements.txt
	@echo "Installing into $(VENV): about two minutes"
	$(NEW_VENV)
	$(INSTALL) --no-build-isolation --editable '.[train]' $(addprefix --editable ,$(COPIES)) pytest
	$(INSTALL) --no-build-isolation --no-deps --requirement tests/originals/requirements.txt
	touch $@

$(OLDEST)/.ready: override INSTALL = $(RUN) pip install --quiet --no-compile --constraint constraints-oldest.txt
$(OLDEST)/.ready: pyproject.toml $(addsuffix /pyproject.toml,$(OLD)) constraints-oldest.txt
	@echo "Installing into $(VENV): about two minutes"
	$(NEW_VENV)
	$(INSTALL) --no-build-isolation --editable '.[train,adapters]' $(addprefix --editable ,$(OLD)) pytest librosa
	touch $@
