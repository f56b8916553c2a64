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
# For the other machines: make image STATIC=aarch64-unknown-linux-musl, with gcc-aarch64-linux-gnu installed.
STATIC ?= x86_64-unknown-linux-musl
STATIC_CC := $(if $(filter x86_64-%,$(STATIC)),musl-gcc,$(firstword $(subst -, ,$(STATIC)))-linux-gnu-gcc)
# How it is compiled; quick is for tests.
PROFILE ?= release
# The image's name, and the archive it is written to.
IMAGE ?= rowlock.test/rowlock:dev
OUT ?= target/rowlock-image.tar

.PHONY: help setup build static image licenses sbom release demo test test-cluster soak mutants lint house features bench chart deny verify

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: ## Install what is missing: PostgreSQL's server, on Debian
	@scripts/setup.sh

build: setup ## Build the program, optimized: target/release/rowlock
	@$(CARGO) build --locked --release --features cli -j $(JOBS)

static: ## Build it without any library, for any container: target/x86_64-unknown-linux-musl
	@scripts/setup.sh --static
	@rustup target add $(STATIC) 2>/dev/null
	@CC_$(subst -,_,$(STATIC))=$(STATIC_CC) $(if $(filter x86_64-%,$(STATIC)),,CARGO_TARGET_$(subst -,_,$(shell tr a-z A-Z <<<$(STATIC)))_LINKER=rust-lld) \
	  $(CARGO) build --locked --profile $(PROFILE) --features cli --target $(STATIC) -j $(JOBS)
	@if [[ $(STATIC) == $$(uname -m)-* ]]; then tests/static.sh target/$(STATIC)/$(PROFILE)/rowlock; fi

image: static licenses ## Build a container image without a container engine (IMAGE=name:tag OUT=archive)
	@VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1) \
	REVISION=$$(git rev-parse HEAD)$$(git diff --quiet HEAD || echo -dirty) \
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) SOURCE=$${SOURCE-$$(git remote get-url origin | grep ^https:// || true)} \
	scripts/image.py target/$(STATIC)/release/rowlock $(IMAGE) $(OUT) LICENSE-APACHE LICENSE-MIT target/THIRD-PARTY.txt

licenses: ## Collect the licences of all that the program is linked from: target/THIRD-PARTY.txt
	@mkdir -p target
	@scripts/bundled.py licenses >target/THIRD-PARTY.txt

sbom: ## Write a bill of materials, CycloneDX in JSON: target/rowlock.cdx.json
	@mkdir -p target
	@scripts/bundled.py sbom >target/rowlock.cdx.json

release: image ## Put a release's files and their checksums into target/release-files (KEY=ssh-key signs them)
	@scripts/release.sh target/$(STATIC)/release/rowlock $(OUT)

demo: build ## Run real jobs over the files of a directory (DIR=.) and check every result
	@scripts/demo.sh "$$DIR"

test: ## Set up, lint, and run every test against a real Postgres
	@scripts/setup.sh --test
	@$(MAKE) lint features
	$(CARGO) test --locked --features test-util --lib --test it --no-fail-fast -j $(JOBS)
	$(CARGO) test --locked --all-features --no-fail-fast -j $(JOBS)
	@printf '%s\n' '' '*** Nothing ran on a Kubernetes cluster here: make test-cluster does.' '' >&2

# cgroup v1, Debian, root and Go bring a cluster up in ten minutes the first time, in ten seconds after that.
test-cluster: static ## The tests that need a Kubernetes cluster: a given KUBECONFIG's, or one that is brought up here
	@scripts/setup.sh --test
	@tests/chart/check
	@tests/cluster/test target/$(STATIC)/release/rowlock

soak: ## The faults of tests/chaos five times as often (ROWLOCK_SEED=n for other moments), 50 scale-ins under load
	$(CARGO) build --locked -j $(JOBS) --example chaos_worker
	ROWLOCK_SOAK=1 ROWLOCK_CHAOS_PROGRAM=$$PWD/target/debug/examples/chaos_worker $(CARGO) test --locked --features cli -j $(JOBS) --test chaos -- --nocapture
	ROWLOCK_SOAK=1 $(CARGO) test --locked --features cli -j $(JOBS) --test chaos -- --nocapture --ignored replies:: starts:: states::
	ROWLOCK_TEST_ROUNDS=50 $(CARGO) test --locked --features cli -j $(JOBS) --test it controller_scale -- --nocapture

mutants: ## Remove guards of the worker one at a time: a test misses each (a build a guard; those of the SQL are in make test)
	@JOBS=$(JOBS) python3 -B tests/mutants/worker.py $(ARGS)

lint: ## Format, clippy, rustdoc and dependencies, warnings refused; the measure of the SQL
	@python3 -B scripts/lint_sql.py
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -j $(JOBS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features -j $(JOBS)
	@$(MAKE) house deny sbom licenses

house: ## Check the layout of src and the words of comments and documents (rules: CONTRIBUTING.md)
	@rc=0; for check in layout prose; do \
	  python3 -B scripts/lint_$$check.py --self-test 2>/dev/null || { python3 -B scripts/lint_$$check.py --self-test; rc=1; }; \
	  python3 -B scripts/lint_$$check.py || rc=1; \
	done; exit $$rc

features: ## Check that the default features build, with a worker, and without kube, clap, axum or rustix
	$(CARGO) check --locked -j $(JOBS)
	$(CARGO) check --locked -j $(JOBS) --example rust-worker
	@tree=$$($(CARGO) tree --locked -e normal --prefix none); \
	if grep -E '^(kube|clap|axum|rustix) ' <<<"$$tree"; then \
	  echo "features: the default features must not bring these in" >&2; exit 1; fi

bench: build ## Speed as ratios, on a server in memory or a migrated DATABASE_URL (ARGS="--batch 500 …")
	@$(ROWLOCK) bench $(ARGS) -o json
	@$(ROWLOCK) bench --launch --clients 16 -o json

chart: ## Write what is made from the Helm chart: its README, manifests/, tests/chart/golden
	@scripts/chart.sh

deny: ## Check advisories, licences, bans and sources of all dependencies, where cargo-deny is installed
	@scripts/deny.sh

verify: lint ## Lint, the image, the chart, and that generated files are as generated
	@tests/image.sh
	@tests/chart/check
