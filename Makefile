# make bench and make test are all a newcomer needs; each makes its own environment first.
#
#   make test [ARGS="-k softmax"]     the tests, with coverage of the public layer
#   make bench [ARGS="--help"]        the benchmark: tables, report and plots
#   make bench-full [ARGS="--fresh"]  the scoreboard against all contenders, resumable; about half an hour
#   make readme                       the README's table from the committed benchmark run
#   make lint / make types            ruff / mypy --strict
#   make clean                        the environment, caches and raw benchmark output

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: test bench bench-full bench-smoke readme lint types clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -p no:benchmark --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(ARGS)

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

bench-full: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench,peers]"
	$(BIN)/python -m bench --full $(ARGS)

bench-smoke: $(READY)
	$(BIN)/python -m bench --smoke

readme: $(READY)
	$(BIN)/python -m bench.readme

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
