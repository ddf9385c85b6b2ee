# SPDX-License-Identifier: Apache-2.0
"""POSIX queues and segments through posix_ipc.

For speed, time-outs and a descriptor to poll; never the default: `mq_getattr`, `mq_notify` and `poll` are ways
back that no policy mediates (DESIGN section 6), and a segment's owner may shrink it under a reader.

Every descriptor is non-blocking and every wait is poll(2): Python resumes that after a signal and lets the
handler's exception out, where posix_ipc's own waits swallow it.  Unlinking wakes nobody, so a wait looks up
ten times a second whether the channel still lives.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import posix_ipc

from sipc.errors import Broken, ChannelNotFound, Denied, KernelError, RemoteProtocolError
from sipc.kernel.base import SPINS, KernelObjects, Keys, KeyTaken, Memory, Queue, lost, squatted
from sipc.spec import Role

__all__ = ("PosixObjects",)

_LOOK = 0.1  # seconds between looks at whether the channel still lives, while waiting
_DEAD = b"SIPCDEAD"


@contextmanager
def _translated(syscall: str, obj: str) -> Iterator[None]:
    try:
        yield
    except posix_ipc.PermissionsError as error:
        raise Denied(
            f"{syscall} on {obj}: permission denied by mode, owner or SELinux; "
            "check that this process runs as the user (and in the domain) its role has in the definition"
        ) from error
    except posix_ipc.ExistentialError as error:
        raise ChannelNotFound(f"{syscall}: no {obj}; it was removed, or is in another ipc namespace") from error
    except (posix_ipc.Error, OSError, ValueError) as error:
        # posix_ipc words a refused argument as ValueError, a queue too many as OSError, both without errno.
        number = getattr(error, "errno", None) or (errno.EINVAL if isinstance(error, ValueError) else errno.ENOSPC)
        raise KernelError(number, f"{error}; 'sipc doctor' checks the limits", syscall=syscall, obj=obj) from error


class _PosixMemory(Memory):
    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            if os.fstat(fd).st_size < size:
                raise RemoteProtocolError("segment size", os.fstat(fd).st_size, f"at least {size}")
            # The map is unmapped when its last view dies; it keeps a descriptor of its own.
            self.view = memoryview(mmap.mmap(fd, size, access=access))
        finally:
            os.close(fd)

    def close(self) -> None:
        self.view.release()


class _PosixQueue(Queue):
    def __init__(self, queue: Any, obj: str, events: int, alive: Callable[[], bool]) -> None:
        self._queue = queue
        self._obj = obj
        self._alive = alive
        self._events = events
        self._send = queue.send
        # `for self._got in ...` keeps system call and store in C: see `kernel/sysv.py`.
        self._tries = map(queue.receive, repeat(0))
        self._got: tuple[bytes, int] | None = None

    def _wait(self, deadline: float | None) -> bool:
        poll = select.poll()
        poll.register(self._queue.mqd, self._events)
        while True:
            pause = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
            if poll.poll(max(0.0, pause) * 1000):
                return True
            self._check()
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _check(self) -> None:
        if not self._alive():
            raise Broken("the queue was removed: the channel was destroyed or replaced; open it again by its name")

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        del kind  # POSIX has priorities, no types: all messages keep their order
        deadline = None if timeout is None else time.monotonic() + timeout
        spins, alive = SPINS, self._alive
        while True:
            if not alive():
                self._check()
            try:
                self._send(message)
            except posix_ipc.BusyError:
                if timeout == 0:
                    return False
                spins -= 1
                if spins <= 0 and not self._wait(deadline):
                    return False
            except (posix_ipc.Error, OSError) as error:
                with _translated("mq_send", self._obj):
                    raise error
            else:
                return True

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        if self._got is not None:
            return self._got[0], None
        deadline = None if timeout is None else time.monotonic() + timeout
        spins, alive, tries = SPINS, self._alive, self._tries
        while True:
            if not alive():
                self._check()
            try:
                for self._got in tries:
                    return self._got[0], None
            except posix_ipc.BusyError:
                if timeout == 0:
                    return None
                spins -= 1
                if spins <= 0 and not self._wait(deadline):
                    return None
            except (posix_ipc.Error, OSError) as error:
                with _translated("mq_receive", self._obj):
                    raise error

    def done(self) -> None:
        self._got = None

    def fileno(self) -> int | None:
        return int(self._queue.mqd)

    def close(self) -> None:
        self._got = None
        self._alive = lambda: True  # its look at the segment would keep that mapped
        with contextlib.suppress(posix_ipc.ExistentialError):
            self._queue.close()


class PosixObjects(KernelObjects):
    """POSIX message queues and shared memory."""

    def new_keys(self, *, segment: bool) -> Keys:
        def name() -> str:
            return f"/sipc-{secrets.token_hex(12)}"

        return Keys(queue=name(), segment=name() if segment else None)

    def create_queue(self, key: str, *, messages: int, message_size: int) -> None:
        try:
            with _translated("mq_open", f"queue {key}"):
                posix_ipc.MessageQueue(
                    key, posix_ipc.O_CREX, mode=0o600, max_messages=messages, max_message_size=message_size
                ).close()
        except ChannelNotFound as error:
            raise KeyTaken(f"a queue named {key} exists") from error

    def create_segment(self, key: str, size: int) -> Memory:
        try:
            with _translated("shm_open", f"segment {key}"):
                segment = posix_ipc.SharedMemory(key, posix_ipc.O_CREX, mode=0o600, size=size)
        except ChannelNotFound as error:
            raise KeyTaken(f"a segment named {key} exists") from error
        try:
            os.posix_fallocate(segment.fd, 0, size)
            return _PosixMemory(os.dup(segment.fd), size, writable=True)
        except OSError as error:
            posix_ipc.unlink_shared_memory(key)
            raise KernelError(
                error.errno or 0, f"{error.strerror}: is /dev/shm full?", syscall="fallocate", obj=f"segment {key}"
            ) from error
        finally:
            segment.close_fd()

    def give_queue(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        with _translated("mq_open", f"queue {key}"):
            queue = posix_ipc.MessageQueue(key, read=True, write=False)
            try:
                self._give(queue.mqd, uid, gid, mode)
            finally:
                queue.close()

    def give_segment(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        with _translated("shm_open", f"segment {key}"):
            segment = posix_ipc.SharedMemory(key)
            try:
                self._give(segment.fd, uid, gid, mode)
            finally:
                segment.close_fd()

    @staticmethod
    def _give(fd: int, uid: int | None, gid: int | None, mode: int) -> None:
        os.fchmod(fd, mode)
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)

    def remove(self, keys: Keys) -> bool:
        existed = False
        if keys.segment is not None:
            with contextlib.suppress(ChannelNotFound), _translated("shm_open", f"segment {keys.segment}"):
                segment = posix_ipc.SharedMemory(keys.segment)
                try:
                    # Whoever is attached sees this before its next message; unlinking alone it would not see.
                    if os.fstat(segment.fd).st_size >= len(_DEAD):
                        os.pwrite(segment.fd, _DEAD, 0)
                finally:
                    segment.close_fd()
                posix_ipc.unlink_shared_memory(keys.segment)
                existed = True
        with contextlib.suppress(ChannelNotFound), _translated("mq_unlink", f"queue {keys.queue}"):
            posix_ipc.unlink_message_queue(keys.queue)
            existed = True
        return existed

    def open_queue(self, key: str, role: Role, *, message_size: int, memory: Memory | None) -> Queue:
        del message_size  # the kernel keeps it
        sending = role is Role.SENDER
        with _translated("mq_open", f"queue {key}"):
            queue = posix_ipc.MessageQueue(key, os.O_NONBLOCK, read=not sending, write=sending)
        if memory is None:

            def alive() -> bool:
                return os.fstat(queue.mqd).st_nlink > 0
        else:
            word = memory.view[:8].cast("Q")
            dead = int.from_bytes(_DEAD, "little")

            def alive() -> bool:
                return word[0] != dead

        return _PosixQueue(queue, f"queue {key}", select.POLLOUT if sending else select.POLLIN, alive)

    def open_segment(self, key: str, role: Role, size: int) -> Memory | None:
        writable = role is Role.SENDER
        try:
            with _translated("shm_open", f"segment {key}"):
                segment = posix_ipc.SharedMemory(key, read_only=not writable)
        except ChannelNotFound:
            return None
        return _PosixMemory(segment.fd, size, writable=writable)

    def own_segment(
        self, key: str, size: int, *, gid: int | None, mode: int, known: int
    ) -> tuple[Memory, int, bool]:
        made = False
        if not known:
            with contextlib.suppress(KeyTaken):
                self.create_segment(key, size).close()
                made = True
        try:
            with _translated("shm_open", f"segment {key}"):
                fd = posix_ipc.SharedMemory(key).fd
        except ChannelNotFound as error:
            raise lost(key) from error
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            os.close(fd)
            raise squatted(key)
        # The inode tells the segment that was made before from one that came later under its name.
        if known not in (0, status.st_ino):
            os.close(fd)
            raise lost(key)
        if made:
            try:
                with _translated("fchown", f"segment {key}"):
                    self._give(fd, None, gid, mode)
            except BaseException:
                os.close(fd)
                posix_ipc.unlink_shared_memory(key)
                raise
        return _PosixMemory(fd, size, writable=True), status.st_ino, made
