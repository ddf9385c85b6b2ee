# SPDX-License-Identifier: Apache-2.0
"""The guest itself: it enforces, says so, and leaves nothing; the harness notices when it does not."""

from __future__ import annotations

import pytest
from tests.vm.guest import LAB, Guest, built, context, running

pytestmark = pytest.mark.vm

TWO_DOMAINS = f"""
(type one_t) (type two_t)
(roletype system_r one_t) (roletype system_r two_t)
(typeattributeset domain (one_t two_t))
(allow {LAB} one_t (process (dyntransition)))
(allow {LAB} two_t (process (dyntransition)))
(allow one_t {LAB} (fd (use))) (allow two_t {LAB} (fd (use)))
(allow one_t {LAB} (fifo_file (write getattr))) (allow two_t {LAB} (fifo_file (write getattr)))
(allow one_t self (msgq (create destroy getattr setattr read write associate unix_read unix_write)))
"""


def test_it_enforces_and_no_domain_is_permissive(guest: Guest) -> None:
    """What every other test rests on."""
    assert guest.enforcing()
    guest.check()
    assert guest.run(["id", "-Z"]).output.strip() == context(LAB)


def test_a_refusal_is_the_kernels_and_stands_in_the_log(guest: Guest) -> None:
    """A queue of one domain is closed to another, whose attempt is an AVC line."""
    guest.load({"two": TWO_DOMAINS})
    made = guest.call("acts.calls", "make_queue", 4711, domain="one_t")
    assert made.value == {"ok": True}, made.output
    before = len(guest.denials())
    refused = guest.call("acts.calls", "find_queue", 4711, 0o600, domain="two_t")
    assert refused.value == {"errno": "EACCES"}, refused.output
    new = guest.denials()[before:]
    assert any("tclass=msgq" in line and "two_t" in line and "one_t" in line for line in new), new
    assert guest.call("acts.calls", "drop_queue", 4711, domain="one_t").value == {"ok": True}


def test_the_harness_notices_a_permissive_domain_and_a_permissive_guest(booted: Guest) -> None:
    """A tier that ran in a guest which refuses nothing would prove nothing."""
    booted.load({"two": TWO_DOMAINS, "soft": "(typepermissive one_t)"})
    with pytest.raises(AssertionError, match="one_t"):
        booted.check()
    booted.load({})
    booted.check()
    booted.call("acts.channel", "setenforce", 0)
    try:
        with pytest.raises(AssertionError, match="not enforcing"):
            booted.check()
    finally:
        booted.call("acts.channel", "setenforce", 1)
    booted.check()


def test_nothing_outlives_a_guest() -> None:
    """The emulator is gone when the guest is closed, in order or by an exception."""
    with pytest.raises(KeyError), Guest(built("vagrant/build-image.sh"), built("scripts/base_policy.sh")) as other:
        pid = other.pid
        assert running(pid)
        raise KeyError
    assert not running(pid)
