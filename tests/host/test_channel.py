# SPDX-License-Identifier: Apache-2.0
"""Both ends of a channel over real kernel objects: what goes in comes out, once, whole, in order."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sysv_ipc
from tests.support.channels import Child, make

import sipc
from sipc import helper
from sipc.proto import control
from sipc.proto.control import Flag
from sipc.proto.segment import Segment, segment_size
from sipc.spec import Geometry

pytestmark = pytest.mark.host

SLOT = 4096
SHAPES: list[dict[str, Any]] = [
    {"slots": slots, "depth": depth, "slot_size": SLOT, "backend": backend, "segment_creator": creator}
    for (slots, depth), backend, creator in product(
        ((4, 2), (3, 1), (1, 1), (2, 1), (5, 3)), ("sysv", "posix"), ("helper", "sender")
    )
] + [{"transport": "queue", "slot_size": 2000, "backend": backend} for backend in ("sysv", "posix")]


def messages(slot: int) -> list[bytes]:
    """Messages of every interesting size."""
    sizes = (0, 1, 7, slot - 1, slot, slot + 1, 2 * slot, 10 * slot + 3)
    return [bytes((size + i) % 251 for i in range(size)) for size in sizes]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_messages_of_every_size_arrive_whole_and_in_order(shape: dict[str, Any], registry: Path) -> None:
    """send, send_many, reserve and flush, over every geometry, backend and transport."""
    make(registry, "c", **shape)
    slot = shape["slot_size"]
    small = [b"", *(b"record %d" % i for i in range(3000))]
    expected = [*messages(slot), *small, b"filled", *messages(slot)]

    def receive() -> list[bytes]:
        with sipc.open_receiver("c", registry=registry) as receiver:
            return list(receiver)

    child = Child(receive)
    with sipc.open_sender("c", registry=registry) as sender:
        for message in messages(slot):
            sender.send(message)
        sender.send_many(small)
        with sender.reserve(100) as reservation:
            reservation.view[:6] = b"filled"
            reservation.length = 6
        with pytest.raises(KeyError), sender.reserve(100):
            raise KeyError  # nothing of it is sent
        sender.flush(30)
        for message in messages(slot):
            sender.send(bytearray(message), timeout=30)
    assert child.result() == expected


def test_a_timeout_means_that_nothing_was_sent(registry: Path) -> None:
    """Sending again after a Timeout loses and repeats nothing."""
    make(registry, "c", slot_size=SLOT)
    sent = 0
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        for _ in range(10):
            try:
                sender.send(b"%d" % sent, timeout=0)
                sent += 1
            except sipc.Timeout:
                break
        assert 0 < sent < 10
        assert sender.pending
        got = [receiver.receive(5)]
        while sent < 20:
            try:
                sender.send(b"%d" % sent, timeout=0.01)
                sent += 1
            except sipc.Timeout:
                got.append(receiver.receive(5))
        while len(got) < 20:
            try:
                sender.flush(0)
            except sipc.Timeout:
                got.append(receiver.receive(5))
    assert got == [b"%d" % i for i in range(20)]


def test_a_receive_timeout_keeps_what_came_of_a_large_message(registry: Path) -> None:
    """The next call goes on where the one before was."""
    make(registry, "c", slot_size=SLOT, slots=4, depth=2)
    large = os.urandom(3 * SLOT)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        receive_slowly = threading.Event()

        def send() -> None:
            receive_slowly.wait(20)
            sender.send(large)

        worker = threading.Thread(target=send)
        worker.start()
        with pytest.raises(sipc.Timeout):
            receiver.receive(0.05)
        receive_slowly.set()
        got = None
        while got is None:
            try:
                got = receiver.receive(0)
            except sipc.Timeout:
                continue
        worker.join()
        assert got == large


def test_receive_into_fits_or_keeps_the_message(registry: Path) -> None:
    """A buffer that is too small loses nothing."""
    make(registry, "c", slot_size=SLOT)
    large = os.urandom(3 * SLOT)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:

        def send() -> None:
            for _ in range(3):
                sender.send(large)

        worker = threading.Thread(target=send)
        worker.start()
        buffer = bytearray(4 * SLOT)
        assert receiver.receive_into(buffer, 20) == len(large)
        assert buffer[: len(large)] == large
        with pytest.raises(sipc.SpecError, match="buffer"):
            receiver.receive_into(bytearray(2 * SLOT), 20)
        assert receiver.receive(20) == large
        assert receiver.receive(20) == large
        worker.join()


def test_numpy_arrays_go_in_and_out_without_an_extra_copy(registry: Path) -> None:
    """Anything with the buffer protocol is sent and filled as it is."""
    make(registry, "c")
    array = np.arange(10_000, dtype=np.float64)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(array.data)
        into = np.zeros_like(array)
        assert receiver.receive_into(into.data, 5) == array.nbytes
        assert (into == array).all()
        with sender.reserve(array.nbytes) as slot:
            np.frombuffer(slot.view, dtype=np.float64)[:] = array * 2
        with receiver.unsafe_borrow(5) as block:
            assert float(np.frombuffer(block.view, dtype=np.float64).sum()) == float(array.sum() * 2)


def test_a_borrowed_block_is_read_only_and_dies_with_its_block(registry: Path) -> None:
    """A store is a TypeError, not SIGSEGV; a use afterwards is a ValueError; a slice keeps the mapping."""
    make(registry, "c")
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(b"look")
        with receiver.unsafe_borrow(5) as block:
            view, part = block.view, block.view[1:3]
            with pytest.raises(TypeError):
                view[0] = 1
        with pytest.raises(ValueError, match="released"):
            view[0]
    helper.destroy("c", registry)
    assert bytes(part) == b"oo"
    part.release()


def test_one_process_a_role(registry: Path) -> None:
    """A second sender or receiver gets Busy, and the first is not disturbed."""
    make(registry, "c")
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        for opener in (sipc.open_sender, sipc.open_receiver):
            with pytest.raises(sipc.Busy):
                opener("c", registry=registry)
        sender.send(b"still here")
        assert receiver.receive(5) == b"still here"


def test_a_closed_end_and_a_forked_end_say_so(registry: Path) -> None:
    """Closed names the reason; a child's copy does nothing to the parent's end."""
    make(registry, "c")
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:

        def use() -> str:
            with pytest.raises(sipc.Closed, match="parent"):
                sender.send(b"x")
            with pytest.raises(sipc.Closed, match="parent"):
                receiver.receive(0)
            return "refused"

        assert Child(use).result() == "refused"
        sender.send(b"parent")
        assert receiver.receive(5) == b"parent"
    with pytest.raises(sipc.Closed):
        sender.send(b"x")


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_destroying_and_replacing_break_both_ends(backend: str, registry: Path) -> None:
    """Blocked or not, either end gets Broken."""
    make(registry, "c", backend=backend)
    reading, writing = os.pipe()

    def blocked() -> str:
        with sipc.open_receiver("c", registry=registry) as receiver:
            os.write(writing, b"open")
            try:
                receiver.receive(30)
            except sipc.Broken:
                return "broken"
        return "not broken"

    child = Child(blocked)
    sender = sipc.open_sender("c", registry=registry)
    assert os.read(reading, 4) == b"open"
    os.close(reading)
    os.close(writing)
    make(registry, "c", backend=backend, replacing=True)
    assert child.result() == "broken"
    with pytest.raises(sipc.Broken):
        sender.send(b"x")
    with pytest.raises(sipc.Broken):
        sender.flush()
    sender.close()
    with sipc.open_sender("c", registry=registry) as fresh:
        assert fresh.last_seq == 0


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_ends_wait_for_a_channel_that_does_not_exist_yet(backend: str, tmp_path: Path, registry: Path) -> None:
    """Start order does not matter; even the directory may come later."""

    def receive() -> bytes:
        with sipc.open_receiver("c", registry=registry, timeout=30) as receiver:
            return receiver.receive(30)

    child = Child(receive)
    make(registry, "c", backend=backend)
    with sipc.open_sender("c", registry=registry, timeout=30) as sender:
        sender.send(b"first")
        assert child.result() == b"first"
    with pytest.raises(sipc.Timeout):
        sipc.open_sender("other", registry=registry, timeout=0.05)
    with pytest.raises(sipc.ChannelNotFound):
        sipc.open_sender("other", registry=tmp_path / "nowhere", timeout=0)


def test_the_cursor_resumes_in_the_middle_of_records_and_of_a_large_message(registry: Path, tmp_path: Path) -> None:
    """Finished is finished and comes never again; unfinished comes again."""
    make(registry, "c", slot_size=SLOT, slots=4, depth=2)
    cursor = tmp_path / "cursor"
    large = os.urandom(3 * SLOT)
    sender = sipc.open_sender("c", registry=registry)
    sender.send_many([b"a", b"b", b"c"])
    with sipc.open_receiver("c", registry=registry, cursor=cursor) as receiver:
        assert receiver.receive(5) == b"a"
    with pytest.raises(KeyError), sipc.open_receiver("c", registry=registry, cursor=cursor) as receiver:
        assert receiver.receive(5) == b"b"
        raise KeyError  # not finished
    sender.send(large[:10])
    child = Child(lambda: _partly(registry, cursor))
    worker = threading.Thread(target=sender.send, args=(large,))
    worker.start()
    assert child.result() == [b"b", b"c", large[:10]]
    with sipc.open_receiver("c", registry=registry, cursor=cursor) as receiver:
        assert receiver.receive(20) == large
    worker.join()
    sender.close()


def _partly(registry: Path, cursor: Path) -> list[bytes]:
    receiver = sipc.open_receiver("c", registry=registry, cursor=cursor)
    got = [receiver.receive(5) for _ in range(3)]
    first_block = receiver._machine.seq + 1
    while (receiver._machine.cursor or 0) < first_block:
        try:
            receiver.receive(0)
        except sipc.Timeout:
            continue
    return got  # and the process ends here, in the middle of the large message


class Storm:
    """A signal every 1.3 ms whose handler raises, but only while the code under test runs."""

    def __init__(self) -> None:
        self.hits = 0
        self._armed = False
        signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0011, 0.0013)

    def _handle(self, number: int, frame: object) -> None:
        if self._armed:
            self._armed = False
            self.hits += 1
            raise KeyboardInterrupt

    def survive(self, act: Callable[[], None]) -> None:
        """Run `act`, interrupted or not."""
        try:
            self._armed = True
            act()
            self._armed = False
        except KeyboardInterrupt:
            pass


def test_ctrl_c_at_any_moment_leaves_a_channel_that_goes_on(registry: Path) -> None:
    """Handlers that raise in the middle of calls on both sides: every message arrives exactly once."""
    make(registry, "c", slot_size=SLOT)
    total = 200_000

    def receive() -> tuple[list[int], int]:
        got: list[int] = []
        receiver = sipc.open_receiver("c", registry=registry)

        def take() -> None:
            with receiver.unsafe_borrow(30) as block:
                number = struct.unpack("<Q", block.view)[0]
                if number not in got[-3:]:  # not finished when the handler raised: it comes again
                    got.append(number)

        storm = Storm()
        while len(got) < total:
            storm.survive(take)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return got, storm.hits

    def send() -> int:
        sender = sipc.open_sender("c", registry=registry)
        storm = Storm()
        while sender.last_seq < total:
            storm.survive(lambda: sender.send(struct.pack("<Q", sender.last_seq), 30))
        signal.setitimer(signal.ITIMER_REAL, 0)
        while sender.pending:  # its announcement was interrupted; the next call makes it
            with contextlib.suppress(sipc.Timeout):
                sender.send(b"one more", 0.01)
        return storm.hits

    receiving, sending = Child(receive), Child(send)
    got, hits = receiving.result()
    assert got == list(range(total))
    assert hits > 0
    assert sending.result() > 0


GOOD = {"kind": 1, "slot": 0, "flags": 0, "epoch": None, "seq": 1, "length": 4}


@pytest.mark.parametrize(
    ("field", "change", "mtype"),
    [
        ("kind", {"kind": 9}, 9),
        ("slot", {"slot": 3}, 1),
        ("flags", {"flags": 1 << 20}, 1),
        ("flags", {"flags": int(Flag.CLOSE)}, 1),
        ("flags", {"flags": int(Flag.CONTINUED)}, 1),
        ("epoch", {"epoch": 12345}, 1),
        ("seq", {"seq": 0}, 1),
        ("seq", {"seq": 3, "slot": 2}, 1),
        ("length", {"length": SLOT + 1}, 1),
        ("mtype", {}, 2),
        ("NOOP fields", {"kind": 2}, 2),
        ("slot entry (seq, length, flags)", {"length": 5}, 1),
        ("message size", {"short": True}, 1),
    ],
    ids=str,
)
def test_a_hostile_senders_message_is_refused_for_good(
    field: str, change: dict[str, Any], mtype: int, registry: Path, tmp_path: Path
) -> None:
    """Each field: the error names it, the receiver is finished, and nothing was handed on."""
    descriptor = make(registry, "c", slot_size=SLOT)
    geometry = Geometry(slot_size=SLOT)
    memory = sysv_ipc.SharedMemory(int(descriptor.keys.segment or 0), mode=0o600)
    view = memoryview(memory)[: segment_size(geometry)]
    segment = Segment(view, geometry)
    segment.commit(0, 1, 4, 0, change.get("flags", 0) if field == "flags" else 0)
    fields = {**GOOD, "epoch": descriptor.epoch, **change}
    short = fields.pop("short", False)
    message = control.encode(**fields)
    with sipc.open_receiver("c", registry=registry, cursor=tmp_path / "cursor") as receiver:
        receiver._recover = False  # the message is what is looked at here
        sysv_ipc.MessageQueue(int(descriptor.keys.queue), mode=0o200).send(
            message[:20] if short else message, type=mtype
        )
        for _ in range(2):
            with pytest.raises(sipc.RemoteProtocolError) as caught:
                receiver.receive(5)
            assert caught.value.field == field
    segment.release()
    view.release()
    memory.detach()


def test_a_message_above_max_message_is_refused_on_both_sides(registry: Path) -> None:
    """The sender is told before anything is sent."""
    make(registry, "c", slot_size=SLOT, max_message=2 * SLOT)
    with sipc.open_sender("c", registry=registry) as sender, pytest.raises(sipc.SpecError, match="max_message"):
        sender.send(bytes(2 * SLOT + 1))


def test_a_checksum_finds_a_changed_block(registry: Path) -> None:
    """With checksum = true a block that is not what its sender wrote is a violation."""
    make(registry, "c", slot_size=SLOT, checksum=True)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(b"good")
        assert receiver.receive(5) == b"good"
        sender.send(b"good")
        assert sender._segment is not None
        sender._segment.slots[1][0] = 0
        with pytest.raises(sipc.RemoteProtocolError, match="crc32"):
            receiver.receive(5)


def test_a_restarted_sender_learns_what_survived(registry: Path, tmp_path: Path) -> None:
    """`resumption` names the newest real block, and the receiver gets it."""
    make(registry, "c", slot_size=SLOT)

    def die() -> None:
        sender = sipc.open_sender("c", registry=registry)
        sender.send(b"one")
        sender.send(b"two")
        os.kill(os.getpid(), signal.SIGKILL)

    Child(die).wait()
    with (
        sipc.open_sender("c", registry=registry) as sender,
        sipc.open_receiver("c", registry=registry, cursor=tmp_path / "cursor") as receiver,
    ):
        assert (sender.resumption.last_seq, sender.resumption.in_order) == (2, False)
        assert [receiver.receive(5), receiver.receive(5)] == [b"one", b"two"]
        sender.send(b"three")
        assert receiver.receive(5) == b"three"
        assert receiver.sender_restarted


def test_an_exception_cuts_the_stream_and_the_receiver_knows(registry: Path) -> None:
    """A `with` block left by an exception is not an orderly end."""
    make(registry, "c")
    with pytest.raises(KeyError), sipc.open_sender("c", registry=registry) as sender:
        sender.send(b"x")
        raise KeyError
    with sipc.open_receiver("c", registry=registry) as receiver:
        assert receiver.receive(5) == b"x"
        with pytest.raises(sipc.Broken, match="cut"):
            receiver.receive(5)


def test_a_second_thread_gets_busy(registry: Path) -> None:
    """One call at a time; nobody waits for a lock."""
    make(registry, "c")
    with sipc.open_receiver("c", registry=registry) as receiver:
        started = threading.Event()

        def wait() -> None:
            started.set()
            with pytest.raises(sipc.Timeout):
                receiver.receive(1)

        worker = threading.Thread(target=wait)
        worker.start()
        started.wait(5)
        deadline = time.monotonic() + 1
        refused = False
        while not refused and time.monotonic() < deadline:
            try:
                receiver.finish()
            except sipc.Busy:
                refused = True
        worker.join()
        assert refused
