# SPDX-License-Identifier: Apache-2.0
"""How an act is tried: plain system calls by number, in a fork whose name (comm) is the act's.

Owns the list of acts, which the modules beside this one fill, and the running of one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.mmap.restype = ctypes.c_void_p
CREATE, EXCLUSIVE, NO_WAIT = 0o1000, 0o2000, 0o4000
RMID, SET, STAT, INFO = 0, 1, 2, 3
MSG_STAT, MSG_INFO, MSG_STAT_ANY, MSG_COPY = 11, 12, 13, 0o40000
SHM_LOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY = 11, 13, 14, 15
SHM_RDONLY, SHM_EXEC = 0o10000, 0o100000
PAGE = 4096
NEW_KEY = 0x51AC

Target = dict[str, Any]  # key and id of queue and segment, pids of the ends, paths
ACTS: dict[str, Callable[[Target], object]] = {}


class Failed(OSError):
    """A system call said no."""


def act(name: str) -> Callable[[Callable[[Target], object]], Callable[[Target], object]]:
    """Enter a function into the list of acts."""

    def enter(function: Callable[[Target], object]) -> Callable[[Target], object]:
        ACTS[name] = function
        return function

    return enter


def bound(function: Callable[[Target, Any], object], value: object) -> Callable[[Target], object]:
    """An act that differs from its neighbours in one value."""
    return lambda target: function(target, value)


def call(function: Any, *arguments: Any) -> int:
    """Call into the C library; raises with its errno."""
    value = function(*arguments)
    if value in (-1, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise Failed(code, os.strerror(code))
    return int(value or 0)


def syscall(number: int, *arguments: int) -> int:
    """A system call without a wrapper."""
    return call(libc.syscall, ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))


def room() -> Any:
    """Space for whatever a control call writes."""
    return (ctypes.c_byte * 4096)()


_kept: list[Any] = []


def text(value: bytes) -> int:
    data = ctypes.create_string_buffer(value)
    _kept.append(data)
    return ctypes.addressof(data)


def one(name: str, target: Target) -> dict[str, Any]:
    """Run one act in a fork called after its place in the list."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            number = list(ACTS).index(name)
            libc.prctl(15, f"act{number:03}".encode(), 0, 0, 0)
            try:
                ACTS[name](target)
                said = b"ok"
            except OSError as error:
                said = errno.errorcode.get(error.errno or 0, str(error.errno)).encode()
            except BaseException as error:
                said = repr(error).encode()
            os.write(writing, said)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"said": said.decode() or f"ended with {code}"}
