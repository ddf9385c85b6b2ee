# SPDX-License-Identifier: Apache-2.0
"""The names of the C API, as the C header has them."""

from __future__ import annotations

import enum
from typing import Final

__all__ = (
    "BLOCK", "CREATOR", "NOBLOCK", "RECEIVER", "SENDER", "SYSV_MQUEUES", "SYSV_SHM", "IpcType", "Request", "Role",
)  # fmt: skip


class Role(enum.IntEnum):
    """What a handle is for: to make the objects, to write, to read."""

    CREATOR = 0
    SENDER = 1
    RECEIVER = 2


class IpcType(enum.IntEnum):
    """Where the data travels: in a shared segment, or inside the queue's messages."""

    SYSV_SHM = 0
    SYSV_MQUEUES = 1


class Request(enum.IntEnum):
    """What `Handle.ioctl` sets: whether `recv_data` waits."""

    BLOCK = 0
    NOBLOCK = 1


CREATOR: Final = Role.CREATOR
SENDER: Final = Role.SENDER
RECEIVER: Final = Role.RECEIVER
SYSV_SHM: Final = IpcType.SYSV_SHM
SYSV_MQUEUES: Final = IpcType.SYSV_MQUEUES
BLOCK: Final = Request.BLOCK
NOBLOCK: Final = Request.NOBLOCK
