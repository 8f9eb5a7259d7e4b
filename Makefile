# Every target does its own set-up and repeats nothing that is done already. `make` alone lists them.
CLEAVE := target/release/cleave
SHOP := --config examples/ecommerce/cleave.toml

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## install what building modules and the tests need
	@scripts/guest-toolchain
	@scripts/nats-server --install
	@scripts/postgres --install

host: ## build the host, target/release/cleave
	@cargo build --release --workspace --bins # the same features as the tests', so that wasmtime is built once

modules: setup host ## build the shop's modules
	@$(CLEAVE) build $(SHOP)

demo: modules ## run the shop on 127.0.0.1:8080
	@scripts/demo

split: modules ## run the shop as three nodes over NATS
	@scripts/split

test: modules ## run every test
	@scripts/test-guests
	@cargo test --release --workspace --no-fail-fast

test-outside: modules ## look at the shop from outside: in a browser, and by its OpenAPI document
	@scripts/outside

test-all: test ## every test, longer
	@CLEAVE_TERMINAL_SECONDS=30 CLEAVE_NEMESIS_SECONDS=600 CLEAVE_OUTAGE_SECONDS=120 cargo test --release --workspace --test system -- \
		--nocapture --test-threads=1 nemesis:: outage::
	@OUTSIDE_EXAMPLES=1000 scripts/outside

check: modules ## format, lints, docs, licences
	@cargo fmt --all --check && cargo clippy --release --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items
	@scripts/cargo-deny check bans licenses sources

bench: modules ## measure, beside bare baselines in the same run
	@scripts/test-guests
	@cargo run --release -p cleave-bench

.PHONY: help setup host modules demo split test test-outside test-all check bench
