# The commands of the README, and what they are made of.
#
#   make demo      sets this machine up, builds everything, and plays a scripted MCP session in a real microVM
#   make test      sets this machine up, builds everything, and runs every test
#   make install   builds what is installed and puts it below PREFIX (/usr/local); needs only what building needs
#
# Also: make build, make image (the default image), make agents (real agents as clients), make bench (the
# figures), make chaos (kills at a thousand moments), make fuzz, make deny, make bundle

SHELL := /bin/bash
PREFIX ?= /usr/local
# `release` is what the demo, the tests and the figures run, `dist` what is installed.
PROFILE ?= release
BIN := $(or $(CARGO_TARGET_DIR),target)/$(PROFILE)
# What the recipes made, for the program to take in.
ROOTS := $(or $(CARGO_TARGET_DIR),target)/images
# Every build asks for the whole workspace, so that cargo compiles each crate once, with one set of features.
BUILD := cargo build --workspace --bins

.PHONY: demo test agents bench chaos deny fuzz build compile setup image install files bundle

demo: image
	$(BIN)/examples/demo

test: image
	@.ci/clients
	@# One run, one summary: nextest where it is there, else cargo's own.
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --release --workspace --no-fail-fast; \
	else \
		cargo test --release --workspace --no-fail-fast; \
	fi

# Four coding agents, which take 1.3 GB, driven by a scripted model.
agents: image
	@.ci/clients agents
	cargo test --release --workspace --test agents -- --ignored

bench: image
	$(BUILD) --release --examples
	$(BIN)/examples/bench
	$(BIN)/examples/pull-bench
	$(BIN)/examples/mcp-bench

# Two hours: processes are killed at random moments, and nothing may be lost.
chaos: image
	SNOWGLOBE_CHAOS_ROUNDS=1000 cargo test --release --workspace --test integration -- --nocapture chaos::
	SNOWGLOBE_CHAOS_ROUNDS=500 cargo test --release --workspace --test integration -- --nocapture killed_at_any_moment

# Needs `cargo install cargo-deny`, and the network for the RustSec database; what needs neither, the tests look at.
deny:
	cargo deny check

# Each fuzz target for a minute, or as long as is said: `make fuzz FUZZ_S=14400`.
FUZZ_S ?= 60
fuzz: setup
	fuzz/run $(FUZZ_S)

build: setup compile

compile:
	$(BUILD) --release --example demo

# The roots come from Debian's packages while the program compiles: the one waits for the network, the other computes.
image: setup
	@$(MAKE) --no-print-directory --jobs 3 compile $(ROOTS)/debian.tar.zst $(ROOTS)/minimal.tar.zst
	$(BIN)/snowglobe image build debian --archive $(ROOTS)/debian.tar.zst
	$(BIN)/snowglobe image build minimal --archive $(ROOTS)/minimal.tar.zst

$(ROOTS)/%.tar.zst: images/%/recipe
	@mkdir -p $(ROOTS)
	@bash $< $@.part </dev/null 2> >(tee $@.log | grep --line-buffered '^recipe: ' >&2) \
		&& mv $@.part $@ || { tail -n 20 $@.log >&2; exit 1; }

setup:
	@.ci/setup

install:
	@.ci/setup build
	$(BUILD) --profile dist
	@$(MAKE) --no-print-directory files PROFILE=dist

# What is installed, of what is built.
files:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/snowglobe
	install $(BIN)/snowglobe $(DESTDIR)$(PREFIX)/bin/
	install $(BIN)/snowglobe-runner $(BIN)/snowglobe-init $(DESTDIR)$(PREFIX)/libexec/snowglobe/

# target/bundle/snowglobe.mcpb, which desktop clients install with a click, and server.json with its sum.
bundle:
	@.ci/setup
	@.ci/clients
	$(BUILD) --profile dist
	@PROFILE=dist .ci/bundle target/bundle $(RELEASE)
