# Two commands do everything on a fresh machine: `make train` and `make test`.
# Each makes its own virtual environment under .venv. `make docs` builds the site.

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
PLAN := .venv-plan
# Two processes share the tests, each the half of the files and then what is left.
# Three on two cores take longer: the threads of XLA spin while they wait.
PARALLEL := -n 2 --dist worksteal

# A Python 3.12 or 3.13 that really runs (a shim on the path may not), other than the
# default one: there the newest jax is installed and tried.
PYENV_ROOT ?= $(HOME)/.pyenv
NEWEST_PYTHON := $(shell for python in python3.12 python3.13 \
	$(PYENV_ROOT)/versions/3.12*/bin/python $(PYENV_ROOT)/versions/3.13*/bin/python; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 12))' \
	>/dev/null 2>&1 && echo $$python && break; done)
DEFAULT_IS_NEW := $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 12))')

# What the vendors' compilers take of this, every time: one shape for each chip.
COMPILED := tests/nn/kernels/tpu/test_products_compiled.py \
	tests/nn/kernels/gpu/test_products_compiled.py \
	tests/nn/kernels/test_attention_compiled.py \
	tests/plan/test_command.py::test_a_tpus_compiler_plans_a_step

# Environments beside the default one, made one after the other.
OTHERS := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(PLAN)/.installed) \
	$(if $(filter False,$(DEFAULT_IS_NEW)),$(if $(NEWEST_PYTHON),$(NEWEST)/.installed))

.PHONY: train test docs notebooks slow torture mutants compiled kernels gpu tpu lint newest clean

train: $(VENV)/.installed
	$(VENV)/bin/python -m lostjax.train --mesh=data:8

# Linters and the vendors' compilers mostly keep one core busy each: side by side.
test: $(VENV)/.installed-test
	$(MAKE) $(VENV)/.installed-test $(OTHERS)
	$(MAKE) -j 2 -O newest lint compiled
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not torture"

# The documentation site; without a network, and a warning is an error.
docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx -W --keep-going -n -q docs build/docs
	@echo build/docs/index.html

# Executes the notebooks at full size and writes their outputs into them. The last one
# plans for hardware, with the compilers of the other environment.
notebooks: $(VENV)/.installed-test $(PLAN)/.installed
	$(VENV)/bin/python notebooks/execute.py 1_pretrain.ipynb 2_own_loop.ipynb 3_flatness.ipynb
	$(PLAN)/bin/python notebooks/execute.py 4_plan.ipynb

slow: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m slow

# Breaks what promises to hold, many times over: see RELIABILITY.md. The second half is
# a campaign of attacks (hours), which goes on where it was interrupted.
CAMPAIGN := tests/reliability/test_campaign.py
torture: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m torture --ignore=$(CAMPAIGN)
	$(VENV)/bin/python -m pytest -m torture $(CAMPAIGN)

# Breaks the code a line at a time: what no test notices is a hole in the tests.
mutants: $(VENV)/.installed-test
	$(VENV)/bin/python tests/mutants.py

# The kernels by the TPU's and NVIDIA's own compilers, no hardware needed; in an
# environment of its own, for an installed libtpu or CUDA changes how JAX starts.
compiled: $(filter $(PLAN)/%,$(OTHERS))
ifneq ($(filter $(PLAN)/%,$(OTHERS)),)
	$(PLAN)/bin/python -m pytest -m "not slow and not torture" $(COMPILED)
else
	@echo "no compiler of TPUs and H100s for $(shell uname -sm): no kernel is compiled"
endif

# Every paper shape, and every program of the check below.
kernels: $(PLAN)/.installed
	$(PLAN)/bin/python -m pytest tests/nn/kernels tests/benchmarks/test_device_compiled.py \
		tests/plan/test_command.py -k "not test_command or compiler_plans"

# What one accelerator says, in eight minutes; python3 has jax for it, flax and optax.
gpu tpu:
	$(PYTHON) benchmarks/$@.py --json=check_$@.json --markdown=check_$@.md

$(PLAN)/.installed: setup.cfg pyproject.toml
	test -x $(PLAN)/bin/python || $(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/python -m pip install -q -e '.[test,plan]'
	touch $@

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/mypy

newest: $(filter $(NEWEST)/%,$(OTHERS))
ifeq ($(DEFAULT_IS_NEW),True)
	@echo "$(PYTHON) already has the newest jax"
else ifeq ($(NEWEST_PYTHON),)
	@echo "no Python 3.12 or newer runs here: the newest jax is not tried"
else
	$(NEWEST)/bin/python -m pytest $(PARALLEL) -m "newest and not slow and not torture" \
		$$(grep -rl "mark.newest" --include="test_*.py" tests)
endif

$(NEWEST)/.installed: setup.cfg pyproject.toml
	test -x $(NEWEST)/bin/python || $(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q -e '.[test]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[train]'
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(NEWEST) $(PLAN) build *.egg-info
