# SPDX-License-Identifier: Apache-2.0
"""The libsipc wire without a kernel: every state with every event, every byte, every lie of a sender."""

from __future__ import annotations

import enum
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import LocalProtocolError, RemoteProtocolError, SipcError
from sipc.proto import libsipc as wire
from sipc.proto.libsipc import (
    Message,
    QueueReceiver,
    QueueReceiverState,
    QueueSender,
    QueueSenderState,
    ShmReceiver,
    ShmReceiverState,
    ShmSender,
    ShmSenderState,
)

SIZE = 40
CHUNK = 8
DOCUMENT = Path(__file__).parents[3] / "docs" / "libsipc.md"
TABLES: dict[str, Any] = {
    "SHM_SENDER_TABLE": wire.SHM_SENDER_TABLE,
    "SHM_RECEIVER_TABLE": wire.SHM_RECEIVER_TABLE,
    "QUEUE_SENDER_TABLE": wire.QUEUE_SENDER_TABLE,
    "QUEUE_RECEIVER_TABLE": wire.QUEUE_RECEIVER_TABLE,
}


def size_t(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


def drain(sender: ShmSender | QueueSender) -> list[tuple[bytes, int]]:
    """Accept whatever is due until nothing is."""
    sent = []
    while (due := sender.due) is not None:
        sent.append(due)
        sender.accepted()
    return sent


def shm_messages(length: int) -> list[tuple[bytes, int]]:
    sender = ShmSender()
    sender.begin(length)
    return drain(sender)


def queue_messages(data: bytes, chunk: int = CHUNK) -> list[tuple[bytes, int]]:
    sender = QueueSender(chunk)
    sender.begin(data)
    return drain(sender)


def fresh(message: Message) -> Message:
    """Make an equal message that is another object, as a queue hands out."""
    body, mtype = message
    return (body, mtype)


# Bytes


def test_a_block_is_announced_with_its_length_and_two_zeros() -> None:
    """DESIGN 4: mtype 3, 4, 5; body one native size_t."""
    assert shm_messages(5) == [(size_t(5), 3), (size_t(0), 4), (size_t(0), 5)]
    assert wire.CONTROL_SIZE == 8


def test_an_empty_block_is_three_messages_too() -> None:
    assert shm_messages(0) == [(size_t(0), 3), (size_t(0), 4), (size_t(0), 5)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", [(b"0\x00", 9), (b"\x01", 12)]),
        (b"x", [(b"1\x00", 9), (b"x", 3), (b"\x01", 12)]),
        (b"01234567", [(b"8\x00", 9), (b"01234567", 3), (b"\x01", 12)]),
        (b"012345678", [(b"9\x00", 9), (b"01234567", 3), (b"8", 3), (b"\x01", 12)]),
        (b"0123456789abcdef", [(b"16\x00", 9), (b"01234567", 3), (b"89abcdef", 3), (b"\x01", 12)]),
    ],
)
def test_data_is_length_chunks_end(data: bytes, expected: list[tuple[bytes, int]]) -> None:
    """DESIGN 4: mtype 9 ASCII decimal with NUL; chunks with mtype 3; mtype 0xc, one byte 1."""
    assert queue_messages(data) == expected


def test_a_chunk_leaves_room_for_mtype() -> None:
    """The C library subtracts sizeof(long) from fs.mqueue.msgsize_max."""
    assert wire.chunk_size(8192) == 8184


def test_the_longest_length_fits() -> None:
    assert len(b"18446744073709551615\x00") == wire.LONGEST_LENGTH


# Two sides over a list


@given(st.lists(st.integers(0, SIZE), max_size=6))
def test_blocks_arrive_with_their_lengths(lengths: list[int]) -> None:
    sender, receiver, got = ShmSender(), ShmReceiver(SIZE), []
    for length in lengths:
        sender.begin(length)
        first, *others = drain(sender)
        receiver.feed(first)
        got.append(receiver.length)
        receiver.finish()
        assert receiver.length == 0
        for message in others:
            receiver.feed(message)
        assert receiver.state is ShmReceiverState.WAITING
    assert got == lengths


@given(st.lists(st.binary(max_size=SIZE), max_size=6), st.integers(1, SIZE))
def test_data_arrives_whatever_the_chunk(datas: list[bytes], chunk: int) -> None:
    sender, receiver, got = QueueSender(chunk), QueueReceiver(SIZE), []
    for data in datas:
        sender.begin(data)
        for message in drain(sender):
            receiver.feed(message)
        got.append(receiver.take())
    assert got == datas


@given(st.lists(st.binary(max_size=SIZE), min_size=1, max_size=4))
def test_a_message_handed_out_twice_counts_once(datas: list[bytes]) -> None:
    """A queue gives the same object again when a signal handler raised before it was told `done`."""
    receiver, got = QueueReceiver(SIZE), []
    for data in datas:
        for message in map(fresh, queue_messages(data)):
            receiver.feed(message)
            receiver.feed(message)
        got.append(receiver.take())
        receiver.feed(message)
    assert got == datas


def test_a_block_handed_out_twice_counts_once() -> None:
    receiver = ShmReceiver(SIZE)
    first, *others = map(fresh, shm_messages(7))
    receiver.feed(first)
    receiver.feed(first)
    assert receiver.length == 7
    receiver.finish()
    receiver.feed(first)
    for message in others:
        receiver.feed(message)
        receiver.feed(message)
    assert receiver.state is ShmReceiverState.WAITING


@pytest.mark.parametrize("accepted", range(4))
def test_a_sender_goes_on_after_any_message(accepted: int) -> None:
    """Whatever was accepted before an interruption, what is due afterwards completes the sequence."""
    shm, queue = ShmSender(), QueueSender(CHUNK)
    shm.begin(5)
    queue.begin(b"0123456789")
    for sender, whole in ((shm, shm_messages(5)), (queue, queue_messages(b"0123456789"))):
        sent = []
        for _ in range(min(accepted, len(whole))):
            assert sender.due is not None
            sent.append(sender.due)
            sender.accepted()
        assert sender.pending is (0 < len(sent) < len(whole))
        assert (sender.count, sender.sent) == (len(sent), len(sent) // len(whole))
        assert sent + drain(sender) == whole
        assert not sender.pending
        assert (sender.count, sender.sent) == (len(whole), 1)


def test_a_message_nobody_accepted_is_replaced() -> None:
    shm, queue = ShmSender(), QueueSender(CHUNK)
    shm.begin(5)
    shm.begin(6)
    queue.begin(b"old")
    queue.begin(b"new")
    assert drain(shm) == shm_messages(6)
    assert drain(queue) == queue_messages(b"new")


# Every state with every event


def at_shm_sender(state: ShmSenderState) -> ShmSender:
    sender = ShmSender()
    if state is not ShmSenderState.READY:
        sender.begin(1)
    for _ in range(max(0, state - 1)):
        sender.accepted()
    assert sender.state is state
    return sender


def at_queue_sender(state: QueueSenderState) -> QueueSender:
    sender = QueueSender(CHUNK)
    if state is not QueueSenderState.READY:
        sender.begin(bytes(2 * CHUNK) if state is not QueueSenderState.ENDING else b"")
    if state in (QueueSenderState.SENDING, QueueSenderState.ENDING):
        sender.accepted()
    assert sender.state is state
    return sender


@pytest.mark.parametrize("state", ShmSenderState)
def test_shm_sender_takes_the_events_of_its_table(state: ShmSenderState) -> None:
    acts: dict[wire.ShmSenderEvent, Callable[[ShmSender], None]] = {
        wire.ShmSenderEvent.BEGIN: lambda sender: sender.begin(1),
        wire.ShmSenderEvent.ACCEPTED: ShmSender.accepted,
    }
    for event, act in acts.items():
        sender = at_shm_sender(state)
        if (state, event) in wire.SHM_SENDER_TABLE:
            act(sender)
            assert sender.state is wire.SHM_SENDER_TABLE[state, event][1]
        else:
            with pytest.raises(LocalProtocolError):
                act(sender)
            assert sender.state is state


@pytest.mark.parametrize("state", QueueSenderState)
def test_queue_sender_takes_the_events_of_its_table(state: QueueSenderState) -> None:
    sender = at_queue_sender(state)
    if (state, wire.QueueSenderEvent.BEGIN) in wire.QUEUE_SENDER_TABLE:
        sender.begin(b"x")
        assert sender.due == (b"1\x00", 9)
    else:
        with pytest.raises(LocalProtocolError):
            sender.begin(b"x")
        assert sender.state is state
    sender = at_queue_sender(state)
    if state is QueueSenderState.READY:
        with pytest.raises(LocalProtocolError):
            sender.accepted()
    else:
        sender.accepted()


def at_shm_receiver(state: ShmReceiverState) -> ShmReceiver:
    receiver = ShmReceiver(SIZE)
    first, reading, _ = map(fresh, shm_messages(3))
    if state is ShmReceiverState.FAILED:
        with pytest.raises(RemoteProtocolError):
            receiver.feed((b"", 1))
    elif state is not ShmReceiverState.WAITING:
        receiver.feed(first)
        if state is not ShmReceiverState.HOLDING:
            receiver.finish()
        if state is ShmReceiverState.FINISHING:
            receiver.feed(reading)
    assert receiver.state is state
    return receiver


SHM_EVENTS = dict(
    zip(
        (wire.ShmReceiverEvent.READY, wire.ShmReceiverEvent.READING, wire.ShmReceiverEvent.DONE),
        shm_messages(3),
        strict=True,
    )
)


@pytest.mark.parametrize("state", ShmReceiverState)
@pytest.mark.parametrize("event", wire.ShmReceiverEvent)
def test_shm_receiver_takes_the_events_of_its_table(
    state: ShmReceiverState, event: wire.ShmReceiverEvent
) -> None:
    """A message out of order is a violation; out of a caller's order, this side's mistake."""
    receiver = at_shm_receiver(state)
    following = wire.SHM_RECEIVER_TABLE.get((state, event))
    if event is wire.ShmReceiverEvent.FINISH:
        if following is None:
            with pytest.raises(LocalProtocolError):
                receiver.finish()
        else:
            receiver.finish()
            assert receiver.state is following[1]
        return
    message = (b"", 0) if event is wire.ShmReceiverEvent.VIOLATION else fresh(SHM_EVENTS[event])
    if state is ShmReceiverState.HOLDING:
        with pytest.raises(LocalProtocolError):
            receiver.feed(message)
        assert receiver.state is state
    elif following is None or event is wire.ShmReceiverEvent.VIOLATION:
        with pytest.raises(RemoteProtocolError):
            receiver.feed(message)
        assert receiver.state is ShmReceiverState.FAILED
    else:
        receiver.feed(message)
        assert receiver.state is following[1]


def at_queue_receiver(state: QueueReceiverState) -> QueueReceiver:
    receiver = QueueReceiver(SIZE)
    if state is QueueReceiverState.FAILED:
        with pytest.raises(RemoteProtocolError):
            receiver.feed((b"", 1))
    elif state is QueueReceiverState.WAITING:
        receiver.feed((b"\x01", 12))
    elif state in (QueueReceiverState.FILLING, QueueReceiverState.COMPLETE):
        receiver.feed((b"0\x00" if state is QueueReceiverState.COMPLETE else b"2\x00", 9))
        if state is QueueReceiverState.COMPLETE:
            receiver.feed((b"\x01", 12))
    assert receiver.state is state
    return receiver


@pytest.mark.parametrize("state", QueueReceiverState)
@pytest.mark.parametrize("event", wire.QueueReceiverEvent)
def test_queue_receiver_takes_the_events_of_its_table(
    state: QueueReceiverState, event: wire.QueueReceiverEvent
) -> None:
    receiver = at_queue_receiver(state)
    following = wire.QUEUE_RECEIVER_TABLE.get((state, event))
    if event is wire.QueueReceiverEvent.TAKE:
        if following is None:
            with pytest.raises(LocalProtocolError):
                receiver.take()
        else:
            assert receiver.take() == b""
            assert receiver.state is following[1]
        return
    message: Message = {
        wire.QueueReceiverEvent.STRAY_END: (bytes([1]), 12),
        wire.QueueReceiverEvent.LENGTH: (b"2\x00", 9),
        wire.QueueReceiverEvent.CHUNK: (b"a", 3),
        wire.QueueReceiverEvent.END: (bytes([1]), 12),
        wire.QueueReceiverEvent.VIOLATION: (b"", 0),
    }[event]
    if state is QueueReceiverState.FILLING and event is wire.QueueReceiverEvent.END:
        receiver.feed((b"ab", 3))
    if state is QueueReceiverState.FIRST and event is wire.QueueReceiverEvent.END:
        following = wire.QUEUE_RECEIVER_TABLE[state, wire.QueueReceiverEvent.STRAY_END]
    if state is QueueReceiverState.COMPLETE:
        with pytest.raises(LocalProtocolError):
            receiver.feed(message)
        assert receiver.state is state
    elif following is None or event is wire.QueueReceiverEvent.VIOLATION:
        with pytest.raises(RemoteProtocolError):
            receiver.feed(message)
        assert receiver.state is QueueReceiverState.FAILED
    else:
        receiver.feed(message)
        assert receiver.state is following[1]


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached_and_left(name: str) -> None:
    table = TABLES[name]
    left = {state for state, _ in table}
    reached = {following for _, following in table.values()}
    for state in type(next(iter(left))):
        assert state in left
        assert state in reached or state == 0


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_tables_are_the_ones_in_force(name: str) -> None:
    """docs/libsipc.md shows each row of each table, and no other."""
    text = DOCUMENT.read_text()
    section = text.split(f"<!-- {name} -->")[1].split("<!--")[0]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (.+) \| (\w+) \|$", section, re.MULTILINE)[1:]

    def row(key: tuple[enum.IntEnum, enum.IntEnum], value: tuple[str, enum.IntEnum]) -> tuple[str, ...]:
        return key[0].name, key[1].name, value[0], value[1].name

    assert rows == [row(key, value) for key, value in TABLES[name].items()]


# Lies


@pytest.mark.parametrize(
    ("before", "lie", "field"),
    [
        (0, (size_t(0), 4), "mtype"),
        (0, (size_t(0), 5), "mtype"),
        (0, (size_t(1), 9), "mtype"),
        (0, (size_t(1), None), "mtype"),
        (0, (size_t(SIZE + 1), 3), "length"),
        (0, (size_t((1 << 64) - 1), 3), "length"),
        (0, (b"", 3), "message size"),
        (0, (size_t(1)[:7], 3), "message size"),
        (0, (size_t(1) + b"\x00", 3), "message size"),
        (1, (size_t(1), 3), "mtype"),
        (1, (size_t(0), 5), "mtype"),
        (1, (size_t(1), 4), "length"),
        (1, (b"", 4), "message size"),
        (2, (size_t(0), 4), "mtype"),
        (2, (size_t(1), 5), "length"),
        (2, (size_t(0)[:4], 5), "message size"),
    ],
)
def test_a_lie_about_a_block_is_refused(before: int, lie: Message, field: str) -> None:
    """Terminal, names the field, and nothing is held."""
    receiver = ShmReceiver(SIZE)
    for message in shm_messages(3)[:before]:
        receiver.feed(message)
        if receiver.state is ShmReceiverState.HOLDING:
            receiver.finish()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.feed(fresh(lie))
        assert caught.value.field == field
        assert caught.value is receiver.failure
        assert (receiver.state, receiver.length) == (ShmReceiverState.FAILED, 0)


QUEUE_LIES: list[tuple[list[Message], str]] = [
    ([(b"x", 3)], "mtype"),
    ([(b"1\x00", 4)], "mtype"),
    ([(b"1\x00", None)], "mtype"),
    ([(b"", 9)], "length"),
    ([(b"\x00", 9)], "length"),
    ([(b"5", 9)], "length"),
    ([(b"5\x00\x00", 9)], "length"),
    ([(b"5\x00x", 9)], "length"),
    ([(b"5\n\x00", 9)], "length"),
    ([(b"05\x00", 9)], "length"),
    ([(b" 5\x00", 9)], "length"),
    ([(b"+5\x00", 9)], "length"),
    ([(b"-5\x00", 9)], "length"),
    ([(b"0x5\x00", 9)], "length"),
    ([("\N{ARABIC-INDIC DIGIT FIVE}".encode() + b"\x00", 9)], "length"),
    ([(b"five\x00", 9)], "length"),
    ([(b"9" * 21 + b"\x00", 9)], "length"),
    ([(b"9" * 5000 + b"\x00", 9)], "length"),
    ([(b"41\x00", 9)], "length"),
    ([(b"18446744073709551615\x00", 9)], "length"),
    ([(b"2\x00", 9), (b"abc", 3)], "chunk size"),
    ([(b"2\x00", 9), (b"ab", 3), (b"c", 3)], "chunk size"),
    ([(b"0\x00", 9), (b"a", 3)], "chunk size"),
    ([(b"2\x00", 9), (b"", 3)], "chunk size"),
    ([(b"2\x00", 9), (b"\x01", 12)], "bytes before the end"),
    ([(b"2\x00", 9), (b"a", 3), (b"\x01", 12)], "bytes before the end"),
    ([(b"2\x00", 9), (b"ab", 3), (b"\x00", 12)], "end marker"),
    ([(b"2\x00", 9), (b"ab", 3), (b"", 12)], "end marker"),
    ([(b"2\x00", 9), (b"ab", 3), (b"\x01\x01", 12)], "end marker"),
    ([(b"2\x00", 9), (b"ab", 4)], "mtype"),
    ([(b"2\x00", 9), (b"2\x00", 9)], "mtype"),
    ([(b"2\x00", 9), (b"ab", 1)], "mtype"),
    ([(b"\x00", 12)], "end marker"),
    ([(b"\x01", 12), (bytes([1]), 12)], "mtype"),
    ([(b"0\x00", 9), (b"\x01", 12), (bytes([1]), 12)], "mtype"),
]


@pytest.mark.parametrize(("messages", "field"), QUEUE_LIES)
def test_a_lie_about_data_is_refused(messages: list[Message], field: str) -> None:
    """Terminal, names the field, and nothing is handed on, not even what came before the lie."""
    receiver = QueueReceiver(SIZE)
    *honest, lie = map(fresh, messages)
    for message in honest:
        receiver.feed(message)
        if receiver.state is QueueReceiverState.COMPLETE:
            receiver.take()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.feed(fresh(lie))
        assert caught.value.field == field
        with pytest.raises(LocalProtocolError):
            receiver.take()


def test_a_stray_end_before_anything_else_is_skipped() -> None:
    """A receiver that takes over from one that died may find the end of what that one took (as in C)."""
    receiver = QueueReceiver(SIZE)
    for message in [(b"\x01", 12), *queue_messages(b"hello")]:
        receiver.feed(message)
    assert receiver.take() == b"hello"


def test_a_failure_from_outside_is_terminal_too() -> None:
    """The kernel's E2BIG is a lie about the size."""
    lie = RemoteProtocolError("message size", "too large", "less")
    for receiver in (ShmReceiver(SIZE), QueueReceiver(SIZE)):
        with pytest.raises(RemoteProtocolError):
            receiver.fail(lie)
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.feed((b"0\x00", 9))
        assert caught.value is lie
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.fail(RemoteProtocolError("another", 1, "0"))
        assert caught.value is lie


bodies = st.one_of(
    st.binary(max_size=12),
    st.integers(0, SIZE + 2).map(size_t),
    st.integers(0, SIZE + 2).map(lambda n: b"%d\x00" % n),
    st.just(b"\x01"),
)
mtypes = st.one_of(st.sampled_from([3, 4, 5, 9, 12]), st.integers(-(1 << 63), (1 << 63) - 1), st.none())
messages_strategy = st.lists(st.tuples(bodies, mtypes), max_size=12)


@given(messages_strategy)
def test_no_sequence_does_anything_but_raise_ours(messages: list[Message]) -> None:
    """Whatever a hostile sender queues: a `SipcError`, or data within the bounds."""
    shm, queue = ShmReceiver(SIZE), QueueReceiver(SIZE)
    for message in messages:
        for receiver in (shm, queue):
            try:
                receiver.feed(fresh(message))
            except SipcError:
                continue
        if shm.state is ShmReceiverState.HOLDING:
            assert shm.length <= SIZE
            shm.finish()
        if queue.state is QueueReceiverState.COMPLETE:
            assert len(queue.take()) <= SIZE


@given(st.lists(st.binary(max_size=SIZE), min_size=1, max_size=3), st.data())
def test_data_is_handed_on_whole_or_not_at_all(datas: list[bytes], data: st.DataObject) -> None:
    """One message of a valid stream replaced, dropped or doubled: what was handed on before is a prefix."""
    messages: list[Message] = list(itertools.chain.from_iterable(map(queue_messages, datas)))
    at = data.draw(st.integers(0, len(messages) - 1))
    other = data.draw(st.lists(st.tuples(bodies, mtypes), max_size=2))
    ends = [index for index, (_, mtype) in enumerate(messages) if mtype == 12]
    whole = sum(end < at for end in ends)
    receiver, got = QueueReceiver(SIZE), []
    try:
        for message in map(fresh, [*messages[:at], *other, *messages[at + 1 :]]):
            receiver.feed(message)
            if receiver.state is QueueReceiverState.COMPLETE:
                got.append(receiver.take())
    except RemoteProtocolError:
        pass
    assert got[:whole] == datas[:whole]
