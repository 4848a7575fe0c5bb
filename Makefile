# The front door: `make help`.
GO ?= go
PYTHON ?= python3
VENV ?= .venv
PACKAGES = ./go/...

.DEFAULT_GOAL := help
.PHONY: help ci lint test fmt clean go-lint go-test

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

ci: lint test ## what continuous integration runs

lint: go-lint ## gofmt, go vet, staticcheck

test: go-test ## every test

go-lint:
	@unformatted=$$(gofmt -l go); if [ -n "$$unformatted" ]; then echo "gofmt needed: $$unformatted"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)

go-test:
	$(GO) test $(PACKAGES)

fmt: ## format the sources
	gofmt -w go

clean: ## remove what was built
	rm -rf build dist
