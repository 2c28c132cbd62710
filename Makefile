# Every target makes the environment that it needs first; nothing outside this directory is written.
#
#   make demo [DISK=image]   back up a real disk, change it, back it up again, restore both, compare (under two minutes)
#   make test [ARGS=…]       all tests but the long ones
#   make soak [TESTS=file]   the long ones: crash loops, guests, packages; six hours, each file's length stands in
#                            docs/invariants.md
#   make lint                style, types and layers          make bench   figures and charts, other programs beside
#                                                             (ARGS=--small: whether all of it runs, in minutes)
#   make packages            wheel, source distribution and Debian packages, in dist/
#   make docs        the documentation as a site, in dist/site
#   make reference           docs/reference, written from the code: after a change of a command, a key or an error
#   make golden NAME=…       before a release: an installation of this version, which later ones are tested to upgrade
#   make env                 the environment alone            make clean   remove what these targets made

SHELL := /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# Empty: the newest that packaging/find-python finds.
PYTHON ?=
# What of pyproject.toml's optional dependencies is installed. "dev,libvirt" has the tests of libvirt too, and needs
# libvirt-dev, gcc and pkg-config. What was installed before stays.
EXTRAS ?= dev
comma := ,
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
# The quick tests first, so that what is broken is known soon.
TESTS := $(wildcard $(addprefix tests/,unit model protocol conformance integration system fault))
CODE := agent manager plugins tests benchmarks packaging examples
ARGS ?=
# Tests wait for processes about as long as they compute: three workers keep two processors busy. One that is done takes
# tests over from the others.
WORKERS ?= $(shell expr \( $$(nproc) \* 3 + 1 \) / 2)
PARALLEL := -n $(WORKERS) --dist worksteal
BENCH_SIZE_MIB ?= 4096

.PHONY: help env test soak lint demo bench clean reference golden packages docs

help:
	@sed -n 's/^#   //p' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml
	@python="$(PYTHON)"; python="$${python:-$$(packaging/find-python)}" && \
	    echo "Making the environment in $(VENV) with $$python …" && "$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@$(BIN)/python -m compileall -q agent manager plugins  # as pip does with what it copies
	@touch $@

test: $(STAMP)
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not soak" $(ARGS) $(TESTS)

soak: $(STAMP)
	@$(BIN)/python -m pytest -v -m soak --timeout 7200 -o faulthandler_timeout=0 --durations=0 --durations-min=1 \
	    $(ARGS) $(TESTS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --check --quiet $(CODE)
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports 2>&1) || { echo "$$report"; exit 1; }
	@$(BIN)/python packaging/reference.py --check

packages: $(STAMP)
	@$(BIN)/python packaging/packages.py

docs: $(STAMP)
	@$(BIN)/mkdocs build --quiet --strict --site-dir dist/site
	@echo "dist/site/index.html"

reference: $(STAMP)
	@$(BIN)/python packaging/reference.py

golden: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python tests/golden/installation.py $(NAME)

demo: $(STAMP)
	@$(BIN)/python packaging/demo.py

bench: $(STAMP)
	@$(BIN)/python benchmarks/everything.py --size-mib $(BENCH_SIZE_MIB) $(ARGS)

clean:
	@rm -rf demo-work bench-work .lab-cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	@rm -rf $(VENV)
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
