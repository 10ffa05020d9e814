# The two commands of the README, and what they are made of.
#
#   make demo   sets this machine up, builds everything, and plays a scripted MCP session in a real microVM
#   make test   sets this machine up, builds everything, and runs every test
#
# Also: make build, make image (the default image), make agents (real agents as clients), make bench (the
# figures), make fuzz, make install PREFIX=/usr/local,
# make bundle

SHELL := /bin/bash
ARCH := $(shell uname -m)
GUEST := $(ARCH)-unknown-linux-gnu
PREFIX ?= /usr/local
BIN := target/release

.PHONY: demo test agents bench fuzz build setup image install files bundle

demo: image
	cargo run --release --quiet --example demo

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
	cargo test --release --package snowglobe --test agents -- --ignored

bench: image
	cargo run --release --quiet --example bench
	cargo run --release --quiet --example pull-bench
	cargo run --release --quiet --example mcp-bench

# Each target for a minute; needs `cargo install cargo-fuzz`, and stable Rust will do.
fuzz:
	cargo fuzz run reference --sanitizer none -- -max_total_time=60
	cargo fuzz run layer --sanitizer none -- -max_total_time=60 -rss_limit_mb=4096

# The guest's program is static, so that it runs on any image, and not relocatable, which saves three quarters of its start.
build: setup
	cargo build --release --package snowglobe-init --target $(GUEST) --config 'target.$(GUEST).rustflags=["-C","target-feature=+crt-static","-C","relocation-model=static"]'
	cargo build --release --package snowglobe --package snowglobe-runner --bins --examples

image: build
	$(BIN)/snowglobe image build debian
	$(BIN)/snowglobe image build minimal

setup:
	@.ci/setup

install: build files

# What is installed, of what is built.
files:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/snowglobe
	install $(BIN)/snowglobe $(DESTDIR)$(PREFIX)/bin/
	install $(BIN)/snowglobe-runner target/$(GUEST)/release/snowglobe-init $(DESTDIR)$(PREFIX)/libexec/snowglobe/

# target/bundle/snowglobe.mcpb, which desktop clients install with a click, and server.json with its sum.
bundle: build
	@.ci/clients
	@.ci/bundle target/bundle $(RELEASE)
