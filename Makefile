# The entry points of people and CI. Needs Python 3.11 or later and, for the native kernels, a C++17 compiler; all else
# is installed into .venv.
.DEFAULT_GOAL := help
.PHONY: help setup build demo test coverage mutants check style types imports kernels bench docs clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Installed first and by itself, so that no other package draws in a second, larger build of it.
TORCH ?= torch==2.13.0
# Tests run in this many processes of one thread each.
WORKERS ?= 2

bin := .venv/bin
pip := $(bin)/pip --disable-pip-version-check
native_sources := CMakeLists.txt $(shell find csrc -name '*.cpp' -o -name '*.h')

help:
	@echo "make setup   the environment .venv: torch, thrifty (editable) and the tools"
	@echo "make build   compile the native kernels again when they changed"
	@echo "make demo    train a small network twice, dense and with adaptive deep reuse, and compare"
	@echo "make test    the tests"
	@echo "make coverage  the tests again, and the lines they leave out; fails below 90 %"
	@echo "make mutants   small errors made on purpose: which of a sample do the tests notice? SAMPLE=200 ROOM=planning"
	@echo "make check   style, types, imports, kernels: each a target as well; kernels run under the sanitizers"
	@echo "make docs    the documentation, into build/site; fails on a broken link"
	@echo "make bench   the benchmarks, quick; one: make bench NAME=reuse-layers"

.venv/.torch:
	@test -n "$(PYTHON)" || { echo "error: no python3 on PATH; install Python 3.11 or later"; exit 1; }
	$(PYTHON) -m venv .venv
	$(pip) install "$(TORCH)"
	@touch $@

# The first installation builds in isolation, as a user's would.
.venv/.tools: pyproject.toml | .venv/.torch
	$(pip) install --quiet --editable ".[dev]"
	@touch $@ .venv/.native

# Later ones reuse the objects under build/.
.venv/.native: $(native_sources) | .venv/.tools
	$(pip) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

setup: .venv/.tools .venv/.native
	@$(bin)/python -c "from thrifty._load_native import reason; reason and print('native kernels:', reason)"

build: setup

demo: setup
	$(bin)/thrifty train --model cifarnet --data fashion-mnist-slice --methods reuse --epochs 5 --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(WORKERS)

# TESTS="tests/report --cov=thrifty.report" for a room by itself; `LEAST=0` then, as other rooms test it too.
LEAST ?= 90
TESTS ?= --cov
coverage: setup
	@mkdir -p build/coverage
	$(bin)/coverage erase
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(WORKERS) $(TESTS) --cov-report=html --cov-report=term \
		--cov-fail-under=$(LEAST)

.venv/.mutants: pyproject.toml | .venv/.tools
	$(pip) install --quiet --no-build-isolation --editable ".[mutants]"
	@touch $@

# What was tried is kept in build/mutants: broken off, it goes on where it was.
ROOM ?= planning ops
SAMPLE ?= 200
mutants: setup .venv/.mutants
	$(foreach room,$(ROOM),OMP_NUM_THREADS=1 $(bin)/python tools/mutants.py $(room) --sample $(SAMPLE) &&) true

check: style types imports kernels

style: setup
	$(bin)/ruff check
	$(bin)/ruff format --check

types: setup
	$(bin)/mypy

imports: setup
	$(bin)/lint-imports

# The kernels by themselves, watched by AddressSanitizer and UndefinedBehaviorSanitizer.
kernels: setup
	PATH="$(CURDIR)/$(bin):$$PATH" cmake -S . -B build/tests -G Ninja -DTHRIFTY_TESTS=ON --log-level=WARNING
	$(bin)/cmake --build build/tests --target kernel_tests -- --quiet
	build/tests/kernel_tests

bench: setup
	$(if $(NAME),$(bin)/thrifty bench $(NAME),$(bin)/thrifty bench --list)

.venv/.docs: pyproject.toml | .venv/.tools
	$(pip) install --quiet --no-build-isolation --editable ".[docs]"
	@touch $@

docs: setup .venv/.docs
	$(bin)/python tools/docs_tables.py --check
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
