# SPDX-License-Identifier: Apache-2.0
"""What both transports of the libsipc wire share: message types, sizes, the step through a state table."""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Mapping
from typing import TypeVar

from sipc.errors import LocalProtocolError

__all__ = (
    "CONTROL_SIZE", "END_BODY", "LENGTH", "LONGEST_LENGTH", "SIZE_T", "Message", "MessageType", "chunk_size",
    "next_state",
)  # fmt: skip

Message = tuple[bytes, int | None]

SIZE_T = struct.Struct("@N")
CONTROL_SIZE = SIZE_T.size  # bytes in a message of the shared memory transport; also its queue's limit
LONGEST_LENGTH = len(str((1 << 8 * CONTROL_SIZE) - 1)) + 1  # bytes in the longest message of type 9
LENGTH = re.compile(rb"(0|[1-9][0-9]{0,19})\x00")  # what printf("%zu") makes of a 64-bit number, no more
END_BODY = b"\x01"
_SIZEOF_LONG = struct.calcsize("@l")


class MessageType(enum.IntEnum):
    """`mtype` of a message.  3 announces a block in one transport and carries a chunk in the other."""

    READY = 3
    CHUNK = 3
    READING = 4
    DONE = 5
    LENGTH = 9
    END = 0xC


_M = MessageType


def chunk_size(msgsize_max: int) -> int:
    """Bytes in a full chunk where fs.mqueue.msgsize_max is `msgsize_max`: the C library counts mtype in."""
    return max(1, msgsize_max - _SIZEOF_LONG)


_State = TypeVar("_State", bound=enum.IntEnum)
_Event = TypeVar("_Event", bound=enum.IntEnum)


def next_state(
    table: Mapping[tuple[_State, _Event], tuple[str, _State]], state: _State, event: _Event
) -> _State:
    """Look up the state after `event`; a pair that is not in the table is this side's mistake."""
    try:
        return table[state, event][1]
    except KeyError:
        raise LocalProtocolError(
            f"{type(state).__name__} {state.name} can not take {event.name}: finish what is under way first"
        ) from None
