# SPDX-License-Identifier: Apache-2.0
"""The shared memory transport of the libsipc wire: 3 (ready), 4 (reading), 5 (done), both sides."""

from __future__ import annotations

import enum
from typing import Never

from sipc.errors import LocalProtocolError, RemoteProtocolError
from sipc.proto.libsipc.wire import (
    CONTROL_SIZE,
    SIZE_T,
    Message,
    MessageType,
    next_state,
)

__all__ = (
    "SHM_RECEIVER_TABLE",
    "SHM_SENDER_TABLE",
    "ShmReceiver",
    "ShmReceiverEvent",
    "ShmReceiverState",
    "ShmSender",
    "ShmSenderEvent",
    "ShmSenderState",
)

_M = MessageType

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
            return SIZE_T.pack(length), int(_M.READY)
        return SIZE_T.pack(0), int(_M.READING if state is _SS.READING else _M.DONE)

    def begin(self, length: int) -> None:
        """Announce the first `length` bytes of the segment.  Not while `pending`."""
        state, _, count = self._now
        self._now = (next_state(SHM_SENDER_TABLE, state, _SE.BEGIN), length, count)

    def accepted(self) -> None:
        """Go on: the queue took the message that was due."""
        state, _, count = self._now
        self._now = (next_state(SHM_SENDER_TABLE, state, _SE.ACCEPTED), 0, count + 1)


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
        self._now = (next_state(SHM_RECEIVER_TABLE, state, event), length, message)

    def _judge(self, state: ShmReceiverState, message: Message) -> tuple[ShmReceiverEvent, int]:
        body, mtype = message
        expected, event, bound = _SHM_EXPECTED[state]
        if mtype != expected:
            raise RemoteProtocolError("mtype", mtype, bound)
        if len(body) != CONTROL_SIZE:
            raise RemoteProtocolError("message size", len(body), f"{CONTROL_SIZE} bytes, one size_t")
        length: int = SIZE_T.unpack(body)[0]
        limit = self._size if event is _RE.READY else 0
        if length > limit:
            raise RemoteProtocolError("length", length, f"at most {limit}")
        return event, length

    def fail(self, error: RemoteProtocolError) -> Never:
        """Enter the terminal state and raise `error`."""
        following = next_state(SHM_RECEIVER_TABLE, self._now[0], _RE.VIOLATION)
        if self.failure is None:
            self.failure = error
        self._now = (following, 0, self._now[2])
        raise self.failure

    def finish(self) -> None:
        """Take the block back: the caller has finished with it."""
        self._now = (next_state(SHM_RECEIVER_TABLE, self._now[0], _RE.FINISH), 0, self._now[2])
