# make bench and make test are all a newcomer needs; each makes its own environment first.
#
#   make test [ARGS="-k softmax"]     the tests, with coverage of the public layer
#   make test-oldest                  the tests with the oldest numpy and numba that are supported
#   make try-wheel                    builds the wheel and tries it in an environment with nothing else
#   make fuzz [ARGS="--seconds 600"]  random calls against the oracle
#   make accuracy                     docs/accuracy.md: errors against exact arithmetic, beside other libraries
#   make bench [ARGS="--help"]        the benchmark: tables, report and plots
#   make bench-full [ARGS="--fresh"]  the scoreboard against all contenders, resumable; about 50 minutes
#   make readme                       the README's table from the committed benchmark run
#   make lint / make types            ruff / mypy --strict
#   make clean                        the environment, caches and raw benchmark output

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

OLDEST = .venv-oldest
WHEEL = .venv-wheel
PYTEST = -m pytest -n 2 --dist worksteal -p no:benchmark

.PHONY: test test-oldest try-wheel fuzz accuracy bench bench-full bench-smoke readme lint types clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

test: $(READY)
	$(BIN)/python $(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(ARGS)

$(OLDEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" numpy==2.0.0 numba==0.62.0
	touch $@

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python $(PYTEST) $(ARGS)

try-wheel:
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL)/dist .
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check $(WHEEL)/dist/*.whl
	$(WHEEL)/bin/python -I tests/try_wheel.py

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(ARGS)

accuracy: $(READY)
	$(BIN)/python -m tools.accuracy

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

bench-full: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench,peers]"
	$(BIN)/python -m bench --full $(ARGS)

bench-smoke: $(READY)
	$(BIN)/python -m bench --smoke

readme: $(READY)
	$(BIN)/python -m tools.readme

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) $(WHEEL) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
