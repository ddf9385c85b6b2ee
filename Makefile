# SPDX-License-Identifier: Apache-2.0
# Works from any directory (make -C), from nothing, and twice in a row.
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV := $(ROOT).venv
PY   := $(VENV)/bin/python

.PHONY: demo test vm-test vm-shell lint bench clean
.DEFAULT_GOAL := demo

$(VENV)/.demo: $(ROOT)pyproject.toml
	@$(ROOT)scripts/setup.sh $(VENV) cli
	@touch $@

$(VENV)/.dev: $(ROOT)pyproject.toml
	@$(ROOT)scripts/setup.sh $(VENV) dev
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(ROOT)pyproject.toml
	@$(ROOT)scripts/setup.sh $(VENV) bench,cli
	@touch $@

demo: $(VENV)/.demo   ## a file crosses a channel whose helper has already exited
	@$(VENV)/bin/sipc demo

test: $(VENV)/.dev    ## unit and host tests
	@$(ROOT)scripts/test.sh $(PY)

vm-test: $(VENV)/.dev ## the tests in an enforcing SELinux guest (software emulation); logs in build/vm
	@cd $(ROOT) && mkdir -p build/vm && $(PY) -m pytest -q tests/vm --junitxml=build/vm/junit.xml

vm-shell: $(VENV)/.dev ## a shell in that guest
	@cd $(ROOT) && $(PY) -m tests.vm.emulator

lint: $(VENV)/.dev
	@cd $(ROOT) && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

bench: $(VENV)/.bench ## compare with pipes, sockets, ZeroMQ, iceoryx2; writes bench/results
	@cd $(ROOT) && $(PY) -m bench --write-readme && $(PY) -m bench.guard --write-docs

clean:
	@rm -rf $(VENV) $(ROOT).pytest_cache $(ROOT).mypy_cache $(ROOT).ruff_cache $(ROOT).hypothesis $(ROOT)dist
