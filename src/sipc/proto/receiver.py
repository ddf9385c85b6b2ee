# SPDX-License-Identifier: Apache-2.0
"""The receiver's side of the handshake, sans I/O.

Owns the judgement of every field a hostile sender controls, the cursor, and when the next message may be
consumed.  Must not know kernel objects, time, files, or where the payload goes.

A violation raises `RemoteProtocolError`, is terminal, and nothing of that block reaches the caller.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Never

from sipc.errors import Broken, LocalProtocolError, RemoteProtocolError
from sipc.proto import control, rule
from sipc.proto.control import CONTROL_SIZE, Flag
from sipc.proto.segment import ENTRY_WORDS, HEADER_WORDS, Segment
from sipc.spec import TAG_SIZE, Geometry

__all__ = ("RECEIVER_TABLE", "ReceiverEvent", "ReceiverMachine", "ReceiverState")


class ReceiverState(enum.IntEnum):
    """Where the receiver stands."""

    WAITING = 0  # the next message may be consumed
    HOLDING = 1  # a block is with the caller; nothing may be consumed
    ENDED = 2  # the stream was closed
    FAILED = 3  # the sender broke the protocol, or this side's caller did


class ReceiverEvent(enum.IntEnum):
    """What happens to a receiver."""

    NOTHING = 0  # a NOOP, or a block announced again
    BLOCK = 1
    FINISH = 2
    END = 3
    VIOLATION = 4


_S, _E = ReceiverState, ReceiverEvent
RECEIVER_TABLE: dict[tuple[ReceiverState, ReceiverEvent], tuple[str, ReceiverState]] = {
    (_S.WAITING, _E.NOTHING): ("ignore", _S.WAITING),
    (_S.WAITING, _E.BLOCK): ("hand the block to the caller", _S.HOLDING),
    (_S.WAITING, _E.END): ("advance the cursor, end the stream", _S.ENDED),
    (_S.WAITING, _E.VIOLATION): ("raise RemoteProtocolError", _S.FAILED),
    (_S.HOLDING, _E.FINISH): ("advance the cursor", _S.WAITING),
    (_S.HOLDING, _E.VIOLATION): ("raise RemoteProtocolError", _S.FAILED),
    (_S.FAILED, _E.VIOLATION): ("raise RemoteProtocolError", _S.FAILED),
}
_NEXT: list[list[int | None]] = [
    [RECEIVER_TABLE[state, event][1] if (state, event) in RECEIVER_TABLE else None for event in ReceiverEvent]
    for state in ReceiverState
]
_NOTHING, _BLOCK, _FINISH, _END, _VIOLATION = (int(event) for event in ReceiverEvent)
_WAITING, _HOLDING, _ENDED, _FAILED = (int(state) for state in ReceiverState)
_MORE, _RECORDS, _RESTART = int(Flag.MORE), int(Flag.RECORDS), int(Flag.RESTART)
_CLOSE, _CONTINUED = int(Flag.CLOSE), int(Flag.CONTINUED)
_VERSION = control.VERSION
_U32 = (1 << 32) - 1
# What a stream consists of: whole messages, packed records, and the blocks of a large message.
_USUAL_FLAGS = (0, _MORE | _CONTINUED, _MORE, _CONTINUED, _RECORDS)
_unpack = control.LAYOUT.unpack


class ReceiverMachine:
    """One receiver of one epoch.

    `segment` is None in the queue transport, where a block's payload follows its control message.
    `cursor` is the last finished block, None when not known: the first block that arrives then sets it.
    `record_bytes` is how much of an unfinished record a predecessor kept, None if there is none.

    `verify(seq, slot, length, flags)` is given where blocks have tags: it takes a private copy of the block's `length`
    bytes and of the tag behind them, and raises `RemoteProtocolError` unless the tag is right.  It is asked before
    anything of the block is believed, the end of a stream included.

    After an event BLOCK: `seq`, `slot`, `length` (without the tag), `flags`, `crc` describe the block.
    """

    __slots__ = (
        "_epoch", "_geometry", "_max_message", "_record_bytes", "_segment", "_skipping",
        "_slot_size", "_slots", "_state", "_trailer", "_usual", "_verify",
        "blocks", "crc", "cursor", "cut", "failure", "flags", "length", "restarted", "seq", "slot",
    )  # fmt: skip

    def __init__(
        self,
        *,
        geometry: Geometry,
        epoch: int,
        segment: Segment | None,
        max_message: int,
        cursor: int | None = None,
        record_bytes: int | None = None,
        verify: Callable[[int, int, int, int], None] | None = None,
    ) -> None:
        self._geometry = geometry
        self._verify = verify
        self._trailer = 0 if verify is None else TAG_SIZE
        self._usual = _USUAL_FLAGS if verify is None else ()  # a block with a tag has no short way
        self._slots, self._slot_size = geometry.slots, geometry.slot_size
        self._epoch = epoch
        self._segment = segment
        self._max_message = max_message
        self._record_bytes = record_bytes
        self._skipping = False
        self._state = _WAITING
        self.cursor = cursor
        self.failure: RemoteProtocolError | None = None
        self.blocks = 0  # blocks of this stream seen by this receiver
        self.cut = False  # the stream was closed with more to come
        self.restarted = False  # the sender was replaced in the middle of this stream
        self.seq = self.slot = self.length = self.flags = self.crc = 0

    @property
    def state(self) -> ReceiverState:
        """Where the receiver stands now."""
        return ReceiverState(self._state)

    @property
    def holding(self) -> bool:
        """Whether a block is in hand."""
        return self._state == _HOLDING

    @property
    def ended(self) -> bool:
        """Whether the stream was closed."""
        return self._state == _ENDED

    @property
    def record_bytes(self) -> int | None:
        """Bytes of an unfinished record finished so far, None outside a record."""
        return self._record_bytes

    def attach(self, segment: Segment) -> None:
        """Give the machine its segment when it came later than the queue (segment_creator = "sender")."""
        self._segment = segment

    def _advance(self, event: int) -> None:
        following = _NEXT[self._state][event]
        if following is None:
            state, name = ReceiverState(self._state).name, ReceiverEvent(event).name
            self._state = _FAILED
            raise LocalProtocolError(f"a receiver that is {state} can not take {name}: open a new one")
        self._state = following

    def fail(self, error: RemoteProtocolError) -> Never:
        """Enter the terminal state and raise `error`; the first one, when there was one before."""
        self._advance(_VIOLATION)
        if self.failure is None:
            self.failure = error
        raise self.failure

    def feed(self, message: bytes, mtype: int | None = None) -> int:
        """Judge one consumed message; returns a `ReceiverEvent` (NOTHING, BLOCK or END) as an int.

        `mtype` is the System V message type, None where the backend has none.
        """
        segment, cursor = self._segment, self.cursor
        if self._state == _WAITING and segment is not None and cursor is not None and len(message) == CONTROL_SIZE:
            # The expected case, checked at once; whatever differs is named by the slow path below.
            version, kind, slot, flags, epoch, seq, length = _unpack(message)
            so_far = self._record_bytes
            if (
                seq == cursor + 1
                and version == _VERSION
                and kind == 1
                and (mtype == 1 or mtype is None)
                and flags in self._usual
                and epoch == self._epoch
                and slot == cursor % self._slots
                and length <= self._slot_size
                and (so_far is not None or not flags & _CONTINUED)
                and (total := so_far + length if flags & _CONTINUED and so_far else length) <= self._max_message
                and not self._skipping
                and (words := segment.words)[entry := HEADER_WORDS + ENTRY_WORDS * slot] == seq
                and words[entry + 1] == length
                and (crc_flags := words[entry + 2]) >> 32 == flags
                and not words[entry + 3]
            ):
                self.seq, self.slot, self.length, self.flags, self.crc = seq, slot, length, flags, crc_flags & _U32
                self._record_bytes = total if flags & _CONTINUED else None
                self.blocks += 1
                self._state = _HOLDING
                return _BLOCK
        if self._state != _WAITING:
            if self.failure is not None:
                raise self.failure
            self._state = _FAILED
            raise LocalProtocolError("a message may be consumed only when the block before it is finished")
        try:
            return self._judge(message, mtype)
        except RemoteProtocolError as error:
            self.fail(error)

    def _judge(self, message: bytes, mtype: int | None) -> int:
        segment = self._segment
        head = message[:CONTROL_SIZE] if segment is None else message
        kind, slot, flags, seq, length = control.decode(head, self._epoch, self._trailer)
        if mtype is not None and mtype != kind:
            raise RemoteProtocolError("mtype", mtype, f"{kind}, the kind of the message")
        if segment is None:
            self._check_payload(kind, message, length)
        if kind == control.Kind.NOOP:
            return _NOTHING
        return self._judge_block(slot, flags, seq, length)

    def _check_payload(self, kind: int, message: bytes, length: int) -> None:
        payload = len(message) - CONTROL_SIZE
        if kind == control.Kind.NOOP:
            if payload > self._geometry.slot_size or message.count(0, CONTROL_SIZE) != payload:
                raise RemoteProtocolError("NOOP padding", payload, "zero bytes, at most one slot's worth")
        elif payload != length:
            raise RemoteProtocolError("length", length, f"{payload}, the bytes that follow it in the message")

    def _judge_block(self, slot: int, flags: int, seq: int, length: int) -> int:
        slots, size = self._geometry.slots, self._geometry.slot_size
        expected = rule.slot_of(seq, slots) if self._segment is not None else 0
        if slot != expected:
            raise RemoteProtocolError("slot", slot, f"{expected}, the slot of block {seq}")
        if length > size:
            raise RemoteProtocolError("length", length, f"at most {size}, the size of a slot")
        if length < self._trailer:
            raise RemoteProtocolError("length", length, f"at least {self._trailer}, the size of a tag")
        known = self.cursor is not None
        cursor = self.cursor if self.cursor is not None else seq - 1
        came = rule.arrival(cursor, seq)
        if came is rule.Arrival.SEEN:
            return _NOTHING
        if came is rule.Arrival.GAP:
            raise RemoteProtocolError("seq", seq, f"{cursor + 1}, the block after the last finished one")
        crc = 0
        if self._segment is not None:
            entry_seq, entry_length, crc, entry_flags = self._segment.entry(slot)
            if (entry_seq, entry_length, entry_flags) != (seq, length, flags):
                raise RemoteProtocolError(
                    "slot entry (seq, length, flags)",
                    (entry_seq, entry_length, entry_flags),
                    f"{(seq, length, flags)}, as announced",
                )
        return self._admit(seq, slot, length - self._trailer, flags, crc, known=known)

    def _admit(self, seq: int, slot: int, length: int, flags: int, crc: int, *, known: bool) -> int:
        if self._verify is not None:
            self._verify(seq, slot, length, flags)
        if flags & _CONTINUED:
            if not known:
                self._skipping = True
            elif self._record_bytes is None and not self._skipping:
                raise RemoteProtocolError("flags", flags, "without CONTINUED, as no record is open")
            total = (self._record_bytes or 0) + length
        else:
            self._skipping = False
            total = length
        if total > self._max_message:
            raise RemoteProtocolError("record length", total, f"at most max_message = {self._max_message}")
        if flags & _RESTART and self.blocks:
            self.restarted = True
        self.seq, self.slot, self.length, self.flags, self.crc = seq, slot, length, flags, crc
        if self._skipping:
            self.cursor = seq
            if not known:
                raise Broken(
                    f"joined in the middle of a message (block {seq}): its start was taken by an earlier receiver; "
                    "call again to go on with the next message, and open with cursor= so that this can not happen"
                )
            self._skipping = bool(flags & _MORE)
            return _NOTHING
        if flags & _CLOSE:
            self.cut = bool(flags & _MORE)
            self.cursor = seq
            self._record_bytes = None
            self._advance(_END)
            return _END
        self._record_bytes = total if flags & _CONTINUED else None
        self.blocks += 1
        self._advance(_BLOCK)
        return _BLOCK

    def recover(self) -> int:
        """Before the first message is consumed: take up the block after the cursor if its slot holds it.

        Returns BLOCK, END, or NOTHING.  Source: DESIGN section 5.
        """
        if self.failure is not None:
            raise self.failure
        if self._segment is None or self.cursor is None or self._state != _WAITING:
            return _NOTHING
        seq = self.cursor + 1
        slot = rule.slot_of(seq, self._geometry.slots)
        try:
            entry_seq, length, crc, flags = self._segment.entry(slot)
            if entry_seq != seq:
                return _NOTHING
            control.check_flags(flags)
            trailer = self._trailer
            if not trailer <= length <= self._geometry.slot_size or (flags & _CLOSE and length != trailer):
                raise RemoteProtocolError("entry length", length, f"{trailer} for CLOSE, else within the slot")
            return self._admit(seq, slot, length - trailer, flags, crc, known=True)
        except RemoteProtocolError as error:
            self.fail(error)

    def finish(self) -> None:
        """The caller is done with the block: advance the cursor, allow the next message."""
        if self._state == _HOLDING:
            self._state = _WAITING
        else:
            if self.failure is not None:
                raise self.failure
            self._advance(_FINISH)
        self.cursor = self.seq
        if self.flags & _MORE:
            self._record_bytes = self._record_bytes if self.flags & _CONTINUED else self.length
        else:
            self._record_bytes = None
