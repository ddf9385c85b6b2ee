# SPDX-License-Identifier: Apache-2.0
"""The sender's machine: every state with every event, the order in which a block becomes real, and recovery."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import product
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import DATA_FLAGS, geometries

from sipc.errors import LocalProtocolError
from sipc.proto import rule
from sipc.proto.control import ControlMessage, Flag, Kind
from sipc.proto.segment import PUBLISHED, SENT, Segment, segment_size
from sipc.proto.sender import SENDER_TABLE, Payload, SenderEvent, SenderMachine, SenderState
from sipc.spec import Geometry

EPOCH = 0x1122334455667788
GEOMETRY = Geometry(slots=3, depth=1, slot_size=100)
S, E = SenderState, SenderEvent


def formatted(geometry: Geometry = GEOMETRY) -> Segment:
    """A segment as the helper leaves it."""
    segment = Segment(memoryview(bytearray(segment_size(geometry))), geometry)
    segment.format(geometry, EPOCH)
    return segment


def sender(segment: Segment | None, geometry: Geometry = GEOMETRY, *, accepted: int = 0) -> SenderMachine:
    """A machine on a segment, or of the queue transport."""
    return SenderMachine(geometry=geometry, epoch=EPOCH, segment=segment, accepted=accepted)


def take(machine: SenderMachine, event: SenderEvent) -> None:
    """Do to a machine what the event stands for."""
    actions: dict[SenderEvent, Callable[[], object]] = {
        E.BEGIN: machine.begin,
        E.ABANDON: machine.abandon,
        E.COMMIT: lambda: machine.commit(5, int(Flag.MORE), 77),
        E.COMMIT_CLOSE: lambda: machine.commit(0, int(Flag.CLOSE)),
        E.ACCEPTED: machine.accepted,
        E.NOOP_ACCEPTED: machine.noop_accepted,
    }
    actions[event]()


def queue(taken: list[bytes]) -> Callable[[bytes, int, None], object]:
    """A queue that always has room: what `run` transmits goes into `taken`."""

    def transmit(message: bytes, kind: int, timeout: None) -> None:
        assert kind == message[1]
        taken.append(message)

    return transmit


WAY_TO: dict[SenderState, tuple[SenderEvent, ...]] = {
    S.READY: (),
    S.FILLING: (E.BEGIN,),
    S.PENDING: (E.BEGIN, E.COMMIT),
    S.CLOSING: (E.BEGIN, E.COMMIT_CLOSE),
    S.CLOSED: (E.BEGIN, E.COMMIT_CLOSE, E.ACCEPTED),
}
# What each pair leads to, said here a second time: the table must not be the only witness of itself.
LEADS_TO = {
    (S.READY, E.BEGIN): S.FILLING,
    (S.READY, E.NOOP_ACCEPTED): S.READY,
    (S.FILLING, E.ABANDON): S.READY,
    (S.FILLING, E.COMMIT): S.PENDING,
    (S.FILLING, E.COMMIT_CLOSE): S.CLOSING,
    (S.PENDING, E.ACCEPTED): S.READY,
    (S.CLOSING, E.ACCEPTED): S.CLOSED,
}


def brought_to(state: SenderState, segment: Segment | None) -> SenderMachine:
    """A machine in `state`."""
    machine = sender(segment)
    if state is S.FAILED:
        with pytest.raises(LocalProtocolError):
            machine.accepted()
    else:
        for event in WAY_TO[state]:
            take(machine, event)
    assert machine.state is state
    return machine


# -- every state with every event


def test_the_table_is_the_protocol() -> None:
    """Seven pairs, no more; nothing leads out of CLOSED and FAILED; every pair says what is done."""
    assert {pair: following for pair, (_, following) in SENDER_TABLE.items()} == LEADS_TO
    assert all(action for action, _ in SENDER_TABLE.values())


@pytest.mark.parametrize("over", ["segment", "queue"])
@pytest.mark.parametrize(("state", "event"), list(LEADS_TO), ids=lambda value: value.name)
def test_a_pair_of_the_table_reaches_its_next_state(state: SenderState, event: SenderEvent, over: str) -> None:
    """In both transports."""
    machine = brought_to(state, formatted() if over == "segment" else None)
    take(machine, event)
    assert machine.state is LEADS_TO[state, event]


@pytest.mark.parametrize("over", ["segment", "queue"])
@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in product(SenderState, SenderEvent) if pair not in LEADS_TO],
    ids=lambda value: value.name,
)
def test_every_other_pair_raises_and_is_terminal(state: SenderState, event: SenderEvent, over: str) -> None:
    """The error says what was done to what; nothing is written; nothing works afterwards, resync included."""
    segment = formatted() if over == "segment" else None
    machine = brought_to(state, segment)
    words = segment.words.tolist() if segment is not None else []
    with pytest.raises(LocalProtocolError, match=f"{state.name} can not {event.name}"):
        take(machine, event)
    assert machine.state is S.FAILED
    for later in SenderEvent:
        with pytest.raises(LocalProtocolError, match=f"FAILED can not {later.name}"):
            take(machine, later)
    machine.resync()
    assert machine.state is S.FAILED
    assert (segment.words.tolist() if segment is not None else []) == words


def test_begin_clears_the_entry_and_takes_the_slots_in_turn() -> None:
    """READY, BEGIN: whoever sees the slot from now on sees no block in it."""
    segment = formatted()
    machine = sender(segment)
    segment.commit(0, 99, 7, 0, 0)
    assert machine.begin() == 0
    assert segment.seqs() == [0, 0, 0]
    assert segment.published == segment.sent == 0
    assert machine.pending is None


def test_abandon_leaves_the_entry_cleared_and_the_number_free() -> None:
    """FILLING, ABANDON: the block never was; the next one has its number and its slot."""
    segment = formatted()
    machine = sender(segment)
    machine.begin()
    machine.abandon()
    assert (machine.last, machine.pending, segment.seqs(), segment.published) == (0, None, [0, 0, 0], 0)
    assert machine.begin() == 0
    machine.commit(1, 0)
    assert (machine.last, segment.seqs()) == (1, [1, 0, 0])


@pytest.mark.parametrize(("event", "kind"), [(E.COMMIT, Kind.DATA_READY), (E.COMMIT_CLOSE, Kind.CLOSE)])
def test_commit_writes_entry_and_published_and_prepares_the_message(event: SenderEvent, kind: Kind) -> None:
    """FILLING, COMMIT and COMMIT_CLOSE: the message says what the entry says; `sent` waits for the queue."""
    segment = formatted()
    machine = sender(segment)
    machine.begin()
    take(machine, event)
    assert machine.pending is not None
    message = ControlMessage.decode(machine.pending, epoch=EPOCH)
    closing = kind is Kind.CLOSE
    assert segment.entry(0) == (1, message.length, 0 if closing else 77, int(message.flags))
    assert (message.kind, message.slot, message.seq, message.length) == (kind, 0, 1, 0 if closing else 5)
    assert (segment.published, segment.sent, machine.last, machine.last_accepted) == (1, 0, 1, 0)


@pytest.mark.parametrize("event", [E.COMMIT, E.COMMIT_CLOSE])
def test_accepted_counts_the_message(event: SenderEvent) -> None:
    """PENDING and CLOSING, ACCEPTED: `sent` moves in the segment, nothing is pending, the block is noted."""
    segment = formatted()
    machine = sender(segment)
    machine.begin()
    take(machine, event)
    machine.accepted()
    assert (machine.pending, machine.last_accepted, segment.sent, segment.published) == (None, 1, 1, 1)


def test_a_noop_counts_and_changes_nothing_else() -> None:
    """READY, NOOP_ACCEPTED."""
    segment = formatted()
    machine = sender(segment)
    machine.noop_accepted()
    assert (segment.sent, segment.published, segment.seqs(), machine.last) == (1, 0, [0, 0, 0], 0)
    assert ControlMessage.decode(machine.noop, epoch=EPOCH).kind is Kind.NOOP


def test_the_queue_transport_appends_the_payload() -> None:
    """Without a segment the block follows its control message, and the slot on the wire is 0."""
    machine = sender(None)
    payloads: tuple[Payload, ...] = (b"one", b"", bytearray(b"three"), memoryview(b"four"))
    for seq, payload in enumerate(payloads, 1):
        machine.begin()
        machine.commit(len(payload), 0, payload=payload)
        assert machine.pending is not None
        message = ControlMessage.decode(machine.pending[:32], epoch=EPOCH)
        assert (message.slot, message.seq, message.length) == (0, seq, len(payload))
        assert machine.pending[32:] == bytes(payload)
        machine.accepted()


# -- order of stores


class Journal(list[int]):
    """Header words that remember what was stored, in order."""

    def __init__(self, words: Iterable[int]) -> None:
        super().__init__(words)
        self.stored: list[tuple[int, int]] = []

    def __setitem__(self, index: object, value: object) -> None:
        assert isinstance(index, int)
        assert isinstance(value, int)
        self.stored.append((index, value))
        super().__setitem__(index, value)


def journaled() -> tuple[Segment, Journal]:
    """A segment whose header stores are remembered."""
    segment = formatted()
    journal = Journal(segment.words.tolist())
    segment.words = cast("memoryview[int]", journal)
    return segment, journal


# DESIGN 5: clear; (data); length, crc and flags, seq last; published; (message); sent.
IN_ORDER = [(6, 0), (7, 5), (8, 0), (6, 1), (PUBLISHED, 1), (SENT, 1)]


def test_a_block_is_written_in_the_order_that_survives_a_kill() -> None:
    """Step by step."""
    segment, journal = journaled()
    machine = sender(segment)
    journal.stored.clear()
    machine.begin()
    machine.commit(5, 0)
    assert journal.stored == IN_ORDER[:-1]
    machine.accepted()
    assert journal.stored == IN_ORDER


def test_a_run_writes_a_block_in_the_same_order() -> None:
    """The fast loop too; the message goes between `published` and `sent`."""
    segment, journal = journaled()
    machine = sender(segment)
    journal.stored.clear()
    stored: list[int] = []
    noted: list[int] = []

    def transmit(message: bytes, kind: int, timeout: None) -> None:
        stored.append(len(journal.stored))
        assert noted == []

    machine.run([(b"12345", 0)], transmit, noted.append)
    assert journal.stored == IN_ORDER
    assert (stored, noted) == ([5], [1])  # transmitted after five stores; noted when it was accepted


# -- the rule


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_slot_is_free_exactly_when_the_rule_says_so(slots: int, depth: int) -> None:
    """`free` and `drained` are the rule of DESIGN section 3 on the messages that were accepted."""
    geometry = Geometry(slots=slots, depth=depth, slot_size=8)
    machine = sender(formatted(geometry), geometry)
    announced: dict[int, int] = {}
    sent = 0
    for seq in range(1, 4 * slots + 3):
        slot = rule.slot_of(seq, slots)
        while slot in announced and not rule.finished(sent, announced[slot], depth):
            assert not machine.free
            machine.noop_accepted()
            sent += 1
        assert machine.free
        assert machine.begin() == slot
        machine.commit(1, 0)
        machine.accepted()
        sent += 1
        announced[slot] = sent
        assert not machine.drained
    for _ in range(depth):
        assert not machine.drained
        machine.noop_accepted()
    machine.noop_accepted()
    assert machine.drained


def test_a_slot_that_is_still_read_can_not_be_begun() -> None:
    """Misuse by the caller: terminal, and the entry is untouched."""
    geometry = Geometry(slots=1, depth=1, slot_size=8)
    segment = formatted(geometry)
    machine = sender(segment, geometry)
    machine.begin()
    machine.commit(1, 0)
    machine.accepted()
    with pytest.raises(LocalProtocolError, match="still being read"):
        machine.begin()
    assert machine.state is S.FAILED
    assert segment.seqs() == [1]


def test_a_block_larger_than_its_slot_is_not_committed() -> None:
    """Nothing is written: its data would be in the next slot."""
    segment = formatted()
    machine = sender(segment)
    machine.begin()
    with pytest.raises(LocalProtocolError, match="101 bytes do not fit a slot of 100"):
        machine.commit(101, 0)
    assert machine.state is S.FAILED
    assert (segment.seqs(), segment.published) == ([0, 0, 0], 0)


@given(geometries, st.lists(st.integers(0, 40), min_size=1, max_size=30), st.data())
def test_a_run_is_the_same_as_its_steps(geometry: Geometry, sizes: list[int], data: st.DataObject) -> None:
    """The fast loop transmits the same messages, notes the same blocks, and leaves the same segment."""
    flags = [int(data.draw(st.sampled_from(DATA_FLAGS))) for _ in sizes]
    blocks = [(bytes([i & 255]) * min(size, geometry.slot_size), flag) for i, (size, flag) in
              enumerate(zip(sizes, flags, strict=True))]  # fmt: skip
    by_run, by_step = formatted(geometry), formatted(geometry)
    fast, slow = sender(by_run, geometry), sender(by_step, geometry)
    fast_sent: list[bytes] = []
    slow_sent: list[bytes] = []
    noted: list[int] = []
    fast.run(blocks, queue(fast_sent), noted.append)
    for payload, flag in blocks:
        while not slow.free:
            slow_sent.append(slow.noop)
            slow.noop_accepted()
        by_step.slots[slow.begin()][: len(payload)] = payload
        slow.commit(len(payload), flag)
        assert slow.pending is not None
        slow_sent.append(slow.pending)
        slow.accepted()
    assert fast_sent == slow_sent
    assert noted == list(range(1, len(blocks) + 1))
    assert by_run.words.tolist() == by_step.words.tolist()
    assert [bytes(slot) for slot in by_run.slots] == [bytes(slot) for slot in by_step.slots]
    assert (fast.state, fast.last, fast.last_accepted, fast.free, fast.drained) == (
        slow.state, slow.last, slow.last_accepted, slow.free, slow.drained,
    )  # fmt: skip


@pytest.mark.parametrize("state", [S.FILLING, S.PENDING, S.CLOSING, S.CLOSED, S.FAILED], ids=lambda state: state.name)
def test_a_run_begins_when_nothing_is_in_work(state: SenderState) -> None:
    """In any other state it is misuse, and transmits nothing."""
    machine = brought_to(state, formatted())
    sent: list[bytes] = []
    noted: list[int] = []
    with pytest.raises(LocalProtocolError, match=f"{state.name} can not BEGIN"):
        machine.run([(b"x", 0)], queue(sent), noted.append)
    assert (sent, noted, machine.state) == ([], [], S.FAILED)


def test_a_run_needs_a_segment() -> None:
    """In the queue transport it would announce blocks that are nowhere."""
    machine = sender(None)
    sent: list[bytes] = []
    noted: list[int] = []
    with pytest.raises(LocalProtocolError, match="needs a segment"):
        machine.run([(b"x", 0)], queue(sent), noted.append)
    assert (sent, noted, machine.state) == ([], [], S.FAILED)


# -- interruption and restart


def test_resync_finds_an_interrupted_step_and_goes_on() -> None:
    """FILLING is given up, PENDING stays pending, CLOSING stays closing, CLOSED stays closed."""
    for state, found in (
        (S.READY, S.READY), (S.FILLING, S.READY), (S.PENDING, S.PENDING), (S.CLOSING, S.CLOSING),
        (S.CLOSED, S.CLOSED),
    ):  # fmt: skip
        for segment in (formatted(), None):
            machine = brought_to(state, segment)
            pending = machine.pending
            machine.resync()
            assert (machine.state, machine.pending) == (found, pending), state


class Stop(Exception):
    """Comes out of the middle of a step, as from a signal handler."""


@pytest.mark.parametrize("stores", range(7))
def test_a_block_interrupted_after_any_store_is_whole_or_is_not(stores: int) -> None:
    """After `resync` the block either never was, or is pending with its true length and flags."""
    segment, journal = journaled()
    machine = sender(segment)

    class Interrupting(Journal):
        def __setitem__(self, index: object, value: object) -> None:
            if len(self.stored) == stores:
                raise Stop
            super().__setitem__(index, value)

    def block() -> None:
        machine.begin()
        machine.commit(5, int(Flag.MORE))
        machine.accepted()

    words = Interrupting(journal)
    segment.words = cast("memoryview[int]", words)
    if stores < len(IN_ORDER):
        with pytest.raises(Stop):
            block()
    else:
        block()
    segment.words = cast("memoryview[int]", Journal(words))
    machine.resync()
    committed = stores >= 4  # the store of the entry's seq is the commit
    assert machine.last == segment.published == int(committed)
    if committed and stores < len(IN_ORDER) - 1:
        assert machine.state is S.PENDING
        assert machine.pending is not None
        message = ControlMessage.decode(machine.pending, epoch=EPOCH)
        assert (message.seq, message.length, message.flags) == (1, 5, Flag.MORE)
    elif not committed:
        assert (machine.state, machine.pending) == (S.READY, None)


def test_a_new_sender_announces_its_predecessors_last_block_again() -> None:
    """Unless its announcement is known to have been accepted."""
    segment = formatted()
    machine = sender(segment)
    machine.begin()
    machine.commit(5, int(Flag.MORE))
    for accepted, state in ((0, S.PENDING), (1, S.READY)):
        again = sender(segment, accepted=accepted)
        assert (again.state, again.last) == (state, 1)
        found = again.resumption
        assert (found.last_seq, found.in_order, found.unfinished, found.begun) == (1, False, True, False)


def test_a_new_sender_goes_on_after_its_predecessors_close() -> None:
    """A CLOSE that was not accepted is announced again; then the stream of the new sender begins."""
    segment = formatted()
    brought_to(S.CLOSING, segment)
    machine = sender(segment)
    assert machine.resumption.in_order
    assert machine.state is S.PENDING
    assert machine.pending is not None
    assert ControlMessage.decode(machine.pending, epoch=EPOCH).kind is Kind.CLOSE
    machine.accepted()
    assert machine.begin() == 1


def test_a_new_sender_knows_that_a_block_was_begun() -> None:
    """Its entry is cleared, which nobody else does."""
    segment = formatted()
    machine = sender(segment)
    for _ in range(3):
        while not machine.free:
            machine.noop_accepted()
        machine.begin()
        machine.commit(1, 0)
        machine.accepted()
    while not machine.free:
        machine.noop_accepted()
    assert not sender(segment).resumption.begun
    machine.begin()
    found = sender(segment, accepted=3).resumption
    assert (found.last_seq, found.begun) == (3, True)


def test_every_message_is_32_bytes_of_the_wire() -> None:
    """Kind, slot, flags, epoch, seq and length, packed as DESIGN section 4 says."""
    machine = sender(formatted())
    machine.begin()
    machine.commit(100, int(Flag.RECORDS))
    assert machine.pending == struct.pack("<BBHIQQQ", 2, 1, 0, 2, EPOCH, 1, 100)
