# Everything that one does here, by name. `make` prints the list.

ADDR    ?= 127.0.0.1:8080
ADMIN   ?= 127.0.0.1:9900
WORKERS ?= 4
FUZZTIME ?= 30s

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What people must be able to build on their own machines; the supervisor itself is for Linux.
PORTABLE := ./pkg/worker/... ./pkg/app/... ./pkg/operator ./pkg/tasks/... ./cmd/app

.DEFAULT_GOAL := help
.PHONY: help build run test deps check fmt vet lint bench bench-jobs prove screenshots cover clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

build: ## bin/supervisor and bin/app
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/supervisor ./cmd/app

run: build ## web workers, job runners and an in-memory Redis (etc/dev.toml; ADDR=127.0.0.1:8080 ADMIN=127.0.0.1:9900 WORKERS=4); needs nothing but Go
	@echo
	@echo "  look:    http://$(ADDR)/   http://$(ADDR)/health/worker"
	@echo "  try:     curl -i --data-binary @pkg/app/testdata/go-turns-two-280x360.jpeg http://$(ADDR)/images"
	@echo "           bin/supervisor ctl -c etc/dev.toml status"
	@sh -c ': $${APP_ADMIN_TOKEN:=$$(od -An -N16 -tx1 /dev/urandom | tr -d " \n")}; export APP_ADMIN_TOKEN SUPERVISOR_ADMIN=$(ADMIN) SUPERVISOR_ADMIN_TOKEN=$$APP_ADMIN_TOKEN; \
	echo "  steer:   http://$(ADMIN)/   http://$(ADDR)/admin/jobs   the token for this run: $$APP_ADMIN_TOKEN"; \
	echo "  reload:  kill -HUP $$$$       stop: Ctrl-C"; echo; unset APP_DEBUG; exec bin/supervisor -c etc/dev.toml -w $(WORKERS) -b $(ADDR)'

# `check` before the tests: a slip of the pen shows in seconds. go test comes last, so that its own last lines are the last to see.
test: deps check ## everything CI runs: installs what tests use, then fmt, vet, lint, go test -race (5 minutes)
	go test -race -timeout 14m ./...

deps: ## install the programs that tests and benchmarks use (Debian packages)
	@scripts/deps.sh

check: fmt vet lint ## gofmt, vet for three systems, lint

fmt: ## fail if gofmt would change a file
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi

vet: ## go vet, also as darwin and windows where the package is meant for them
	go vet ./...
	go -C bench/jobs vet ./...
	GOOS=darwin go vet $(PORTABLE)
	GOOS=windows go vet $(PORTABLE)

lint: ## staticcheck (pinned) and the rules of this house
	go run $(STATICCHECK) ./...
	@scripts/house-rules.sh

bench: deps ## Go benchmarks, then throughput against bare, prefork and nginx, how long replacements take, what being watched costs (about 15 minutes)
	go test -run '^$$' -bench . -benchmem ./...
	go run ./bench/compare
	go run ./bench/idle
	go run ./bench/lifecycle
	go run ./bench/watched

bench-jobs: deps ## jobs beside asynq on a real Redis (about 5 minutes)
	go -C bench/jobs run .

prove: deps ## the long proofs: 100 reloads, 50 self-upgrades, 100,000 requests under load, 200 kills (PROVE=1)
	PROVE=1 go test -count=1 -timeout 60m ./...

screenshots: deps ## pictures of the jobs page and the dashboard in a real Chromium, into docs/images
	SCREENSHOTS=$(CURDIR)/docs/images go test -count=1 -run 'TestJobsPageInABrowser|TestTheDashboardIsReadable' ./pkg/app ./pkg/dashboard

# go test fuzzes one target of one package at a time; it finds all there are by their name.
fuzz: ## fuzz every target for FUZZTIME (30s): records, ids, schedules, HTTP inputs, configuration; FUZZ=Name for one
	@grep -rn --include=*_test.go -oE 'func $(or $(FUZZ),Fuzz[A-Za-z]+)\(' . | sed -E 's|^(.*)/[^/]*:[0-9]+:func (.*)\($$|\1 \2|' | sort | while read -r package target; do \
		echo "== $$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; \
	done

cover: deps ## coverage of all packages, in bin/cover.html
	@mkdir -p bin
	go test -coverpkg=./... -coverprofile=bin/cover.out ./...
	@go tool cover -html=bin/cover.out -o bin/cover.html
	@go tool cover -func=bin/cover.out | tail -1

clean: ## remove what was built
	rm -rf bin
