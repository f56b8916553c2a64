SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Compilers at once: four are enough for small machines' memory.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
# The demo's directory. Handed over in the environment: it may hold spaces and quotes.
DIR = .
export DIR
# More arguments for rowlock bench.
ARGS ?=

CARGO := cargo
ROWLOCK := target/release/rowlock
STATIC := x86_64-unknown-linux-musl

.PHONY: help setup build static demo test soak mutants lint features bench verify

help: ## Show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

setup: ## Install what is missing: PostgreSQL's server, on Debian
	@scripts/setup.sh

build: setup ## Build the program, optimized: target/release/rowlock
	@$(CARGO) build --locked --release --features cli -j $(JOBS)

static: setup ## Build it without any library, for any container: target/x86_64-unknown-linux-musl
	@rustup target add $(STATIC) 2>/dev/null
	@CC_$(subst -,_,$(STATIC))=musl-gcc $(CARGO) build --locked --release --features cli --target $(STATIC) -j $(JOBS)
	@tests/static.sh target/$(STATIC)/release/rowlock

demo: build ## Run real jobs over the files of a directory (DIR=.) and check every result
	@scripts/demo.sh "$$DIR"

test: ## Set up, lint, and run every test against a real Postgres
	@scripts/setup.sh --test
	@$(MAKE) lint features
	$(CARGO) test --locked --all-features --no-fail-fast -j $(JOBS)

soak: ## The faults of tests/faults five times as often (ROWLOCK_SEED=n for other moments), 50 scale-ins under load
	ROWLOCK_SOAK=1 $(CARGO) test --locked --features cli -j $(JOBS) --test faults -- --nocapture
	ROWLOCK_TEST_ROUNDS=50 $(CARGO) test --locked --features cli -j $(JOBS) --test it controller_scale -- --nocapture

mutants: ## Remove guards of the worker one at a time: a test misses each (a build a guard; those of the SQL are in make test)
	@JOBS=$(JOBS) python3 -B tests/mutants/worker.py $(ARGS)

lint: ## Format, clippy and rustdoc, warnings refused
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -j $(JOBS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features -j $(JOBS)

features: ## Check that the default features build, and without kube, clap or axum
	$(CARGO) check --locked -j $(JOBS)
	@tree=$$($(CARGO) tree --locked -e normal --prefix none); \
	if grep -E '^(kube|clap|axum)' <<<"$$tree"; then \
	  echo "features: the default features must not bring these in" >&2; exit 1; fi

bench: build ## Speed as ratios, on a server in memory or a migrated DATABASE_URL (ARGS="--batch 500 …")
	@$(ROWLOCK) bench $(ARGS) -o json
	@$(ROWLOCK) bench --launch --clients 16 -o json

verify: lint ## Lint, licences, and that generated files are as generated (none yet)
	@if type -P cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "verify: cargo-deny is not installed, licences not checked" >&2; fi
