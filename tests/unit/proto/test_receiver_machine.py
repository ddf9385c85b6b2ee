# SPDX-License-Identifier: Apache-2.0
"""The receiver's machine: every state with every event, every field of a hostile sender, and both machines joined."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.strategies import (
    DATA_FLAGS,
    control_fields,
    corrupted,
    flow_geometries,
    hostile_bytes,
    streams,
    u32,
    u64,
)

from sipc.errors import Broken, LocalProtocolError, RemoteProtocolError, SipcError
from sipc.proto import control
from sipc.proto.control import Flag, Kind
from sipc.proto.receiver import RECEIVER_TABLE, ReceiverEvent, ReceiverMachine, ReceiverState
from sipc.proto.rule import slot_of
from sipc.proto.segment import Segment, segment_size
from sipc.proto.sender import SenderMachine, SenderState
from sipc.spec import Geometry

EPOCH = 0x1122334455667788
GEOMETRY = Geometry(slots=3, depth=1, slot_size=100)
MOST = (1 << 64) - 1
S, E = ReceiverState, ReceiverEvent
NOOP = control.encode(2, 0, 0, EPOCH, 0, 0)


class Pair:
    """A receiver, and the segment that its sender can write as it likes."""

    def __init__(self, *, queue: bool = False, cursor: int | None = 0, max_message: int = 1000, kept: int | None = None,
                 geometry: Geometry = GEOMETRY) -> None:  # fmt: skip
        memory = bytearray(segment_size(geometry))
        self.hostile = Segment(memoryview(memory), geometry)
        self.hostile.format(geometry, EPOCH)
        self.machine = ReceiverMachine(
            geometry=geometry,
            epoch=EPOCH,
            segment=None if queue else Segment(memoryview(memory).toreadonly(), geometry),
            max_message=max_message,
            cursor=cursor,
            record_bytes=kept,
        )
        self.queue = queue

    def block(self, seq: int, flags: int = 0, length: int = 4, *, kind: int = 1, crc: int = 0) -> bytes:
        """Commit a block as an honest sender would; returns the message that announces it."""
        slot = slot_of(seq, GEOMETRY.slots)
        if self.queue:
            return control.encode(kind, 0, flags, EPOCH, seq, length) + bytes(length)
        self.hostile.commit(slot, seq, length, crc, flags)
        return control.encode(kind, slot, flags, EPOCH, seq, length)

    def refused(self, call: Callable[[], object]) -> tuple[str, object, str]:
        """A call that must find a violation; checks all that must hold afterwards; returns field, value, bound."""
        machine = self.machine
        before = (machine.seq, machine.slot, machine.length, machine.flags, machine.crc, machine.blocks,
                  machine.cursor, machine.record_bytes)  # fmt: skip
        with pytest.raises(RemoteProtocolError) as caught:
            call()
        error = caught.value
        assert machine.state is S.FAILED
        assert machine.failure is error
        assert not machine.holding
        assert not machine.ended
        assert before == (machine.seq, machine.slot, machine.length, machine.flags, machine.crc, machine.blocks,
                          machine.cursor, machine.record_bytes)  # fmt: skip
        good = self.block((machine.cursor or 0) + 1)
        later: tuple[Callable[[], object], ...] = (
            lambda: machine.feed(good),
            lambda: machine.feed(NOOP, 2),
            machine.recover,
            machine.finish,
            lambda: machine.fail(RemoteProtocolError("another", 1, "2")),
        )
        for again in later:
            with pytest.raises(RemoteProtocolError) as repeated:
                again()
            assert repeated.value is error
        assert machine.state is S.FAILED
        for part in (error.field, repr(error.value), error.bound):
            assert part in str(error)
        return error.field, error.value, error.bound


# -- every state with every event


def take(pair: Pair, event: ReceiverEvent) -> None:
    """Do to a machine what the event stands for."""
    machine = pair.machine
    seq = (machine.cursor or 0) + 1
    actions: dict[ReceiverEvent, Callable[[], object]] = {
        E.NOTHING: lambda: machine.feed(NOOP),
        E.BLOCK: lambda: machine.feed(pair.block(seq)),
        E.FINISH: machine.finish,
        E.END: lambda: machine.feed(pair.block(seq, int(Flag.CLOSE), 0, kind=3)),
        E.VIOLATION: lambda: machine.fail(RemoteProtocolError("crc32", 1, "2")),
    }
    actions[event]()


LEADS_TO = {
    (S.WAITING, E.NOTHING): S.WAITING,
    (S.WAITING, E.BLOCK): S.HOLDING,
    (S.WAITING, E.END): S.ENDED,
    (S.WAITING, E.VIOLATION): S.FAILED,
    (S.HOLDING, E.FINISH): S.WAITING,
    (S.HOLDING, E.VIOLATION): S.FAILED,
    (S.FAILED, E.VIOLATION): S.FAILED,
}


def brought_to(state: ReceiverState, *, queue: bool = False) -> Pair:
    """A receiver in `state`; FAILED by its caller's misuse, as violations have tests of their own."""
    pair = Pair(queue=queue)
    if state is S.HOLDING:
        take(pair, E.BLOCK)
    elif state is S.ENDED:
        take(pair, E.END)
    elif state is S.FAILED:
        with pytest.raises(LocalProtocolError):
            pair.machine.finish()
    assert pair.machine.state is state
    return pair


def test_the_table_is_the_protocol() -> None:
    """Seven pairs, no more; nothing leads out of ENDED and FAILED; every pair says what is done."""
    assert {pair: following for pair, (_, following) in RECEIVER_TABLE.items()} == LEADS_TO
    assert all(action for action, _ in RECEIVER_TABLE.values())


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
@pytest.mark.parametrize(("state", "event"), list(LEADS_TO), ids=lambda value: value.name)
def test_a_pair_of_the_table_reaches_its_next_state(state: ReceiverState, event: ReceiverEvent, queue: bool) -> None:
    """In both transports; a violation raises as well."""
    pair = brought_to(state, queue=queue)
    if event is E.VIOLATION:
        with pytest.raises(RemoteProtocolError):
            take(pair, event)
    else:
        take(pair, event)
    machine = pair.machine
    assert machine.state is LEADS_TO[state, event]
    assert (machine.holding, machine.ended) == (machine.state is S.HOLDING, machine.state is S.ENDED)


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in product(ReceiverState, ReceiverEvent) if pair not in LEADS_TO],
    ids=lambda value: value.name,
)
def test_every_other_pair_raises_and_is_terminal(state: ReceiverState, event: ReceiverEvent, queue: bool) -> None:
    """The caller's fault, so LocalProtocolError; the cursor stays, and nothing works afterwards."""
    pair = brought_to(state, queue=queue)
    machine = pair.machine
    cursor, blocks = machine.cursor, machine.blocks
    with pytest.raises(LocalProtocolError):
        take(pair, event)
    assert machine.state is S.FAILED
    for later in (E.NOTHING, E.BLOCK, E.FINISH, E.END):
        with pytest.raises(LocalProtocolError):
            take(pair, later)
    assert (machine.cursor, machine.blocks, machine.recover()) == (cursor, blocks, E.NOTHING)


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
def test_each_action_does_what_the_table_says(queue: bool) -> None:
    """NOTHING: ignored.  BLOCK: described, cursor stays.  FINISH: cursor moves.  END: cursor moves, stream over."""
    pair = Pair(queue=queue, cursor=4)
    machine = pair.machine
    take(pair, E.NOTHING)
    assert (machine.cursor, machine.blocks, machine.seq) == (4, 0, 0)
    assert machine.feed(pair.block(5, int(Flag.MORE), 7, crc=9)) == E.BLOCK
    slot, crc = (0, 0) if queue else (1, 9)
    assert (machine.seq, machine.slot, machine.length, machine.flags, machine.crc) == (5, slot, 7, 1, crc)
    assert (machine.cursor, machine.blocks, machine.record_bytes) == (4, 1, None)
    machine.finish()
    assert (machine.cursor, machine.record_bytes) == (5, 7)
    take(pair, E.END)
    assert (machine.cursor, machine.record_bytes, machine.cut) == (6, None, False)


def test_a_cut_stream_ends_with_a_flag() -> None:
    """CLOSE with MORE: more was to come."""
    pair = Pair()
    message = pair.block(1, int(Flag.CLOSE | Flag.MORE), 0, kind=3)
    assert pair.machine.feed(message, 3) == E.END
    assert pair.machine.cut


# -- what is ignored, and joining late


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
def test_a_block_announced_again_is_ignored(queue: bool) -> None:
    """Its seq is not above the cursor; its slot may hold another block by now."""
    pair = Pair(queue=queue, cursor=5)
    again = [pair.block(seq) for seq in (3, 4, 5)]
    pair.hostile.clear(0)
    assert [pair.machine.feed(message) for message in again] == [E.NOTHING] * 3
    assert (pair.machine.cursor, pair.machine.state) == (5, S.WAITING)


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
def test_without_a_cursor_the_first_block_sets_it(queue: bool) -> None:
    """From then on a gap is a violation."""
    pair = Pair(queue=queue, cursor=None)
    assert pair.machine.feed(pair.block(7)) == E.BLOCK
    pair.machine.finish()
    assert pair.machine.cursor == 7
    field, value, _ = pair.refused(lambda: pair.machine.feed(pair.block(9)))
    assert (field, value) == ("seq", 9)


def test_joining_in_the_middle_of_a_message_says_so_and_skips_the_rest_of_it() -> None:
    """Broken once; the tail of that message is never taken for a message; the next one is whole."""
    pair = Pair(cursor=None)
    middle = int(Flag.CONTINUED | Flag.MORE)
    with pytest.raises(Broken, match="joined in the middle"):
        pair.machine.feed(pair.block(7, middle))
    assert pair.machine.feed(pair.block(7, middle)) == E.NOTHING  # the queue shows it again until it is done with
    assert pair.machine.feed(pair.block(8, middle)) == E.NOTHING
    assert pair.machine.feed(pair.block(9, int(Flag.CONTINUED))) == E.NOTHING
    assert (pair.machine.cursor, pair.machine.blocks) == (9, 0)
    assert pair.machine.feed(pair.block(10)) == E.BLOCK
    pair.machine.finish()
    field, value, _ = pair.refused(lambda: pair.machine.feed(pair.block(11, int(Flag.CONTINUED))))
    assert (field, value) == ("flags", 16)


def test_a_restarted_sender_is_noticed_in_the_middle_of_a_stream_only() -> None:
    """RESTART on the very first block is not a change that this receiver saw."""
    pair = Pair()
    pair.machine.feed(pair.block(1, int(Flag.RESTART)))
    pair.machine.finish()
    assert not pair.machine.restarted
    pair.machine.feed(pair.block(2, int(Flag.RESTART)))
    assert pair.machine.restarted


# -- a hostile sender: the message


FIELDS: dict[str, int] = {"kind": 1, "slot": 0, "flags": 0, "epoch": EPOCH, "seq": 1, "length": 4}
CONTINUED, MORE, RESTART, CLOSE, RECORDS = 16, 1, 4, 8, 2


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
@pytest.mark.parametrize(
    ("change", "field", "value", "bound"),
    [
        ({"kind": 0}, "kind", 0, "1 (DATA_READY), 2 (NOOP) or 3 (CLOSE)"),
        ({"kind": 255}, "kind", 255, "1 (DATA_READY), 2 (NOOP) or 3 (CLOSE)"),
        ({"kind": 2}, "NOOP fields", (0, 0, 1, 4), "all zero"),
        ({"kind": 3}, "flags", 0, "with CLOSE in a CLOSE message"),
        ({"kind": 3, "flags": CLOSE}, "length", 4, "0 in a CLOSE message"),
        ({"flags": CLOSE}, "flags", CLOSE, "without CLOSE in a DATA_READY message"),
        ({"flags": 1 << 5}, "flags", 32, "within 0x1f; the other bits are reserved"),
        ({"flags": 1 << 31}, "flags", 1 << 31, "within 0x1f; the other bits are reserved"),
        ({"flags": RECORDS | MORE}, "flags", 3, "RECORDS without MORE, CLOSE or CONTINUED"),
        ({"flags": CONTINUED}, "flags", 16, "without CONTINUED, as no record is open"),
        ({"flags": CONTINUED | MORE}, "flags", 17, "without CONTINUED, as no record is open"),
        ({"flags": CONTINUED | RESTART}, "flags", 20, "CONTINUED without CLOSE or RESTART"),
        ({"epoch": 0}, "epoch", 0, f"{EPOCH}, the epoch of this channel"),
        ({"epoch": EPOCH ^ 1}, "epoch", EPOCH ^ 1, f"{EPOCH}, the epoch of this channel"),
        ({"seq": 0}, "seq", 0, "at least 1"),
        ({"slot": 1}, "slot", 1, "0, the slot of block 1"),
        ({"slot": 3}, "slot", 3, "0, the slot of block 1"),
        ({"slot": 0xFFFF}, "slot", 0xFFFF, "0, the slot of block 1"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_is_named(
    change: dict[str, int], field: str, value: object, bound: str, queue: bool
) -> None:
    """Field, value and bound; terminal; nothing of the block is seen.  The slot's entry agrees with the lie."""
    pair = Pair(queue=queue)
    lie = {**FIELDS, **change}
    pair.hostile.commit(lie["slot"] % GEOMETRY.slots, lie["seq"], lie["length"], 0, lie["flags"])
    tail = bytes(lie["length"]) if queue else b""
    assert pair.refused(lambda: pair.machine.feed(control.encode(**lie) + tail)) == (field, value, bound)


@pytest.mark.parametrize("seq", [2, 3, 4, 7, 1 << 32, (1 << 32) + 1, MOST - 1, MOST])
@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
def test_a_gap_is_never_silent(seq: int, queue: bool) -> None:
    """Also one that is right modulo 2**32, and the largest number there is."""
    pair = Pair(queue=queue)
    got = pair.refused(lambda: pair.machine.feed(pair.block(seq)))
    assert got == ("seq", seq, "1, the block after the last finished one")


@pytest.mark.parametrize("length", [101, 1 << 31, (1 << 32) + 4, MOST])
@pytest.mark.parametrize("flags", [int(flag) for flag in DATA_FLAGS if not flag & Flag.CONTINUED])
def test_a_length_beyond_the_slot_is_refused(length: int, flags: int) -> None:
    """A slice of that length would show the next slot; sums in 64 bits could wrap."""
    pair = Pair()
    got = pair.refused(lambda: pair.machine.feed(pair.block(1, flags, length)))
    assert got == ("length", length, "at most 100, the size of a slot")


@pytest.mark.parametrize("length", [0, 3, 5, 100, 101, MOST])
def test_in_the_queue_transport_the_length_is_what_follows(length: int) -> None:
    """Not more and not less than came."""
    pair = Pair(queue=True)
    message = control.encode(1, 0, 0, EPOCH, 1, length) + b"four"
    got = pair.refused(lambda: pair.machine.feed(message))
    assert got == ("length", length, "4, the bytes that follow it in the message")


@pytest.mark.parametrize("tail", [b"\x01", b"\x00" * 99 + b"\x01", b"\x00" * 101])
def test_the_padding_of_a_noop_is_zero_and_bounded(tail: bytes) -> None:
    """It could carry data past the caller otherwise."""
    pair = Pair(queue=True)
    field, value, _ = pair.refused(lambda: pair.machine.feed(NOOP + tail))
    assert (field, value) == ("NOOP padding", len(tail))
    assert Pair(queue=True).machine.feed(NOOP + b"\x00" * 100) == E.NOTHING


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
@pytest.mark.parametrize("mtype", [2, 3, 4, 9, 1 << 40])
def test_the_system_v_type_is_the_kind(mtype: int, queue: bool) -> None:
    """SELinux mediates by message, and msgrcv selects by type: the two must not disagree."""
    pair = Pair(queue=queue)
    got = pair.refused(lambda: pair.machine.feed(pair.block(1), mtype))
    assert got == ("mtype", mtype, "1, the kind of the message")


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
def test_every_cut_of_a_message_and_every_tail_is_refused(queue: bool) -> None:
    """Whole it is a block; shorter or longer it is a violation."""
    whole = Pair(queue=queue).block(1)
    for end in range(len(whole)):
        pair = Pair(queue=queue)
        pair.block(1)
        field, _, _ = pair.refused(partial(pair.machine.feed, whole[:end]))
        assert field == ("message size" if end < 32 or not queue else "length")
    for size in (1, 4, 32):
        pair = Pair(queue=queue)
        pair.block(1)
        pair.refused(partial(pair.machine.feed, whole + bytes(size)))
    assert Pair(queue=True).machine.feed(Pair(queue=True).block(1)) == E.BLOCK


# -- a hostile sender: the segment


@pytest.mark.parametrize(
    "entry",
    [(0, 4, 0), (2, 4, 0), (1 | 1 << 63, 4, 0), (1, 3, 0), (1, 5, 0), (1, 4 | 1 << 32, 0), (1, 4, 1), (1, 4, 1 << 31)],
    ids=str,
)
def test_an_entry_that_contradicts_its_message_is_refused(entry: tuple[int, int, int]) -> None:
    """Seq, length and flags must be those announced; any bit counts."""
    pair = Pair()
    seq, length, flags = entry
    pair.hostile.commit(0, seq, length, 0, flags)
    message = control.encode(1, 0, 0, EPOCH, 1, 4)
    got = pair.refused(lambda: pair.machine.feed(message))
    assert got == ("slot entry (seq, length, flags)", (seq, length, flags), "(1, 4, 0), as announced")


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_an_entrys_reserved_word_is_zero(bit: int) -> None:
    """When a block is announced, and when it is taken up after a restart."""
    for how in ("feed", "recover"):
        pair = Pair()
        message = pair.block(1)
        pair.hostile.words[6 + 3] = 1 << bit
        call = pair.machine.recover if how == "recover" else partial(pair.machine.feed, message)
        assert pair.refused(call) == ("entry reserved word", 1 << bit, "0")


# -- a hostile sender: a record that grows


@pytest.mark.parametrize("queue", [False, True], ids=["segment", "queue"])
@pytest.mark.parametrize("last", [CONTINUED, CONTINUED | MORE])
def test_a_record_longer_than_max_message_is_refused_before_its_last_block(last: int, queue: bool) -> None:
    """At the block that goes beyond: what came before is never handed on as a message."""
    pair = Pair(queue=queue, max_message=250)
    for seq, flags in ((1, MORE), (2, MORE | CONTINUED)):
        assert pair.machine.feed(pair.block(seq, flags, 100)) == E.BLOCK
        pair.machine.finish()
    assert pair.machine.record_bytes == 200
    got = pair.refused(lambda: pair.machine.feed(pair.block(3, last, 51)))
    assert got == ("record length", 251, "at most max_message = 250")


def test_exactly_max_message_is_accepted() -> None:
    """The bound belongs to what is allowed."""
    pair = Pair(max_message=250)
    for seq, flags, length in ((1, MORE, 100), (2, MORE | CONTINUED, 100), (3, CONTINUED, 50)):
        assert pair.machine.feed(pair.block(seq, flags, length)) == E.BLOCK
        pair.machine.finish()
    assert pair.machine.record_bytes is None


@pytest.mark.parametrize("flags", [0, MORE, RECORDS, RESTART])
def test_a_single_block_longer_than_max_message_is_refused(flags: int) -> None:
    """Whatever kind of block it is."""
    pair = Pair(max_message=50)
    got = pair.refused(lambda: pair.machine.feed(pair.block(1, flags, 51)))
    assert got == ("record length", 51, "at most max_message = 50")


def test_what_a_predecessor_kept_counts() -> None:
    """A restart does not let a record grow past the bound; sums are unbounded integers."""
    pair = Pair(kept=MOST, max_message=MOST)
    got = pair.refused(lambda: pair.machine.feed(pair.block(1, CONTINUED, 1)))
    assert got == ("record length", 1 << 64, f"at most max_message = {MOST}")


def test_endless_empty_blocks_of_one_record_advance_the_cursor() -> None:
    """A record of nothing is within every bound; the receiver neither grows nor stops."""
    pair = Pair(max_message=1)
    assert pair.machine.feed(pair.block(1, MORE, 0)) == E.BLOCK
    pair.machine.finish()
    for seq in range(2, 200):
        assert pair.machine.feed(pair.block(seq, MORE | CONTINUED, 0)) == E.BLOCK
        pair.machine.finish()
        assert pair.machine.record_bytes == 0
    assert pair.machine.cursor == 199


# -- recovery from a slot


def test_recovery_takes_the_next_block_from_its_slot() -> None:
    """DESIGN 5: its message was consumed by a predecessor; announced again, it is ignored."""
    pair = Pair(cursor=4)
    message = pair.block(5, int(Flag.RECORDS), 9, crc=3)
    assert pair.machine.recover() == E.BLOCK
    assert (pair.machine.seq, pair.machine.slot, pair.machine.length, pair.machine.crc) == (5, 1, 9, 3)
    pair.machine.finish()
    assert pair.machine.feed(message) == E.NOTHING


@pytest.mark.parametrize("seq", [0, 2, 3, 4, 8, MOST])
def test_recovery_leaves_every_other_block_alone(seq: int) -> None:
    """Only the block after the cursor is next."""
    pair = Pair(cursor=4)
    pair.hostile.commit(1, seq, 4, 0, 0)
    assert pair.machine.recover() == E.NOTHING
    assert pair.machine.state is S.WAITING


def test_recovery_needs_a_cursor_a_segment_and_nothing_in_hand() -> None:
    """Without them there is nothing to take up."""
    for pair in (Pair(cursor=None), Pair(queue=True)):
        pair.block(1)
        assert pair.machine.recover() == E.NOTHING
    held = brought_to(S.HOLDING)
    assert held.machine.recover() == E.NOTHING
    assert held.machine.state is S.HOLDING


def test_recovery_finds_the_end_of_the_stream() -> None:
    """A CLOSE that its predecessor consumed and did not note."""
    pair = Pair(cursor=2)
    pair.block(3, int(Flag.CLOSE | Flag.MORE), 0)
    assert pair.machine.recover() == E.END
    assert (pair.machine.cursor, pair.machine.cut, pair.machine.state) == (3, True, S.ENDED)


@pytest.mark.parametrize(
    ("flags", "length", "field"),
    [
        (32, 4, "flags"),
        (1 << 31, 4, "flags"),
        (RECORDS | MORE, 4, "flags"),
        (CONTINUED, 4, "flags"),
        (0, 101, "entry length"),
        (0, MOST, "entry length"),
        (CLOSE, 1, "entry length"),
        (0, 51, "record length"),
    ],
)
def test_an_entry_that_recovery_finds_is_judged_too(flags: int, length: int, field: str) -> None:
    """No message vouches for it."""
    pair = Pair(max_message=50)
    pair.hostile.commit(0, 1, length, 0, flags)
    assert pair.refused(pair.machine.recover)[0] == field


def test_a_violation_found_in_the_block_itself_takes_the_block_back() -> None:
    """Checksum and records are judged by the holder: it says so by `fail`, and the cursor never moves."""
    pair = brought_to(S.HOLDING)
    error = RemoteProtocolError("crc32", 1, "2, as the sender wrote")
    with pytest.raises(RemoteProtocolError):
        pair.machine.fail(error)
    for later in (pair.machine.finish, pair.machine.recover, lambda: pair.machine.feed(NOOP)):
        with pytest.raises(RemoteProtocolError) as caught:
            later()
        assert caught.value is error
    assert pair.machine.cursor == 0


# -- arbitrary bytes


def outcome(machine: ReceiverMachine, judge: Callable[[], int]) -> tuple[Any, ...]:
    """All that a caller can see of one judgement."""
    try:
        result: object = judge()
    except SipcError as error:
        result = (type(error), str(error))
    return (result, machine.state, machine.cursor, machine.record_bytes, machine.seq, machine.slot, machine.length,
            machine.flags, machine.crc, machine.blocks, machine.restarted, machine.cut)  # fmt: skip


def slowly(machine: ReceiverMachine, message: bytes, mtype: int | None) -> int:
    """What `feed` does without its short path."""
    try:
        return machine._judge(message, mtype)
    except RemoteProtocolError as error:
        machine.fail(error)


entries = st.tuples(st.one_of(st.integers(0, 6), u64), st.one_of(st.integers(0, 120), u64), u32,
                    st.one_of(st.integers(0, 31), u32), st.one_of(st.just(0), u64))  # fmt: skip
near_messages = control_fields(epoch=EPOCH, slots=GEOMETRY.slots, slot_size=GEOMETRY.slot_size)


@settings(max_examples=400)
@given(near_messages, st.sampled_from([None, 0, 1, 4]), st.sampled_from([None, 0, 30]), st.booleans(), st.data())
def test_the_short_path_judges_as_the_long_one(
    fields: dict[str, int], cursor: int | None, kept: int | None, honest: bool, data: st.DataObject
) -> None:
    """`feed` decides the usual case at once: with the same outcome as when everything is looked at in turn."""
    pairs = [Pair(cursor=cursor, kept=kept, max_message=110) for _ in range(2)]
    seq, length, crc, flags, reserved = data.draw(entries)
    slot = data.draw(st.sampled_from([slot_of(fields["seq"] or 1, GEOMETRY.slots), fields["slot"] % GEOMETRY.slots]))
    for pair in pairs:
        if honest:
            seq, length, flags, reserved = fields["seq"], fields["length"], fields["flags"], 0
        pair.hostile.commit(slot, seq, length, crc, flags)
        pair.hostile.words[6 + 4 * slot + 3] = reserved
    message = control.encode(**fields)
    mtype = data.draw(st.sampled_from([None, fields["kind"], 1]))
    short, long = (pair.machine for pair in pairs)
    assert outcome(short, lambda: short.feed(message, mtype)) == outcome(long, lambda: slowly(long, message, mtype))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.one_of(hostile_bytes, corrupted(near_messages.map(lambda f: control.encode(**f)))),
                       st.sampled_from([None, 1, 2, 3])), max_size=8),
    st.lists(entries, min_size=3, max_size=3),
    st.booleans(),
    st.sampled_from([None, 0, 4]),
)  # fmt: skip
def test_arbitrary_messages_over_an_arbitrary_segment_raise_only_the_projects_errors(
    messages: list[tuple[bytes, int | None]], found: list[tuple[int, int, int, int, int]], queue: bool,
    cursor: int | None,
) -> None:  # fmt: skip
    """Whatever comes: a block within its slot, nothing, the end, or a violation; then always the same violation."""
    pair = Pair(queue=queue, cursor=cursor)
    machine = pair.machine
    for slot, (seq, length, crc, flags, reserved) in enumerate(found):
        pair.hostile.commit(slot, seq, length, crc, flags)
        pair.hostile.words[6 + 4 * slot + 3] = reserved
    calls: list[Callable[[], int]] = [machine.recover]
    calls += [partial(machine.feed, message, mtype) for message, mtype in messages]
    for call in calls:
        failure = machine.failure
        if failure is not None:
            with pytest.raises(RemoteProtocolError) as caught:
                call()
            assert caught.value is failure
            continue
        try:
            event = call()
        except RemoteProtocolError:
            assert machine.state is S.FAILED
            continue
        except Broken:
            assert cursor is None
            continue
        except LocalProtocolError:
            assert machine.state is S.FAILED
            return
        if event == E.END:
            return
        if event == E.BLOCK:
            assert machine.length <= GEOMETRY.slot_size
            assert 0 <= machine.slot < GEOMETRY.slots
            machine.finish()


# -- both machines over a bounded link


class Ends(RuleBasedStateMachine):
    """A sender and a receiver joined by a bounded queue and a real segment; either may die at any step."""

    transport = "segment"

    @initialize(geometry=flow_geometries)
    def make(self, geometry: Geometry) -> None:
        """Create the channel."""
        self.geometry = geometry
        self.memory = bytearray(segment_size(geometry))
        self.segment: Segment | None = None
        self.reading: Segment | None = None
        if self.transport == "segment":
            self.segment = Segment(memoryview(self.memory), geometry)
            self.segment.format(geometry, EPOCH)
            self.reading = Segment(memoryview(self.memory).toreadonly(), geometry)
        self.link: deque[bytes] = deque()
        self.committed: list[tuple[bytes, int]] = []  # what block seq (from 1) must be
        self.got: list[tuple[bytes, int]] = []
        self.note = 0  # the sender's: newest block known to be accepted
        self.cursor = 0  # the receiver's, on its disk
        self.kept: int | None = None
        self.messages: list[list[int]] = []  # for each record that was sent whole: its blocks
        self.todo: list[tuple[bytes, int]] = []  # blocks of the stream that is being sent
        self.held = b""
        self.noops = 0
        self.open_sender()
        self.open_receiver()

    def open_sender(self) -> None:
        last, closed = len(self.committed), not self.committed or bool(self.committed[-1][1] & Flag.CLOSE)
        self.sender = SenderMachine(geometry=self.geometry, epoch=EPOCH, segment=self.segment, last=last,
                                    in_order=closed, accepted=self.note)  # fmt: skip
        found = self.sender.resumption
        assert found.last_seq == last
        # With one slot, a block that was begun has erased what tells whether the stream before it was closed.
        assert found.in_order == closed or (self.geometry.slots == 1 and found.begun and not found.in_order)
        self.first = 0 if found.in_order else int(Flag.RESTART)
        self.todo = []

    def open_receiver(self) -> None:
        self.receiver = ReceiverMachine(geometry=self.geometry, epoch=EPOCH, segment=self.reading, max_message=1 << 20,
                                        cursor=self.cursor, record_bytes=self.kept)  # fmt: skip
        self.took(self.receiver.recover(), b"")

    # -- the link

    def push(self, message: bytes) -> bool:
        if len(self.link) == self.geometry.depth:
            return False
        self.link.append(message)
        return True

    def took(self, event: int, message: bytes) -> None:
        if event == E.BLOCK:
            self.held = message[32:] if self.reading is None else self.slot()
        elif event == E.END:
            self.note_finished(b"")
            self.open_receiver()

    def slot(self) -> bytes:
        assert self.reading is not None
        return bytes(self.reading.slots[self.receiver.slot][: self.receiver.length])

    def note_finished(self, payload: bytes) -> None:
        machine = self.receiver
        assert machine.cursor == machine.seq == self.cursor + 1  # once, and in order
        self.cursor, self.kept = machine.seq, machine.record_bytes
        self.got.append((payload, machine.flags))

    # -- the sender's steps

    def settle(self) -> bool:
        """Try to announce what is pending."""
        machine = self.sender
        if machine.pending is not None:
            if not self.push(machine.pending):
                return False
            machine.accepted()
            self.note = machine.last
            if machine.state is SenderState.CLOSED:
                self.open_sender()
        return True

    def free(self) -> bool:
        while not self.sender.free:
            if not self.push(self.sender.noop):
                return False
            self.sender.noop_accepted()
            self.noops += 1
        return True

    def write(self, payload: bytes, flags: int) -> None:
        machine = self.sender
        slot = machine.begin()
        if self.segment is not None:
            self.segment.slots[slot][: len(payload)] = payload
        if self.first and not flags & Flag.CONTINUED:
            flags |= self.first
            self.first = 0
        self.committed.append((payload, flags))
        machine.commit(len(payload), flags, payload=b"" if self.segment is not None else payload)
        assert machine.last == len(self.committed)

    @rule(stream=streams)
    def send(self, stream: list[tuple[int, int]]) -> None:
        """Queue up one record, packed block, or end of stream, to be written block by block."""
        if not self.todo:
            size = self.geometry.slot_size
            self.todo = [(os.urandom(min(length, size)), flags) for length, flags in stream]

    @rule(steps=st.integers(1, 6))
    def work(self, steps: int) -> None:
        """The sender does as much as the queue lets it."""
        for _ in range(steps):
            if not self.settle() or not self.todo or not self.free():
                return
            self.write(*self.todo.pop(0))

    @rule()
    def flush(self) -> None:
        """NOOPs until the receiver has finished everything, or the queue is full; then it has, really."""
        if not self.settle():
            return
        while not self.sender.drained:
            if not self.push(self.sender.noop):
                return
            self.sender.noop_accepted()
        assert self.cursor == len(self.committed)

    @rule()
    def interrupt_sender(self) -> None:
        """An exception between two steps."""
        pending = self.sender.pending
        self.sender.resync()
        assert self.sender.pending == pending

    # -- the receiver's steps

    @rule(steps=st.integers(1, 4))
    def receive(self, steps: int) -> None:
        """Consume when nothing is in hand."""
        for _ in range(steps):
            if self.receiver.holding or not self.link:
                return
            message = self.link.popleft()
            self.took(self.receiver.feed(message, message[1]), message)

    @precondition(lambda self: self.receiver.holding)
    @rule()
    def finish(self) -> None:
        """What is in hand is still what it was, and what was sent: nobody wrote to it meanwhile."""
        assert self.held == self.committed[self.receiver.seq - 1][0]
        if self.reading is not None:
            assert self.slot() == self.held
        self.receiver.finish()
        self.note_finished(self.held)

    # -- deaths

    @precondition(lambda self: self.transport == "segment")
    @rule(how=st.sampled_from(["now", "begun", "committed", "accepted"]), junk=st.binary(max_size=20))
    def kill_sender(self, how: str, junk: bytes) -> None:
        """The sender dies, at a step that leaves something half done, and is started anew."""
        machine = self.sender
        if how != "now" and self.settle() and self.free():
            machine = self.sender
            if how == "begun":
                assert self.segment is not None
                slot = self.segment.slots[machine.begin()]
                slot[: len(junk)] = junk[: len(slot)]
            else:
                self.write(junk[: self.geometry.slot_size], 0)
                if how == "accepted" and machine.pending is not None and self.push(machine.pending):
                    machine.accepted()  # and dies before noting it
        self.open_sender()

    @precondition(lambda self: self.transport == "segment")
    @rule()
    def kill_receiver(self) -> None:
        """The receiver dies with whatever it has in hand; its cursor is on disk."""
        self.held = b""
        self.open_receiver()

    # -- what holds

    @invariant()
    def the_receiver_got_a_prefix_of_what_was_sent(self) -> None:
        """Exactly once, in order, untorn."""
        assert self.got == self.committed[: len(self.got)]
        assert self.cursor == len(self.got)
        assert len(self.link) <= self.geometry.depth

    def teardown(self) -> None:
        """Let both ends go on: everything that was committed arrives."""
        if not hasattr(self, "link"):
            return
        for _ in range(4 * (len(self.committed) + len(self.todo) + 4) * (self.geometry.depth + 2)):
            self.work(1)
            if self.receiver.holding:
                self.finish()
            self.receive(1)
            if not self.todo and self.cursor == len(self.committed) and not self.link:
                break
        assert self.got == self.committed
        assert not self.todo


class QueueEnds(Ends):
    """The queue transport: data inside the messages; what a dead end had in hand is lost there, so none dies."""

    transport = "queue"


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
TestQueueEnds = QueueEnds.TestCase
TestQueueEnds.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(flow_geometries, st.lists(st.integers(0, 64), min_size=1, max_size=60))
def test_a_stream_with_depth_plus_two_slots_costs_no_noop(geometry: Geometry, sizes: list[int]) -> None:
    """DESIGN 3, with the machines that run: and one slot less costs some, so that nothing is torn."""
    for spare, free_of_cost in ((2, True), (1, False)):
        shape = Geometry(slots=geometry.depth + spare, depth=geometry.depth, slot_size=geometry.slot_size)
        ends = Ends()
        Ends.make(ends, shape)
        for size in [*sizes, *range(2 * shape.slots)]:
            ends.todo = [(bytes([size & 255]) * min(size, shape.slot_size), 0)]
            while ends.todo or ends.sender.pending is not None:
                ends.work(1)
                if ends.todo or ends.sender.pending is not None:  # the queue is full: the receiver has its turn
                    if ends.receiver.holding:
                        ends.finish()
                    ends.receive(1)
        assert (ends.noops == 0) is free_of_cost
        ends.teardown()


def test_kinds_are_judged_by_number() -> None:
    """The machine's short path compares kinds as numbers; they are these."""
    assert [int(kind) for kind in Kind] == [1, 2, 3]
