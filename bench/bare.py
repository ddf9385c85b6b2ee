# SPDX-License-Identifier: Apache-2.0
"""The bare loop: the least a correct Python program would do over the same system calls.

One control message packed with struct, one slot entry (seq, length), two copies, and the rule of DESIGN
section 3 that decides when a slot may be written again.  No recovery, no checks of the peer, no timeouts, no
errors: what the library costs on top of this is what the targets bound.

Two more, "trying first", make some calls that do not wait before the one that does, as the library does: a
core that goes to sleep and is woken costs more than a small block.  They are shown, and no target names them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import struct
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import posix_ipc
import sysv_ipc
from bench.contest import SLOT_SIZE, Contestant, Private, spans

GEOMETRIES = ((4, 2), (3, 1), (1, 1))
BACKENDS = ("sysv", "posix")
_CONTROL = struct.Struct("<BBHIQQQ")
_READY, _NOOP = 1, 2
_MORE = 1
_PAGE = 4096
_ENTRIES, _ENTRY = 6, 4  # words before the first slot entry, words of one
_NEVER = -1 << 32
_TRIES = 50


class Bare(Contestant):
    """Queue and segment of one geometry; subclasses know the backend."""

    no_wait: Any  # the last argument of a call that does not wait
    busy: type[Exception]  # what such a call raises

    def __init__(self, backend: str, slots: int, depth: int, tries: int) -> None:
        super().__init__(f"bare {backend} {slots}/{depth}{', trying first' if tries else ''}")
        self.tries = tries
        self.slots = slots
        self.depth = depth
        self.segment_size = _PAGE + slots * SLOT_SIZE

    def _views(self, view: memoryview) -> None:
        self.words = view[:_PAGE].cast("Q")
        starts = range(_PAGE, self.segment_size, SLOT_SIZE)
        self.blocks = [view[start : start + SLOT_SIZE] for start in starts]

    @abstractmethod
    def _attach(self, *, sender: bool) -> tuple[Any, memoryview]:
        """The queue and the segment's view."""

    def _patient(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, tried without waiting first if this contestant does so."""
        tries, no_wait, busy = self.tries, self.no_wait, self.busy
        if not tries:
            return call

        def trying(*message: bytes) -> Any:
            for _ in range(tries):
                try:
                    return call(*message, no_wait)
                except busy:
                    pass
            return call(*message)

        return trying

    def open_sender(self) -> None:
        queue, view = self._attach(sender=True)
        self.send = self._patient(queue.send)
        self._views(view)
        self.message = Private.message(self.size)
        self.announced = [_NEVER] * self.slots
        self.seq = self.sent = 0

    def open_receiver(self) -> None:
        queue, view = self._attach(sender=False)
        self.receive = self._patient(queue.receive)
        self._views(view.toreadonly())
        self.into = Private.buffer(self.size)
        self.seq = 0

    def give(self, count: int) -> None:
        if self.size > SLOT_SIZE:
            self._give_spanning(count)
        else:
            self._give(self.message, count)

    def _give(self, message: bytes, count: int) -> None:
        send, pack = self.send, _CONTROL.pack
        words, blocks, announced = self.words, self.blocks, self.announced
        slots, after = self.slots, self.depth + 1
        seq, sent, size = self.seq, self.sent, len(message)
        for _ in range(count):
            slot = seq % slots
            seq += 1
            while sent < announced[slot] + after:
                send(pack(2, _NOOP, 0, 0, 7, 0, 0))
                sent += 1
            blocks[slot][:size] = message
            entry = _ENTRIES + _ENTRY * slot
            words[entry + 1] = size
            words[entry] = seq
            send(pack(2, _READY, slot, 0, 7, seq, size))
            sent += 1
            announced[slot] = sent
        self.seq, self.sent = seq, sent

    def _give_spanning(self, count: int) -> None:
        send, pack = self.send, _CONTROL.pack
        words, blocks, announced = self.words, self.blocks, self.announced
        slots, after = self.slots, self.depth + 1
        seq, sent, view = self.seq, self.sent, memoryview(self.message)
        parts = [(start, end, _MORE if end < self.size else 0) for start, end in spans(self.size, SLOT_SIZE)]
        for _ in range(count):
            for start, end, flags in parts:
                slot = seq % slots
                seq += 1
                while sent < announced[slot] + after:
                    send(pack(2, _NOOP, 0, 0, 7, 0, 0))
                    sent += 1
                blocks[slot][: end - start] = view[start:end]
                entry = _ENTRIES + _ENTRY * slot
                words[entry + 1] = end - start
                words[entry] = seq
                send(pack(2, _READY, slot, flags, 7, seq, end - start))
                sent += 1
                announced[slot] = sent
        self.seq, self.sent = seq, sent

    def take(self, count: int) -> None:
        if self.size > SLOT_SIZE:
            self._take_spanning(count)
        else:
            self.got = self._take(count)

    def _take(self, count: int) -> bytes:
        receive, unpack, words, blocks = self.receive, _CONTROL.unpack, self.words, self.blocks
        seq, got = self.seq, b""
        while count:
            _, kind, slot, _, _, its_seq, length = unpack(receive()[0])
            if kind == _READY:
                seq += 1
                if its_seq != seq or words[_ENTRIES + _ENTRY * slot] != seq:
                    raise RuntimeError(f"{self.name}: block {its_seq} where {seq} should be")
                got = bytes(blocks[slot][:length])
                count -= 1
        self.seq = seq
        return got

    def _take_spanning(self, count: int) -> None:
        receive, unpack, words, blocks = self.receive, _CONTROL.unpack, self.words, self.blocks
        seq, into, filled = self.seq, self.into, 0
        while count:
            _, kind, slot, flags, _, its_seq, length = unpack(receive()[0])
            if kind == _READY:
                seq += 1
                if its_seq != seq or words[_ENTRIES + _ENTRY * slot] != seq:
                    raise RuntimeError(f"{self.name}: block {its_seq} where {seq} should be")
                into[filled : filled + length] = blocks[slot][:length]
                filled += length
                if not flags & _MORE:
                    count -= 1
                    filled = 0
        self.seq, self.got = seq, into

    def give_one(self, data: bytes) -> None:
        self._give(data, 1)

    def take_one(self) -> bytes:
        return self._take(1)


class BareSysv(Bare):
    """System V queue and segment."""

    no_wait = False
    busy = sysv_ipc.BusyError

    def __init__(self, slots: int, depth: int, tries: int = 0) -> None:
        super().__init__("sysv", slots, depth, tries)

    def setup(self) -> None:
        queue = sysv_ipc.MessageQueue(_key(), sysv_ipc.IPC_CREX, mode=0o600)
        self.removing(queue.remove)
        queue.max_size = self.depth * _CONTROL.size
        segment = sysv_ipc.SharedMemory(_key(), sysv_ipc.IPC_CREX, mode=0o600, size=self.segment_size)
        self.removing(segment.remove)
        self.removing(segment.detach)
        segment.write(bytes(self.segment_size))
        self.keys = (queue.key, segment.key)

    def _attach(self, *, sender: bool) -> tuple[Any, memoryview]:
        queue = sysv_ipc.MessageQueue(self.keys[0], mode=0o200 if sender else 0o400)
        segment = sysv_ipc.SharedMemory(self.keys[1], mode=0o600 if sender else 0o400)
        if not sender:
            segment.detach()
            segment.attach(None, sysv_ipc.SHM_RDONLY)
        self.segment = segment
        return queue, memoryview((ctypes.c_char * self.segment_size).from_address(segment.address)).cast("B")


class BarePosix(Bare):
    """POSIX queue and segment."""

    no_wait = 0
    busy = posix_ipc.BusyError

    def __init__(self, slots: int, depth: int, tries: int = 0) -> None:
        super().__init__("posix", slots, depth, tries)

    def setup(self) -> None:
        self.path = f"/sipc-bench-{secrets.token_hex(8)}"
        queue = posix_ipc.MessageQueue(
            self.path, posix_ipc.O_CREX, mode=0o600, max_messages=self.depth, max_message_size=_CONTROL.size
        )
        self.removing(queue.unlink)
        self.removing(queue.close)
        segment = posix_ipc.SharedMemory(self.path, posix_ipc.O_CREX, mode=0o600, size=self.segment_size)
        self.removing(segment.unlink)
        self.removing(segment.close_fd)
        os.pwrite(segment.fd, bytes(self.segment_size), 0)

    def _attach(self, *, sender: bool) -> tuple[Any, memoryview]:
        queue = posix_ipc.MessageQueue(self.path, read=not sender, write=sender)
        segment = posix_ipc.SharedMemory(self.path, read_only=not sender)
        access = mmap.ACCESS_WRITE if sender else mmap.ACCESS_READ
        view = memoryview(mmap.mmap(segment.fd, self.segment_size, access=access))
        segment.close_fd()
        return queue, view


def _key() -> int:
    return secrets.randbelow(sysv_ipc.KEY_MAX - 1) + 1


def contestants() -> list[Contestant]:
    """One per backend and geometry, and for the default geometry one more that tries first."""
    kinds: tuple[type[BareSysv | BarePosix], ...] = (BareSysv, BarePosix)
    plain = [kind(slots, depth) for kind in kinds for slots, depth in GEOMETRIES]
    return [*plain, *(kind(*GEOMETRIES[0], _TRIES) for kind in kinds)]
