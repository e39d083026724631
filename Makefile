# make run: the whole way from the kernel to a receiver, on this machine. make test: everything that CI runs. Both need root.

build := $(CURDIR)/.build
version ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
stamp := github.com/prometheus/common/version
ldflags := -s -w -X $(stamp).Version=$(version) -X $(stamp).Revision=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# What tests and generation need beside Go. Nothing of it is needed to build or to run.
packages := clang-19 clang-format-19 llvm-19 libbpf-dev linux-libc-dev gcc libc6-dev qemu-system-x86 qemu-system-arm \
	prometheus systemd shellcheck e2fsprogs iproute2 mount

.PHONY: build run test test-go test-receivers test-vm lint generate generate-check bench deps clean

build: ## the agent, static, for this architecture
	CGO_ENABLED=0 go build -trimpath -ldflags '$(ldflags)' -o $(build)/latpush ./agent/latpush

$(build)/latpush-receiver: FORCE
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $@ ./internal/receiver/latpush-receiver

FORCE:

run: build $(build)/latpush-receiver
	sh deploy/run.sh $(build)/latpush $(build)/latpush-receiver

test: deps generate-check lint test-go test-receivers test-vm

test-go:
	go test -race -short -timeout 20m ./...

test-receivers: ## real receivers, which are built the first time, and faults of the network, the disk and the process
	go test -count 1 -timeout 30m -v ./internal/receivers ./internal/endtoend/...

test-vm:
	go test -count 1 -timeout 60m -v ./internal/vm/matrix

lint:
	go vet ./...
	go vet -tags guest ./internal/vm/...
	go build -C .ci/tools -o $(build)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	GOLANGCI_LINT_CACHE=$(build)/lint $(build)/golangci-lint run ./... # a cache of its own: results of another clone name its files
	clang-format-19 --dry-run --Werror $$(git ls-files '*.c' '*.h')
	shellcheck $$(git ls-files '*.sh') .ci/run

generate: ## compile the programs in bpf/
	sh bpf/generate.sh bpf

generate-check: ## the committed objects are what the sources compile to
	rm -rf $(build)/generated
	sh bpf/generate.sh $(build)/generated
	for object in $$(cd $(build)/generated && ls */*.o); do cmp $(build)/generated/$$object bpf/$$object || exit 1; done

bench:
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m -v ./internal/bench
	go test -run '^$$' -bench 'Ratio|Wire' -benchtime 1x -v ./internal/promwire
	go test -run '^$$' -bench Probes -benchtime 1x -timeout 10m ./internal/vm/matrix

deps:
	@missing=; for package in $(packages); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi

clean:
	rm -rf $(build)
