# SPDX-License-Identifier: Apache-2.0
"""The wire of the C library libsipc 1.2, sans I/O: both transports, both sides.

Owns the bytes and types of every message, their order, and the judgement of what a sender controls.  Must not
know kernel objects, time or the segment: the caller moves messages, the machines say which one is due next
and what one that came means.

A message is `(body, mtype)`, as System V has it.  Shared memory: 3 (ready, with the length), 4 (reading), 5
(done), each with one native `size_t`; the queue holds one of them, so the sender gets rid of 5 only when the
receiver, finished, has taken 4.  Queue only: 9 (the length in ASCII with its NUL), any number of 3 (a chunk),
0xc (end).

A machine's progress is one tuple, replaced in one store: whatever a signal handler raises, and wherever, a
machine is before or after a step and never in the middle of one.  Source: DESIGN section 4, docs/libsipc.md.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Mapping
from typing import Never, TypeVar

from sipc.errors import LocalProtocolError, RemoteProtocolError

__all__ = (
    "CONTROL_SIZE",
    "LONGEST_LENGTH",
    "QUEUE_RECEIVER_TABLE",
    "QUEUE_SENDER_TABLE",
    "SHM_RECEIVER_TABLE",
    "SHM_SENDER_TABLE",
    "Message",
    "MessageType",
    "QueueReceiver",
    "QueueReceiverEvent",
    "QueueReceiverState",
    "QueueSender",
    "QueueSenderEvent",
    "QueueSenderState",
    "ShmReceiver",
    "ShmReceiverEvent",
    "ShmReceiverState",
    "ShmSender",
    "ShmSenderEvent",
    "ShmSenderState",
    "chunk_size",
)

Message = tuple[bytes, int | None]

_SIZE_T = struct.Struct("@N")
CONTROL_SIZE = _SIZE_T.size  # bytes in a message of the shared memory transport; also its queue's limit
LONGEST_LENGTH = len(str((1 << 8 * CONTROL_SIZE) - 1)) + 1  # bytes in the longest message of type 9
_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,19})\x00")  # what printf("%zu") makes of a 64-bit number, no more
_END_BODY = b"\x01"
_SIZEOF_LONG = struct.calcsize("@l")


class MessageType(enum.IntEnum):
    """`mtype` of a message.  3 announces a block in one transport and carries a chunk in the other."""

    READY = 3
    CHUNK = 3
    READING = 4
    DONE = 5
    LENGTH = 9
    END = 0xC


_M = MessageType


def chunk_size(msgsize_max: int) -> int:
    """Bytes in a full chunk where fs.mqueue.msgsize_max is `msgsize_max`: the C library counts mtype in."""
    return max(1, msgsize_max - _SIZEOF_LONG)


_State = TypeVar("_State", bound=enum.IntEnum)
_Event = TypeVar("_Event", bound=enum.IntEnum)


def _following(
    table: Mapping[tuple[_State, _Event], tuple[str, _State]], state: _State, event: _Event
) -> _State:
    """Look up the state after `event`; a pair that is not in the table is this side's mistake."""
    try:
        return table[state, event][1]
    except KeyError:
        raise LocalProtocolError(
            f"{type(state).__name__} {state.name} can not take {event.name}: finish what is under way first"
        ) from None


# Shared memory, sender


class ShmSenderState(enum.IntEnum):
    """Which message is due."""

    READY = 0  # none: the segment is the caller's
    ANNOUNCING = 1  # 3
    READING = 2  # 4: the block is announced
    FINISHING = 3  # 5: the block is with the receiver


class ShmSenderEvent(enum.IntEnum):
    """What happens to a sender."""

    BEGIN = 0
    ACCEPTED = 1


_SS, _SE = ShmSenderState, ShmSenderEvent
SHM_SENDER_TABLE: dict[tuple[ShmSenderState, ShmSenderEvent], tuple[str, ShmSenderState]] = {
    (_SS.READY, _SE.BEGIN): ("3 is due", _SS.ANNOUNCING),
    (_SS.ANNOUNCING, _SE.BEGIN): ("3 was never accepted: another is due in its place", _SS.ANNOUNCING),
    (_SS.ANNOUNCING, _SE.ACCEPTED): ("4 is due", _SS.READING),
    (_SS.READING, _SE.ACCEPTED): ("5 is due", _SS.FINISHING),
    (_SS.FINISHING, _SE.ACCEPTED): ("the receiver has finished", _SS.READY),
}


class ShmSender:
    """Sends the three messages of one block after another."""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        self._now = (_SS.READY, 0, 0)  # state, length, messages accepted

    @property
    def state(self) -> ShmSenderState:
        """Where the sender stands now."""
        return self._now[0]

    @property
    def pending(self) -> bool:
        """Whether a block was announced that the receiver has not finished: hands off the segment."""
        return self._now[0] in (_SS.READING, _SS.FINISHING)

    @property
    def count(self) -> int:
        """How many messages were accepted so far: tells a message that is due from the one before it."""
        return self._now[2]

    @property
    def sent(self) -> int:
        """How many blocks the receiver has finished with."""
        return self._now[2] // 3

    @property
    def due(self) -> tuple[bytes, int] | None:
        """The message the queue must accept next, None when there is none."""
        state, length, _ = self._now
        if state is _SS.READY:
            return None
        if state is _SS.ANNOUNCING:
            return _SIZE_T.pack(length), int(_M.READY)
        return _SIZE_T.pack(0), int(_M.READING if state is _SS.READING else _M.DONE)

    def begin(self, length: int) -> None:
        """Announce the first `length` bytes of the segment.  Not while `pending`."""
        state, _, count = self._now
        self._now = (_following(SHM_SENDER_TABLE, state, _SE.BEGIN), length, count)

    def accepted(self) -> None:
        """Go on: the queue took the message that was due."""
        state, _, count = self._now
        self._now = (_following(SHM_SENDER_TABLE, state, _SE.ACCEPTED), 0, count + 1)


# Shared memory, receiver


class ShmReceiverState(enum.IntEnum):
    """Which message must come."""

    WAITING = 0  # 3
    HOLDING = 1  # none: the block is with the caller, who has not finished
    RELEASING = 2  # 4: the caller has finished
    FINISHING = 3  # 5
    FAILED = 4  # none: the sender broke the protocol


class ShmReceiverEvent(enum.IntEnum):
    """What happens to a receiver."""

    READY = 0
    FINISH = 1
    READING = 2
    DONE = 3
    VIOLATION = 4


_RS, _RE = ShmReceiverState, ShmReceiverEvent
SHM_RECEIVER_TABLE: dict[tuple[ShmReceiverState, ShmReceiverEvent], tuple[str, ShmReceiverState]] = {
    (_RS.WAITING, _RE.READY): ("hand the block to the caller", _RS.HOLDING),
    (_RS.HOLDING, _RE.FINISH): ("take the block back", _RS.RELEASING),
    (_RS.RELEASING, _RE.READING): ("go on", _RS.FINISHING),
    (_RS.FINISHING, _RE.DONE): ("the sender may write again", _RS.WAITING),
    (_RS.WAITING, _RE.VIOLATION): ("raise RemoteProtocolError", _RS.FAILED),
    (_RS.RELEASING, _RE.VIOLATION): ("raise RemoteProtocolError", _RS.FAILED),
    (_RS.FINISHING, _RE.VIOLATION): ("raise RemoteProtocolError", _RS.FAILED),
    (_RS.FAILED, _RE.VIOLATION): ("raise RemoteProtocolError", _RS.FAILED),
}
_SHM_EXPECTED = {
    _RS.WAITING: (_M.READY, _RE.READY, "3 (ready), as no block is announced"),
    _RS.RELEASING: (_M.READING, _RE.READING, "4 (reading), as the block was announced"),
    _RS.FINISHING: (_M.DONE, _RE.DONE, "5 (done), as the block is being read"),
}


class ShmReceiver:
    """Judges the three messages of each block.  `size` is how many bytes of the segment are attached."""

    __slots__ = ("_now", "_size", "failure")

    def __init__(self, size: int) -> None:
        self._size = size
        self._now: tuple[ShmReceiverState, int, Message | None] = (_RS.WAITING, 0, None)
        self.failure: RemoteProtocolError | None = None

    @property
    def state(self) -> ShmReceiverState:
        """Where the receiver stands now."""
        return self._now[0]

    @property
    def length(self) -> int:
        """Bytes in the block being held; 0 when there is none."""
        return self._now[1]

    def feed(self, message: Message) -> None:
        """Judge one message.

        The very object fed last is ignored: a queue hands it out again until it is told that this was done.
        Raises `RemoteProtocolError`, and at every later call again; `LocalProtocolError` in HOLDING.
        """
        if message is self._now[2]:
            return
        if self.failure is not None:
            raise self.failure
        state = self._now[0]
        if state not in _SHM_EXPECTED:
            raise LocalProtocolError("a message may be consumed only when the block before it is finished")
        try:
            event, length = self._judge(state, message)
        except RemoteProtocolError as error:
            self.fail(error)
        self._now = (_following(SHM_RECEIVER_TABLE, state, event), length, message)

    def _judge(self, state: ShmReceiverState, message: Message) -> tuple[ShmReceiverEvent, int]:
        body, mtype = message
        expected, event, bound = _SHM_EXPECTED[state]
        if mtype != expected:
            raise RemoteProtocolError("mtype", mtype, bound)
        if len(body) != CONTROL_SIZE:
            raise RemoteProtocolError("message size", len(body), f"{CONTROL_SIZE} bytes, one size_t")
        length: int = _SIZE_T.unpack(body)[0]
        limit = self._size if event is _RE.READY else 0
        if length > limit:
            raise RemoteProtocolError("length", length, f"at most {limit}")
        return event, length

    def fail(self, error: RemoteProtocolError) -> Never:
        """Enter the terminal state and raise `error`."""
        following = _following(SHM_RECEIVER_TABLE, self._now[0], _RE.VIOLATION)
        if self.failure is None:
            self.failure = error
        self._now = (following, 0, self._now[2])
        raise self.failure

    def finish(self) -> None:
        """Take the block back: the caller has finished with it."""
        self._now = (_following(SHM_RECEIVER_TABLE, self._now[0], _RE.FINISH), 0, self._now[2])


# Queue only, sender


class QueueSenderState(enum.IntEnum):
    """Which message is due."""

    READY = 0  # none
    ANNOUNCING = 1  # 9
    SENDING = 2  # 3, a chunk
    ENDING = 3  # 0xc


class QueueSenderEvent(enum.IntEnum):
    """What happens to a sender."""

    BEGIN = 0
    ACCEPTED = 1  # and bytes are left to send
    ACCEPTED_LAST = 2  # and none are


_QS, _QE = QueueSenderState, QueueSenderEvent
QUEUE_SENDER_TABLE: dict[tuple[QueueSenderState, QueueSenderEvent], tuple[str, QueueSenderState]] = {
    (_QS.READY, _QE.BEGIN): ("9 is due", _QS.ANNOUNCING),
    (_QS.ANNOUNCING, _QE.BEGIN): ("9 was never accepted: another is due in its place", _QS.ANNOUNCING),
    (_QS.ANNOUNCING, _QE.ACCEPTED): ("3 with the first chunk is due", _QS.SENDING),
    (_QS.ANNOUNCING, _QE.ACCEPTED_LAST): ("0xc is due", _QS.ENDING),
    (_QS.SENDING, _QE.ACCEPTED): ("3 with the next chunk is due", _QS.SENDING),
    (_QS.SENDING, _QE.ACCEPTED_LAST): ("0xc is due", _QS.ENDING),
    (_QS.ENDING, _QE.ACCEPTED_LAST): ("the data is in the queue", _QS.READY),
}


class QueueSender:
    """Sends data as length, chunks of at most `chunk` bytes, end."""

    __slots__ = ("_chunk", "_now")

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._now = (_QS.READY, b"", 0, 0, 0)  # state, data, bytes, messages and ends accepted

    @property
    def state(self) -> QueueSenderState:
        """Where the sender stands now."""
        return self._now[0]

    @property
    def pending(self) -> bool:
        """Whether some of the messages were accepted and some not."""
        return self._now[0] in (_QS.SENDING, _QS.ENDING)

    @property
    def count(self) -> int:
        """How many messages were accepted so far: tells a message that is due from the one before it."""
        return self._now[3]

    @property
    def sent(self) -> int:
        """How many times all of the data was accepted."""
        return self._now[4]

    @property
    def due(self) -> tuple[bytes, int] | None:
        """The message the queue must accept next, None when there is none."""
        state, data, offset, _, _ = self._now
        if state is _QS.READY:
            return None
        if state is _QS.ANNOUNCING:
            return b"%d\x00" % len(data), int(_M.LENGTH)
        if state is _QS.SENDING:
            return data[offset : offset + self._chunk], int(_M.CHUNK)
        return _END_BODY, int(_M.END)

    def begin(self, data: bytes) -> None:
        """Send `data`.  Not while `pending`."""
        state, _, _, count, sent = self._now
        self._now = (_following(QUEUE_SENDER_TABLE, state, _QE.BEGIN), data, 0, count, sent)

    def accepted(self) -> None:
        """Go on: the queue took the message that was due."""
        state, data, offset, count, sent = self._now
        if state is _QS.SENDING:
            offset += self._chunk
        event = _QE.ACCEPTED if offset < len(data) else _QE.ACCEPTED_LAST
        following = _following(QUEUE_SENDER_TABLE, state, event)
        done = following is _QS.READY
        self._now = (following, b"" if done else data, offset, count + 1, sent + done)


# Queue only, receiver


class QueueReceiverState(enum.IntEnum):
    """Which message must come."""

    FIRST = 0  # 9; or 0xc, once, before anything else
    WAITING = 1  # 9
    FILLING = 2  # 3 while bytes are missing, else 0xc
    COMPLETE = 3  # none: the caller has not taken the data
    FAILED = 4  # none: the sender broke the protocol


class QueueReceiverEvent(enum.IntEnum):
    """What happens to a receiver."""

    STRAY_END = 0
    LENGTH = 1
    CHUNK = 2
    END = 3
    TAKE = 4
    VIOLATION = 5


_IS, _IE = QueueReceiverState, QueueReceiverEvent
QUEUE_RECEIVER_TABLE: dict[tuple[QueueReceiverState, QueueReceiverEvent], tuple[str, QueueReceiverState]] = {
    (_IS.FIRST, _IE.STRAY_END): ("ignore: it ends what a receiver before this one took", _IS.WAITING),
    (_IS.FIRST, _IE.LENGTH): ("note the length", _IS.FILLING),
    (_IS.WAITING, _IE.LENGTH): ("note the length", _IS.FILLING),
    (_IS.FILLING, _IE.CHUNK): ("keep the bytes", _IS.FILLING),
    (_IS.FILLING, _IE.END): ("the data is complete", _IS.COMPLETE),
    (_IS.COMPLETE, _IE.TAKE): ("hand the data to the caller", _IS.WAITING),
    (_IS.FIRST, _IE.VIOLATION): ("raise RemoteProtocolError", _IS.FAILED),
    (_IS.WAITING, _IE.VIOLATION): ("raise RemoteProtocolError", _IS.FAILED),
    (_IS.FILLING, _IE.VIOLATION): ("raise RemoteProtocolError", _IS.FAILED),
    (_IS.FAILED, _IE.VIOLATION): ("raise RemoteProtocolError", _IS.FAILED),
}


class QueueReceiver:
    """Puts data together.  `size` is how many bytes one `take()` may give at most."""

    __slots__ = ("_now", "_size", "failure")

    def __init__(self, size: int) -> None:
        self._size = size
        # State, bytes announced, bytes that came, where they are, message fed last.  The buffer grows with
        # what came, never with what was only announced.
        self._now: tuple[QueueReceiverState, int, int, bytearray, Message | None]
        self._now = (_IS.FIRST, 0, 0, bytearray(), None)
        self.failure: RemoteProtocolError | None = None

    @property
    def state(self) -> QueueReceiverState:
        """Where the receiver stands now."""
        return self._now[0]

    def feed(self, message: Message) -> None:
        """Judge one message.

        The very object fed last is ignored: a queue hands it out again until it is told that this was done.
        Raises `RemoteProtocolError`, and again at every later call; `LocalProtocolError` before `take()`.
        """
        if message is self._now[4]:
            return
        if self.failure is not None:
            raise self.failure
        if self._now[0] is _IS.COMPLETE:
            raise LocalProtocolError("a message may be consumed only when the data before it was taken")
        state, _, _, data, _ = self._now
        try:
            event, length, came = self._judge(message)
        except RemoteProtocolError as error:
            self.fail(error)
        self._now = (_following(QUEUE_RECEIVER_TABLE, state, event), length, came, data, message)

    def _judge(self, message: Message) -> tuple[QueueReceiverEvent, int, int]:
        state, length, came, data, _ = self._now
        body, mtype = message
        if state is not _IS.FILLING:
            if mtype == _M.END and state is _IS.FIRST:
                _check_end(body)
                return _IE.STRAY_END, 0, 0
            if mtype != _M.LENGTH:
                raise RemoteProtocolError("mtype", mtype, "9 (length), as no data is announced")
            return _IE.LENGTH, self._judge_length(body), 0
        if mtype == _M.CHUNK:
            missing = length - came
            if not 0 < len(body) <= missing:
                raise RemoteProtocolError("chunk size", len(body), f"1 to {missing} bytes, what is missing")
            # Cut first: when this was interrupted, the same message comes again.
            del data[came:]
            data += body
            return _IE.CHUNK, length, came + len(body)
        if mtype != _M.END:
            raise RemoteProtocolError("mtype", mtype, "3 (chunk) or 12 (end), as data was announced")
        _check_end(body)
        if came != length:
            raise RemoteProtocolError("bytes before the end", came, f"{length}, the length announced")
        return _IE.END, length, came

    def _judge_length(self, body: bytes) -> int:
        found = _LENGTH.fullmatch(body)
        if not found:
            raise RemoteProtocolError("length", body[:LONGEST_LENGTH], "an ASCII decimal number and one NUL")
        length = int(found[1])
        if length > self._size:
            raise RemoteProtocolError("length", length, f"at most {self._size}, this side's size")
        return length

    def fail(self, error: RemoteProtocolError) -> Never:
        """Enter the terminal state and raise `error`."""
        following = _following(QUEUE_RECEIVER_TABLE, self._now[0], _IE.VIOLATION)
        if self.failure is None:
            self.failure = error
        self._now = (following, 0, 0, bytearray(), self._now[4])
        raise self.failure

    def take(self) -> bytes:
        """Hand out the data, whose messages have all come."""
        following = _following(QUEUE_RECEIVER_TABLE, self._now[0], _IE.TAKE)
        data = bytes(self._now[3])
        self._now = (following, 0, 0, bytearray(), self._now[4])
        return data


def _check_end(body: bytes) -> None:
    if body != _END_BODY:
        raise RemoteProtocolError("end marker", body[:LONGEST_LENGTH], "one byte, 1")
