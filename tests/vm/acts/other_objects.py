# SPDX-License-Identifier: Apache-2.0
"""Semaphores, and the files behind POSIX queues, as attacks."""

from __future__ import annotations

import ctypes
import os
import struct

from .tries import (
    ACTS,
    CREATE,
    EXCLUSIVE,
    INFO,
    NEW_KEY,
    NO_WAIT,
    RMID,
    STAT,
    Target,
    act,
    bound,
    call,
    libc,
    room,
    syscall,
    text,
)

_GETVAL, _SETVAL, _SEM_STAT_ANY, _SEM_INFO = 12, 16, 20, 19
SEM_KEY = 0x5E3A


@act("semget IPC_CREAT")
def _make_semaphores(target: Target) -> None:
    del target
    made = call(libc.semget, NEW_KEY, 1, CREATE | EXCLUSIVE | 0o600)
    call(libc.semctl, made, 0, RMID)


# -- POSIX objects -------------------------------------------------------------------------------------------


@act("mq_open O_CREAT")
def _make_mqueue(target: Target) -> None:
    del target
    syscall(240, text(b"sipc-attack"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, 0)
    syscall(241, text(b"sipc-attack"))


for _name, _flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY), ("both ways", os.O_RDWR)):
    ACTS[f"mq_open {_name}"] = bound(lambda t, flags: syscall(240, text(t["mqueue"].encode()), flags, 0, 0), _flags)

ACTS["mq_unlink"] = lambda t: syscall(241, text(t["mqueue"].encode()))


def _opened(target: Target, flags: int) -> int:
    return syscall(240, text(target["mqueue"].encode()), flags | NO_WAIT, 0, 0)


@act("mq_send")
def _mq_send(target: Target) -> None:
    syscall(242, _opened(target, os.O_WRONLY), text(bytes(32)), 32, 0, 0)


@act("mq_receive")
def _mq_receive(target: Target) -> None:
    syscall(243, _opened(target, os.O_RDONLY), ctypes.addressof(room()), 4096, 0, 0)


# What an open queue shows, by whichever way it can be opened.
for _way, _flags in (("for reading", os.O_RDONLY), ("for writing", os.O_WRONLY)):
    ACTS[f"mq_getattr {_way}"] = bound(
        lambda t, flags: syscall(245, _opened(t, flags), 0, ctypes.addressof(room())), _flags
    )
    # SIGEV_NONE: to be told nothing, which nobody else can then be told instead
    ACTS[f"mq_notify {_way}"] = bound(
        lambda t, flags: syscall(244, _opened(t, flags), text(struct.pack("@Pii", 0, 0, 1) + bytes(48))), _flags
    )

MQUEUE = tuple(name for name in ACTS if name.startswith("mq_") and name != "mq_open O_CREAT")


# -- semaphores of somebody else -----------------------------------------------------------------------------


def make_semaphores() -> int:
    """A set of one, for others to try; returns its identifier."""
    return call(libc.semget, SEM_KEY, 1, CREATE | EXCLUSIVE | 0o666)


def drop_semaphores(made: int) -> None:
    """Remove it."""
    call(libc.semctl, made, 0, RMID)


ACTS["semget of another's"] = lambda t: call(libc.semget, SEM_KEY, 1, 0o600)
ACTS["semop up on another's"] = lambda t: call(libc.semop, t["semaphores"], struct.pack("@Hhh", 0, 1, NO_WAIT), 1)
ACTS["semctl GETVAL"] = lambda t: call(libc.semctl, t["semaphores"], 0, _GETVAL)
ACTS["semctl SETVAL"] = lambda t: call(libc.semctl, t["semaphores"], 0, _SETVAL, 3)
ACTS["semctl IPC_STAT"] = lambda t: call(libc.semctl, t["semaphores"], 0, STAT, room())
ACTS["semctl SEM_STAT_ANY"] = lambda t: call(libc.semctl, t["semaphores"], 0, _SEM_STAT_ANY, room())
ACTS["semctl IPC_INFO"] = lambda t: call(libc.semctl, 0, 0, INFO, room())
ACTS["semctl SEM_INFO"] = lambda t: call(libc.semctl, 0, 0, _SEM_INFO, room())
