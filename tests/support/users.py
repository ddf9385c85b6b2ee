# SPDX-License-Identifier: Apache-2.0
"""Real users, and everything a stranger might try on a channel's kernel objects, with what each attempt comes to."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import posix_ipc
from tests.support.channels import Child

import sipc
from sipc.descriptor import Descriptor
from sipc.proto.control import CONTROL_SIZE
from sipc.spec import Backend

__all__ = ("NOBODY", "ROLES", "User", "Users", "attempts_on", "expected", "tried", "widen_the_queue")

T = TypeVar("T")
NOWAIT = 0o4000
COPY = 0o40000
RMID, SET, STAT = 0, 1, 2
RDONLY, EXEC = 0o10000, 0o100000
SHM_LOCK = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One real user with a group of its own."""

    name: str
    uid: int
    gid: int

    def run(self, function: Callable[[], T]) -> Child:
        """Start `function` in a process of this user; not by exec, as the interpreter may be root's alone."""

        def dropped() -> T:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)
            assert os.getresuid() == (self.uid,) * 3
            assert os.getresgid() == (self.gid,) * 3
            assert not os.getgroups()
            return function()

        return Child(dropped)

    def do(self, function: Callable[[], T]) -> T:
        """What `function` returns in a process of this user."""
        result: T = self.run(function).result()
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """The cast."""

    sender: User
    receiver: User
    outsider: User


libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.msgsnd.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.msgrcv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int)
FAILED_ATTACH = (1 << (8 * ctypes.sizeof(ctypes.c_void_p))) - 1


def call(function: Any, *arguments: object) -> int:
    """A libc function; its errno as an OSError."""
    result = function(*arguments)
    if result in (-1, FAILED_ATTACH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result or 0)


def tried(attempts: dict[str, Callable[[], object]]) -> dict[str, str]:
    """What each attempt came to: "done", or the name of the errno, or of the exception."""
    results: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except posix_ipc.PermissionsError:
            results[name] = "EACCES"
        except posix_ipc.ExistentialError:
            results[name] = "ENOENT"
        except (OSError, sipc.SipcError) as error:
            number = None if isinstance(error, sipc.SipcError) else error.errno
            results[name] = type(error).__name__ if number is None else errno.errorcode[number]
        else:
            results[name] = "done"
    return results


def sysv_attempts(descriptor: Descriptor) -> dict[str, Callable[[], object]]:
    """Everything that can be tried on a System V channel, by anybody who knows its keys."""
    keys = descriptor.keys
    queue = call(libc.msgget, int(keys.queue), 0)  # asks for nothing, so it is given to all: the id is no secret
    message = ctypes.create_string_buffer((2).to_bytes(8, "little") + b"\x02\x02" + bytes(CONTROL_SIZE - 2))
    room = ctypes.create_string_buffer(512)
    attempts: dict[str, Callable[[], object]] = {
        "msgget to write": lambda: call(libc.msgget, int(keys.queue), 0o200),
        "msgget to read": lambda: call(libc.msgget, int(keys.queue), 0o400),
        "msgsnd": lambda: call(libc.msgsnd, queue, message, CONTROL_SIZE, NOWAIT),
        "msgrcv": lambda: call(libc.msgrcv, queue, room, 256, 0, NOWAIT),
        "msgrcv of a copy": lambda: call(libc.msgrcv, queue, room, 256, 0, NOWAIT | COPY),
        "msgctl IPC_STAT": lambda: call(libc.msgctl, queue, STAT, room),
        "msgctl IPC_SET": lambda: call(libc.msgctl, queue, SET, ctypes.create_string_buffer(512)),
        "msgctl IPC_RMID": lambda: call(libc.msgctl, queue, RMID, None),
    }
    if keys.segment is not None:
        key = int(keys.segment)
        segment = call(libc.shmget, key, 0, 0)

        def write_after_attaching_to_read() -> None:
            address = call(libc.shmat, segment, None, RDONLY)
            try:
                call(libc.mprotect, address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
            finally:
                libc.shmdt(ctypes.c_void_p(address))

        def attach(flags: int) -> None:
            libc.shmdt(ctypes.c_void_p(call(libc.shmat, segment, None, flags)))

        attempts |= {
            "shmget to read": lambda: call(libc.shmget, key, 0, 0o400),
            "shmget to write": lambda: call(libc.shmget, key, 0, 0o600),
            "shmat to read": lambda: attach(RDONLY),
            "shmat to write": lambda: attach(0),
            "shmat to execute": lambda: attach(RDONLY | EXEC),
            "mprotect to write": write_after_attaching_to_read,
            "shmctl IPC_STAT": lambda: call(libc.shmctl, segment, STAT, room),
            "shmctl IPC_SET": lambda: call(libc.shmctl, segment, SET, ctypes.create_string_buffer(512)),
            "shmctl IPC_RMID": lambda: call(libc.shmctl, segment, RMID, None),
            "shmctl SHM_LOCK": lambda: call(libc.shmctl, segment, SHM_LOCK, None),
        }
    return attempts


def posix_attempts(descriptor: Descriptor) -> dict[str, Callable[[], object]]:
    """Everything that can be tried on a POSIX channel, by anybody who knows its names."""
    keys = descriptor.keys

    def opened(*, read: bool, write: bool) -> posix_ipc.MessageQueue:
        return posix_ipc.MessageQueue(keys.queue, os.O_NONBLOCK, read=read, write=write)

    def reopened() -> None:
        reading = opened(read=True, write=False)
        os.close(os.open(f"/proc/self/fd/{reading.mqd}", os.O_WRONLY))

    def changed() -> None:
        os.fchmod(opened(read=True, write=False).mqd, 0o666)

    def sent() -> None:
        opened(read=False, write=True).send(b"\x02\x02" + bytes(CONTROL_SIZE - 2))

    def received() -> None:
        try:
            opened(read=True, write=False).receive(0)
        except posix_ipc.BusyError as error:
            raise OSError(errno.EAGAIN, "empty") from error

    attempts: dict[str, Callable[[], object]] = {
        "mq_send": sent,
        "mq_receive": received,
        "mq_open both ways": lambda: opened(read=True, write=True).close(),
        "reopen to write": reopened,
        "fchmod of the queue": changed,
        "mq_unlink": lambda: posix_ipc.unlink_message_queue(keys.queue),
    }
    if keys.segment is not None:
        name = keys.segment
        path = Path("/dev/shm", name[1:])

        def flags(access: int, then: Callable[[int], object] = os.fstat) -> None:
            fd = os.open(path, access | os.O_CLOEXEC)
            try:
                then(fd)
            finally:
                os.close(fd)

        def mapped(fd: int) -> None:
            mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE).close()

        attempts |= {
            "shm_open to read": lambda: flags(os.O_RDONLY),
            "shm_open to write": lambda: flags(os.O_RDWR),
            "mmap to write": lambda: flags(os.O_RDONLY, mapped),
            "reopen the segment": lambda: flags(
                os.O_RDONLY, lambda fd: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
            ),
            "fchmod of the segment": lambda: flags(os.O_RDONLY, lambda fd: os.fchmod(fd, 0o666)),
            "ftruncate": lambda: flags(os.O_RDONLY, lambda fd: os.ftruncate(fd, 0)),
            "truncate": lambda: os.truncate(path, 0),
            "chmod": lambda: path.chmod(0o666),
            "rename": lambda: path.rename(path.with_name("sipc-elsewhere")),
            "shm_unlink": lambda: posix_ipc.unlink_shared_memory(name),
        }
    return attempts


NOBODY = "EACCES"
# What an attempt comes to for (sender, receiver, outsider); the sender owns the objects, so some of his are left out.
SYSV = {
    "msgget to write": ("done", NOBODY, NOBODY),
    "msgget to read": (NOBODY, "done", NOBODY),
    "msgsnd": ("done", NOBODY, NOBODY),
    "msgrcv": (NOBODY, "done", NOBODY),  # takes what the sender's msgsnd left: the senders go first
    "msgrcv of a copy": (NOBODY, "ENOMSG", NOBODY),
    "msgctl IPC_STAT": (NOBODY, "done", NOBODY),
    "msgctl IPC_SET": (None, "EPERM", "EPERM"),
    "msgctl IPC_RMID": (None, "EPERM", "EPERM"),
    "shmget to read": ("done", "done", NOBODY),
    "shmget to write": ("done", NOBODY, NOBODY),
    "shmat to read": ("done", "done", NOBODY),
    "shmat to write": ("done", NOBODY, NOBODY),
    "shmat to execute": (NOBODY, NOBODY, NOBODY),
    "mprotect to write": (None, NOBODY, NOBODY),
    "shmctl IPC_STAT": ("done", "done", NOBODY),
    "shmctl IPC_SET": (None, "EPERM", "EPERM"),
    "shmctl IPC_RMID": (None, "EPERM", "EPERM"),
    "shmctl SHM_LOCK": (None, "EPERM", "EPERM"),
}
POSIX = {
    "mq_send": ("done", NOBODY, NOBODY),
    "mq_receive": (NOBODY, "done", NOBODY),
    "mq_open both ways": (NOBODY, NOBODY, NOBODY),
    "reopen to write": (NOBODY, NOBODY, NOBODY),
    "fchmod of the queue": (NOBODY, "EPERM", NOBODY),
    "mq_unlink": (None, NOBODY, NOBODY),
    "shm_open to read": ("done", "done", NOBODY),
    "shm_open to write": ("done", NOBODY, NOBODY),
    "mmap to write": (NOBODY, NOBODY, NOBODY),
    "reopen the segment": (None, NOBODY, NOBODY),
    "fchmod of the segment": (None, "EPERM", NOBODY),
    "ftruncate": ("EINVAL", "EINVAL", NOBODY),
    "truncate": (None, NOBODY, NOBODY),
    "chmod": (None, "EPERM", "EPERM"),
    "rename": (None, "EPERM", "EPERM"),
    "shm_unlink": (None, NOBODY, NOBODY),
}
ROLES = ("sender", "receiver", "outsider")


def attempts_on(descriptor: Descriptor) -> dict[str, Callable[[], object]]:
    """The attempts that fit a channel's backend."""
    return sysv_attempts(descriptor) if descriptor.spec.backend is Backend.SYSV else posix_attempts(descriptor)


def expected(descriptor: Descriptor, role: str) -> dict[str, str]:
    """What each attempt that `role` may make must come to."""
    table = SYSV if descriptor.spec.backend is Backend.SYSV else POSIX
    index = ROLES.index(role)
    fitting = attempts_on(descriptor)
    return {name: said for name in table if name in fitting and (said := table[name][index]) is not None}


def widen_the_queue(descriptor: Descriptor, uid: int, gid: int, mode: int) -> None:
    """Set owner, group and mode of a System V queue, its size kept, without asking what they are."""
    number = call(libc.msgget, int(descriptor.keys.queue), 0)
    data = ctypes.create_string_buffer(512)
    words = (ctypes.c_uint * 6).from_buffer(data)  # key, uid, gid, cuid, cgid, mode of struct ipc64_perm
    words[1], words[2], words[5] = uid, gid, mode
    depth = descriptor.spec.geometry.depth
    (ctypes.c_ulong * 12).from_buffer(data)[11] = depth * CONTROL_SIZE  # msg_qbytes of struct msqid64_ds
    call(libc.msgctl, number, SET, data)
