# SPDX-License-Identifier: Apache-2.0
"""An in-process fake: the same interface over lists and a lock, for tests and for trying things out.

It keeps nothing apart: sender and receiver share one address space.  Use it to test what is above it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque

from sipc.errors import Broken, ChannelNotFound, RemoteProtocolError
from sipc.kernel.base import KernelObjects, Keys, KeyTaken, Memory, Queue
from sipc.spec import Role

__all__ = ("MemoryObjects",)


class _Shared:
    """One queue: bounded, ordered, with a removed mark."""

    def __init__(self, messages: int, message_size: int) -> None:
        self.room = messages
        self.message_size = message_size
        self.items: deque[tuple[bytes, int]] = deque()
        self.changed = threading.Condition()
        self.removed = False


_queues: dict[str, _Shared] = {}
_segments: dict[str, bytearray] = {}


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

    def _await(self, ready: bool, timeout: float | None, started: float) -> bool:
        """Wait a little for a change; False when the time is over."""
        if ready:
            return True
        left = None if timeout is None else started + timeout - time.monotonic()
        if left is not None and left <= 0:
            return False
        # In slices, so that signal handlers of the main thread run soon.
        self._shared.changed.wait(0.05 if left is None else min(left, 0.05))
        return True

    def _check(self) -> None:
        if self._shared.removed:
            raise Broken("the queue was removed: the channel was destroyed or replaced; open it again by its name")

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        shared, started = self._shared, time.monotonic()
        with shared.changed:
            while True:
                self._check()
                if len(shared.items) < shared.room:
                    shared.items.append((bytes(message), kind))
                    shared.changed.notify_all()
                    return True
                if not self._await(False, timeout, started):
                    return False

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        shared, started = self._shared, time.monotonic()
        if self._inbox:
            return self._inbox[0]
        with shared.changed:
            while True:
                self._check()
                if shared.items:
                    self._inbox.append(shared.items.popleft())
                    shared.changed.notify_all()
                    return self._inbox[0]
                if not self._await(False, timeout, started):
                    return None

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
            with queue.changed:
                queue.removed = True
                queue.changed.notify_all()
        segment = _segments.pop(keys.segment, None) if keys.segment else None
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
        del gid, mode, known
        if key in _segments:
            return _FakeMemory(_segments[key], size, writable=True), 1, False
        return self.create_segment(key, size), 1, True
