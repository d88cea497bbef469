# make demo: install, train on the embedded default, compare before with after
# make test: install, run the tests
# make check: format, lint, types and tests
# make docs: install, build the documentation into site/
# make fuzz: odd files and configurations with ever new seeds, for FUZZ_SECONDS (an hour)
# make world: rebuild the models and data that the package ships

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m

.PHONY: demo test lint check docs fuzz world

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(RUN) detox_lightning fit --config configs/demo.yaml
	$(RUN) detox_lightning test --config configs/demo.yaml --ckpt_path last

test: $(VENV)/installed
	$(RUN) pytest

lint: $(VENV)/installed
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

check: lint test

$(VENV)/documented: $(VENV)/installed
	$(VENV)/bin/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/documented
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

fuzz: $(VENV)/installed
	$(VENV)/bin/python tests/fuzz/endless.py

world: $(VENV)/installed
	$(RUN) detox_lightning.demo.build
