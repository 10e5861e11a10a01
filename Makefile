# Needs Python 3.11 or newer and make; everything else is installed into .venv.
#
#   make run                           the web chat on http://localhost:7860
#   make run ARGS="--model DIR"        the same with a checkpoint of yours (ARGS go to web_demo.py)
#   make test                          linter, types and tests (ARGS go to pytest)
#   make test SYSTEM_PACKAGES=no       the same without asking apt for Chromium and a Chinese font
#   make lint                          linter, format and types alone
#   make test-matrix                   rules, golden, loading, quantization, generation and filling tests on the oldest and
#                                      the newest transformers and the oldest torch that pyproject.toml allows, each in
#                                      an environment of its own (.venv-transformers-5.17.0 ...). ARGS go to pytest;
#                                      MATRIX="transformers-5.20.0 torch-2.12.1" names other releases; `make -k` goes
#                                      on after one that failed
#   make test-sanitize                 the native kernel's tests under GCC's address and undefined-behaviour sanitizers
#   make test-container                builds the image and runs containers of it, where podman or docker and root are;
#                                      at most ten minutes. podman needs runc, and mmdebstrap where no registry answers.
#                                      CONTAINERS=dir keeps podman's images there for the next time
#   make lock                          renew constraints.txt from the installed environment
#   make clean                         remove the environments
#
# PYTHON=python3.12 names another interpreter, VENV=dir another place for the environment. On Linux, PyPI's torch is the
# CUDA build, several GB more (an environment of the matrix with torch 2.11.0: 5.0 GB);
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu before `make` gets the CPU's.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SYSTEM_PACKAGES ?= yes

BIN := $(VENV)/bin
# One stamp per requirements file: a second `make` skips pip unless a pin changed since.
RUN_READY := $(VENV)/run.stamp
TEST_READY := $(VENV)/test.stamp
# Two files of tests at a time: most tests wait for a process or a page. ARGS=-n0 for one.
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check

# Releases that the pins are exchanged for, one at a time.
MATRIX ?= transformers-5.17.0 transformers-newest torch-2.11.0
MATRIX_TESTS := tests/golden tests/rules tests/loading tests/quantization tests/model tests/generation tests/blank_filling
# What these tests do not need, and what transformers and torch choose for themselves.
NOT_IN_MATRIX := gradio|starlette|playwright|ruff|mypy|huggingface_hub|setuptools

.PHONY: help run test test-sanitize test-container lint test-matrix $(MATRIX:%=test-with-%) lock clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

run: $(RUN_READY)
	$(BIN)/python web_demo.py $(ARGS)

test: lint
	@if [ "$(SYSTEM_PACKAGES)" = yes ]; then sh tests/install_browser.sh; fi
	$(BIN)/python -m pytest $(IN_TWO) $(ARGS)

test-sanitize: $(TEST_READY)
	$(BIN)/python -m tests.quantization.sanitize $(ARGS)

test-container: $(TEST_READY)
	$(BIN)/python -m pytest -n0 -ra --timeout 900 tests/container/cases.py $(ARGS)

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-matrix: $(MATRIX:%=test-with-%)

# Without constraints.txt, as after `pip install .`: what is not pinned directly is what pip chooses. Another
# torch chooses its own Triton.
$(MATRIX:%=test-with-%): environment = $(@:test-with-%=$(VENV)-%)
$(MATRIX:%=test-with-%): pin = $(subst ==newest,,$(subst -,==,$(@:test-with-%=%)))
$(MATRIX:%=test-with-%):
	$(PYTHON) -m venv $(environment)
	sed -E '/^(#|-|$$)|^($(NOT_IN_MATRIX))==/d; s/^$(firstword $(subst ==, ,$(pin)))==.*/$(pin)/$(if $(filter torch%,$(pin)),; s/^triton==[^;]*/triton/)' \
	    requirements.txt requirements-test.txt > $(environment)/requirements.txt
	$(environment)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade -r $(environment)/requirements.txt
	$(environment)/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|transformers|tokenizers|huggingface_hub|triton) '
	$(environment)/bin/python -m pytest $(IN_TWO) $(MATRIX_TESTS) $(ARGS)

# The interpreter's own file is the prerequisite: a venv whose Python was upgraded or removed is made anew.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1 | head -1)" >&2; \
	    echo "Name another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(RUN_READY): requirements.txt constraints.txt $(BIN)/python
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(TEST_READY): requirements-test.txt $(RUN_READY)
	$(PIP_INSTALL) -r requirements-test.txt
	@touch $@

lock: $(TEST_READY)
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } \
	    > constraints.tmp && mv constraints.tmp constraints.txt
	@touch $(RUN_READY) $(TEST_READY)

clean:
	rm -rf $(VENV) $(VENV)-transformers-* $(VENV)-torch-*
