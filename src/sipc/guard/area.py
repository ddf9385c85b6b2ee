# SPDX-License-Identifier: Apache-2.0
"""Messages for the worker of a Python filter: memory that the stage writes and the worker can only read.

Owns the shared area and the layout of all that goes between the two (`batches.py` is the stage's side, `worker.py` the
other).  Little-endian, as the rest of the wire.

    notice   to the worker, pipe     tag, u32 count, u64 offset in the area, u8 whether to ring when all are answered;
                                     count 0: one message of `offset` bytes follows in the pipe
    count    in the area             u64, of notices: the worker looks here a while before it sleeps on the pipe
    part     in the area             u32 length[count], then the messages back to back
    reply    to the stage, pipe      tag of the notice, u32 number in the part, u8 code, u32 length, payload

The area is a memfd, sealed once the stage has mapped it: F_SEAL_FUTURE_WRITE leaves the stage's mapping the only one
that can ever be written, F_SEAL_SHRINK keeps it from vanishing below it, F_SEAL_SEAL makes that final (fcntl(2)).  So
there is nothing shared that a worker could change, and nothing that the stage would have to read twice.  Verdicts come
by a pipe because what was written there can not be taken back: a message that takes the worker over finds the verdicts
on those before it already given.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence

from sipc.errors import KernelError

__all__ = ("NOTICE", "REPLY", "SAME", "TAG", "Area", "attach", "messages_in", "notices")

TAG = 16  # bytes; as many as nobody guesses
NOTICE = struct.Struct(f"<{TAG}sIQB")
REPLY = struct.Struct(f"<{TAG}sIBI")
SAME = 1  # beside the values of `Code`: pass the message as it came
_COUNT = struct.Struct("<Q")
_LENGTH = struct.calcsize("<I")
_SMALL = 8192  # bytes; below, one more copy costs less than a slice assignment for each message
# <linux/fcntl.h>, since Linux 5.1; Python's fcntl does not have it.
_F_SEAL_FUTURE_WRITE = 0x10
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
_MAP_FAILED = ctypes.c_void_p(-1).value
_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_mmap.restype = ctypes.c_void_p


class Area:
    """The stage's side.  Parts are put in and let go in the same order; what is in use is not written again."""

    def __init__(self, size: int) -> None:
        """Make and seal one of `size` bytes.  Raises `KernelError`."""
        self.size = size
        self._used: deque[tuple[int, int]] = deque()  # (start, end), oldest first
        self._notices = 0
        self.fd = -1
        call = "memfd_create"
        try:
            self.fd = os.memfd_create("sipc-filter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            call = "ftruncate"
            os.ftruncate(self.fd, size)
            call = "mmap"
            self._memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            call = "fcntl(F_ADD_SEALS)"
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            self.forget_descriptor()
            raise KernelError(
                error.errno or 0,
                f"{error.strerror}: messages reach a Python filter through it; it takes Linux 5.1, and under SELinux "
                "the stage's domain needs tmpfs_t:file { read write map getattr }",
                syscall=call, obj="memory for a filter",
            ) from error  # fmt: skip

    def forget_descriptor(self) -> None:
        """Close the descriptor, once the worker has it; the mapping stays."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def put(self, messages: Sequence[bytes]) -> int | None:
        """Copy in one part; its offset, or None when there is no room until older ones are let go."""
        lengths = list(map(len, messages))
        table, total = len(messages) * _LENGTH, sum(lengths)
        start = self._room(table + total)
        if start is None:
            return None
        memory = self._memory
        struct.pack_into(f"<{len(lengths)}I", memory, start, *lengths)
        at = start + table
        if total < _SMALL * len(messages):
            memory[at : at + total] = b"".join(messages)
        else:
            for message, length in zip(messages, lengths, strict=True):
                memory[at : at + length] = message
                at += length
        self._used.append((start, start + table + total))
        return start

    def _room(self, count: int) -> int | None:
        first = _COUNT.size
        if not self._used:
            return first if count <= self.size - first else None
        oldest, newest = self._used[0][0], self._used[-1][1]
        if newest > oldest:  # in use is one run: behind it, or before it
            if count <= self.size - newest:
                return newest
            return first if count < oldest - first else None
        return newest if count < oldest - newest else None

    def noticed(self) -> None:
        """One more notice is in the pipe."""
        self._notices += 1
        _COUNT.pack_into(self._memory, 0, self._notices)

    def let_go(self) -> None:
        """The oldest part was answered."""
        self._used.popleft()

    def close(self) -> None:
        """Unmap."""
        self.forget_descriptor()
        self._memory.close()


def attach(fd: int, size: int) -> memoryview:
    """The worker's side: map it to read, and close the descriptor.

    By hand, because `mmap.mmap` would keep a descriptor.  It stays mapped until the process ends.
    """
    address = _mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise KernelError(code, os.strerror(code), syscall="mmap", obj="memory for a filter")
    os.close(fd)
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B").toreadonly()


def notices(area: memoryview) -> memoryview:
    """Where the worker sees how many notices there have been: one number."""
    return area[: _COUNT.size].cast("Q")


def messages_in(area: memoryview, offset: int, count: int) -> Iterator[bytes]:
    """Private copies of the messages of one part, each made when its turn has come; small ones together."""
    lengths = struct.unpack_from(f"<{count}I", area, offset)
    at, total = offset + count * _LENGTH, sum(lengths)
    if total < _SMALL * count:
        copy, at = bytes(area[at : at + total]), 0
        for length in lengths:
            yield copy[at : at + length]
            at += length
        return
    for length in lengths:
        yield bytes(area[at : at + length])
        at += length
