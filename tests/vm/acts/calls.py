# SPDX-License-Identifier: Apache-2.0
"""Single system calls, as an attacker would make them: by number and key, without the library."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_RMID = 0o1000, 0o2000, 0o4000, 0


def result(value: int) -> dict[str, Any]:
    """What a call did: fine, or which error."""
    if value < 0:
        return {"errno": errno.errorcode[ctypes.get_errno()]}
    return {"ok": True}


def make_queue(key: int) -> dict[str, Any]:
    """Create: msgget(IPC_CREAT)."""
    return result(libc.msgget(key, IPC_CREAT | IPC_EXCL | 0o666))


def find_queue(key: int, mode: int) -> dict[str, Any]:
    """Open: msgget of what exists."""
    return result(libc.msgget(key, mode))


def drop_queue(key: int) -> dict[str, Any]:
    """Remove: msgctl(IPC_RMID)."""
    return result(libc.msgctl(libc.msgget(key, 0), IPC_RMID, None))


def attempt(call: Callable[[], int]) -> dict[str, Any]:
    """Run one call."""
    return result(call())


libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
STAT, GETVAL, SETVAL = 2, 12, 16


def make_all(key: int) -> dict[str, int]:
    """A queue, a segment and a set of two semaphores, all of the caller's domain."""
    mode = IPC_CREAT | IPC_EXCL | 0o666
    return {
        "msgq": libc.msgget(key, mode),
        "shm": libc.shmget(key, 4096, mode),
        "sem": libc.semget(key, 2, mode),
    }


def drop_all(ids: dict[str, int]) -> list[dict[str, Any]]:
    """Remove them."""
    return [
        result(libc.msgctl(ids["msgq"], IPC_RMID, None)),
        result(libc.shmctl(ids["shm"], IPC_RMID, None)),
        result(libc.semctl(ids["sem"], 0, IPC_RMID)),
    ]


def every_ipc_call(key: int, ids: dict[str, int]) -> dict[str, str]:
    """Each call of the three classes on objects that somebody made; what came of it."""
    queue, segment, semaphores = ids["msgq"], ids["shm"], ids["sem"]
    space = (ctypes.c_byte * 4096)()
    message = struct.pack("@l", 1) + bytes(8)
    up = struct.pack("@HhH", 0, 1, IPC_NOWAIT)
    zero = struct.pack("@HhH", 1, 0, IPC_NOWAIT)

    def attach(flags: int) -> int:
        address = libc.shmat(segment, None, flags)
        return -1 if address == ctypes.c_void_p(-1).value else 0

    calls: dict[str, Callable[[], int]] = {
        "msgget": lambda: libc.msgget(key, 0),
        "msgget for reading": lambda: libc.msgget(key, 0o400),
        "msgget for writing": lambda: libc.msgget(key, 0o200),
        "msgctl IPC_STAT": lambda: libc.msgctl(queue, STAT, space),
        "msgsnd": lambda: libc.msgsnd(queue, message, 8, IPC_NOWAIT),
        "msgrcv": lambda: libc.msgrcv(queue, space, 64, ctypes.c_long(0), IPC_NOWAIT),
        "shmget": lambda: libc.shmget(key, 0, 0),
        "shmget for reading": lambda: libc.shmget(key, 0, 0o400),
        "shmget for writing": lambda: libc.shmget(key, 0, 0o200),
        "shmctl IPC_STAT": lambda: libc.shmctl(segment, STAT, space),
        "shmat read-only": lambda: attach(0o10000),
        "shmat read-write": lambda: attach(0),
        "shmctl SHM_LOCK": lambda: libc.shmctl(segment, 11, None),
        "semget": lambda: libc.semget(key, 0, 0),
        "semget for reading": lambda: libc.semget(key, 0, 0o400),
        "semget for writing": lambda: libc.semget(key, 0, 0o200),
        "semctl IPC_STAT": lambda: libc.semctl(semaphores, 0, STAT, space),
        "semctl GETVAL": lambda: libc.semctl(semaphores, 0, GETVAL),
        "semctl SETVAL": lambda: libc.semctl(semaphores, 0, SETVAL, 0),
        "semop up": lambda: libc.semop(semaphores, up, 1),
        "semop wait for zero": lambda: libc.semop(semaphores, zero, 1),
    }
    said = {}
    for name, function in calls.items():
        ctypes.set_errno(0)
        said[name] = "ok" if function() >= 0 else errno.errorcode[ctypes.get_errno()]
    return said


def send_one(ids: dict[str, int]) -> dict[str, Any]:
    """One message, for others to receive."""
    return result(libc.msgsnd(ids["msgq"], struct.pack("@l", 1) + bytes(8), 8, IPC_NOWAIT))
