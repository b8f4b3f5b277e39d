# The two commands of the README are `make demo` and `make test`. Everything else is for people who work on Tidewheel.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
BIN := target/release/tidewheel
SEED ?= 1
SEEDS ?= 200

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## install what is missing on this machine (says what it does)
	@scripts/setup

build: setup ## the release binary
	@$(CARGO) build --release -p tidewheel --bin tidewheel

demo: build ## the main job on real data, with kills and restarts, and its proof
	@scripts/demo

test: setup ## all tests (bounded: under 25 minutes on two cores)
	@scripts/test

verify: ## format, lints, links of the documentation and the checks of structure; never writes
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --no-deps
	$(CARGO) test -q -p tidewheel-e2e --test it tidy

fix: ## format
	$(CARGO) fmt

sim: ## the simulator: make sim SEED=1 SEEDS=200
	@$(CARGO) run -q --release -p tidewheel-sim --bin tidewheel-sim -- --seed $(SEED) --seeds $(SEEDS)

BENCHES := engine throughput steady api latency timers timer_cache python packages resources isolation concurrent agents volume \
	storage pages logs memory restart soak

bench: build ## every benchmark, as one JSON object per figure (about a quarter of an hour)
	@export TIDEWHEEL_UV="$${TIDEWHEEL_UV:-$$(command -v uv || echo "$(CURDIR)/.tidewheel/tools/bin/uv")}"; \
	for b in $(BENCHES); do $(BIN) bench $$b --output json || exit 1; done

e2e: build ## the built binary under real faults: kills, freezes, bad input, a full disk
	@TIDEWHEEL_BIN="$(CURDIR)/$(BIN)" $(CARGO) test -p tidewheel-e2e --test it -- --nocapture

chaos: build ## the long fault tests: 200 rounds of SIGKILL, a minute of overload, disk full, fsync errors, a file of 10 GB
	@TIDEWHEEL_BIN="$(CURDIR)/$(BIN)" TIDEWHEEL_CHAOS_ROUNDS=200 $(CARGO) test --release -p tidewheel-e2e --test it -- --nocapture chaos
	@TIDEWHEEL_BIN="$(CURDIR)/$(BIN)" TIDEWHEEL_STREAM_BYTES=10000000000 $(CARGO) test --release -p tidewheel-e2e --test it -- --nocapture a_large_file

clean: ## remove build results and demo data
	$(CARGO) clean
	rm -rf demo-out

.PHONY: help setup build demo test verify fix sim bench e2e chaos clean
