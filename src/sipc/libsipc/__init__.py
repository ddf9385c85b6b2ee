# SPDX-License-Identifier: Apache-2.0
"""The API of the C library libsipc 1.2, and its wire: either side may be a C program, and so may the helper.

Owns the names of that API, how its objects are found, made and let go, and how long a view lives.  Must not
know what a message means: `proto/libsipc.py` does.  Nothing here asks SELinux or a registry: this module is
for talking to programs that exist.  Two Python programs are better off with the sipc2 wire.

    receiver = libsipc.open("/etc/sensor.key", libsipc.RECEIVER, libsipc.SYSV_SHM, 4096)
    block = receiver.recv_data()
    ...
    receiver.shm_recv_done()

A handle is for one thread at a time.  A forked child may go on with it, as C programs do, if its parent does
not.  Source: DESIGN section 4, docs/libsipc.md.
"""

from __future__ import annotations

import os
import sys

from sipc import spec
from sipc.errors import ChannelNotFound, SpecError
from sipc.kernel import Keys, backend
from sipc.libsipc.handle import Handle
from sipc.libsipc.names import (
    BLOCK,
    CREATOR,
    NOBLOCK,
    RECEIVER,
    SENDER,
    SYSV_MQUEUES,
    SYSV_SHM,
    IpcType,
    Request,
    Role,
)
from sipc.libsipc.objects import create, key_of, member, message_size

__all__ = (
    "BLOCK",
    "CREATOR",
    "NOBLOCK",
    "RECEIVER",
    "SENDER",
    "SYSV_MQUEUES",
    "SYSV_SHM",
    "Handle",
    "IpcType",
    "Request",
    "Role",
    "open",
    "unlink",
)

_PERMISSIONS = 0o666  # the bits that System V IPC knows


def open(  # noqa: A001 - the C name; used as libsipc.open
    key: str | os.PathLike[str], role: int, ipc_type: int, size: int, *, mode: int = 0o600
) -> Handle:
    """Make (CREATOR) or open (SENDER, RECEIVER) the channel that belongs to the file `key`.

    `size` is the longest message in bytes, the same for all three; a CREATOR of SYSV_MQUEUES may say 0.
    `mode` is for CREATOR alone: permission bits of queue and segment, octal.  The default 0600 admits one
    user.  The C library makes them 0666, which admits everybody in both directions unless SELinux says no;
    if your peers run as other users, say what they need (0o660 for a group).

    The caller closes the handle; closing never removes objects, `unlink` does.  Open the ends after the
    creator has returned: a C creator's queue holds more than one message until its limit is set.

    Raises `SpecError` for an argument that can not be, `ChannelExists` for CREATOR when queue or segment are
    there already (`unlink` them, or take another file), `ChannelNotFound` when they are not, `Denied`,
    `KernelError`.  After a failure nothing was made or stays open.
    """
    role, ipc_type = member(Role, "role", role), member(IpcType, "ipc_type", ipc_type)
    least = 0 if ipc_type is SYSV_MQUEUES else 1
    if not isinstance(size, int) or not least <= size <= sys.maxsize:  # a larger size_t can not be mapped
        raise SpecError(f"size = {size!r} is out of range: give a whole number of bytes, at least {least}")
    if not isinstance(mode, int) or mode & ~_PERMISSIONS:
        raise SpecError(f"mode = {mode!r} has bits that a queue does not know: stay within 0o666")
    number = key_of(key)
    if role is CREATOR:
        create(number, ipc_type, size, mode, key)
        return Handle(role, ipc_type, size)
    end = spec.Role.SENDER if role is SENDER else spec.Role.RECEIVER
    objects = backend(spec.Backend.SYSV)
    memory = None
    if ipc_type is SYSV_SHM:
        memory = objects.open_segment(number, end, size)
        if memory is None:
            raise ChannelNotFound(f"no segment with the key of {key!r} ({number}): run the creator first")
    try:
        queue = objects.open_queue(number, end, message_size=message_size(ipc_type), memory=memory)
    except BaseException:
        if memory is not None:
            memory.close()
        raise
    return Handle(role, ipc_type, size, queue=queue, memory=memory)


def unlink(key: str | os.PathLike[str], ipc_type: int) -> bool:
    """Remove queue and (SYSV_SHM) segment of the file `key`; returns whether there was any of them.

    Whoever waits on the queue is woken; a segment lives on, without its key, until its last user lets go.
    Raises `SpecError` when the file can not be looked at, `Denied` when the objects belong to somebody else.
    """
    number = key_of(key)
    segment = number if member(IpcType, "ipc_type", ipc_type) is SYSV_SHM else None
    return backend(spec.Backend.SYSV).remove(Keys(queue=number, segment=segment))
