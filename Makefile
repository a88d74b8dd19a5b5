# `make` or `make help` says what there is. Works with make 3.81 and later, python3 from 3.11 on, apt-get or brew.

MAKEFLAGS += --no-print-directory
BIN := .venv/bin
INSTALL := tests/install/install.sh
# Half as many workers again as there are cores, each with servers of its own.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadgroup
ARGS ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv:
	@$(INSTALL) venv .venv

.PHONY: setup
setup: venv ## .venv, git-lfs where it is missing, LocalStack; versitygw where Go is; in CI everything
ifneq ($(filter 1 true,$(CI)),)
	@$(INSTALL) all-ci
else
	@$(INSTALL) git-lfs localstack
	@if command -v go >/dev/null; then $(INSTALL) versitygw; fi
endif

.PHONY: check
check: venv ## the inner loop, under a minute: format, ruff, mypy, import contracts, unit tests
	@$(BIN)/ruff format --quiet --check || { $(BIN)/ruff format --check; echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pytest -q $(PARALLEL) lfs_agent tests/unit

.PHONY: test
test: setup check ## sets up everything, then check and all other tests
	@$(BIN)/pytest -q $(PARALLEL) tests --ignore=tests/unit $(ARGS)

.PHONY: demo
demo: venv ## a cellar of real model files goes to S3 and comes back, through git alone
	@$(INSTALL) git-lfs localstack
	@$(BIN)/python -m tests.demo $(ARGS)

.PHONY: bench
bench: venv ## start-up and throughput, beside the peers that tests/install/peers.sh has installed
	@$(INSTALL) git-lfs
	@if command -v go >/dev/null; then $(INSTALL) git-lfs-newest versitygw toxiproxy; fi
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-docs
bench-docs: venv ## the newest results of make bench, or those that ARGS names, as tables and plots of the docs' page
	@$(BIN)/python -m tests.bench.page $(ARGS)

.PHONY: soak
soak: venv ## gigabytes and slow links: a 6 GiB object over each server, the workers' memory printed
	@$(INSTALL) git-lfs
	@if command -v go >/dev/null; then $(INSTALL) git-lfs-newest versitygw; fi
	@$(BIN)/python -m tests.soak $(ARGS)

.PHONY: docs
docs: venv ## the documentation as a site, in site/
	@$(BIN)/sphinx-build --quiet --fail-on-warning --builder html docs site
	@echo "site/index.html"

.PHONY: build
build: venv ## wheel and sdist, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist

.PHONY: format
format: venv ## lets ruff format and mend what it can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

.PHONY: lock
lock: ## pins all versions anew (needs uv)
	@command -v uv >/dev/null || { echo "uv is not here: see https://docs.astral.sh/uv/" >&2; exit 1; }
	uv pip compile pyproject.toml --group dev --output-file packaging/dev.lock $(LOCK)
	uv pip compile packaging/localstack.in --output-file packaging/localstack.lock $(LOCK)
	uv pip compile packaging/gto.in --output-file packaging/gto.lock $(LOCK)
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

.PHONY: clean
clean: ## removes what the above made here (not the cache of builds)
	rm -rf .venv dist site docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
