# Each command sets itself up: `make run` on a fresh machine needs Python and make, nothing else.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
SITE    := .venv-site
PROFILE ?=
SEED    ?= 42
ARGS    ?=
# A test on each core, on one thread: alone on two threads a step of tiny is only 1.3 times as fast as on one. Four at
# most, for their memory. The notebooks run from the last, which takes longest, so that it is not alone at the end.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, max(2, os.cpu_count())))")

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: run test quick lab notebooks bench site site-check browser colab gpu-check publish pictures clean help

help:
	@echo "make run        train a language model with GRPO and show what it learned (PROFILE=tiny|small|small_long|t4|t4_full|article, SEED=, ARGS=)"
	@echo "make test       lint, unit tests, conventions, and every notebook executed on the tiny profile"
	@echo "make quick      lint, and the tests that train nothing: about two minutes"
	@echo "make lab        JupyterLab on the notebooks"
	@echo "make notebooks  execute the notebooks in place at full size"
	@echo "make bench      speed of this package beside the libraries' defaults, in one run"
	@echo "make site       the notebooks as a web site with navigation and search, in outputs/site/html"
	@echo "make site-check its links, figures, formulas, width and search in headless Chromium, with screenshots"
	@echo "make browser    run 01, 05 and 06 in a real JupyterLab driven by headless Chromium"
	@echo "make colab      rehearse Colab: its versions, an empty folder, the first cells of every notebook"
	@echo "make gpu-check  seconds and memory of a few steps on this machine's GPU, planned beside measured"
	@echo "make pictures   draw the picture at the head of the README from the recorded runs"
	@echo "make publish    write the repository's address into badges, set-up cells and README (REPO=owner/name)"
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
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests
	OMP_NUM_THREADS=1 GRPO_PROFILE=tiny $(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 1 --nbmake \
		--nbmake-timeout=1200 $(shell ls -r notebooks/*.ipynb)

quick: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not trains" tests

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.timeout=3600 notebooks/*.ipynb
	$(BIN)/python tests/tools/clean_notebooks.py --executed notebooks/*.ipynb

bench: $(VENV)/.installed
	$(BIN)/python tests/tools/bench.py $(ARGS)
	$(BIN)/python tests/tools/bench_rewards.py
	$(BIN)/python tests/tools/bench_memory.py

# The site and the browser have an environment of their own, so that it cannot move the tested versions.
$(SITE)/.installed: notebooks/_site/requirements.txt
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

site: $(SITE)/.installed
	rm -rf outputs/site
	$(SITE)/bin/sphinx-build -q -E -W --keep-going -c notebooks/_site -d outputs/site/doctrees notebooks outputs/site/html
	@echo "open outputs/site/html/index.html"

site-check: site
	$(SITE)/bin/python tests/tools/check_site.py outputs/site/html outputs/site/screenshots

browser: $(VENV)/.installed $(SITE)/.installed
	$(SITE)/bin/python tests/tools/browser.py $(BIN)/jupyter outputs/browser-screenshots $(ARGS)

colab: $(VENV)/.installed
	$(BIN)/python tests/tools/colab_rehearsal.py $(ARGS)

gpu-check: $(VENV)/.installed
	$(BIN)/python tests/tools/gpu_check.py $(ARGS)

pictures: $(VENV)/.installed
	$(BIN)/python tests/tools/pictures.py

publish: $(VENV)/.installed
	$(BIN)/python tests/tools/publish.py '$(REPO)'

clean:
	rm -rf outputs $(VENV) $(SITE) *.egg-info build .pytest_cache .ruff_cache .hypothesis
