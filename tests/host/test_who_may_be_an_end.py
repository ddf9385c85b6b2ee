# SPDX-License-Identifier: Apache-2.0
"""Policies at the ends: each judges itself when it opens, and a receiver under dac whoever sent last."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.channels import Child, make
from tests.support.descriptors import descriptors

import sipc
import sipc.aio
from sipc.endpoint_policy import EndpointPolicy, Failed
from sipc.process import ended
from sipc.spec import Enforcement

pytestmark = pytest.mark.host

ME = EndpointPolicy(uid=os.geteuid())
STRANGER = EndpointPolicy(uid=54321, gid=54321, user="sipc-nobody-has-this-name", callback=lambda _: True)


@pytest.mark.parametrize("opening", [sipc.open_sender, sipc.open_receiver])
def test_an_end_that_its_policy_does_not_allow_is_not_opened(opening: Callable[..., object], registry: Path) -> None:
    """Every failed rule is named; the role's lock was not taken, nor waited for a channel that is not there."""
    make(registry, "c")
    for name in ("c", "not-there"):
        with pytest.raises(sipc.Denied) as caught:
            opening(name, registry=registry, policy=STRANGER)
        text = str(caught.value)
        assert all(f"FAILED {rule}" in text for rule in ("uid", "gid", "user"))
        assert "callback" not in text
        assert repr(name) in text
    opening("c", registry=registry, timeout=0, policy=ME).close()  # type: ignore[attr-defined]


def test_the_asyncio_ends_judge_themselves_too(registry: Path) -> None:
    """By the same rules."""
    make(registry, "c")

    async def refused() -> None:
        for opening in (sipc.aio.open_sender, sipc.aio.open_receiver):
            with pytest.raises(sipc.Denied, match="FAILED uid"):
                await opening("c", registry=registry, timeout=0, policy=STRANGER)

    asyncio.run(refused())


def send(registry: Path, *messages: bytes, uid: int | None = None) -> None:
    """Send and wait until all is received; `uid` is the real user then, while the effective one still may."""
    with sipc.open_sender("c", registry=registry, timeout=10) as sender:
        if uid is not None:
            os.setresuid(uid, -1, -1)
        for message in messages:
            sender.send(message, 30)
        sender.flush(30)


def test_the_process_that_sent_last_is_judged(registry: Path) -> None:
    """While it lives: by request, and before each block is handed on."""
    make(registry, "c")
    child = Child(lambda: send(registry, b"one", b"two"))
    policy = EndpointPolicy(uid=os.geteuid(), callback=lambda subject: subject.pid == child.pid)
    with sipc.open_receiver("c", registry=registry, timeout=10, peer=policy) as receiver:
        assert receiver.receive(30) == b"one"
        assert receiver.check_peer(policy).failed == Failed.NONE
        with pytest.raises(sipc.Denied, match="FAILED uid"):
            receiver.check_peer(STRANGER)
        assert receiver.receive(30) == b"two"
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(30)
    child.result()


@pytest.mark.parametrize("kept", [False, True], ids=["no cursor", "cursor"])
def test_a_sender_that_the_policy_refuses_gets_nothing_through(kept: bool, registry: Path, tmp_path: Path) -> None:
    """The kernel lets it send, by its effective user; refused by its real one, for good, in every way to receive."""
    make(registry, "c")
    child = Child(lambda: send(registry, b"forged", uid=54321))
    cursor = tmp_path / "cursor" if kept else None
    with sipc.open_receiver("c", registry=registry, timeout=10, cursor=cursor, peer=ME) as receiver:
        with pytest.raises(sipc.RemoteProtocolError, match=r"last sender.*FAILED uid"):
            receiver.receive(30)
        for way in (
            lambda: receiver.receive(0),
            lambda: receiver.receive_many(0),
            lambda: receiver.receive_into(bytearray(100), 0),
            lambda: receiver.unsafe_borrow(0).__enter__(),
        ):
            with pytest.raises(sipc.RemoteProtocolError):
                way()
    child.kill()


def test_a_sender_that_has_ended_can_not_be_judged(registry: Path) -> None:
    """Its number may be anybody's by now: nothing is handed on, from the slot at recovery neither."""
    make(registry, "c")

    def leave() -> None:
        sender = sipc.open_sender("c", registry=registry, timeout=10)
        sender.send(b"left behind")
        os._exit(0)

    Child(leave).wait()
    for cursor in (None, registry.parent / "cursor"):
        with sipc.open_receiver("c", registry=registry, timeout=10, cursor=cursor, peer=ME) as receiver:
            with pytest.raises(sipc.RemoteProtocolError, match="last sender"):
                receiver.receive(0)


def leave(reading: int) -> None:
    """Send two blocks, and end without a word when told to."""
    sender = sipc.open_sender("c", registry=os.environ["SIPC_REGISTRY"], timeout=10)
    sender.send(b"one")
    sender.send(b"two")
    os.read(reading, 1)
    os._exit(0)


def forge() -> None:
    """Send a block and end at once."""
    sender = sipc.open_sender("c", registry=os.environ["SIPC_REGISTRY"], timeout=10)
    sender.send(b"forged")
    os._exit(0)


def test_what_a_sender_left_that_passed_while_it_lived_is_handed_on(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what somebody else puts after it, who ends at once too, is not: by its user it would have passed."""
    monkeypatch.setenv("SIPC_REGISTRY", str(registry))
    make(registry, "c")
    reading, writing = os.pipe()
    child = Child(lambda: leave(reading))
    with sipc.open_receiver("c", registry=registry, timeout=10, peer=ME) as receiver:
        assert receiver.receive(30) == b"one"
        os.write(writing, b"x")
        child.wait()
        assert receiver.receive(30) == b"two"
        Child(forge).wait()
        with pytest.raises(sipc.RemoteProtocolError, match="last sender"):
            receiver.receive(30)
    os.close(reading)
    os.close(writing)


def test_a_receiver_that_starts_anew_knows_who_had_passed(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its cursor; one without has never seen that sender."""
    monkeypatch.setenv("SIPC_REGISTRY", str(registry))
    make(registry, "c")
    reading, writing = os.pipe()
    child = Child(lambda: leave(reading))
    cursor = tmp_path / "cursor"
    with sipc.open_receiver("c", registry=registry, timeout=10, cursor=cursor, peer=ME) as receiver:
        assert receiver.receive(30) == b"one"
        os.write(writing, b"x")
        child.wait()
    with sipc.open_receiver("c", registry=registry, timeout=10, cursor=cursor, peer=ME) as receiver:
        assert receiver.receive(30) == b"two"
    other = tmp_path / "other"
    with sipc.open_receiver("c", registry=registry, timeout=10, cursor=other, peer=ME) as receiver:
        with pytest.raises(sipc.RemoteProtocolError, match="last sender"):
            receiver.receive(30)
    os.close(reading)
    os.close(writing)


def test_a_sender_that_lingers_announces_the_end_when_everything_was_finished(registry: Path) -> None:
    """So it lives until its last block was judged; where the time is too short it says so."""
    make(registry, "c")

    def send() -> None:
        with sipc.open_sender("c", registry=registry, timeout=10, linger=True) as sender:
            sender.send(b"one")

    child = Child(send)
    with sipc.open_receiver("c", registry=registry, timeout=10, peer=ME) as receiver:
        assert receiver.receive(30) == b"one"
        pidfd = os.pidfd_open(child.pid)
        assert not ended(pidfd)
        os.close(pidfd)
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(30)
    child.result()
    sender = sipc.open_sender("c", registry=registry, timeout=10, linger=True)
    sender.send(b"two")
    with pytest.raises(sipc.Timeout, match="has not finished everything"):
        sender.close(0.05)
    assert sender.closed


def test_a_receiver_that_judges_goes_on_judging_when_it_is_confined(registry: Path) -> None:
    """The filter leaves it the one call that tells who sent last, and refuses all others on the queue."""
    make(registry, "c")

    def receive() -> tuple[bytes, int, int, int]:
        with sipc.open_receiver("c", registry=registry, timeout=10, peer=ME) as receiver:
            receiver.confine()
            got = receiver.receive(30)
            libc = ctypes.CDLL(None, use_errno=True)
            buffer = ctypes.create_string_buffer(256)
            refused = []
            for act in (0, 1, 2):  # IPC_RMID, IPC_SET, IPC_STAT of a queue that there is not
                ctypes.set_errno(0)
                assert libc.msgctl(0x7FFFFFF, act, buffer) == -1
                refused.append(ctypes.get_errno())
            return got, refused[0], refused[1], refused[2]

    child = Child(receive)
    with sipc.open_sender("c", registry=registry, timeout=10) as sender:
        sender.send(b"one")
        got, *refused = child.result()
    assert got == b"one"
    assert refused[:2] == [errno.EPERM] * 2
    assert refused[2] != errno.EPERM


def test_a_judgement_that_was_interrupted_is_made_at_the_next_call(registry: Path) -> None:
    """A handler raises in the middle of it: the block is not handed on unjudged."""
    make(registry, "c")
    answers: list[object] = [KeyboardInterrupt, False]

    def answer(_: object) -> bool:
        found = answers.pop(0)
        if found is KeyboardInterrupt:
            raise KeyboardInterrupt
        return bool(found)

    child = Child(lambda: send(registry, b"one"))
    peer = EndpointPolicy(callback=answer)
    with sipc.open_receiver("c", registry=registry, timeout=10, peer=peer) as receiver:
        with pytest.raises(KeyboardInterrupt):
            receiver.receive(30)
        with pytest.raises(sipc.RemoteProtocolError, match="FAILED callback"):
            receiver.receive(0)
    assert answers == []
    child.kill()


def test_who_sent_last_is_asked_only_where_that_may_be(registry: Path) -> None:
    """POSIX queues do not tell; under SELinux no end may look at a queue, so the question is refused, not asked."""
    make(registry, "c", backend="posix")
    with pytest.raises(sipc.SpecError, match="only System V"):
        sipc.open_receiver("c", registry=registry, timeout=0, peer=ME)
    with sipc.open_receiver("c", registry=registry, timeout=0) as receiver:
        with pytest.raises(sipc.SpecError, match="only System V"):
            receiver.check_peer(ME)
        with pytest.raises(sipc.SpecError, match="only System V"):
            receiver._queue.last_sender()
    make(registry, "c", replacing=True)
    with sipc.open_receiver("c", registry=registry, timeout=0) as receiver:
        receiver._parts.spec = replace(receiver.spec, enforcement=Enforcement.SELINUX)
        with pytest.raises(sipc.SpecError, match="which no end may call under"):
            receiver.check_peer(ME)
    with pytest.raises(sipc.Closed):
        receiver.check_peer(ME)


def test_a_receiver_that_was_refused_lets_go_of_its_role(registry: Path) -> None:
    """Opened again it is not busy, and no descriptor is left."""
    make(registry, "c", backend="posix")
    before = descriptors()
    for _ in range(3):
        with pytest.raises(sipc.SpecError):
            sipc.open_receiver("c", registry=registry, timeout=0, peer=ME)
    assert descriptors() == before
