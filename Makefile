# Each command sets itself up: `make run` on a fresh machine needs Python and make, nothing else.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
PROFILE ?=
SEED    ?= 42
ARGS    ?=

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: run test lab notebooks bench clean help

help:
	@echo "make run        train a language model with GRPO and show what it learned (PROFILE=tiny|small|t4|t4_full|article, SEED=, ARGS=)"
	@echo "make test       unit tests, conventions, and every notebook executed on the tiny profile"
	@echo "make lab        JupyterLab on the notebooks"
	@echo "make notebooks  execute the notebooks in place at full size"
	@echo "make bench      speed of this package beside the libraries' defaults, in one run"
	@echo "make clean      remove outputs and the virtual environment"

# Installed once, and again when the pins change.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: $(VENV)/.installed
	$(BIN)/python -m grpo_helpers $(if $(PROFILE),--profile $(PROFILE)) --seed $(SEED) $(ARGS)

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests
	GRPO_PROFILE=tiny $(BIN)/python -m pytest --nbmake --nbmake-timeout=2400 notebooks

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.timeout=3600 notebooks/*.ipynb
	$(BIN)/python tests/clean_notebooks.py notebooks/*.ipynb

bench: $(VENV)/.installed
	$(BIN)/python tests/bench.py $(ARGS)
	$(BIN)/python tests/bench_rewards.py
	$(BIN)/python tests/bench_memory.py

clean:
	rm -rf outputs $(VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis
