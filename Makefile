# The two commands of the README are `make up` and `make test`; everything they need they install here.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: up down clean test check bench api-fuzz chaos lock

$(READY): requirements-dev.lock pyproject.toml client/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "strongroom needs Python 3.11: $(PYTHON) was not found (PYTHON=... names another)"; exit 1; }
	@echo "Creating the environment in $(VENV) (about a minute, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# build tools first, then the rest with no build isolation: every byte that is run is pinned by its hash
	@grep -q . requirements-build.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-build.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e . -e ./client
	@touch $@

lock: ## pin every dependency again, with hashes (needs uv)
	uv pip compile pyproject.toml --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --group dev --generate-hashes --no-header -q -o requirements-dev.lock
	printf 'hatchling\neditables\nsetuptools\n' | uv pip compile - --generate-hashes --no-header --no-annotate -c requirements-dev.lock -q -o requirements-build.lock

WORKERS ?= $(shell expr $$(nproc) + 1)
test: $(READY) ## all tests, on one process more than there are cores, up to four (WORKERS=0: one after the other)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests/client/typed_use.py
	$(BIN)/lint-imports

up: $(READY) ## three nodes on this machine, or REGIONS=3; the first time it shows what they survive
	@$(BIN)/strongroom local up $(if $(REGIONS),-regions=$(REGIONS)) $(if $(NODES),-nodes=$(NODES))

down: $(READY) ## stop them; the data stays
	@$(BIN)/strongroom local down

clean: $(READY) ## stop them and delete their data
	@$(BIN)/strongroom local clean

bench: $(READY) ## reads, writes, many clients and many secrets, beside OpenBao and etcd (needs wrk; docs/bench.md)
	@$(BIN)/python -m bench $(BENCH)

API_CASES ?= 500
API_PART  ?= $(shell seq 16)
API_JOBS  ?= 2
api-fuzz: $(READY) ## drawn requests for every operation of the OpenAPI document: no 5xx, no answer outside of it (API_PART="3 4": of 16)
	@scratch=$$(mktemp -d); printf '%s\n' $(API_PART) | xargs -P $(API_JOBS) -I {} env \
	STRONGROOM_API_CASES=$(API_CASES) STRONGROOM_API_PART={}/16 \
	$(BIN)/python -m pytest -q -s --basetemp=$$scratch/{} tests/system/test_openapi.py; \
	failed=$$?; rm -rf $$scratch; exit $$failed

chaos: $(READY) ## break nodes, links and regions under load, and check every promise (docs/chaos.md)
	@$(BIN)/python -m chaos.run --kills 50
	@$(BIN)/python -m chaos.run --kills 50 --power-loss 0.6 --pauses --cuts
	@$(BIN)/python -m chaos.guards --minutes 2 --pauses --read-workers 2
	@$(BIN)/python -m chaos.regions --switchovers 3
	@$(BIN)/python -m chaos.regions --kills 3
	@$(BIN)/python -m chaos.regions --splits 3
	@$(BIN)/python -m chaos.regions --links --nodes 1
