# `make` builds; `make help` lists the rest. Every recipe line runs under bash with -eu -o pipefail,
# so the first failure ends it, also in the middle of a pipe.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-builtin-rules

GO ?= go
# Passed on to the gateway: make run ARGS="--listen :9000 --log-format text"
ARGS ?=
# How long each fuzz target runs.
FUZZTIME ?= 30s
# Static binaries: they run in an image with nothing else in it.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath
LINT = $(shell command -v golangci-lint 2>/dev/null || echo '$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0')

.PHONY: build run run-redis test test-deps vet race lint fuzz tls bench soak faults clean help

build: ## Build all commands into ./bin
	$(BUILD) -o bin/ ./cmd/...

# One command only, so that `run` works while another command does not compile.
bin/sluice: FORCE
	$(BUILD) -o bin/ ./cmd/sluice
FORCE:

run: bin/sluice ## Build and start the gateway, sessions in memory (ARGS="--listen :9000")
	exec bin/sluice serve $(ARGS)

run-redis: bin/sluice ## The gateway on a private redis-server that goes away with it (ARGS=…)
	exec scripts/run-redis.sh $(ARGS)

test-deps: ## Install what the tests start (redis-server, chromium, …) where it is missing
	scripts/install-test-deps.sh

vet: ## go vet
	$(GO) vet ./...

# Both builds are tested: with -race netpoll finds the operator of an event by another way than
# without.
# These packages' tests start programs, which are built without it in either case: once is enough.
ONCE = /(cmd/sluice|bench/compare|bench/million|bench/terminate|scripts/examples)$$
test: test-deps vet ## Everything that must pass: vet, tests with the race detector, tests without
	@echo "== go test -race"
	$(GO) test -race -timeout 10m ./...
	@echo "== go test"
	$(GO) test -timeout 10m $$($(GO) list ./... | grep -vE '$(ONCE)')
	@echo "== all tests passed"

race: ## Tests with the race detector only
	$(GO) test -race -timeout 10m ./...

lint: ## golangci-lint: an installed one, or else built once through the module proxy (minutes)
	$(LINT) run ./...

fuzz: ## Run every fuzz target for FUZZTIME (30s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

tls: test-deps ## The proof of the TLS record layer: peers, a million records a suite, fuzzing for FUZZTIME
	$(GO) test -count=1 -run TLS ./gateway ./cmd/sluice
	SLUICE_TLS_RECORDS=1000000 $(GO) test -count=1 ./gateway/tls13 ./gateway/tlsserver
	$(GO) test -run '^$$' -fuzz '^FuzzAgainstCryptoTLS$$' -fuzztime $(FUZZTIME) ./gateway/tls13
	$(GO) test -run '^$$' -fuzz '^FuzzOpen$$' -fuzztime $(FUZZTIME) ./gateway/tls13

bench: build ## Compare with goroutine-per-connection servers; writes bench/comparison.{md,svg} (kept), .json and .html
	bin/sluice-bench compare --out bench/comparison $(ARGS)

soak: build ## Load one gateway for SOAK_DURATION (5m) and check every reply
	scripts/soak.sh

faults: build ## Kill, stop, delay and empty under load; a table of what was lost or doubled (ARGS="--help")
	bin/sluice-bench faults $(ARGS)

clean: ## Remove what was built
	rm -rf bin
	find . -name '*.test' -type f -delete

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
