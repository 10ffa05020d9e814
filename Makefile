# The commands of the README and their parts.
#
#   make demo      sets up this machine, builds everything, and runs a scripted MCP session in a real microVM
#   make test      sets up this machine, builds everything, and runs every test
#   make install   builds the programs and installs them below PREFIX (/usr/local); needs no test packages
#   make uninstall removes them
#
# Also: make build, make image (the default image), make agents (real agents as clients), make kvm (every tool on
# both engines with hardware virtualization, which is emulated), make installs (package managers and languages in a
# sandbox, with the public registries), make browser (a page of a sandbox in Chromium), make workspace (very many files,
# and suites that try a file system out), make bench (the figures), make chaos (kills at a thousand moments), make fuzz,
# make deny, make bundle

SHELL := /bin/bash
PREFIX ?= /usr/local
# The demo, the tests and the figures run `release`; `make install` installs `dist`.
PROFILE ?= release
BIN := $(or $(CARGO_TARGET_DIR),target)/$(PROFILE)
# The roots that the recipes make, for `snowglobe image build`.
ROOTS := $(or $(CARGO_TARGET_DIR),target)/images
# Every build asks for the whole workspace, so that cargo compiles each crate once, with one set of features.
BUILD := cargo build --workspace --bins

.PHONY: demo test agents kvm installs browser workspace bench chaos deny fuzz build compile setup image install uninstall files bundle

demo: image
	$(BIN)/examples/demo

test: image
	@.ci/clients
	@# nextest if it is installed, otherwise cargo's own runner.
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --release --workspace --no-fail-fast; \
	else \
		cargo test --release --workspace --no-fail-fast; \
	fi

# Four coding agents, which take 1.3 GB, driven by a scripted model.
agents: image
	@.ci/clients agents
	cargo test --release --workspace --test agents -- --ignored

# Two hours: every test of the tools on both engines, in a KVM host that QEMU emulates.
kvm: image
	@.ci/clients
	cargo test --release --workspace --test kvm_host -- --ignored --test-threads 1

# Half an hour: apt, cargo, npm, Go and Java in a sandbox, with the public registries.
installs: image
	cargo test --release --workspace --test integration -- --ignored --nocapture network::installs:: network::languages::

# A development server from npm in a sandbox, whose page changes in a browser on this machine.
browser: image
	@.ci/clients
	@.ci/setup browser
	cargo test --release --workspace --test integration -- --ignored --nocapture network::browser::

# An hour: a tree of 600,000 files under a limit of 1,024 descriptors, and suites that try a file system out.
workspace: image
	@.ci/suites
	cargo test --release --workspace --test integration -- --ignored --nocapture workspace:: copied::large::

bench: image
	$(BUILD) --release --examples --config 'profile.release.package.snowglobe.opt-level=1'
	$(BIN)/examples/bench
	$(BIN)/examples/pull-bench
	$(BIN)/examples/mcp-bench
	$(BIN)/examples/cli-bench
	$(BIN)/examples/network-bench
	$(BIN)/examples/workspace-bench
	$(BIN)/examples/agent-bench

# Three hours: kills processes at random moments; no data may be lost.
chaos: image
	SNOWGLOBE_CHAOS_ROUNDS=1000 cargo test --release --workspace --test integration -- --nocapture chaos::
	SNOWGLOBE_CHAOS_ROUNDS=500 cargo test --release --workspace --lib --test integration -- --nocapture killed_at_any_moment

# Needs `cargo install cargo-deny`, and the network for the RustSec database; the tests check the rest.
deny:
	cargo deny check

# Runs each fuzz target for a minute, or for FUZZ_S seconds: `make fuzz FUZZ_S=14400`.
FUZZ_S ?= 60
fuzz: setup
	tests/fuzz/run $(FUZZ_S)

build: setup compile

compile:
	$(BUILD) --release --example demo

# The recipes run while the program compiles: recipes wait for the network, the compiler for the processor.
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

# Where each shell looks for completions.
COMPLETIONS := bash-completion/completions/snowglobe zsh/site-functions/_snowglobe fish/vendor_completions.d/snowglobe.fish

# Removes what `make install` installed. Images, snapshots and settings stay: `snowglobe doctor` names their directory.
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/snowglobe
	rm -f $(DESTDIR)$(PREFIX)/libexec/snowglobe/snowglobe-runner $(DESTDIR)$(PREFIX)/libexec/snowglobe/snowglobe-init
	! test -d $(DESTDIR)$(PREFIX)/libexec/snowglobe || rmdir $(DESTDIR)$(PREFIX)/libexec/snowglobe
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/snowglobe.1 $(DESTDIR)$(PREFIX)/share/man/man1/snowglobe-*.1
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETIONS))

# Copies the built programs to where they are installed, with their manual pages and completions.
files:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/snowglobe
	install $(BIN)/snowglobe $(DESTDIR)$(PREFIX)/bin/
	$(BIN)/snowglobe man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,$(dir $(COMPLETIONS)))
	$(BIN)/snowglobe completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/snowglobe
	$(BIN)/snowglobe completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_snowglobe
	$(BIN)/snowglobe completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/snowglobe.fish
	install $(BIN)/snowglobe-runner $(BIN)/snowglobe-init $(DESTDIR)$(PREFIX)/libexec/snowglobe/

# Makes target/bundle/snowglobe.mcpb, which desktop clients install with a click, and server.json with its SHA-256.
bundle:
	@.ci/setup
	@.ci/clients
	$(BUILD) --profile dist
	@PROFILE=dist .ci/bundle target/bundle $(RELEASE)
