# SPDX-License-Identifier: Apache-2.0
"""The guest itself: it enforces, says so, and leaves nothing; the harness notices when it does not."""

from __future__ import annotations

import json

import pytest
from tests.vm.emulator import Emulator, built
from tests.vm.guest import LAB, Guest, context, running

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


def test_what_hangs_is_ended_and_the_next_answer_is_the_next_ones(guest: Guest) -> None:
    """An act that never ends costs its own verdict and no other; what it started ends with it."""
    hung = guest.run(["sh", "-c", "sleep 1000 & echo $!; wait"], seconds=2.0)
    assert hung.timed_out
    assert hung.code == -9
    assert guest.run(["test", "-d", f"/proc/{hung.stdout.strip()}"]).code == 1
    assert guest.run(["echo", "mine"]).stdout == "mine\n"


def test_an_answer_to_another_request_closes_the_guest() -> None:
    """Were it taken for the next one, every later verdict would be another act's."""
    machine = Emulator(built("vagrant/build-image.sh"), warm=True)
    with other(machine) as guest:
        assert guest._socket is not None
        guest._socket.sendall(json.dumps({"do": "state", "number": 77}).encode() + b"\n")
        with pytest.raises(RuntimeError, match="another request"):
            guest.ask(do="state")
        assert not running(machine.pid)


def other(machine: Emulator | None = None) -> Guest:
    """A guest of one's own, warm when there is a saved state."""
    return Guest(machine or Emulator(built("vagrant/build-image.sh"), warm=True), built("scripts/base_policy.sh"))


def test_a_warm_guest_enforces_and_repeats_no_random_number(booted: Guest) -> None:
    """Two guests go on from one saved state: both enforce, and their epochs would not be the same."""
    seen = []
    built_image = built("vagrant/build-image.sh")
    Emulator(built_image, warm=True).close()  # saves the state, if no earlier run did
    for _ in range(2):
        machine = Emulator(built_image, warm=True)
        with other(machine) as guest:
            assert machine.warm
            guest.check()
            seen.append(guest.run(["od", "-An", "-tx1", "-N16", "/dev/urandom"]).stdout)
    assert len(set(seen)) == 2
    assert booted.enforcing()


def test_nothing_outlives_a_guest() -> None:
    """The emulator is gone when the guest is closed, in order or by an exception."""
    machine = Emulator(built("vagrant/build-image.sh"), warm=True)
    with pytest.raises(KeyError), other(machine):
        assert running(machine.pid)
        raise KeyError
    assert not running(machine.pid)
