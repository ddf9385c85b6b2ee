# SPDX-License-Identifier: Apache-2.0
"""How the objects of the libsipc wire are found and made: key of a file, sizes, creation all or none."""

from __future__ import annotations

import enum
import os
from contextlib import suppress
from typing import TypeVar

import sysv_ipc

from sipc import spec
from sipc.errors import (
    ChannelExists,
    SipcError,
    SpecError,
)
from sipc.kernel import Keys, KeyTaken, backend, limits
from sipc.libsipc.names import SYSV_SHM, IpcType
from sipc.proto.libsipc import (
    CONTROL_SIZE,
    LONGEST_LENGTH,
    chunk_size,
)

__all__ = ("chunk", "create", "key_of", "member", "message_size")

_Enum = TypeVar("_Enum", bound=enum.IntEnum)
_PROJECT = ord("a")  # ftok(3)'s second argument

_FILL = bytes(1 << 20)
# Where /proc is not mounted: the values Linux starts with (linux/ipc_namespace.h, uapi/linux/msg.h).
_MSGSIZE_MAX, _MSGMAX, _MSGMNB = 8192, 8192, 16384


def member(kind: type[_Enum], name: str, value: int) -> _Enum:
    """Turn a number of the C API into its name; raises `SpecError`."""
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(f"{one.name} ({one.value})" for one in kind)
        raise SpecError(f"{name} = {value!r} is none of {choices}") from None


def key_of(key: str | os.PathLike[str]) -> str:
    """Make the System V key of a file, as ftok(3) does: of device, inode and 'a'."""
    try:
        path = os.fsdecode(key)
        number = int(sysv_ipc.ftok(path, _PROJECT, silence_warning=True))
    except (OSError, TypeError, ValueError) as error:
        raise SpecError(
            f"key = {key!r} gives no key ({error}): name a file that exists and stays, the same for all"
        ) from error
    return str(number)


def chunk() -> int:
    """Bytes in a full chunk; no more than a message or a queue holds here, where a C sender would fail."""
    return min(
        chunk_size(limits.read("fs.mqueue.msgsize_max") or _MSGSIZE_MAX),
        limits.read("kernel.msgmax") or _MSGMAX,
        limits.read("kernel.msgmnb") or _MSGMNB,
    )


def message_size(ipc_type: IpcType) -> int:
    """Bytes of the largest message that is accepted."""
    if ipc_type is SYSV_SHM:
        return CONTROL_SIZE
    return max(chunk_size(limits.read("fs.mqueue.msgsize_max") or _MSGSIZE_MAX), LONGEST_LENGTH)


def create(number: str, ipc_type: IpcType, size: int, mode: int, key: str | os.PathLike[str]) -> None:
    """Make the objects, all or none; the segment, which an end looks for first, comes last."""
    objects = backend(spec.Backend.SYSV)
    shared = ipc_type is SYSV_SHM
    # Queue only: the kernel's own limit stays, as in C.
    limit = CONTROL_SIZE if shared else limits.read("kernel.msgmnb") or _MSGMNB
    made: Keys | None = None
    try:
        objects.create_queue(number, messages=1, message_size=limit)
        made = Keys(queue=number, segment=None)
        objects.give_queue(number, None, None, mode)
        if shared:
            memory = objects.create_segment(number, size)
            made = Keys(queue=number, segment=number)
            try:
                # Every page: one that the receiver touches first would show that it did (DESIGN section 6).
                for start in range(0, size, len(_FILL)):
                    memory.view[start : start + len(_FILL)] = _FILL[: size - start]
            finally:
                memory.close()
            objects.give_segment(number, None, None, mode)
    except BaseException as error:
        if made is not None:
            with suppress(SipcError):
                objects.remove(made)
        if isinstance(error, KeyTaken):
            raise ChannelExists(
                f"queue or segment of {key!r} exist already (key {number}): "
                "unlink(key, ipc_type) removes them, if no one uses them; or use another file"
            ) from error
        raise
