# SPDX-License-Identifier: Apache-2.0
"""Layout of the shared segment of the sipc2 wire.

Header: `8s magic, u32 header_size, u32 slots, u64 slot_size, u64 epoch, u64 sent, u64 published`, then per
slot `u64 seq, u64 length, u32 crc32, u32 flags, u64 reserved`.  Slots start at the next 4096 boundary and
each is padded to 4096.  Geometry comes from the descriptor, never from here: the sender can write here.

Numbers are stored and loaded as aligned native 64-bit words through one `memoryview.cast("Q")`: CPython
copies such an item with one 8-byte move, so a SIGKILL can not leave half a number.  `struct` with "<Q"
stores byte by byte and can.  The words are little-endian by definition, so big-endian hosts are refused.
Source: DESIGN sections 4 and 5; CPython Objects/memoryobject.c (pack_single), Modules/_struct.c (lp_ulonglong).
"""

from __future__ import annotations

import sys

from sipc.errors import RemoteProtocolError, SpecError
from sipc.spec import PAGE, Geometry

__all__ = ("MAGIC", "Segment", "header_size", "segment_size", "slot_offset")

MAGIC = b"SIPCSEG2"
HEADER_WORDS = 6
ENTRY_WORDS = 4
_WORD = 8
SENT, PUBLISHED = 4, 5


def header_size(slots: int) -> int:
    """Bytes of header and entries, before padding."""
    return (HEADER_WORDS + ENTRY_WORDS * slots) * _WORD


def _padded(size: int) -> int:
    return -(-size // PAGE) * PAGE


def slot_offset(geometry: Geometry, slot: int) -> int:
    """Byte offset of `slot` in the segment."""
    return _padded(header_size(geometry.slots)) + slot * _padded(geometry.slot_size)


def segment_size(geometry: Geometry) -> int:
    """Bytes a segment of this geometry takes."""
    return slot_offset(geometry, geometry.slots)


class Segment:
    """A view of one segment: header and entries as `words`, and one memoryview per slot.

    `view` is a flat byte memoryview of at least `segment_size(geometry)` bytes, writable for a sender or
    helper, read-only for a receiver.
    """

    __slots__ = ("_view", "slots", "words")

    def __init__(self, view: memoryview, geometry: Geometry) -> None:
        if sys.byteorder != "little":
            raise SpecError("the sipc2 segment is little-endian; this host is not: use transport = 'queue'")
        size = segment_size(geometry)
        if view.nbytes < size:
            raise RemoteProtocolError("segment size", view.nbytes, f"at least {size} bytes for this geometry")
        self._view = view[:size]
        self.words = view[: header_size(geometry.slots)].cast("Q")
        self.slots = [
            view[start : start + geometry.slot_size]
            for start in (slot_offset(geometry, slot) for slot in range(geometry.slots))
        ]

    def format(self, geometry: Geometry, epoch: int) -> None:
        """Write every byte of a new segment: zeros (so that no page is a hole), then the header, magic last."""
        zeros = bytes(1 << 20)
        for start in range(0, len(self._view), len(zeros)):
            end = min(start + len(zeros), len(self._view))
            self._view[start:end] = zeros[: end - start]
        self.words[1] = header_size(geometry.slots) | geometry.slots << 32
        self.words[2] = geometry.slot_size
        self.words[3] = epoch
        self.words[0] = int.from_bytes(MAGIC, "little")

    def check(self, geometry: Geometry, epoch: int) -> None:
        """Compare the header with what the descriptor promises; raises `RemoteProtocolError`."""
        words = self.words
        expected = (
            ("magic", 0, int.from_bytes(MAGIC, "little")),
            ("header_size and slots", 1, header_size(geometry.slots) | geometry.slots << 32),
            ("slot_size", 2, geometry.slot_size),
            ("segment epoch", 3, epoch),
        )
        for field, index, value in expected:
            if words[index] != value:
                raise RemoteProtocolError(field, words[index], f"{value}, as the descriptor says")

    @property
    def blank(self) -> bool:
        """Whether nobody has formatted this segment yet: its magic is still zero."""
        return self.words[0] == 0

    @property
    def sent(self) -> int:
        """How many messages the sender has had accepted, as it last recorded."""
        return self.words[SENT]

    @sent.setter
    def sent(self, value: int) -> None:
        self.words[SENT] = value

    @property
    def published(self) -> int:
        """Newest block the sender has published."""
        return self.words[PUBLISHED]

    @published.setter
    def published(self, value: int) -> None:
        self.words[PUBLISHED] = value

    def seqs(self) -> list[int]:
        """The seq in every slot's entry; 0 is a cleared one."""
        return [self.words[HEADER_WORDS + ENTRY_WORDS * slot] for slot in range(len(self.slots))]

    def seq(self, slot: int) -> int:
        """The seq in one slot's entry."""
        return self.words[HEADER_WORDS + ENTRY_WORDS * slot]

    def entry(self, slot: int) -> tuple[int, int, int, int]:
        """One slot's (seq, length, crc32, flags); a non-zero reserved word is a violation."""
        base = HEADER_WORDS + ENTRY_WORDS * slot
        seq, length, crc_flags, reserved = self.words[base : base + ENTRY_WORDS]
        if reserved:
            raise RemoteProtocolError("entry reserved word", reserved, "0")
        return seq, length, crc_flags & 0xFFFFFFFF, crc_flags >> 32

    def clear(self, slot: int) -> None:
        """Mark the slot empty, before its data is overwritten."""
        self.words[HEADER_WORDS + ENTRY_WORDS * slot] = 0

    def commit(self, slot: int, seq: int, length: int, crc: int, flags: int) -> None:
        """Write the slot's entry, seq last: that store is the block's commit."""
        words = self.words
        base = HEADER_WORDS + ENTRY_WORDS * slot
        words[base + 1] = length
        words[base + 2] = crc | flags << 32
        words[base] = seq

    def release(self) -> None:
        """Make every view made here raise ValueError when used.

        A slice that somebody took of one stays readable; the kernel layer keeps the mapping until it dies.
        """
        for view in (*self.slots, self.words, self._view):
            view.release()
