# SPDX-License-Identifier: Apache-2.0
"""Many messages on their way through the worker of a Python filter, and its replies.

Owns the stage's side of what `area.py` lays out: which messages the worker has, in parts small enough that it judges
one while the next is put in, and which reply is for which.  Knows nothing of verdicts, and kills nothing: a reply that
is none becomes `failure`, and the caller (`filters.py`) decides.

Every reply is checked where it lies in this process: nothing of it is in shared memory.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sipc.guard.area import NOTICE, REPLY, SAME, TAG, Area
from sipc.guard.process import Child
from sipc.guard.verdicts import Code

__all__ = ("AREA_SIZE", "AS_IT_CAME", "Batches", "Reply")

# Some parts on their way while others are put in, and yet within the second-level cache of most machines.
AREA_SIZE = 1 << 20
_PART_BYTES = 128 << 10
_PART_COUNT = 256
_AT_ONCE = 1 << 20  # bytes; the worker is not to fill this process's memory because it is quick
_CODES = frozenset({*map(int, Code), SAME})

Reply = tuple[int, bytes]  # code, payload
AS_IT_CAME: Reply = (SAME, b"")
# What a part's replies are when it passes everything as it came, but for the tag before each.
_ALL_SAME = tuple(REPLY.pack(bytes(TAG), number, SAME, 0)[TAG:] for number in range(_PART_COUNT))


@dataclass(slots=True)
class _Part:
    tag: bytes
    count: int
    in_area: bool
    answered: int = 0
    noticed: bool = False


class Batches:
    """What one worker has in hand.  Never waits, but in `wait`."""

    def __init__(self, child: Child, area: Area, room: int) -> None:
        """Talk with `child`, which can read `area`; a reply's payload may have `room` bytes."""
        self.failure: str | None = None
        self.since = 0.0  # when the message in turn can have begun at the earliest (CLOCK_MONOTONIC)
        self._child = child
        self._area = area
        self._room = room
        self._parts: deque[_Part] = deque()
        self._out: deque[tuple[_Part, memoryview]] = deque()  # what the pipe to it had no room for
        self._in = bytearray()

    @property
    def busy(self) -> bool:
        """Whether the worker owes a reply."""
        return bool(self._parts)

    def offer(self, messages: Sequence[bytes], first: int) -> int:
        """Hand over as many of `messages[first:]` as there is room for; the index of the first that was not."""
        silent = 0  # bytes after which nothing rings
        while first < len(messages):
            lengths = list(accumulate(map(len, messages[first : first + _PART_COUNT])))
            count = max(1, bisect_right(lengths, _PART_BYTES))
            end = first + count
            silent += lengths[count - 1]
            # The last one, and now and then one by which there is room for more.
            ring = end == len(messages) or silent >= self._area.size // 4
            if not self._hand_over(messages[first:end], ring=ring):
                break
            first, silent = end, 0 if ring else silent
        self._push()
        return first

    def _hand_over(self, part: Sequence[bytes], *, ring: bool) -> bool:
        large = len(part) == 1 and len(part[0]) > self._area.size // 4
        if large and self._out:
            return False
        offset = len(part[0]) if large else self._area.put(part)
        if offset is None:
            return False
        tag = secrets.token_bytes(TAG)
        if not self._parts:
            self.since = time.monotonic()
        entry = _Part(tag, len(part), not large)
        self._parts.append(entry)
        self._out.append((entry, memoryview(NOTICE.pack(tag, 0 if large else len(part), offset, ring))))
        if large:
            self._out.append((entry, memoryview(part[0])))
        return True

    def _push(self) -> None:
        while self._out:
            part, left = self._out[0]
            taken = self._child.take(left)
            if taken < len(left):
                self._out[0] = (part, left[taken:])
                return
            self._out.popleft()
            if left.nbytes and not part.noticed:
                part.noticed = True
                self._area.noticed()

    def replies(self) -> list[Reply]:
        """What has come since, in the order of the messages; `failure` says what came behind it that is no reply."""
        found: list[Reply] = []
        read = 0
        while self.failure is None and read < _AT_ONCE and (piece := self._child.unasked()):
            self._in += piece
            read += len(piece)
            self._read(found)
            self._let_go()
            if self._in and not self._parts:
                self.failure = f"{len(self._in)} bytes came after the answer"
        if found:
            self.since = time.monotonic()
        return found

    def _read(self, found: list[Reply]) -> None:
        """Move whole replies from what was read to `found`."""
        data, size, at = self._in, REPLY.size, 0
        have, room, unpack = len(data), self._room, REPLY.unpack_from
        for part in self._parts:
            tag, number = part.tag, part.answered
            if self._out and self._out[0][0] is part and have > at:
                self.failure = "it answered before it had read the message"
                break
            whole = min(part.count - number, (have - at) // size)
            if data[at : at + whole * size] == tag.join((b"", *_ALL_SAME[number : number + whole])):
                found += [AS_IT_CAME] * whole
                at, number = at + whole * size, number + whole
            while number < part.count and at + size <= have:
                its, which, code, length = unpack(data, at)
                if its != tag or which != number or code not in _CODES or length > room:
                    self.failure = self._wrong(its == tag and which == number, code, length)
                    break
                end = at + size + length
                if end > have:
                    break
                found.append((code, bytes(memoryview(data)[at + size : end]) if length else b""))
                at, number = end, number + 1
            part.answered = number
            if number < part.count:
                break
        del data[:at]

    def _wrong(self, ours: bool, code: int, length: int) -> str:
        if not ours:
            return "it answered another message"
        if code not in _CODES:
            return f"an answer begins with {code}, which is none of {sorted(_CODES)}"
        return f"an answer says it has {length} bytes, and may have {self._room}"

    def _let_go(self) -> None:
        while self._parts and self._parts[0].answered == self._parts[0].count:
            if self._parts.popleft().in_area:
                self._area.let_go()

    def wait(self, timeout: float) -> bool:
        """Sleep until the worker rings, takes more, or has ended (True), at most `timeout` seconds."""
        ended = self._child.wait(timeout, writing=bool(self._out))
        self._push()
        return ended
