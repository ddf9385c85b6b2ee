# SPDX-License-Identifier: Apache-2.0
"""System V queues and segments through sysv_ipc.

Owns the exact system calls each role makes (DESIGN section 6); each is a test in `tests/host/test_kernel_calls.py`.
An endpoint never calls IPC_STAT: so no `shm.read`, `shm.write`, `shm.size`, no `memoryview(shm)`; the view is
built once from the address and the size in the descriptor.  Waits are the kernel's own, a timed one polls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import weakref
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

import sysv_ipc

from sipc.errors import Broken, ChannelNotFound, Denied, KernelError, RemoteProtocolError, SipcError
from sipc.kernel.base import SPINS, KernelObjects, Keys, KeyTaken, Memory, Queue, attempt, lost, squatted
from sipc.spec import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("SysvObjects",)

_QUEUE_MODE = {Role.SENDER: 0o200, Role.RECEIVER: 0o400}
_SEGMENT_MODE = {Role.SENDER: 0o600, Role.RECEIVER: 0o400}
_SPIN = range(SPINS)
_GONE = (errno.EIDRM, errno.EINVAL)
_IPC_CREAT, _IPC_EXCL, _IPC_RMID, _IPC_SET = 0o1000, 0o2000, 0, 1


def _removed(what: str) -> Broken:
    return Broken(f"the {what} was removed: the channel was destroyed or replaced; open it again by its name")


@contextmanager
def _translated(syscall: str, obj: str) -> Iterator[None]:
    """Turn sysv_ipc's exceptions for one call into ours."""
    try:
        yield
    except sysv_ipc.PermissionsError as error:
        raise Denied(
            f"{syscall} on {obj}: permission denied by mode, owner or SELinux; "
            "check that this process runs as the user (and in the domain) its role has in the definition"
        ) from error
    except sysv_ipc.ExistentialError as error:
        raise ChannelNotFound(
            f"{syscall}: no {obj}; it was removed, or this process is in another ipc namespace: run 'sipc status'"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        number = getattr(error, "errno", None) or {ValueError: errno.EINVAL, MemoryError: errno.ENOMEM}.get(
            type(error), errno.ENOSPC
        )
        raise KernelError(number, f"{error}; 'sipc doctor' checks the limits", syscall=syscall, obj=obj) from error


class _SysvMemory(Memory):
    """An attached segment; shmdt(2) runs when the last view of it dies, so no view can outlive the mapping."""

    def __init__(self, segment: Any, size: int, *, writable: bool) -> None:
        block = (ctypes.c_ubyte * size).from_address(segment.address)
        weakref.finalize(block, segment.detach).atexit = False
        view = memoryview(block).cast("B")
        self.view = view if writable else view.toreadonly()

    def close(self) -> None:
        self.view.release()


class _SysvQueue(Queue):
    def __init__(self, queue: Any, obj: str) -> None:
        self._obj = obj
        self._queue = queue
        self._send = queue.send
        # `for self._got in ...: break` keeps system call and store in C: between them a signal handler that raises
        # can not come, as it could behind an ordinary call, and lose the message.
        self._tries = map(queue.receive, repeat(False))
        self._waits = map(queue.receive, repeat(True))
        self._got: tuple[bytes, int] | None = None

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        send = self._send
        for _ in _SPIN:
            try:
                send(message, False, kind)
            except sysv_ipc.BusyError:
                if timeout == 0:
                    return False
            except (sysv_ipc.Error, OSError) as error:
                self._explain(error, "msgsnd")
            else:
                return True
        if timeout is None:
            while not self._try_send(message, kind, block=True):
                pass
            return True
        return attempt(lambda: self._try_send(message, kind, block=False), timeout)

    def send_noted(self, message: bytes, kind: int, receipt: list[None]) -> None:
        while not receipt:
            try:
                # extend(map()) keeps system call and store in C: a signal handler that raises can not come between.
                receipt.extend(map(self._send, (message,), (True,), (kind,)))
            except (sysv_ipc.Error, OSError) as error:
                self._explain(error, "msgsnd")

    def _try_send(self, message: bytes, kind: int, *, block: bool) -> bool:
        try:
            self._send(message, block, kind)
        except sysv_ipc.BusyError:
            return False
        except (sysv_ipc.Error, OSError) as error:
            self._explain(error, "msgsnd")
            return False
        return True

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        if self._got is not None:
            return self._got
        tries = self._tries
        for _ in _SPIN:
            try:
                for self._got in tries:
                    return self._got
            except sysv_ipc.BusyError:
                if timeout == 0:
                    return None
            except (sysv_ipc.Error, OSError) as error:
                self._explain(error, "msgrcv")
        if timeout is None:
            while not self._try_receive(self._waits):
                pass
        elif not attempt(lambda: self._try_receive(tries), timeout):
            return None
        return self._got

    def _try_receive(self, calls: Iterator[tuple[bytes, int]]) -> bool:
        try:
            for self._got in calls:
                return True
        except sysv_ipc.BusyError:
            return False
        except (sysv_ipc.Error, OSError) as error:
            self._explain(error, "msgrcv")
        return False

    def _explain(self, error: Exception, syscall: str) -> None:
        """Return to retry after a signal (its handler has run by now); raise for everything else."""
        if type(error) is sysv_ipc.Error:
            return
        number = getattr(error, "errno", None)
        if isinstance(error, sysv_ipc.ExistentialError) or number in _GONE:
            raise _removed("queue") from error
        if number == errno.E2BIG:
            raise RemoteProtocolError("message size", "larger than announced", "the size fixed by the wire") from error
        with _translated(syscall, self._obj):
            raise error

    def last_sender(self) -> tuple[int, int] | None:
        with _translated("msgctl IPC_STAT", self._obj):
            pid = int(self._queue.last_send_pid)
            return (pid, int(self._queue.last_send_time)) if pid else None

    def done(self) -> None:
        self._got = None

    def close(self) -> None:
        self._got = None


class SysvObjects(KernelObjects):
    """The default backend: per-message mediation by SELinux, no descriptor, no time-out of its own."""

    def new_keys(self, *, segment: bool) -> Keys:
        # Positive, never 0 (IPC_PRIVATE), never sysv_ipc's own None: its rand() is predictable.
        def key() -> str:
            return str(secrets.randbelow(0x7FFFFFFE) + 1)

        return Keys(queue=key(), segment=key() if segment else None)

    def create_queue(self, key: str, *, messages: int, message_size: int) -> None:
        try:
            with _translated("msgget", f"queue {key}"):
                queue = sysv_ipc.MessageQueue(int(key), sysv_ipc.IPC_CREX, mode=0o600)
        except ChannelNotFound as error:
            raise KeyTaken(f"a queue with key {key} exists") from error
        try:
            with _translated("msgctl IPC_SET", f"queue {key}"):
                queue.max_size = messages * message_size
        except BaseException:
            queue.remove()
            raise

    def create_segment(self, key: str, size: int) -> Memory:
        return _created(key, size, gid=None, mode=None)[0]

    def give_queue(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        with _translated("msgctl IPC_SET", f"queue {key}"):
            self._give(sysv_ipc.MessageQueue(int(key), mode=0), uid, gid, mode)

    def give_segment(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        with _translated("shmctl IPC_SET", f"segment {key}"):
            segment = sysv_ipc.SharedMemory(int(key), mode=0o400)
            try:
                self._give(segment, uid, gid, mode)
            finally:
                segment.detach()

    @staticmethod
    def _give(obj: Any, uid: int | None, gid: int | None, mode: int) -> None:
        # Mode first: the owner that comes last must never find a wider mode than its role's.
        obj.mode = mode
        if gid is not None:
            obj.gid = gid
        if uid is not None:
            obj.uid = uid

    def remove(self, keys: Keys) -> bool:
        existed = False
        for key, get, drop, what in (
            (keys.queue, _find_queue, sysv_ipc.remove_message_queue, "queue"),
            (keys.segment, _find_segment, sysv_ipc.remove_shared_memory, "segment"),
        ):
            if key is None:
                continue
            try:
                with _translated(f"remove {what}", f"{what} {key}"):
                    drop(get(int(key)))
                existed = True
            except ChannelNotFound:
                continue
        return existed

    def open_queue(self, key: str, role: Role, *, message_size: int, memory: Memory | None) -> Queue:
        del memory
        obj = f"queue {key}"
        with _translated("msgget", obj):
            queue = sysv_ipc.MessageQueue(int(key), mode=_QUEUE_MODE[role], max_message_size=message_size)
        return _SysvQueue(queue, obj)

    def open_segment(self, key: str, role: Role, size: int) -> Memory | None:
        try:
            with _translated("shmget", f"segment {key}"):
                # The size makes the kernel refuse a segment that is smaller: no view may reach past the end.
                segment = sysv_ipc.SharedMemory(int(key), mode=_SEGMENT_MODE[role], size=size)
        except ChannelNotFound:
            return None
        return _SysvMemory(segment, size, writable=role is Role.SENDER)

    def own_segment(
        self, key: str, size: int, *, gid: int | None, mode: int, known: int
    ) -> tuple[Memory, int, bool]:
        if known:
            try:
                with _translated("shmat", f"segment {key}"):
                    return _attached(known - 1, size), known, False
            except SipcError as error:
                raise lost(key) from error
        try:
            memory, number = _created(key, size, gid=gid, mode=mode)
        except KeyTaken as error:
            raise squatted(key) from error
        return memory, number + 1, True


def _find_queue(key: int) -> int:
    return int(sysv_ipc.MessageQueue(key, mode=0).id)


def _find_segment(key: int) -> int:
    number = _libc().shmget(key, 0, 0)
    if number < 0:
        code = ctypes.get_errno()
        if code == errno.ENOENT:
            raise sysv_ipc.ExistentialError(f"no segment {key}")
        raise OSError(code, "shmget failed")
    return int(number)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
    return libc


class _Perm(ctypes.Structure):
    """`struct ipc64_perm` of asm-generic/ipcbuf.h, as on x86-64 and aarch64."""

    _fields_ = (
        ("key", ctypes.c_int), ("uid", ctypes.c_uint), ("gid", ctypes.c_uint), ("cuid", ctypes.c_uint),
        ("cgid", ctypes.c_uint), ("mode", ctypes.c_uint), ("rest", ctypes.c_byte * 64),
    )  # fmt: skip


def _created(key: str, size: int, *, gid: int | None, mode: int | None) -> tuple[Memory, int]:
    """Make and attach a segment, or leave nothing behind.

    Not with sysv_ipc: it stats a segment that it creates (an endpoint may not), and when attaching fails it
    forgets the segment it has made.
    """
    libc = _libc()
    obj = f"segment {key}"
    number = libc.shmget(int(key), size, _IPC_CREAT | _IPC_EXCL | 0o600)
    if number < 0:
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            raise KeyTaken(f"a segment with key {key} exists already")
        raise KernelError(code, f"{os.strerror(code)}; 'sipc doctor' checks the limits", syscall="shmget", obj=obj)
    try:
        if mode is not None:
            data = (ctypes.c_byte * 512)()
            perm = _Perm.from_buffer(data)
            perm.uid, perm.gid, perm.mode = os.geteuid(), os.getegid() if gid is None else gid, mode
            if libc.shmctl(number, _IPC_SET, ctypes.byref(data)) < 0:
                code = ctypes.get_errno()
                raise KernelError(code, os.strerror(code), syscall="shmctl IPC_SET", obj=obj)
        with _translated("shmat", obj):
            return _attached(number, size), number
    except BaseException:
        libc.shmctl(number, _IPC_RMID, None)
        raise


def _attached(number: int, size: int) -> Memory:
    return _SysvMemory(sysv_ipc.attach(number), size, writable=True)
