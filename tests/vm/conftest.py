# SPDX-License-Identifier: Apache-2.0
"""One guest for the whole tier, and the proof at its end that it was enforcing all the time.

Writes build/vm/avc.log and build/vm/kernel.log.  A guest that does not come up fails every test: nothing is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.vm.emulator import ROOT, built
from tests.vm.guest import Guest

WARM = ("sipc", "sipc.helper", "acts.channel", "acts.calls", "acts.attacks")  # confined domains can not read them
LOGS = ROOT / "build" / "vm"
STARTED = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the guest itself cost, for a person; no test depends on it."""
    if STARTED in config.stash:
        terminalreporter.write_line(config.stash[STARTED])


@pytest.fixture(scope="session")
def booted(pytestconfig: pytest.Config) -> Iterator[Guest]:
    """The guest, with this checkout's package and the tests' acts in it."""
    image, base = built("vagrant/build-image.sh"), built("scripts/base_policy.sh")
    began = time.monotonic()
    with Guest(image, base) as guest:
        guest.check()
        acts = ROOT / "tests" / "vm" / "acts"
        guest.put([ROOT / "src" / "sipc", acts], warm=WARM)
        how = "from its saved state" if guest.warm else "cold, and its state saved"
        pytestconfig.stash[STARTED] = f"the guest started {how}: {time.monotonic() - began:.1f} s to the first test"
        yield guest
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / "kernel.log").write_text(guest.console() + guest.kernel_log())
        (LOGS / "avc.log").write_text("\n".join(guest.denials()) + "\n")


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """The guest, before and after enforcing with no permissive domain."""
    booted.check()
    yield booted
    booted.check()
