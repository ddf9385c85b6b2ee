# SPDX-License-Identifier: Apache-2.0
"""Channels with tags: everything crosses as ever, and nothing that was made without the key is handed on.

The attackers here have what `enforcement = "dac"` can not keep from them: the right to write queue and segment, as a
stray process of the sender's user has, or root.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.channels import Child, make
from tests.support.cli import ended, started
from tests.support.cli import sipc as command
from tests.support.keys import RIGHT, WRONG, key_file, squatter

import sipc
import sipc.aio
from sipc.descriptor import Descriptor
from sipc.kernel import backend, limits
from sipc.proto import control
from sipc.proto.control import Flag, Kind
from sipc.proto.segment import Segment
from sipc.proto.tags import Tags
from sipc.receiver import Receiver
from sipc.sender import Sender
from sipc.spec import TAG_SIZE, Role

pytestmark = pytest.mark.host

SLOT = 256
ROOM = SLOT - TAG_SIZE
SHAPES: dict[str, dict[str, Any]] = {
    f"{kernel}-{kind}": {"backend": kernel, "tag": "blake2b", "slot_size": SLOT, **keys}
    for kernel in ("sysv", "posix")
    for kind, keys in (
        ("helper", {}),
        ("sender", {"segment_creator": "sender"}),
        ("queue", {"transport": "queue"}),
    )
}
any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def ends(registry: Path, key: Path, **more: Any) -> tuple[Sender, Receiver]:
    """Both ends of channel c, with the key."""
    return (
        sipc.open_sender("c", registry=registry, timeout=0, key=key),
        sipc.open_receiver("c", registry=registry, timeout=0, key=key, **more),
    )


# -- what crosses


@any_shape
@pytest.mark.parametrize("kept", [False, True], ids=["no cursor", "cursor"])
def test_messages_of_every_kind_cross(shape: dict[str, Any], kept: bool, registry: Path, tmp_path: Path) -> None:
    """Small, of a slot less the tag, larger than slots, packed, reserved; received in every way; and the end."""
    make(registry, "c", **{**shape, "slots": 12, "depth": 10})
    sender, receiver = ends(registry, key_file(tmp_path), **({"cursor": tmp_path / "cursor"} if kept else {}))
    large = os.urandom(3 * ROOM + 7)
    with receiver:
        with sender:
            for data in (b"", b"x", bytes(ROOM), bytes(ROOM + 1)):
                sender.send(data)
                assert receiver.receive(10) == data
            sender.send(large)
            buffer = bytearray(len(large))
            assert receiver.receive_into(buffer, 10) == len(large)
            assert buffer == large
            sender.send_many([b"a", b"", b"ccc"])
            assert receiver.receive_many(10) == [b"a", b"", b"ccc"]
            with sender.reserve(ROOM) as slot:
                slot.view[:4] = b"abcd"
                slot.length = 4
            assert receiver.receive(10) == b"abcd"
            sender.send(b"borrowed")
            with receiver.unsafe_borrow(10) as block:
                assert bytes(block.view) == b"borrowed"
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(10)


def test_a_message_of_max_message_crosses_and_a_larger_one_is_refused(registry: Path, tmp_path: Path) -> None:
    """Tags do not count."""
    make(registry, "c", tag="blake2b", slot_size=SLOT, slots=12, depth=10, max_message=5 * ROOM)
    sender, receiver = ends(registry, key_file(tmp_path))
    with sender, receiver:
        sender.send(bytes(5 * ROOM))
        assert receiver.receive(10) == bytes(5 * ROOM)
        with pytest.raises(sipc.SpecError, match="max_message"):
            sender.send(bytes(5 * ROOM + 1))
        with pytest.raises(sipc.SpecError, match=f"one block holds {ROOM}"), sender.reserve(ROOM + 1):
            pass


def test_blocks_above_a_mebibyte_cross(registry: Path, tmp_path: Path) -> None:
    """They are copied in pieces."""
    make(registry, "c", tag="blake2b", slot_size=3 << 20)
    sender, receiver = ends(registry, key_file(tmp_path))
    data = os.urandom((3 << 20) - TAG_SIZE)
    with sender, receiver:
        sender.send(data)
        assert receiver.receive(10) == data


def test_reservations_that_send_nothing_leave_the_channel_as_it_was(registry: Path, tmp_path: Path) -> None:
    """An exception inside, or a length that can not be."""
    make(registry, "c", tag="blake2b", slot_size=SLOT)
    sender, receiver = ends(registry, key_file(tmp_path))
    with sender, receiver:
        with pytest.raises(KeyError), sender.reserve(8):
            raise KeyError
        with pytest.raises(sipc.SpecError, match="reservation length 9"), sender.reserve(8) as slot:
            slot.length = 9
        sender.send(b"after")
        assert receiver.receive(10) == b"after"


def test_a_reservation_is_filled_in_private(registry: Path, tmp_path: Path) -> None:
    """What a squatter writes into the slot meanwhile is neither sent nor tagged."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    sender, receiver = ends(registry, key_file(tmp_path))
    with sender, receiver:
        with sender.reserve(4) as slot:
            slot.view[:] = b"good"
            overwrite(descriptor, lambda segment: segment.slots[0].__setitem__(slice(0, 4), b"evil"))
        assert receiver.receive(10) == b"good"


@any_shape
def test_both_ends_go_on_where_they_were(shape: dict[str, Any], registry: Path, tmp_path: Path) -> None:
    """Restarted in the middle of a large message (a segment), and of a stream."""
    make(registry, "c", **{**shape, "slots": 12, "depth": 10})
    key, cursor = key_file(tmp_path), tmp_path / "cursor"
    with sipc.open_sender("c", registry=registry, timeout=0, key=key) as sender:
        sender.send(b"one")
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key, cursor=cursor) as receiver:
            assert receiver.receive(10) == b"one"
        sender.send(bytes(2 * ROOM))
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key, cursor=cursor) as receiver:
            assert receiver.receive(10) == bytes(2 * ROOM)
    with sipc.open_sender("c", registry=registry, timeout=0, key=key) as sender:
        sender.send(b"two")
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key, cursor=cursor) as receiver:
            with pytest.raises(sipc.EndOfStream):
                receiver.receive(10)
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key, cursor=cursor) as receiver:
            assert receiver.receive(10) == b"two"


def test_the_asyncio_ends_take_the_key(registry: Path, tmp_path: Path) -> None:
    """The same blocks."""
    make(registry, "c", tag="blake2b", slot_size=SLOT)
    key = key_file(tmp_path)

    async def cross() -> list[bytes]:
        async def sending() -> None:
            async with sipc.aio.open_sender("c", registry=registry, timeout=10, key=key) as sender:
                await sender.send(bytes(5 * SLOT))
                async with sender.reserve(3) as slot:
                    slot.view[:] = b"abc"

        task = asyncio.create_task(sending())
        async with sipc.aio.open_receiver("c", registry=registry, timeout=10, key=key) as receiver:
            got = [message async for message in receiver]
        await task
        return got

    assert asyncio.run(cross()) == [bytes(5 * SLOT), b"abc"]


def test_the_command_line_takes_the_key(registry: Path, tmp_path: Path) -> None:
    """Bytes arrive exactly; without the key, or with one that is open to others, nothing is opened."""
    make(registry, "c", tag="blake2b", slot_size=4096)
    key, source, target = key_file(tmp_path), tmp_path / "in", tmp_path / "out"
    data = os.urandom(100_000)
    source.write_bytes(data)
    with started("recv", "c", target, "--key", key, registry=registry) as receiver:
        assert command("send", "c", source, "--key", key, registry=registry).returncode == 0
        assert ended(receiver) == (0, b"", "")
    assert target.read_bytes() == data
    done = command("send", "c", source, registry=registry)
    assert (done.returncode, "--key FILE" in done.stderr) == (3, True)
    open_key = key_file(tmp_path, name="open", mode=0o644)
    done = command("recv", "c", "--key", open_key, registry=registry)
    assert (done.returncode, "others may get at the key" in done.stderr) == (4, True)


def test_neither_end_takes_a_channel_with_tags_for_one_without(registry: Path, tmp_path: Path) -> None:
    """No key for a channel with tags is refused, and a key for one without: a replaced channel weakens nothing."""
    key = key_file(tmp_path)
    make(registry, "c", tag="blake2b")
    for opening in (sipc.open_sender, sipc.open_receiver):
        with pytest.raises(sipc.SpecError, match="give key=FILE"):
            opening("c", registry=registry, timeout=0)
    make(registry, "c", replacing=True)
    for opening in (sipc.open_sender, sipc.open_receiver):
        with pytest.raises(sipc.SpecError, match="a key protects nothing"):
            opening("c", registry=registry, timeout=0, key=key)
        opening("c", registry=registry, timeout=0).close()


def test_the_key_is_in_nothing_that_the_helper_writes(registry: Path) -> None:
    """The descriptor says which algorithm, and no more."""
    descriptor = make(registry, "c", tag="blake2b")
    document = json.loads(descriptor.to_json())
    assert document["tag"] == "blake2b"
    assert {word for word in document if "key" in word} == {"keys", "key_path"}
    assert set(document["keys"]) == {"queue", "segment"}


# -- attacks


def overwrite(descriptor: Descriptor, change: Callable[[Segment], object]) -> None:
    """Change the segment as whoever may write it."""
    key = descriptor.keys.segment
    assert key is not None
    memory = backend(descriptor.spec.backend).open_segment(key, Role.SENDER, limits.size_of_segment(descriptor.spec))
    assert memory is not None
    segment = Segment(memory.view, descriptor.spec.geometry)
    change(segment)
    segment.release()
    memory.close()


def refused(receiver: Receiver, *fields: str) -> None:
    """Every way to receive is refused for good, and the cursor stays."""
    receiver.finish()  # what came before
    before = receiver.last_seq
    for way in (
        lambda: receiver.receive(5),
        lambda: receiver.receive(0),
        lambda: receiver.receive_many(0),
        lambda: receiver.receive_into(bytearray(9000), 0),
        lambda: receiver.unsafe_borrow(0).__enter__(),
    ):
        with pytest.raises(sipc.RemoteProtocolError) as caught:
            way()
        assert caught.value.field in (fields or ("tag",))
    assert receiver.last_seq == before


ACTS: dict[str, Callable[[Sender], None]] = {
    "send": lambda sender: sender.send(b"x" * 100),
    "records": lambda sender: sender.send_many([b"x" * 30, b"y" * 30]),
    "large": lambda sender: sender.send(bytes(3 * ROOM), 1),
    "close": lambda sender: sender.close(),
    "cut": lambda sender: sender.abort(),
}


@any_shape
@pytest.mark.parametrize("act", ["send", "records", "large", "close", "cut"])
@pytest.mark.parametrize("secret", [None, WRONG], ids=["no key", "wrong key"])
@pytest.mark.parametrize("kept", [False, True], ids=["no cursor", "cursor"])
def test_a_squatter_is_refused(
    shape: dict[str, Any], act: str, secret: bytes | None, kept: bool, registry: Path, tmp_path: Path
) -> None:
    """Another process, its blocks and messages well-formed: nothing of it is handed on, neither data nor an end."""
    descriptor = make(registry, "c", **{**shape, "slots": 12, "depth": 10})

    def squat() -> None:
        sender = squatter(descriptor, registry, secret)
        ACTS[act](sender)

    Child(squat).result()
    cursor = tmp_path / "cursor" if kept else None
    with sipc.open_receiver("c", registry=registry, timeout=0, key=key_file(tmp_path), cursor=cursor) as receiver:
        refused(receiver, *(("length", "entry length") if secret is None and act in ("close", "cut") else ("tag",)))
        assert not receiver.sender_restarted


@pytest.mark.parametrize("kernel", ["sysv", "posix"])
def test_a_squatter_that_writes_behind_an_honest_sender_is_refused(kernel: str, registry: Path, tmp_path: Path) -> None:
    """Well-formed block and announcement between two of the sender's: what came before is handed on, and no more."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT, backend=kernel)
    sender, receiver = ends(registry, key_file(tmp_path))
    sender.send(b"honest")

    def squat() -> None:
        forged = squatter_block(descriptor, seq=2, payload=b"forged", secret=WRONG)
        overwrite(descriptor, lambda segment: put(segment, 2, forged, 0))
        announce(descriptor, 2, len(forged), 0)

    with receiver:
        assert receiver.receive(5) == b"honest"
        Child(squat).result()
        refused(receiver)
    sender.abort()


def squatter_block(descriptor: Descriptor, *, seq: int, payload: bytes, secret: bytes, flags: int = 0) -> bytes:
    """Payload and tag under some key."""
    return payload + Tags(secret, descriptor.epoch).make(seq, flags, payload)


def put(segment: Segment, seq: int, block: bytes, flags: int) -> None:
    """Commit a block to its slot."""
    slot = (seq - 1) % len(segment.slots)
    segment.slots[slot][: len(block)] = block
    segment.commit(slot, seq, len(block), 0, flags)


def announce(descriptor: Descriptor, seq: int, length: int, flags: int) -> None:
    """Put the control message of a block on the queue."""
    spec = descriptor.spec
    kind = Kind.CLOSE if flags & Flag.CLOSE else Kind.DATA_READY
    key, kernel = descriptor.keys.segment, backend(spec.backend)
    assert key is not None
    memory = kernel.open_segment(key, Role.SENDER, limits.size_of_segment(spec))
    queue = kernel.open_queue(
        descriptor.keys.queue, Role.SENDER, message_size=limits.message_size(spec), memory=memory
    )
    slot = (seq - 1) % spec.geometry.slots
    assert queue.send(control.encode(kind, slot, flags, descriptor.epoch, seq, length), kind, 5)
    queue.close()
    assert memory is not None
    memory.close()


def replayed(descriptor: Descriptor, block: bytes, seq: int, flags: int) -> None:
    """Put a block somewhere, announced as it should be."""
    overwrite(descriptor, lambda segment: put(segment, seq, block, flags))
    announce(descriptor, seq, len(block), flags)


@pytest.mark.parametrize("kept", [False, True], ids=["no cursor", "cursor"])
def test_an_earlier_block_of_the_sender_is_refused_in_a_later_place(
    kept: bool, registry: Path, tmp_path: Path
) -> None:
    """Its bytes and tag are genuine; its seq is not."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    cursor = {"cursor": tmp_path / "cursor"} if kept else {}
    sender, receiver = ends(registry, key_file(tmp_path), **cursor)
    with receiver:
        sender.send(b"pay 10")
        assert receiver.receive(5) == b"pay 10"
        copies: list[bytes] = []
        overwrite(descriptor, lambda segment: copies.append(bytes(segment.slots[0][: 6 + TAG_SIZE])))
        replayed(descriptor, copies[0], 2, 0)
        refused(receiver)
    sender.abort()


def test_an_earlier_block_in_its_own_place_is_seen_and_ignored(registry: Path, tmp_path: Path) -> None:
    """Announced again with its old seq, it comes no second time: not to this receiver, nor to one with its cursor."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    cursor = tmp_path / "cursor"
    sender, receiver = ends(registry, key_file(tmp_path), cursor=cursor)
    with receiver:
        sender.send(b"once")
        assert receiver.receive(5) == b"once"
        receiver.finish()
        announce(descriptor, 1, 4 + TAG_SIZE, 0)
        with pytest.raises(sipc.Timeout):
            receiver.receive(0)
    announce(descriptor, 1, 4 + TAG_SIZE, 0)
    with sipc.open_receiver("c", registry=registry, timeout=0, key=tmp_path / "key", cursor=cursor) as receiver:
        with pytest.raises(sipc.Timeout):
            receiver.receive(0)
    sender.abort()


def test_a_block_of_an_earlier_epoch_is_refused(registry: Path, tmp_path: Path) -> None:
    """The channel was created anew, with the same key: what was tagged before counts for nothing."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    old = squatter_block(descriptor, seq=1, payload=b"old", secret=RIGHT)
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT, replacing=True)
    replayed(descriptor, old, 1, 0)
    with sipc.open_receiver("c", registry=registry, timeout=0, key=key_file(tmp_path)) as receiver:
        refused(receiver)


@pytest.mark.parametrize(
    ("made", "put_as"),
    [(0, Flag.MORE), (0, Flag.RECORDS), (Flag.RESTART, 0), (Flag.MORE, 0), (0, Flag.CONTINUED), (0, Flag.RESTART)],
    ids=str,
)
def test_a_block_of_another_kind_is_refused(made: Flag, put_as: Flag, registry: Path, tmp_path: Path) -> None:
    """Its flags are changed in message and entry alike."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    block = squatter_block(descriptor, seq=1, payload=b"x" * 20, secret=RIGHT, flags=int(made))
    replayed(descriptor, block, 1, int(put_as))
    with sipc.open_receiver("c", registry=registry, timeout=0, key=key_file(tmp_path)) as receiver:
        refused(receiver)


@pytest.mark.parametrize("flags", [Flag.CLOSE, Flag.CLOSE | Flag.MORE], ids=str)
def test_an_end_that_the_sender_did_not_make_is_refused(flags: Flag, registry: Path, tmp_path: Path) -> None:
    """From an empty message's tag, of no tag, and of a cut made an orderly end: a stream can not be cut unnoticed."""
    key = key_file(tmp_path)
    other = int(flags ^ Flag.MORE)
    for made, length, field in ((0, TAG_SIZE, "tag"), (other, TAG_SIZE, "tag"), (other, 0, "length")):
        descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT, replacing=True)
        block = squatter_block(descriptor, seq=1, payload=b"", secret=RIGHT, flags=made)[:length]
        replayed(descriptor, block, 1, int(flags))
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key) as receiver:
            refused(receiver, field)


def test_a_forged_block_in_a_slot_is_refused_at_recovery(registry: Path, tmp_path: Path) -> None:
    """Nobody announced it: a receiver that starts with a cursor looks there before it consumes a message."""
    key = key_file(tmp_path)
    for flags, block, field in (
        (0, b"forged" * 10, "tag"),
        (0, b"short", "entry length"),
        (Flag.CLOSE, bytes(TAG_SIZE), "tag"),
        (Flag.CLOSE, b"", "entry length"),
    ):
        descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT, replacing=True)
        overwrite(descriptor, partial(put, seq=1, block=block, flags=int(flags)))
        cursor = tmp_path / "cursor"
        with sipc.open_receiver("c", registry=registry, timeout=0, key=key, cursor=cursor) as receiver:
            refused(receiver, field)
            assert receiver.last_seq == 0


def test_what_was_verified_is_what_is_handed_on(registry: Path, tmp_path: Path) -> None:
    """A squatter that changes the slot after verification changes nothing, in a borrowed block neither."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT)
    sender, receiver = ends(registry, key_file(tmp_path))
    with receiver:
        sender.send(b"good")
        with receiver.unsafe_borrow(5) as block:
            overwrite(descriptor, lambda segment: segment.slots[0].__setitem__(slice(0, 4), b"evil"))
            assert bytes(block.view) == b"good"
            assert block.view.readonly
        sender.send(b"next")
        with pytest.raises(KeyError), receiver.unsafe_borrow(5) as block:
            overwrite(descriptor, lambda segment: segment.slots[1].__setitem__(slice(0, 4), b"evil"))
            raise KeyError
        assert receiver.receive(5) == b"next"  # borrowed and not finished: it comes again, as it was verified
    sender.abort()


@pytest.mark.parametrize("kernel", ["sysv", "posix"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_bit_of_slot_entry_or_message_changed_hands_nothing_on(
    kernel: str, registry: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Wherever the bit is: a violation, or (a seq that was seen, a message that is a NOOP) nothing at all."""
    descriptor = make(registry, "c", tag="blake2b", slot_size=SLOT, backend=kernel, replacing=True)
    payload = data.draw(st.binary(max_size=60))
    block = squatter_block(descriptor, seq=1, payload=payload, secret=RIGHT)
    entry = 8 * (len(block) + 32)
    bit = data.draw(st.integers(0, entry + 8 * control.CONTROL_SIZE - 1))
    message = bytearray(control.encode(Kind.DATA_READY, 0, 0, descriptor.epoch, 1, len(block)))

    def change(segment: Segment) -> None:
        put(segment, 1, block, 0)
        at, mask = bit // 8, 1 << bit % 8
        if at < len(block):
            segment.slots[0][at] ^= mask
        elif bit < entry:
            at -= len(block)
            segment.words[6 + at // 8] ^= mask << (8 * (at % 8))
        else:
            message[at - entry // 8] ^= mask

    overwrite(descriptor, change)
    spec, keys = descriptor.spec, descriptor.keys
    assert keys.segment is not None
    memory = backend(spec.backend).open_segment(keys.segment, Role.SENDER, limits.size_of_segment(spec))
    assert memory is not None
    queue = backend(spec.backend).open_queue(
        keys.queue, Role.SENDER, message_size=limits.message_size(spec), memory=memory
    )
    assert queue.send(bytes(message), 1, 5)
    queue.close()
    memory.close()
    key = key_file(tmp_path, name=f"key-{kernel}") if not (tmp_path / f"key-{kernel}").exists() else None
    key = key or tmp_path / f"key-{kernel}"
    with sipc.open_receiver("c", registry=registry, timeout=0, key=key) as receiver:
        with pytest.raises((sipc.RemoteProtocolError, sipc.Timeout)):
            receiver.receive(0)


@any_shape
def test_with_the_right_key_those_same_blocks_are_taken(shape: dict[str, Any], registry: Path, tmp_path: Path) -> None:
    """The attacks above fail by their key and by nothing else."""
    descriptor = make(registry, "c", **{**shape, "slots": 12, "depth": 10})
    Child(lambda: ACTS["send"](squatter(descriptor, registry, RIGHT))).result()
    with sipc.open_receiver("c", registry=registry, timeout=0, key=key_file(tmp_path)) as receiver:
        assert receiver.receive(5) == b"x" * 100
