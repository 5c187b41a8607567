# `make` lists all targets; every target sets up what it needs.

.DEFAULT_GOAL := help
.SUFFIXES:

BIN   := .venv/bin
READY := .venv/.ready
PATHS := gateway adapters tests
# Processes that run the tests; 0 runs them one after the other (to debug). Two per core, because the
# tests with whole processes wait most of the time.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# Keep compiled tests, whatever the environment says; otherwise each process compiles all of them in
# each run.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo serve test e2e e2e-clients e2e-pages model chaos failover bench bench-quick bench-record bench-webhooks bench-isolation cover alerts check fmt docs lock matrix adapter clean distclean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make test T=tests/test_states.py    one file, folder or test id"
	@echo "  make adapter name=acme              a new adapter, copied from adapters/dummy"
	@echo "  make lock upgrade=1                 newest versions within the ranges of pyproject.toml"

setup: $(READY) ## Make .venv from the hashed lock and install the project in it

# Runs again only if the lock or the project's own metadata changed.
$(READY): requirements-dev.lock pyproject.toml
	@scripts/setup
	@touch $@

demo: $(READY) ## Seven payouts from quote to delivered, over real sockets, on this machine
	@$(BIN)/payout-gateway demo

serve: $(READY) ## Keep the demo's stack running, with a curl session to paste
	@$(BIN)/payout-gateway demo --serve

test: $(READY) ## Run the tests (T=path for some of them)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(T)

e2e: $(READY) ## Run only the tests with whole processes
	$(BIN)/python -m pytest tests/e2e

e2e-clients: $(READY) ## Generated clients, and clients and verifiers of others; installs Java and npm from Debian if root
	@scripts/clients
	$(BIN)/python -m tests.clients.generated_clients
	$(BIN)/python -m tests.clients.dfns_javascript
	$(BIN)/python -m tests.clients.webhooks_verifiers

e2e-pages: $(READY) ## The pages in headless Chromium, with axe-core (PICTURES=1 writes docs/images)
	@scripts/browser
	PICTURES=$(PICTURES) $(BIN)/python -m pytest -m browser -p no:randomly tests/pages tests/panel

model: $(READY) ## Search the larger runs of the money rules, and each rule switched off (some minutes)
	$(BIN)/python -m tests.model

chaos: $(READY) ## Kill processes and restart the database under load (STORE=sqlite|postgresql KILLS=20 RESTARTS=2, or PAYOUTS=10000 EVERY=8)
	$(BIN)/python -W ignore -m tests.chaos --store $(or $(STORE),postgresql) --seed $(or $(SEED),1) \
	  $(if $(PAYOUTS),--payouts $(PAYOUTS) --every $(or $(EVERY),8),--kills $(or $(KILLS),20) --restarts $(or $(RESTARTS),2))

failover: $(READY) ## Kill the primary PostgreSQL and promote its synchronous standby under load (TIMES=20)
	$(BIN)/python -W ignore -m tests.failover --times $(or $(TIMES),20)

bench: $(READY) ## Speed, growth and memory, each beside its ceiling of the same run (about 15 minutes; MILLION=1 for a million payouts)
	@mkdir -p build
	$(BIN)/python bench/run.py $(if $(MILLION),--million) | tee build/bench.txt

bench-quick: $(READY) ## The same with small counts; warns of ratios worse than the recorded ones (2 minutes)
	@mkdir -p build
	$(BIN)/python bench/run.py --quick | tee build/bench.txt

bench-record: $(READY) ## Keep the last run: ratios in bench/recorded.json, tables in the docs
	$(BIN)/python bench/record.py build/bench.txt

bench-webhooks: $(READY) ## Signed deliveries per second beside a bare client, and losses (about 4 minutes; QUICK=1 for two)
	$(BIN)/python bench/webhooks.py $(if $(QUICK),--quick)

bench-isolation: $(READY) ## Attacks beside a victim, each against a control (about an hour; QUICK=1 for two minutes; INTO=file goes on where it ended)
	$(BIN)/python bench/isolation.py $(if $(QUICK),--quick) $(if $(INTO),--into $(INTO))

cover: $(READY) ## Run the tests and show the branches that none of them covers
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(T)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

alerts: $(READY) ## Check the alert rules for Prometheus and run their tests (gets Debian's promtool)
	@scripts/promtool >/dev/null
	$(BIN)/python -m pytest -p no:randomly tests/test_runbook.py

check: $(READY) ## Check the code: format, lint, types, import rules, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/generate_docs.py --check
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

fmt: $(READY) ## Format the code and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Fill the generated pages, build the documentation into site/
	$(BIN)/python scripts/generate_docs.py
	$(BIN)/mkdocs build --strict --site-dir site

lock: $(READY) ## Write the hashed lock files again from pyproject.toml
	@BIN=$(BIN) upgrade=$(upgrade) scripts/lock

matrix: $(READY) ## Run the kit of every adapter and record the results for the feature matrix
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal \
	  --kit-json docs/reference/adapter-proofs.json $(wildcard tests/adapters/*/test_kit.py)
	$(BIN)/python scripts/generate_docs.py

adapter: $(READY) ## Start a new adapter (name=acme)
	@test -n "$(name)" || { echo "name is missing: make adapter name=acme"; exit 2; }
	@$(BIN)/payout-gateway adapters new "$(name)"

clean: ## Remove the output of tools, but not .venv
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	  .coverage .coverage.* *.egg-info
	find $(PATHS) scripts -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf .venv
