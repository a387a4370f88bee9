# make bench and make test are all a newcomer needs; each makes its own environment first.
#
#   make test [ARGS="-k softmax"]     the tests, with coverage of the public layer
#   make test-processes               forks, signals, races, damaged caches, portable bits: tests that run programs
#   make test-oldest                  the tests with the oldest numpy and numba that are supported
#   make bits [ARGS="--only softmax"] digests of all functions in portable mode, here and as AVX2 code
#   make test-arm64                   a part of the tests on an emulated 64-bit ARM; needs Debian, qemu-user-static
#   make test-arm64-smoke             a small part of those
#   make try-wheel                    builds the wheel and tries it in an environment with nothing else
#   make try-sdist                    builds the source distribution, and runs tests from it unpacked
#   make fuzz [ARGS="--cases 100000 --jobs 2"]  random calls against the oracle
#   make accuracy                     docs/accuracy.md: errors against exact arithmetic, beside other libraries
#   make speed                        the times in docs: adapters, shards, options, divergences; about 20 minutes
#   make bench [ARGS="--help"]        the benchmark: tables, report and plots
#   make bench-full [ARGS="--fresh"]  the scoreboard against all contenders, resumable; up to 100 minutes
#                                     with TensorFlow, which takes 1.6 GB: PEERS="peers tensorflow"
#   make readme                       the figures of the README and docs/benchmarks.md from the committed runs
#   make pictures                     the reports and pictures from the committed runs
#   make docs                         the documentation's site: build/docs/index.html
#   make test-docs                    that, and its test in a browser; needs Chromium
#   make lint / make types            ruff / mypy --strict
#   make clean                        the environment, caches and raw benchmark output

PYTHON ?= python3
VENV ?= .venv
SCRIPTS = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN = $(VENV)/$(SCRIPTS)
PEERS ?= peers
READY = $(VENV)/.ready

OLDEST = .venv-oldest
WHEEL = .venv-wheel
SDIST = .venv-sdist
ARM = .venv-arm64
DOCS = .venv-docs
# dependency groups need pip 25.1
INSTALL = -m pip install --quiet --disable-pip-version-check
PIP = "pip>=25.1"
PYTEST = -m pytest -n 2 --dist worksteal -p no:benchmark

.PHONY: test test-processes test-oldest bits test-arm64 test-arm64-smoke try-wheel try-sdist fuzz accuracy speed bench bench-full
.PHONY: bench-smoke readme pictures docs test-docs lint types clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) $(PIP)
	$(BIN)/python $(INSTALL) --editable . --group dev
	touch $(READY)

# tests that run programs, whose kernels compile again and again
PROGRAMS = tests/process tests/bits/test_portable.py
# tests of the built site, in the environment that builds it
BUILT = tests/site

test: $(READY)
	$(BIN)/python $(PYTEST) $(addprefix --ignore=,$(PROGRAMS) $(BUILT)) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(ARGS)

test-processes: $(READY)
	$(BIN)/python $(PYTEST) $(PROGRAMS) $(ARGS)

$(OLDEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/$(SCRIPTS)/python $(INSTALL) $(PIP)
	$(OLDEST)/$(SCRIPTS)/python $(INSTALL) --editable . --group test numpy==2.0.0 numba==0.62.0
	touch $@

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/$(SCRIPTS)/python $(PYTEST) --ignore=$(BUILT) $(ARGS)

bits: $(READY)
	FASTCE_PORTABLE=1 $(BIN)/python -m tests.bits.digest $(ARGS)
	FASTCE_PORTABLE=1 NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= $(BIN)/python -m tests.bits.digest $(ARGS)

$(ARM)/.ready: tools/arm64.sh
	PYTHON=$(PYTHON) bash tools/arm64.sh $(ARM)
	touch $@

# values, corners, labels, threads, and the bits of all processors
test-arm64: $(ARM)/.ready
	$(ARM)/python -m pytest -q -p no:cacheprovider tests/kernels/test_formats.py tests/api/test_halves.py \
	    tests/core/test_errors.py tests/api/test_special_values.py tests/kernels/test_split.py \
	    tests/api/test_cross_entropy.py $(ARGS)
	FASTCE_PORTABLE=1 $(ARM)/python -m tests.bits.digest --only "(tiles|rows|columns|split|staged) . float(16|32)|tiles . "

test-arm64-smoke: $(ARM)/.ready
	$(ARM)/python -m pytest -q -p no:cacheprovider tests/kernels/test_formats.py \
	    tests/api/test_special_values.py::test_known_answers_of_infinite_logits \
	    tests/core/test_errors.py::test_huge_unsigned_labels
	FASTCE_PORTABLE=1 $(ARM)/python -m tests.bits.digest --only "cross_entropy options . (tiles|rows|columns) . float(16|32)"

try-wheel:
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/$(SCRIPTS)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL)/dist .
	$(WHEEL)/$(SCRIPTS)/python $(INSTALL) $(WHEEL)/dist/*.whl
	$(WHEEL)/$(SCRIPTS)/python -I tests/try_wheel.py

try-sdist: $(READY)
	rm -rf $(SDIST)
	$(PYTHON) -m venv $(SDIST)
	$(SDIST)/$(SCRIPTS)/python $(INSTALL) "hatchling>=1.26"
	$(SDIST)/$(SCRIPTS)/python -m hatchling build --target sdist --directory $(SDIST)/dist
	$(BIN)/python tests/try_sdist.py $(SDIST)/dist/*.tar.gz $(SDIST)/unpacked

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(ARGS)

accuracy: $(READY)
	$(BIN)/python -m tools.accuracy

speed: $(READY)
	$(BIN)/python -m tools.speed --write $(ARGS)

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

bench-full: $(READY)
	$(BIN)/python $(INSTALL) $(addprefix --group ,$(PEERS))
	$(BIN)/python -m bench --full $(ARGS)

bench-smoke: $(READY)
	$(BIN)/python -m bench --smoke

readme: $(READY)
	$(BIN)/python -m tools.readme

pictures: $(READY)
	$(BIN)/python -m bench.report
	$(BIN)/python -m tools.accuracy_plot

# an environment of its own: Sphinx needs neither PyTorch nor the other rivals
$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/$(SCRIPTS)/python $(INSTALL) $(PIP)
	$(DOCS)/$(SCRIPTS)/python $(INSTALL) --editable . --group docs
	touch $@

docs: $(DOCS)/.ready
	rm -rf build/docs docs/generated docs/gallery
	$(DOCS)/$(SCRIPTS)/python -m sphinx -E -W --keep-going -q -j 2 -d build/doctrees docs build/docs
	@echo build/docs/index.html

test-docs: docs
	$(DOCS)/$(SCRIPTS)/python $(INSTALL) --group docs-test
	$(DOCS)/$(SCRIPTS)/python -m pytest --noconftest $(BUILT) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) $(WHEEL) $(SDIST) $(ARM) $(DOCS) build docs/generated docs/gallery .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
