# SPDX-License-Identifier: Apache-2.0
"""The queue-only transport of the libsipc wire: 9 (length), any number of 3 (chunk), 0xc (end), both sides."""

from __future__ import annotations

import enum
from typing import Never

from sipc.errors import LocalProtocolError, RemoteProtocolError
from sipc.proto.libsipc.wire import (
    END_BODY,
    LENGTH,
    LONGEST_LENGTH,
    Message,
    MessageType,
    next_state,
)

__all__ = (
    "QUEUE_RECEIVER_TABLE",
    "QUEUE_SENDER_TABLE",
    "QueueReceiver",
    "QueueReceiverEvent",
    "QueueReceiverState",
    "QueueSender",
    "QueueSenderEvent",
    "QueueSenderState",
)

_M = MessageType

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
        return END_BODY, int(_M.END)

    def begin(self, data: bytes) -> None:
        """Send `data`.  Not while `pending`."""
        state, _, _, count, sent = self._now
        self._now = (next_state(QUEUE_SENDER_TABLE, state, _QE.BEGIN), data, 0, count, sent)

    def accepted(self) -> None:
        """Go on: the queue took the message that was due."""
        state, data, offset, count, sent = self._now
        if state is _QS.SENDING:
            offset += self._chunk
        event = _QE.ACCEPTED if offset < len(data) else _QE.ACCEPTED_LAST
        following = next_state(QUEUE_SENDER_TABLE, state, event)
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
        self._now = (next_state(QUEUE_RECEIVER_TABLE, state, event), length, came, data, message)

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
        found = LENGTH.fullmatch(body)
        if not found:
            raise RemoteProtocolError("length", body[:LONGEST_LENGTH], "an ASCII decimal number and one NUL")
        length = int(found[1])
        if length > self._size:
            raise RemoteProtocolError("length", length, f"at most {self._size}, this side's size")
        return length

    def fail(self, error: RemoteProtocolError) -> Never:
        """Enter the terminal state and raise `error`."""
        following = next_state(QUEUE_RECEIVER_TABLE, self._now[0], _IE.VIOLATION)
        if self.failure is None:
            self.failure = error
        self._now = (following, 0, 0, bytearray(), self._now[4])
        raise self.failure

    def take(self) -> bytes:
        """Hand out the data, whose messages have all come."""
        following = next_state(QUEUE_RECEIVER_TABLE, self._now[0], _IE.TAKE)
        data = bytes(self._now[3])
        self._now = (following, 0, 0, bytearray(), self._now[4])
        return data


def _check_end(body: bytes) -> None:
    if body != END_BODY:
        raise RemoteProtocolError("end marker", body[:LONGEST_LENGTH], "one byte, 1")
