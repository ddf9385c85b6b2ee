# SPDX-License-Identifier: Apache-2.0
"""Frames: how messages and answers are told apart on a stream of bytes.

Owns the layout, little-endian as the rest of the wire; bytes in, frames out, no input or output of its own.

    message   u32 length, payload
    answer    u8 code, u32 length, payload

The code of an answer is a `Code`.  The payload of a `PASS` is what to hand on, that of the others a text.  Spoken by
persistent command filters, standard input and output, and Unix sockets; the page `docs/stages.md` is for who writes
the other side.
"""

from __future__ import annotations

import struct

from sipc.errors import SpecError
from sipc.guard.verdicts import Code

__all__ = ("ANSWER", "MESSAGE", "FramingError", "MessageFrames", "answer", "message", "read_answer", "too_long")

MESSAGE = struct.Struct("<I")
ANSWER = struct.Struct("<BI")
_CODES = frozenset(Code)
_LARGEST = 0xFFFFFFFF  # the length is a u32


class FramingError(Exception):
    """What came is no frame, or a larger one than was agreed; each caller says whose fault that is."""


def too_long(payload: bytes, limit: int = _LARGEST) -> None:
    """Raise `SpecError` when a frame can not hold `payload`."""
    most = min(limit, _LARGEST)
    if len(payload) > most:
        raise SpecError(f"a message of {len(payload)} bytes does not go into a frame: at most {most} do")


def message(payload: bytes) -> bytes:
    """One message as a frame."""
    too_long(payload)
    return MESSAGE.pack(len(payload)) + payload


def answer(code: int, payload: bytes) -> bytes:
    """One answer as a frame."""
    too_long(payload)
    return ANSWER.pack(code, len(payload)) + payload


def read_answer(data: bytes | bytearray, limit: int) -> tuple[Code, bytes] | None:
    """The one answer that `data` is; None when it is the beginning of one.

    Raises `FramingError` as early as it can be known: an unknown code, more than `limit` bytes, bytes after the answer.
    """
    if data and data[0] not in _CODES:
        raise FramingError(f"an answer begins with {data[0]}, which is none of {sorted(_CODES)}")
    if len(data) < ANSWER.size:
        return None
    code, length = ANSWER.unpack_from(data)
    if length > limit:
        raise FramingError(f"an answer says it has {length} bytes, and may have {limit}")
    end = ANSWER.size + length
    if len(data) > end:
        raise FramingError(f"{len(data) - end} bytes came after the answer")
    return (Code(code), bytes(data[ANSWER.size : end])) if len(data) == end else None


class MessageFrames:
    """Messages out of a stream that is fed in pieces of any size."""

    def __init__(self, limit: int) -> None:
        """Take messages of at most `limit` bytes."""
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._data += data

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended; ask after `next` has given None."""
        return bool(self._data)

    def next(self) -> bytes | None:
        """The next whole message; None when more must come.  Raises `FramingError` for one beyond the limit."""
        if len(self._data) < MESSAGE.size:
            return None
        (length,) = MESSAGE.unpack_from(self._data)
        if length > self._limit:
            raise FramingError(f"a message says it has {length} bytes, and may have {self._limit}")
        end = MESSAGE.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[MESSAGE.size : end])
        del self._data[:end]
        return payload

    def rest(self, most: int, count: int) -> list[bytes]:
        """Whole messages that are there, until they have `most` bytes or are `count`; none behind one that is wrong."""
        data, head, unpack, limit = self._data, MESSAGE.size, MESSAGE.unpack_from, self._limit
        have, at, size = len(data), 0, 0
        found: list[bytes] = []
        with memoryview(data) as view:
            while len(found) < count and size < most and have - at >= head:
                (length,) = unpack(view, at)
                end = at + head + length
                if length > limit or end > have:
                    break
                found.append(bytes(view[at + head : end]))
                at, size = end, size + length
        del data[:at]
        return found
