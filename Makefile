# The front door. Everything happens in .venv and in temporary directories; nothing here needs root, unless a system
# package is missing.

PYTHON := .venv/bin/python
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench campaign clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## get ready: Python environment in .venv, and qemu
	@.ci/setup

demo: setup ## watch a half-merged volume chain being recovered
	@$(PYTHON) -m tests.campaigns.demo

test: setup ## check everything: style, types, layering, and all tests
	@.ci/check
	@$(PYTHON) -m pytest -n 2

check: setup ## style, types and layering only (quick)
	@.ci/check

bench: setup ## measure speed and memory, as ratios
	@$(PYTHON) -m tests.benchmarks.bench

campaign: setup ## try to break every promise, for half an hour (SEED=1, ONLY=merges)
	@$(PYTHON) -m tests.campaigns.everything --seed $(SEED) $(addprefix --only ,$(ONLY))

clean: ## remove the environment and all caches
	rm -rf .venv *.egg-info build dist .mypy_cache .ruff_cache .hypothesis .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
