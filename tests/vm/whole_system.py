# SPDX-License-Identifier: Apache-2.0
"""A guest with systemd and this checkout installed, for tests of what is installed: started, spoken to, looked over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.emulator import ROOT, Emulator, built
from tests.vm.guest import Guest, Result, running

__all__ = ("AGENT", "LIMIT", "shell", "unexplained", "until", "whole_system")

AGENT = "initrc_t"
LIMIT = 300.0  # seconds; building a policy under emulation takes a minute


@contextmanager
def whole_system(folder: Path, script: str, *, extras: str = "cli") -> Iterator[Guest]:
    """Such a guest, with `folder` in /opt/sipc, after a shell's `script`; at its end it has enforced all the time."""
    machine = Emulator(built("vagrant/build-system.sh"), warm=False, cpus=2)
    with Guest(machine, None, domain=AGENT) as guest:
        guest.check()
        guest.put([built("vagrant/wheels.sh"), folder, ROOT / "tests" / "vm" / "acts"])
        shell(guest, f"""
            pip install --quiet --root-user-action=ignore --break-system-packages --no-index \\
                --find-links /opt/sipc/wheels 'sipc[{extras}]'
            systemd-tmpfiles --create sipc.conf
            {script}
        """)
        yield guest
        guest.check()
    assert not running(machine.pid)


def shell(guest: Guest, script: str) -> Result:
    """Run a shell's lines as root, which must end well."""
    done = guest.run(["sh", "-euc", script], seconds=LIMIT)
    assert done.code == 0, done.output + guest.run(["journalctl", "--no-pager", "-n", "60"]).output
    return done


def until(guest: Guest, condition: str) -> None:
    """Wait in the guest until a shell's condition holds; the agent's time bounds it."""
    shell(guest, f"until {condition}; do sleep 0.2; done")


def unexplained(lines: list[str]) -> list[str]:
    """Refusals that no sentence here explains."""
    reasons = (
        # Debian's own: systemd-tmpfiles and its policy do not agree on links and on root's home, with and without us.
        'comm="systemd-tmpfile"',
    )
    return [line for line in lines if not any(reason in line for reason in reasons)]
