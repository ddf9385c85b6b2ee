# SPDX-License-Identifier: Apache-2.0
"""An in-process fake: the same interface over lists, for tests and for trying things out.

It keeps nothing apart: sender and receiver share one address space.  Use it to test what is above it.
"""

from __future__ import annotations

import secrets
from collections import deque
from itertools import count, starmap
from math import inf

from sipc.errors import Broken, ChannelNotFound, Denied, RemoteProtocolError, SpecError
from sipc.kernel.base import KernelObjects, Keys, KeyTaken, Memory, Queue, attempt, lost, squatted
from sipc.spec import Role

__all__ = ("MemoryObjects",)


class _Shared:
    """One queue: bounded, ordered, with a removed mark.

    There is no lock: one end appends and one pops, each in one step, and a lock would not survive a signal handler
    that raises while it is being taken.
    """

    def __init__(self, messages: int, message_size: int) -> None:
        self.room = messages
        self.message_size = message_size
        self.items: deque[tuple[bytes, int]] = deque()
        self.removed = False


_queues: dict[str, _Shared] = {}
_segments: dict[str, bytearray] = {}
_own: dict[str, int] = {}  # the numbers of senders' own segments
_numbers = count(1)


class _FakeMemory(Memory):
    def __init__(self, data: bytearray, size: int, *, writable: bool) -> None:
        view = memoryview(data)[:size]
        self.view = view if writable else view.toreadonly()

    def close(self) -> None:
        self.view.release()


class _FakeQueue(Queue):
    def __init__(self, shared: _Shared, role: Role) -> None:
        self._shared = shared
        self._role = role
        self._inbox: list[tuple[bytes, int]] = []

    def _check(self) -> None:
        if self._shared.removed:
            raise Broken("the queue was removed: the channel was destroyed or replaced; open it again by its name")

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        shared, item = self._shared, (bytes(message), kind)
        if self._role is not Role.SENDER:
            raise Denied("a receiver's end of a queue can not send")
        if len(message) > shared.message_size:
            raise SpecError(f"a message of {len(message)} bytes: this queue's hold {shared.message_size}")

        def try_once() -> bool:
            self._check()
            if len(shared.items) >= shared.room:
                return False
            shared.items.append(item)
            return True

        return try_once() or attempt(try_once, inf if timeout is None else timeout)

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        if self._role is not Role.RECEIVER:
            raise Denied("a sender's end of a queue can not receive")
        if not self._inbox and not self._try_receive():
            attempt(self._try_receive, inf if timeout is None else timeout)
        return self._inbox[0] if self._inbox else None

    def _try_receive(self) -> bool:
        self._check()
        if not self._shared.items:
            return False
        # In C, so that a signal handler that raises can not come between taking and keeping.
        self._inbox.extend(starmap(self._shared.items.popleft, ((),)))
        return True

    def done(self) -> None:
        self._inbox.clear()

    def close(self) -> None:
        self._inbox.clear()


class MemoryObjects(KernelObjects):
    """Queues and segments that live in this process."""

    def new_keys(self, *, segment: bool) -> Keys:
        return Keys(queue=secrets.token_hex(8), segment=secrets.token_hex(8) if segment else None)

    def create_queue(self, key: str, *, messages: int, message_size: int) -> None:
        if key in _queues:
            raise KeyTaken(f"a queue named {key} exists")
        _queues[key] = _Shared(messages, message_size)

    def create_segment(self, key: str, size: int) -> Memory:
        if key in _segments:
            raise KeyTaken(f"a segment named {key} exists")
        _segments[key] = bytearray(size)
        return _FakeMemory(_segments[key], size, writable=True)

    def give_queue(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        """Nothing to give: there is no owner inside one process."""

    def give_segment(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        """Nothing to give: there is no owner inside one process."""

    def remove(self, keys: Keys) -> bool:
        queue = _queues.pop(keys.queue, None)
        if queue is not None:
            queue.removed = True
        segment = None
        if keys.segment is not None:
            segment = _segments.pop(keys.segment, None)
            _own.pop(keys.segment, None)
        return queue is not None or segment is not None

    def open_queue(self, key: str, role: Role, *, message_size: int, memory: Memory | None) -> Queue:
        del message_size, memory
        if key not in _queues:
            raise ChannelNotFound(f"no queue named {key} in this process")
        return _FakeQueue(_queues[key], role)

    def open_segment(self, key: str, role: Role, size: int) -> Memory | None:
        data = _segments.get(key)
        if data is None:
            return None
        if len(data) < size:
            raise RemoteProtocolError("segment size", len(data), f"at least {size}")
        return _FakeMemory(data, size, writable=role is Role.SENDER)

    def own_segment(
        self, key: str, size: int, *, gid: int | None, mode: int, known: int
    ) -> tuple[Memory, int, bool]:
        del gid, mode
        if known:
            if _own.get(key) != known:
                raise lost(key)
            return _FakeMemory(_segments[key], size, writable=True), known, False
        try:
            memory = self.create_segment(key, size)
        except KeyTaken as error:
            raise squatted(key) from error
        _own[key] = next(_numbers)
        return memory, _own[key], True
