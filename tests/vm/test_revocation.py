# SPDX-License-Identifier: Apache-2.0
"""A policy taken away under live ends: the queue is mediated message by message, a mapped segment is not.

What follows is documented in docs/operations.md: after revoking, end the processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.guest import Guest
from tests.vm.test_channel import TYPES, definition, modules

pytestmark = pytest.mark.vm


@pytest.fixture
def ends(guest: Guest) -> Iterator[tuple[Guest, int, int]]:
    """A live channel whose ends do one step for each line that the test writes to their pipes."""
    guest.load(modules(definition()))
    made = guest.call("acts.channel", "create", definition(), domain=TYPES.channel)
    assert "epoch" in (made.value or {}), made
    sender = guest.start("acts.channel", "steps", "feed", "sender", domain=TYPES.sender)
    receiver = guest.start("acts.channel", "steps", "feed", "receiver", domain=TYPES.receiver)
    assert guest.line(sender) == "open\n"
    assert guest.line(receiver) == "open\n"
    yield guest, sender, receiver
    guest.load(modules(definition()))
    for pid in (sender, receiver):
        guest.kill(pid)
        guest.wait(pid)
    assert guest.call("acts.channel", "destroy", "feed", domain=TYPES.channel).value == {}


def without(what: str) -> dict[str, str]:
    """The channel's policy without the allow rules that have these words."""
    kept = {}
    removed = 0
    for name, text in modules(definition()).items():
        lines = [line for line in text.splitlines() if not (line.startswith("(allow") and what in line)]
        removed += len(text.splitlines()) - len(lines)
        kept[name] = "\n".join(lines)
    assert removed >= 1, what
    return kept


def step(guest: Guest, pid: int) -> str:
    """Let one end do one step; what it says of it."""
    guest.kill(pid, 10)
    return guest.line(pid).strip()


def test_without_the_rule_the_next_message_is_refused(ends: tuple[Guest, int, int]) -> None:
    """The sender's right to the queue is taken away while it is open: EACCES at the next msgsnd."""
    guest, sender, receiver = ends
    assert step(guest, sender) == "ok"
    assert step(guest, receiver) == "ok"
    guest.load(without(f"(allow {TYPES.sender} {TYPES.message} "))
    before = len(guest.denials())
    assert step(guest, sender) == "Denied"
    assert any("tclass=msg" in line and "send" in line for line in guest.denials()[before:])


def test_a_receiver_without_the_rule_gets_nothing_more(ends: tuple[Guest, int, int]) -> None:
    """The kernel skips what may not be received, and the error says that this can be so."""
    guest, sender, receiver = ends
    guest.load(without(f"(allow {TYPES.receiver} {TYPES.message} "))
    assert step(guest, sender) == "ok"
    assert step(guest, receiver) == "Timeout: may not read"


def test_a_mapped_segment_stays_mapped(ends: tuple[Guest, int, int]) -> None:
    """Documented, and why the processes must be ended: the mapping is not asked again."""
    guest, sender, receiver = ends
    assert step(guest, sender) == "ok"
    guest.load(without(f"(allow {TYPES.receiver} {TYPES.channel} (shm "))
    assert step(guest, receiver) == "ok"  # through the mapping that it has
    tried = guest.call("acts.channel", "open_end", "feed", "receiver", domain=TYPES.receiver)
    assert tried.value["error"] in ("Denied", "Busy"), tried.value
    fresh = guest.call("acts.attacks", "one", "shmat read-only", _known(guest), domain=TYPES.receiver)
    assert fresh.value == {"said": "EACCES"}


def _known(guest: Guest) -> dict[str, object]:
    known = guest.call("acts.channel", "objects", "feed", domain=TYPES.channel).value
    assert known is not None
    return dict(known)
