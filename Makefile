# SPDX-License-Identifier: Apache-2.0
# Works from any directory (make -C), from nothing, and twice in a row.
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV := $(ROOT).venv
PY   := $(VENV)/bin/python

.PHONY: demo test vm-test vm-shell vagrant-test lint bench leftovers clean
.DEFAULT_GOAL := demo

$(VENV)/.demo: $(ROOT)pyproject.toml $(ROOT)Makefile
	@$(ROOT)scripts/setup.sh $(VENV) cli,guard
	@touch $@

$(VENV)/.dev: $(ROOT)pyproject.toml
	@$(ROOT)scripts/setup.sh $(VENV) dev
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(ROOT)pyproject.toml
	@$(ROOT)scripts/setup.sh $(VENV) bench,cli
	@touch $@

demo: $(VENV)/.demo   ## a file crosses a channel whose helper has already exited; JSON crosses a guard
	@$(VENV)/bin/sipc demo
	@echo
	@$(PY) $(ROOT)examples/json_guard/demo.py

test: $(VENV)/.dev    ## all test tiers: unit, host, guest
	@$(ROOT)scripts/test.sh $(PY)

vm-test: $(VENV)/.dev ## the tests in an enforcing SELinux guest (software emulation); logs in build/vm
	@$(ROOT)scripts/test.sh $(PY) vm

vm-shell: $(VENV)/.dev ## a shell in that guest
	@cd $(ROOT) && $(PY) -m tests.vm.emulator

vagrant-test: $(VENV)/.dev ## `vagrant up` for real, the guest tests in that machine, then nothing is left
	@$(ROOT)vagrant/test.sh $(PY)

lint: $(VENV)/.dev
	@cd $(ROOT) && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

bench: $(VENV)/.bench ## compare with pipes, sockets, ZeroMQ, iceoryx2; writes bench/results
	@cd $(ROOT) && $(PY) -m bench --write-readme && $(PY) -m bench.guard --write-docs

leftovers: $(VENV)/.dev ## what a receiver could tell a sender, in kbit/s; a minute; writes docs/threat-model.md
	@cd $(ROOT) && $(PY) -m bench.leftovers --write-docs

clean:
	@rm -rf $(VENV) $(ROOT).pytest_cache $(ROOT).mypy_cache $(ROOT).ruff_cache $(ROOT).hypothesis $(ROOT)dist
