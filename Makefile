# The one place that says how the project is built, tried and checked. `make` alone lists the targets.
# Every target that needs it makes the environment first (scripts/setup); the second time costs nothing.

SHELL := /bin/bash
BIN := .venv/bin
PREFIX ?= /usr/local
# Mounting in a private arena needs root; so do the tests of it.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
# The data plane of the demo: direct, which needs no root, for who has neither root nor sudo.
DATA ?= $(if $(filter 0,$(shell id -u)),auto,$(if $(shell command -v sudo),auto,direct))
# Extra words for pytest: make test ARGS='-k unlink -x'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup lock demo unit test check format bench soak docs dist deb try-packages try-programs clean install-helper uninstall-helper

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## system packages where missing, and .venv with every command in it
	@scripts/setup

lock:  ## write requirements*.lock anew from the ranges in pyproject.toml
	@scripts/lock

demo: setup  ## mount, share a region between C and Python programs, compare the page tables, unmount; DATA=direct needs no root
	@$(if $(filter paged direct,$(DATA)),,$(SUDO)) $(BIN)/python scripts/demo.py --data $(DATA)

unit: setup  ## the tests that take seconds and need no FUSE
	@$(BIN)/pytest $(wildcard tests/unit tests/model) $(ARGS)

# Side by side, each in namespaces of its own; ARGS='-n 0' does without, for a debugger.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# A mount test that cannot run counts as failed here: a skip would hide it.
test: setup  ## every test, on real mounts of root's and of an ordinary user's (root, at most 15 minutes)
	@$(SUDO) scripts/setup_tests
	@$(SUDO) env MSHAREFS_REQUIRE_MOUNT=1 $(BIN)/pytest $(WORKERS) $(ARGS)

check: setup  ## what must hold before a commit: format, lint, types, layers, every test, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy msharefs tests scripts
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory docs

format: setup  ## let ruff format and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## measure beside every alternative: twenty minutes, QUICK=1 five minutes; ARGS=--pages fills in the pages
	@$(SUDO) $(BIN)/python scripts/bench/run $(ARGS)

# How often the server is killed in a soak.
KILLS ?= 200
# How many seconds all goes wrong at once.
HOSTILE ?= 120
# How many seconds random calls are compared plainly and under mshare run.
COMPARE ?= 120
# How many seconds random files are mapped and changed under kills.
FILES ?= 120
# How many requests of any kind its handlers get then.
REQUESTS ?= 1000000
soak: setup  ## kill the server KILLS times under sixteen clients, let all go wrong for HOSTILE seconds, compare mshare run for COMPARE seconds, map files for FILES seconds, the clients and the files on the direct plane as well, send REQUESTS odd requests
	@$(SUDO) $(BIN)/python -m tests.survival.soak --kills $(KILLS) $(ARGS)
	@$(SUDO) $(BIN)/python -m tests.survival.soak --hostile $(HOSTILE)
	@$(SUDO) $(BIN)/python -m tests.survival.soak --run $(COMPARE)
	@$(SUDO) $(BIN)/python -m tests.survival.soak --files $(FILES)
	@$(SUDO) $(BIN)/python -m tests.survival.soak --files $(FILES) --data direct
	@$(SUDO) $(BIN)/python -m tests.survival.soak --kills $(KILLS) --data direct
	@$(BIN)/python -m tests.survival.fuzz --requests $(REQUESTS)

docs: setup  ## the documents as HTML and man pages in docs/_build; a warning is an error
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@$(BIN)/sphinx-build -q -W --keep-going -b man docs docs/_build/man

dist: setup  ## wheel and source archive in dist/
	@rm -rf dist
	@$(BIN)/hatchling build

deb: docs dist  ## a Debian package for this release of Debian in dist/, with Debian's own tools
	@scripts/deb

# The Debian in which the packages are tried: bookworm is 12, trixie 13.
SUITE ?= bookworm
try-packages: docs dist  ## install, use and remove deb, wheel, pipx and source in an empty Debian, SUITE=trixie (root; some minutes)
	@$(SUDO) env SUITE=$(SUITE) scripts/try_packages $(ARGS)

try-programs: setup  ## PyTorch and Ray, unchanged, on a mount (root; 3 GiB are fetched, 6 GiB of disk)
	@$(SUDO) $(BIN)/python scripts/try_programs.py $(ARGS)

install-helper: setup  ## the commands in /usr/local/bin and the helpers of mount(8) in /sbin, as links into .venv
	@$(SUDO) $(BIN)/mshare install --commands-only --prefix "$(PREFIX)"

uninstall-helper:  ## take those links away again
	@$(SUDO) $(BIN)/mshare install --commands-only --prefix "$(PREFIX)" --remove

clean:  ## take away all that make made, .venv too
	rm -rf .venv build dist docs/_build .coverage .hypothesis .import_linter_cache \
	    .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
