# Bare machine: Debian 12 minimal with `apt-get install ca-certificates git make`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PACKAGES := python3 python3-venv softhsm2 openssl openssh-client strace p11-kit p11-kit-modules opensc
# What tests/interop run against the PKCS#11 gateway, and a compiler for benchmarks/pkcs11. CI has them all;
# elsewhere `make applications` installs them, and a test whose application is missing is skipped.
APPLICATIONS := libengine-pkcs11-openssl nginx-light apache2-bin openssh-server \
    openjdk-17-jdk-headless gnutls-bin gcc libc6-dev libp11-kit-dev
ifdef CI
PACKAGES += $(APPLICATIONS)
endif
PYTEST_OPTIONS ?=
BIN := .venv/bin

.PHONY: help setup packages applications demo test bench bench-smoke check format lint types imports clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: packages .venv/ready ## install what is missing, once

packages:
	@missing="$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' "$$p" 2>/dev/null | grep -q '^install ok installed' || echo "$$p"; done)"; \
	[ -z "$$missing" ] && exit 0; \
	echo "installing:" $$missing; \
	if [ "$$(id -u)" = 0 ]; then as=""; elif command -v sudo >/dev/null; then as="sudo"; \
	else echo "not root: run 'apt-get install" $$missing"' as root" >&2; exit 1; fi; \
	$$as env DEBIAN_FRONTEND=noninteractive apt-get update -qq; \
	$$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

applications: ## install what tests/interop run
	@$(MAKE) --no-print-directory packages CI=true

.venv/ready: pyproject.toml constraints.txt
	@echo "making .venv"
	@rm -f $@
	@[ -x $(BIN)/python ] || /usr/bin/python3 -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## run the main job on real tokens
	@$(BIN)/cloister demo

test: setup ## pass the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_OPTIONS)

bench: setup ## measure beside baselines, on an idle machine
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.pkcs11

bench-smoke: setup ## prove that the benchmarks work; no figure fails it
	$(BIN)/python -m benchmarks --smoke --output json >/dev/null
ifdef CI
	$(BIN)/python -m benchmarks.pkcs11 --smoke --json >/dev/null
endif

check: setup format lint types imports bench-smoke test ## what CI runs

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

clean: ## remove what `setup` and the checks made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
