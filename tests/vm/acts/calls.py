# SPDX-License-Identifier: Apache-2.0
"""Single system calls, as an attacker would make them: by number and key, without the library."""

from __future__ import annotations

import ctypes
import errno
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
