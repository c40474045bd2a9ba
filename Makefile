# The two main commands are `make demo` and `make test`. Both set up everything that they need.
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help venv demo demo-down test lint format generate lock soak bench-ledger bench-datapath bench-dashboards bench-operator bench-webhook fuzz clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

venv: ## create the Python environment from the lock file
	@./tools/bootstrap.sh

demo: venv ## start a cluster with LLM Warden and three LLM services, and use up a budget (ENGINE=vllm for a real engine)
	@$(PY) -m demo up

demo-down: venv ## remove the demo and its cluster
	@$(PY) -m demo down

test: venv ## run every test, in tiers (TIERS="unit golden" for some)
	@$(PY) -m tests.run $(TIERS)

lint: venv ## run ruff and mypy, check imports and generated files
	@$(PY) -m tests.run lint

format: venv ## rewrite the code in the project's format
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

generate: venv ## generate crds/, docs/ and manifests/ from their sources
	@$(PY) -m llmwarden.api.crdgen
	@$(PY) -m tools.docgen
	@$(PY) -m cluster build helm
	@$(PY) -m tools.manifests

lock: ## update the lock files to the newest versions that fit
	@./tools/lock.sh --upgrade

soak: venv ## run the long load tests (not part of make test)
	@$(PY) -m tests.run soak

bench-ledger: venv ## measure ten thousand proxies' reports on SQLite and PostgreSQL (BENCH="--proxies 1000 --database sqlite")
	@$(PY) -m benchmarks.ledger $(BENCH)

bench-datapath: venv ## compare the proxy with Go's, Envoy and LiteLLM (BENCH="--rounds 3 --only direct ours go")
	@$(PY) -m benchmarks.datapath $(BENCH)

bench-webhook: venv ## measure the webhook's memory and reviews by number of LLMServices (BENCH="--services 0 1000 --source DIR operator")
	@$(PY) -m benchmarks.webhook $(BENCH)

bench-dashboards: venv ## measure every panel's query over a thousand services, on a real Prometheus (BENCH="--services 100 --hours 2")
	@$(PY) -m benchmarks.dashboards $(BENCH)

bench-operator: venv ## measure the operator with 100, 1,000 and 5,000 services on a real API server (BENCH="--services 100 --edits 50")
	@$(PY) -m benchmarks.operator $(BENCH)

fuzz: venv ## fuzz the proxy's parsers, guided by coverage (FUZZ_SECONDS each, default 600; FUZZ="requests answers framings")
	@./tests/fuzz/run.sh $(FUZZ)

clean: ## remove files that can be generated again
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
