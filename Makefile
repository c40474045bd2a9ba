# The two commands: `make demo` shows the main job, `make test` passes everything. Both set up all they need.
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help venv demo demo-down test lint format generate lock soak bench-ledger bench-datapath bench-dashboards bench-operator bench-webhook fuzz clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

venv: ## the Python environment, from the lock file
	@./tools/bootstrap.sh

demo: venv ## a cluster, LLM Warden, two LLM services, a budget that runs out (ENGINE=vllm for the real one)
	@$(PY) -m demo up

demo-down: venv ## undo the demo, cluster included
	@$(PY) -m demo down

test: venv ## every test, in tiers (TIERS="unit golden" for some)
	@$(PY) -m tests.run $(TIERS)

lint: venv ## ruff, mypy, import contracts, generated files
	@$(PY) -m tests.run lint

format: venv ## rewrite the code in the project's format
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

generate: venv ## crds/, docs/ and manifests/ from their sources
	@$(PY) -m llmwarden.api.crdgen
	@$(PY) -m tools.docgen
	@$(PY) -m cluster build helm
	@$(PY) -m tools.manifests

lock: ## newest versions that fit into the lock files
	@./tools/lock.sh --upgrade

soak: venv ## long storms and soaks, by hand
	@$(PY) -m tests.run soak

bench-ledger: venv ## ten thousand proxies' reports on SQLite and PostgreSQL (BENCH="--proxies 1000 --database sqlite")
	@$(PY) -m benchmarks.ledger $(BENCH)

bench-datapath: venv ## the proxy beside Go's, Envoy and LiteLLM (BENCH="--rounds 3 --only direct ours go")
	@$(PY) -m benchmarks.datapath $(BENCH)

bench-webhook: venv ## the webhook's memory and reviews, by LLMServices in the cluster (BENCH="--services 0 1000 --source DIR operator")
	@$(PY) -m benchmarks.webhook $(BENCH)

bench-dashboards: venv ## every panel's query over a thousand services, on a real Prometheus (BENCH="--services 100 --hours 2")
	@$(PY) -m benchmarks.dashboards $(BENCH)

bench-operator: venv ## the operator with 100, 1,000 and 5,000 services on a real API server (BENCH="--services 100 --edits 50")
	@$(PY) -m benchmarks.operator $(BENCH)

fuzz: venv ## the proxy's parsers, guided by coverage (FUZZ_SECONDS each, default 600; FUZZ="requests answers framings")
	@./tests/fuzz/run.sh $(FUZZ)

clean: ## remove what can be made again
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
