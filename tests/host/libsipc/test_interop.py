# SPDX-License-Identifier: Apache-2.0
"""C and Python at either side, in both transports, with the creator of either; and the bytes between them."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sysv_ipc

from sipc import helper, libsipc
from sipc.errors import RemoteProtocolError
from sipc.proto.libsipc import chunk_size
from sipc.spec import ChannelSpec, Enforcement, Geometry, Transport, Wire

if TYPE_CHECKING:
    from tests.host.libsipc.conftest import Lab

pytestmark = pytest.mark.host

CHUNK = chunk_size(int(Path("/proc/sys/fs/mqueue/msgsize_max").read_text()))
SIZE = 3 * CHUNK + 5
LANGUAGES = ("c", "py")
TYPES = {"shm": libsipc.SYSV_SHM, "mq": libsipc.SYSV_MQUEUES}
_random = random.Random(11)
MESSAGES = [
    b"",
    b"x",
    b"\x00",
    _random.randbytes(CHUNK - 1),
    _random.randbytes(CHUNK),
    _random.randbytes(CHUNK + 1),
    b"",
    _random.randbytes(2 * CHUNK),
    _random.randbytes(SIZE),
    *(_random.randbytes(_random.randrange(SIZE)) for _ in range(8)),
]


def size_t(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


@pytest.mark.parametrize("transport", TYPES)
@pytest.mark.parametrize("receiver", LANGUAGES)
@pytest.mark.parametrize("sender", LANGUAGES)
@pytest.mark.parametrize("creator", LANGUAGES)
def test_every_pair_understands_each_other(
    lab: Lab, creator: str, sender: str, receiver: str, transport: str
) -> None:
    """Whoever created, sends and receives: every byte arrives, message by message."""
    lab.run(creator, "create", transport, SIZE)
    receiving = lab.start(receiver, "receive", transport, SIZE, len(MESSAGES))
    sending = lab.start(sender, "send", transport, SIZE, stdin=lab.frame(MESSAGES))
    sending.finish()
    assert receiving.finish() == lab.frame(MESSAGES)
    lab.run(creator, "unlink", transport)
    assert lab.rows("msg") == lab.rows("shm") == []


@pytest.mark.parametrize("transport", TYPES)
@pytest.mark.parametrize("receiver", LANGUAGES)
@pytest.mark.parametrize("sender", LANGUAGES)
def test_the_projects_helper_makes_a_channel_for_either(
    lab: Lab, tmp_path: Path, sender: str, receiver: str, transport: str
) -> None:
    """A definition with wire = "libsipc": its objects are where C programs look for them."""
    size = 8000
    spec = ChannelSpec(
        name="compatible",
        wire=Wire.LIBSIPC,
        transport=Transport.SEGMENT if transport == "shm" else Transport.QUEUE,
        geometry=Geometry(slots=1, depth=1, slot_size=size),
        key_path=str(lab.path),
        enforcement=Enforcement.DAC,
    )
    helper.create(spec, tmp_path / "registry")
    lab.note()
    messages = [message[:size] for message in MESSAGES]
    receiving = lab.start(receiver, "receive", transport, size, len(messages))
    lab.start(sender, "send", transport, size, stdin=lab.frame(messages)).finish()
    assert receiving.finish() == lab.frame(messages)
    helper.destroy("compatible", tmp_path / "registry")
    assert lab.rows("msg") == lab.rows("shm") == []


@pytest.mark.parametrize("length", [0, 1, 5, CHUNK + 1, SIZE])
@pytest.mark.parametrize("sender", LANGUAGES)
def test_a_block_is_these_three_messages(lab: Lab, sender: str, length: int) -> None:
    """DESIGN 4, to the byte; and the data is at offset 0 of the segment."""
    data = _random.randbytes(length)
    lab.run(sender, "create", "shm", SIZE)
    sending = lab.start(sender, "send", "shm", SIZE, stdin=lab.frame([data]))
    came = lab.raw(lab.run("c", "get", 3))
    sending.finish()
    assert came == [(size_t(length), 3), (size_t(0), 4), (size_t(0), 5)]
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_SHM, SIZE) as reader:
        assert reader.get_data_ptr()[:length] == data


@pytest.mark.parametrize("sender", LANGUAGES)
@pytest.mark.parametrize(
    ("length", "chunks"),
    [(0, []), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1]), (SIZE, [CHUNK, CHUNK, CHUNK, 5])],
)
def test_data_is_these_messages(lab: Lab, sender: str, length: int, chunks: list[int]) -> None:
    """DESIGN 4, to the byte."""
    data = _random.randbytes(length)
    lab.run(sender, "create", "mq", SIZE)
    sending = lab.start(sender, "send", "mq", SIZE, stdin=lab.frame([data]))
    first, *middle, last = lab.raw(lab.run("c", "get", len(chunks) + 2))
    sending.finish()
    assert first == (str(length).encode() + b"\x00", 9)
    assert [(len(body), mtype) for body, mtype in middle] == [(size, 3) for size in chunks]
    assert b"".join(body for body, _ in middle) == data
    assert last == (b"\x01", 12)


@pytest.mark.parametrize("creator", LANGUAGES)
def test_a_queue_beside_a_segment_holds_one_message(lab: Lab, creator: str) -> None:
    """DESIGN 4: limit 8 bytes; so 4 is accepted only when 3 was consumed."""
    lab.run(creator, "create", "shm", SIZE)
    queue = sysv_ipc.MessageQueue(lab.key)
    assert queue.max_size == 8
    queue.send(size_t(1), False, 3)
    with pytest.raises(sysv_ipc.BusyError):
        queue.send(size_t(0), False, 4)
    (segment,) = lab.rows("shm")
    assert int(segment["size"]) == SIZE


@pytest.mark.parametrize("creator", LANGUAGES)
def test_a_queue_alone_keeps_the_kernels_limit(lab: Lab, creator: str) -> None:
    """The creators that come with the library say 0 for the size of a queue."""
    lab.run(creator, "create", "mq", 0)
    assert sysv_ipc.MessageQueue(lab.key).max_size == int(Path("/proc/sys/kernel/msgmnb").read_text())
    assert lab.rows("shm") == []


@pytest.mark.parametrize("sender", LANGUAGES)
def test_send_returns_only_when_the_receiver_has_finished(lab: Lab, sender: str) -> None:
    """It can not return before 4 was consumed: a second block's 3 comes after the first one's 5."""
    lab.run("py", "create", "shm", SIZE)
    sending = lab.start(sender, "send", "shm", SIZE, stdin=lab.frame([b"first", b"second"]))
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_SHM, SIZE) as receiver:
        view = receiver.recv_data()
        lab.until(lambda: lab.rows("msg")[0]["qnum"] == "1")  # 4 is there, 5 has no room
        assert bytes(view) == b"first"
        receiver.shm_recv_done()
        assert bytes(receiver.recv_data()) == b"second"
        receiver.shm_recv_done()
    sending.finish()


SHM_LIES = {
    "reading first": [(size_t(0), 4)],
    "done first": [(size_t(0), 5)],
    "queue-only length": [(b"5\x00", 9)],
    "length past the end": [(size_t(SIZE + 1), 3)],
    "length of 64 bits": [(size_t((1 << 64) - 1), 3)],
    "no body": [(b"", 3)],
    "half a body": [(size_t(1)[:4], 3)],
}
SHM_LATER_LIES = {
    "ready twice": [(size_t(1), 3), (size_t(1), 3)],
    "done too early": [(size_t(1), 3), (size_t(0), 5)],
    "reading with a length": [(size_t(1), 3), (size_t(1), 4)],
    "reading without a body": [(size_t(1), 3), (b"", 4)],
    "reading twice": [(size_t(1), 3), (size_t(0), 4), (size_t(0), 4)],
    "done with a length": [(size_t(1), 3), (size_t(0), 4), (size_t(1), 5)],
}
QUEUE_LIES = {
    "chunk first": [(b"x", 3)],
    "shared memory's reading": [(size_t(0), 4)],
    "length past the end": [(b"%d\x00" % (SIZE + 1), 9)],
    "length of 64 bits": [(b"18446744073709551615\x00", 9)],
    "length in words": [(b"five\x00", 9)],
    "length without NUL": [(b"5", 9)],
    "no length": [(b"", 9)],
    "negative length": [(b"-5\x00", 9)],
    "length with zeros before": [(b"05\x00", 9)],
    "more after NUL": [(b"5\x00\x00", 9)],
    "more than announced": [(b"5\x00", 9), (b"hello!", 3), (b"\x01", 12)],
    "more chunks than announced": [(b"5\x00", 9), (b"hello", 3), (b"!", 3), (b"\x01", 12)],
    "fewer than announced": [(b"5\x00", 9), (b"hell", 3), (b"\x01", 12)],
    "nothing as announced": [(b"5\x00", 9), (b"\x01", 12)],
    "empty chunk": [(b"5\x00", 9), (b"", 3)],
    "chunk larger than any": [(b"%d\x00" % SIZE, 9), (bytes(CHUNK + 1), 3)],
    "length again": [(b"5\x00", 9), (b"5\x00", 9)],
    "unknown type": [(b"5\x00", 9), (b"hello", 77)],
    "end of another byte": [(b"5\x00", 9), (b"hello", 3), (b"\x00", 12)],
    "end of two bytes": [(b"5\x00", 9), (b"hello", 3), (b"\x01\x01", 12)],
    "two stray ends": [(b"\x01", 12), (b"\x01", 12)],
}


@pytest.mark.parametrize("sender", LANGUAGES)
@pytest.mark.parametrize("lie", SHM_LIES)
def test_a_lie_is_not_handed_on_as_a_block(lab: Lab, sender: str, lie: str) -> None:
    lab.run(sender, "create", "shm", SIZE)
    lab.put(sender, SHM_LIES[lie])
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_SHM, SIZE) as receiver:
        for call in (receiver.recv_data, receiver.recv_data, receiver.shm_recv_done):
            with pytest.raises(RemoteProtocolError):
                call()


@pytest.mark.parametrize("lie", SHM_LATER_LIES)
def test_a_lie_after_a_block_ends_the_stream(lab: Lab, lie: str) -> None:
    lab.run("py", "create", "shm", SIZE)
    lab.put("c", SHM_LATER_LIES[lie])
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_SHM, SIZE) as receiver:
        receiver.recv_data()
        for call in (receiver.shm_recv_done, receiver.shm_recv_done, receiver.recv_data):
            with pytest.raises(RemoteProtocolError):
                call()


@pytest.mark.parametrize("sender", LANGUAGES)
@pytest.mark.parametrize("lie", QUEUE_LIES)
def test_a_lie_is_not_handed_on_as_data(lab: Lab, sender: str, lie: str) -> None:
    lab.run(sender, "create", "mq", SIZE)
    lab.put(sender, QUEUE_LIES[lie])
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_MQUEUES, SIZE) as receiver:
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                receiver.recv_data()


def test_what_came_before_a_lie_was_handed_on_whole(lab: Lab) -> None:
    lab.run("c", "create", "mq", SIZE)
    lab.put("c", [(b"2\x00", 9), (b"ok", 3), (b"\x01", 12), (b"9\x00", 9), (b"short", 3), (b"\x01", 12)])
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_MQUEUES, SIZE) as receiver:
        assert receiver.recv_data() == b"ok"
        with pytest.raises(RemoteProtocolError):
            receiver.recv_data()


def test_a_stray_end_is_skipped(lab: Lab) -> None:
    """As in C: what a receiver before this one left."""
    lab.run("c", "create", "mq", SIZE)
    lab.put("c", [(b"\x01", 12), (b"2\x00", 9), (b"ok", 3), (b"\x01", 12)])
    with libsipc.open(lab.path, libsipc.RECEIVER, libsipc.SYSV_MQUEUES, SIZE) as receiver:
        assert receiver.recv_data() == b"ok"
