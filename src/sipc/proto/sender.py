# SPDX-License-Identifier: Apache-2.0
"""The sender's side of the handshake, sans I/O.

Owns which slot may be written, in which order a block becomes real, and what the next control message is.
Must not know kernel objects, time or bytes of payload: the caller copies data and transmits messages.

Order for one block (DESIGN 5): clear the slot's entry; data; entry, seq last (the commit); `published`;
DATA_READY; `sent`.  Whatever interrupts the caller, `resync()` brings machine and segment to one state.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Never

from sipc.errors import LocalProtocolError
from sipc.proto import control, rule
from sipc.proto.control import Flag, Kind
from sipc.proto.segment import ENTRY_WORDS, HEADER_WORDS, PUBLISHED, SENT, Segment
from sipc.spec import Geometry

Payload = bytes | bytearray | memoryview

__all__ = ("SENDER_TABLE", "Resumption", "SenderEvent", "SenderMachine", "SenderState")


class SenderState(enum.IntEnum):
    """Where the sender stands."""

    READY = 0  # no block in work
    FILLING = 1  # a slot's entry is cleared, its data is being written
    PENDING = 2  # a block is committed, its DATA_READY not yet accepted by the queue
    CLOSING = 3  # the CLOSE block is committed, its message not yet accepted
    CLOSED = 4  # the CLOSE message is in the queue
    FAILED = 5  # its caller did things out of order; nothing leads out


class SenderEvent(enum.IntEnum):
    """What happens to a sender."""

    BEGIN = 0
    ABANDON = 1
    COMMIT = 2
    COMMIT_CLOSE = 3
    ACCEPTED = 4
    NOOP_ACCEPTED = 5


_S, _E = SenderState, SenderEvent
SENDER_TABLE: dict[tuple[SenderState, SenderEvent], tuple[str, SenderState]] = {
    (_S.READY, _E.BEGIN): ("clear the slot's entry", _S.FILLING),
    (_S.READY, _E.NOOP_ACCEPTED): ("count the message", _S.READY),
    (_S.FILLING, _E.ABANDON): ("leave the entry cleared", _S.READY),
    (_S.FILLING, _E.COMMIT): ("write entry and published", _S.PENDING),
    (_S.FILLING, _E.COMMIT_CLOSE): ("write entry and published", _S.CLOSING),
    (_S.PENDING, _E.ACCEPTED): ("count the message", _S.READY),
    (_S.CLOSING, _E.ACCEPTED): ("count the message", _S.CLOSED),
}
# The same table as nested lists of small integers: a dict keyed by enum members hashes in Python code.
_NEXT: list[list[int | None]] = [
    [SENDER_TABLE[state, event][1] if (state, event) in SENDER_TABLE else None for event in SenderEvent]
    for state in SenderState
]
_BEGIN, _ABANDON, _COMMIT, _COMMIT_CLOSE, _ACCEPTED, _NOOP = (int(event) for event in SenderEvent)
_READY, _FILLING, _PENDING, _CLOSING, _CLOSED, _FAILED = (int(state) for state in SenderState)
_CLOSE_FLAG = int(Flag.CLOSE)
_VERSION = control.VERSION
_pack = control.LAYOUT.pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What a new sender found of its predecessor.

    `last_seq`: newest committed block, 0 if none.  `in_order`: the stream was closed (or never begun).
    `unfinished`: block `last_seq` was not the last of its message, so that message is lost as a whole.
    `begun`: a block after `last_seq` was begun and did not survive.  When all a caller sent is one block a
    message, its last message survived exactly if `last_seq` is that message's seq.
    """

    last_seq: int = 0
    in_order: bool = True
    unfinished: bool = False
    begun: bool = False


class SenderMachine:
    """One sender of one epoch.

    `segment` is None in the queue transport.  `last` and `in_order` are then what the caller remembers of
    the predecessor; with a segment both are read from it.  `accepted` is the newest block whose announcement is
    known to have been taken by the queue; the caller keeps `last_accepted` for its successor.
    """

    __slots__ = (
        "_after", "_announced", "_epoch", "_geometry", "_last_announced", "_segment", "_sent", "_slots", "_state",
        "last", "last_accepted", "noop", "pending", "resumption",
    )  # fmt: skip

    def __init__(
        self,
        *,
        geometry: Geometry,
        epoch: int,
        segment: Segment | None,
        last: int = 0,
        in_order: bool = True,
        accepted: int = 0,
    ) -> None:
        self._geometry = geometry
        self._epoch = epoch
        self._segment = segment
        self._slots, self._after = geometry.slots, rule.finished_after(geometry.depth)
        self._sent = 0
        self._state = _READY
        self._announced: list[int | None] = [None] * geometry.slots
        self._last_announced: int | None = None
        self.last = last
        self.last_accepted = accepted
        self.pending: bytes | None = None
        self.noop = control.encode(Kind.NOOP, 0, 0, epoch, 0, 0)
        if segment is None:
            self._last_announced = 0 if last else None  # what a predecessor announced may still be in the queue
            self.resumption = Resumption(last_seq=last, in_order=in_order)
        else:
            self.resumption = self._recover(segment)

    @property
    def state(self) -> SenderState:
        """Where the sender stands now."""
        return SenderState(self._state)

    @property
    def free(self) -> bool:
        """Whether the next block's slot may be written; if not, NOOPs must go first."""
        announced = self._announced[self.last % self._slots]
        return announced is None or self._sent >= announced + self._after

    @property
    def drained(self) -> bool:
        """Whether the receiver has finished with everything announced so far."""
        last = self._last_announced
        return last is None or rule.finished(self._sent, last, self._geometry.depth)

    def _advance(self, event: int) -> None:
        following = _NEXT[self._state][event]
        if following is None:
            state, name = SenderState(self._state).name, SenderEvent(event).name
            self._misused(f"a sender that is {state} can not {name}: close it and open a new one")
        self._state = following

    def _misused(self, message: str) -> Never:
        self._state = _FAILED
        raise LocalProtocolError(message)

    def begin(self) -> int:
        """Take the next block's slot for writing; returns its index.  Needs `free`."""
        slot = self.last % self._slots
        announced = self._announced[slot]
        if announced is not None and self._sent < announced + self._after:
            self._misused("the next slot is still being read: send NOOPs until it is free")
        if self._state == _READY:
            self._state = _FILLING
        else:
            self._advance(_BEGIN)
        if self._segment is not None:
            self._segment.clear(slot)
        return slot

    def abandon(self) -> None:
        """Give up the block in work; it never was."""
        self._advance(_ABANDON)

    def commit(self, length: int, flags: int, crc: int = 0, payload: Payload = b"") -> None:
        """Make the block real; `pending` is then the message that announces it.

        `payload` is the block's data in the queue transport, where it follows the control message.
        """
        if length > self._geometry.slot_size:
            self._misused(f"{length} bytes do not fit a slot of {self._geometry.slot_size}")
        kind = 1
        if self._state == _FILLING and not flags & _CLOSE_FLAG:
            self._state = _PENDING
        else:
            kind = 3 if flags & _CLOSE_FLAG else 1
            self._advance(_COMMIT_CLOSE if kind == 3 else _COMMIT)
        seq = self.last + 1
        slot = 0
        if self._segment is not None:
            slot = self.last % self._slots
            self._segment.commit(slot, seq, length, crc, flags)
            self._segment.published = seq
        self.last = seq
        message = _pack(_VERSION, kind, slot, flags, self._epoch, seq, length)
        self.pending = message + payload if payload else message

    def accepted(self) -> None:
        """The queue took the pending message."""
        if self._state == _PENDING:
            self._state = _READY
        else:
            self._advance(_ACCEPTED)
        self.pending = None
        self._sent = self._last_announced = sent = self._sent + 1
        self.last_accepted = last = self.last
        if self._segment is not None:
            self._announced[(last - 1) % self._slots] = sent
            self._segment.sent = sent

    def run(
        self,
        blocks: Iterable[tuple[Payload, int]],
        transmit: Callable[[bytes, int, None], object],
        note: Callable[[int], None],
    ) -> None:
        """Send blocks, each given as (bytes, flags), in the order of `begin`, `commit` and `accepted`, in one loop.

        For speed: a block takes microseconds, and three calls for each cost as much again.  `transmit(message,
        kind, None)` waits until the queue has accepted; `note` keeps each block's seq when that is done.  Needs a
        segment.  Whatever interrupts it, `resync()` finds what is real.
        """
        segment = self._segment
        if segment is None:
            self._misused("a run of blocks needs a segment: use begin, commit and accepted")
        if self._state != _READY:
            return self._advance(_BEGIN)
        words, slots, announced, after = segment.words, segment.slots, self._announced, self._after
        seq, sent, count, epoch, noop = self.last, self._sent, self._slots, self._epoch, self.noop
        for data, flags in blocks:
            slot = seq % count
            seq += 1
            before = announced[slot]
            if before is not None:
                while sent < before + after:
                    transmit(noop, 2, None)
                    words[SENT] = sent = sent + 1
            entry = HEADER_WORDS + ENTRY_WORDS * slot
            length = len(data)
            words[entry] = 0
            slots[slot][:length] = data
            words[entry + 1] = length
            words[entry + 2] = flags << 32
            words[entry] = seq
            words[PUBLISHED] = seq
            transmit(_pack(_VERSION, 1, slot, flags, epoch, seq, length), 1, None)
            announced[slot] = words[SENT] = sent = sent + 1
            note(seq)
        self.last = self.last_accepted = seq
        self._sent = self._last_announced = sent
        return None

    def noop_accepted(self) -> None:
        """The queue took a NOOP."""
        self._advance(_NOOP)
        self._sent += 1
        if self._segment is not None:
            self._segment.sent = self._sent

    def resync(self) -> None:
        """After an interruption at any point: find the state the segment is in, and go on from there."""
        if self._state in (_CLOSED, _FAILED):
            return
        if self._segment is not None:
            known, closing = self.last, self._state == _CLOSING
            self._recover(self._segment)
            if self.pending is not None and (closing or self.last > known):
                # Ours, not a predecessor's: once accepted, this sender is done.
                self._state = _CLOSING if self.pending[1] == Kind.CLOSE else _PENDING
        elif self.pending is not None:
            # Without a segment `pending` is the truth; sent twice, it is ignored by its seq.
            self._state = _CLOSING if self.pending[1] == Kind.CLOSE else _PENDING
        else:
            self._state = _READY

    def _recover(self, segment: Segment) -> Resumption:
        slots = self._geometry.slots
        self._sent = segment.sent
        entries = segment.seqs()
        last, self._announced, again = rule.resume(
            self._sent, segment.published, entries, self.last_accepted
        )
        if segment.published != last:
            segment.published = last
        self.last = last
        self.pending = None
        self._state = _READY
        self._last_announced = self._sent if last else None
        flags = 0
        slot = rule.slot_of(last, slots) if last else 0
        if last and entries[slot] == last:
            _, length, _, flags = segment.entry(slot)
        if again:
            closing = flags & _CLOSE_FLAG
            self.pending = control.encode(3 if closing else 1, slot, flags, self._epoch, last, length)
            # A predecessor's CLOSE is announced again like any block; this sender then goes on after it.
            self._state = _PENDING
        begun = entries[rule.slot_of(last + 1, slots)] == 0 and last >= slots
        return Resumption(
            last_seq=last,
            in_order=last == 0 or bool(flags & _CLOSE_FLAG),
            unfinished=bool(flags & Flag.MORE) and not flags & _CLOSE_FLAG,
            begun=begun,
        )
