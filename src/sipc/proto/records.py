# SPDX-License-Identifier: Apache-2.0
"""Packed records: many small messages in one block.

`u32 count, u32 length[count]`, then the payloads back to back, little-endian.  This layout packs and
unpacks in a handful of C calls, which is what makes it fast from Python (DESIGN section 4).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise

from sipc.errors import LocalProtocolError, RemoteProtocolError

__all__ = ("RECORD_OVERHEAD", "pack", "packed_size", "unpack")

RECORD_OVERHEAD = 4  # bytes per record, and once more for the count


def packed_size(records: Sequence[bytes]) -> int:
    """Bytes that `pack(records)` takes."""
    return RECORD_OVERHEAD * (len(records) + 1) + sum(map(len, records))


def pack(records: Sequence[bytes]) -> bytes:
    """Pack records (bytes objects) into one block's bytes."""
    if not records:
        raise LocalProtocolError("a block of packed records holds at least one record")
    lengths = array("I", [len(records), *map(len, records)])
    if sys.byteorder != "little":
        lengths.byteswap()
    return b"".join([lengths.tobytes(), *records])


def unpack(block: bytes) -> list[bytes]:
    """Split one block's bytes into its records.

    `block` must be a private copy: lengths are read once and trusted after they were checked.  Raises
    `RemoteProtocolError` when count or lengths overrun the block or leave bytes over.
    """
    size = len(block)
    if size < RECORD_OVERHEAD:
        raise RemoteProtocolError("record block length", size, "at least 4 bytes, the count")
    count = int.from_bytes(block[:4], "little")
    start = RECORD_OVERHEAD * (count + 1)
    if count == 0 or start > size:
        raise RemoteProtocolError("record count", count, f"1 to {size // 4 - 1} in a block of {size} bytes")
    lengths = array("I", block[4:start])
    if sys.byteorder != "little":
        lengths.byteswap()
    ends = list(accumulate(lengths, initial=start))  # Python integers: no sum can overflow
    if ends[-1] != size:
        raise RemoteProtocolError("sum of record lengths", ends[-1] - start, f"{size - start}, what the block holds")
    return [block[a:b] for a, b in pairwise(ends)]
