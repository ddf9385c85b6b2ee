# SPDX-License-Identifier: Apache-2.0
"""Control messages of the sipc2 wire: 32 bytes, little-endian.

`u8 version, u8 kind, u16 slot, u32 flags, u64 epoch, u64 seq, u64 length`; on System V `mtype = kind` too.
Owns their layout and every check that needs no state.  Source: DESIGN section 4, docs/protocol.md.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from sipc.errors import LocalProtocolError, RemoteProtocolError

__all__ = ("CONTROL_SIZE", "LAYOUT", "VERSION", "ControlMessage", "Flag", "Kind", "decode", "encode")

VERSION = 2
LAYOUT = struct.Struct("<BBHIQQQ")
CONTROL_SIZE = LAYOUT.size
U64 = (1 << 64) - 1


class Kind(enum.IntEnum):
    """What a control message says."""

    DATA_READY = 1
    NOOP = 2
    CLOSE = 3


class Flag(enum.IntFlag):
    """What a block is.

    MORE: its record goes on in the next block; with CLOSE: the stream was cut, more was to come.
    RECORDS: it holds packed records.
    RESTART: first block of a sender whose predecessor never closed its stream.
    CLOSE: the empty last block of a stream.
    CONTINUED: its record began in an earlier block.  A block without it begins anew, and an unfinished
    record before it was given up by the sender.
    """

    NONE = 0
    MORE = 1
    RECORDS = 2
    RESTART = 4
    CLOSE = 8
    CONTINUED = 16


ALL_FLAGS = 0b11111
_MORE, _RECORDS, _CLOSE = int(Flag.MORE), int(Flag.RECORDS), int(Flag.CLOSE)
_RESTART, _CONTINUED = int(Flag.RESTART), int(Flag.CONTINUED)
_DATA_READY, _NOOP, _KIND_CLOSE = int(Kind.DATA_READY), int(Kind.NOOP), int(Kind.CLOSE)


def encode(kind: int, slot: int, flags: int, epoch: int, seq: int, length: int) -> bytes:
    """Pack one control message; the caller has valid fields (the machines make no others)."""
    return LAYOUT.pack(VERSION, kind, slot, flags, epoch, seq, length)


def decode(data: bytes | memoryview, epoch: int, trailer: int = 0) -> tuple[int, int, int, int, int]:
    """Unpack and check one control message; `trailer` is how many bytes of a block are not its payload (its tag).

    Returns (kind, slot, flags, seq, length).  Raises `RemoteProtocolError` naming field, value and bound.
    """
    if len(data) != CONTROL_SIZE:
        raise RemoteProtocolError("message size", len(data), f"{CONTROL_SIZE} bytes")
    version, kind, slot, flags, its_epoch, seq, length = LAYOUT.unpack(data)
    if version != VERSION:
        raise RemoteProtocolError("version", version, f"{VERSION}")
    if its_epoch != epoch:
        raise RemoteProtocolError("epoch", its_epoch, f"{epoch}, the epoch of this channel")
    if kind == _DATA_READY:
        check_flags(flags)
        if flags & _CLOSE:
            raise RemoteProtocolError("flags", flags, "without CLOSE in a DATA_READY message")
    elif kind == _NOOP:
        if slot or flags or seq or length:
            raise RemoteProtocolError("NOOP fields", (slot, flags, seq, length), "all zero")
        return kind, 0, 0, 0, 0
    elif kind == _KIND_CLOSE:
        check_flags(flags)
        if not flags & _CLOSE:
            raise RemoteProtocolError("flags", flags, "with CLOSE in a CLOSE message")
        if length != trailer:
            raise RemoteProtocolError("length", length, f"{trailer} in a CLOSE message")
    else:
        raise RemoteProtocolError("kind", kind, "1 (DATA_READY), 2 (NOOP) or 3 (CLOSE)")
    if seq == 0:
        raise RemoteProtocolError("seq", 0, "at least 1")
    return kind, slot, flags, seq, length


def check_flags(flags: int) -> None:
    """Refuse flag bits and combinations that mean nothing."""
    if flags & ~ALL_FLAGS:
        raise RemoteProtocolError("flags", flags, f"within {ALL_FLAGS:#x}; the other bits are reserved")
    if flags & _RECORDS and flags & (_MORE | _CLOSE | _CONTINUED):
        raise RemoteProtocolError("flags", flags, "RECORDS without MORE, CLOSE or CONTINUED")
    if flags & _CONTINUED and flags & (_CLOSE | _RESTART):
        raise RemoteProtocolError("flags", flags, "CONTINUED without CLOSE or RESTART")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMessage:
    """One control message as a value, for tools and tests; the machines use `encode` and `decode`."""

    kind: Kind
    slot: int = 0
    flags: Flag = Flag.NONE
    epoch: int
    seq: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.slot <= 0xFFFF and all(0 <= n <= U64 for n in (self.epoch, self.seq, self.length))):
            raise LocalProtocolError(f"control message field out of range: {self!r}")
        try:
            decode(self.encode(), self.epoch)
        except (RemoteProtocolError, struct.error) as error:
            raise LocalProtocolError(f"no such control message: {self!r}") from error

    def encode(self) -> bytes:
        """The 32 bytes of this message."""
        return encode(self.kind, self.slot, self.flags, self.epoch, self.seq, self.length)

    @classmethod
    def decode(cls, data: bytes, *, epoch: int) -> ControlMessage:
        """Read 32 bytes; raises `RemoteProtocolError` like `decode`."""
        kind, slot, flags, seq, length = decode(data, epoch)
        return cls(kind=Kind(kind), slot=slot, flags=Flag(flags), epoch=epoch, seq=seq, length=length)
