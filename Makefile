# make demo: install, train on the embedded default, compare before with after
# make test: install, run the tests that promise something first, within five minutes
# make test-all: those, and the slow ones that repeat a promise at length
# make check: format, lint, types and all tests
# make docs: install, build the documentation into site/
# make fuzz: odd files and configurations with ever new seeds, for FUZZ_SECONDS (an hour)
# make package: build sdist and wheel, install the wheel elsewhere, run the demo there
# make test-minimum: the tests with the oldest versions that pyproject.toml allows; not in CI
# make audit: ask PyPI's advisory service about the pinned versions; not in CI
# make licenses: write docs/licenses.md anew
# make notebooks: run the notebooks and store their outputs
# make world: rebuild the models and data that the package ships

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m
# processes that run tests; a file's tests stay in one of them, in the order of tests/conftest.py
WORKERS ?= 2
TESTS = pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint check docs fuzz package test-minimum audit licenses notebooks world

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(RUN) detox_lightning fit --config configs/demo.yaml
	$(RUN) detox_lightning test --config configs/demo.yaml --ckpt_path last

test: $(VENV)/installed
	$(RUN) $(TESTS) -m "not slow"

test-all: test
	$(RUN) $(TESTS) -m slow

lint: $(VENV)/installed
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

check: lint test-all

$(VENV)/documented: $(VENV)/installed
	$(VENV)/bin/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/documented
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

fuzz: $(VENV)/installed
	$(VENV)/bin/python tests/fuzz/endless.py

package: $(VENV)/installed
	$(VENV)/bin/python scripts/package.py

test-minimum:
	$(PYTHON) -m venv $(VENV)-minimum
	$(VENV)-minimum/bin/pip install --quiet -c constraints-minimum.txt -e ".[dev]"
	$(VENV)-minimum/bin/python -m $(TESTS)

audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet "pip-audit>=2.9,<3"
	$(VENV)-audit/bin/pip-audit --strict --progress-spinner=off --no-deps --disable-pip -r constraints.txt

licenses: $(VENV)/installed
	$(VENV)/bin/python scripts/licenses.py

notebooks: $(VENV)/installed
	$(VENV)/bin/python scripts/notebooks.py

world: $(VENV)/installed
	$(VENV)/bin/python scripts/demo/build.py
