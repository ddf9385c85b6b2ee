# SPDX-License-Identifier: Apache-2.0
"""One guest for the whole tier, and the proof at its end that it was enforcing all the time.

Writes build/vm/avc.log and build/vm/kernel.log.  A guest that does not come up fails every test: nothing is skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.vm.emulator import ROOT, Emulator, built
from tests.vm.guest import Guest, Machine
from tests.vm.remote import COMMAND, Remote

# Confined domains can not read them.
WARM = ("sipc", "sipc.helper", "acts.channel", "acts.calls", "acts.attacks", "acts.flow")
LOGS = ROOT / "build" / "vm"
STARTED = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the guest itself cost, for a person; no test depends on it."""
    if STARTED in config.stash:
        terminalreporter.write_line(config.stash[STARTED])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker among several tells the process that prints."""
    if STARTED in session.config.stash and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["guest"] = session.config.stash[STARTED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker told."""
    if "guest" in (told := getattr(node, "workeroutput", {})):
        node.config.stash[STARTED] = told["guest"]


@pytest.fixture(scope="session")
def booted(pytestconfig: pytest.Config) -> Iterator[Guest]:
    """The guest, with this checkout's package and the tests' acts in it."""
    base = built("scripts/base_policy.sh")
    image = built("vagrant/build-image.sh")
    began = time.monotonic()
    machine: Machine
    if command := os.environ.get(COMMAND):
        machine, how = Remote(command), f"is another machine ({command})"
    else:
        machine = Emulator(image, warm=True)
        how = "started from its saved state" if machine.warm else "started cold, and its state was saved"
    with Guest(machine, base) as guest:
        guest.check()
        acts = ROOT / "tests" / "vm" / "acts"
        guest.put([ROOT / "src" / "sipc", acts], warm=WARM)
        pytestconfig.stash[STARTED] = f"the guest {how}: {time.monotonic() - began:.1f} s to the first test"
        yield guest
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / "kernel.log").write_text(machine.console() + guest.kernel_log())
        (LOGS / "avc.log").write_text("\n".join(guest.denials()) + "\n")


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """The guest, before and after enforcing with no permissive domain."""
    booted.check()
    yield booted
    booted.check()
