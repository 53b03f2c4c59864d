# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.10+ and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT ?= demo-output
DATA ?=
WORK ?= build/embedded

.DEFAULT_GOAL := help
.PHONY: help demo test test-extras slow lint docs embedded-model clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "unbackdoor needs Python 3.10 or later; set PYTHON=path/to/python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) -e '.[test,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.extras: $(VENV)/.dev
	$(PIP) -e '.[hf,classnames,multi,recipes,ray,browser,test,dev]'
	@touch $@

demo: $(VENV)/.core  ## Poison and cure the embedded CLIP; the report lands in demo-output/
	$(BIN)/unbackdoor demo --out $(OUT)

test: $(VENV)/.test  ## Install what the tests need and run them, on two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-extras: $(VENV)/.extras  ## Install every extra and run the tests; a skipped one fails, but for want of a GPU
	OMP_NUM_THREADS=1 UNBACKDOOR_NO_SKIPS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.test  ## Full-size architectures, a few minutes more
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev  ## ruff, and mypy: strict in src, in recipes and benchmarks what would break a run
	$(BIN)/ruff check src tests recipes benchmarks
	$(BIN)/ruff format --check src tests recipes benchmarks
	$(BIN)/mypy --strict src
	$(BIN)/mypy --explicit-package-bases --ignore-missing-imports \
		--disable-error-code no-any-return --disable-error-code no-untyped-call recipes benchmarks

docs: $(VENV)/.docs  ## Build the documentation into build/site; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

embedded-model: $(VENV)/.test  ## Train the embedded CLIP again: make embedded-model DATA=folder-with-tiny-imagenet-200
	@test -n "$(DATA)" || { echo "give DATA=folder that holds tiny-imagenet-200/"; exit 2; }
	$(PIP) -e '.[recipes]'
	@mkdir -p $(WORK)
	$(BIN)/python recipes/embedded/teacher.py --data $(DATA)/tiny-imagenet-200 --out $(WORK)
	$(BIN)/python recipes/embedded/train_text.py --data $(DATA)/tiny-imagenet-200 --out $(WORK)
	$(BIN)/python recipes/embedded/train_image.py --data $(DATA)/tiny-imagenet-200 --out $(WORK) --stage 1
	$(BIN)/python recipes/embedded/train_image.py --data $(DATA)/tiny-imagenet-200 --out $(WORK) --stage 2
	$(BIN)/python recipes/embedded/tune_text.py --data $(DATA)/tiny-imagenet-200 --out $(WORK)
	$(BIN)/python recipes/embedded/export.py --data $(DATA) --out $(WORK)

clean:  ## Remove the virtual environment and build output
	rm -rf $(VENV) build dist $(OUT)
