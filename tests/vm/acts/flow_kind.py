# SPDX-License-Identifier: Apache-2.0
"""What every mechanism can do in each of its three processes, and what all that have a descriptor share.

Plain system calls: a wrapper that looks at what it opened (Python's mmap and its sockets do) would need permissions
that the mechanism does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
PAGE = 4096
MAPPED = 2 * PAGE  # one page of data, one that nobody has touched
READ, WRITE, SHARED = 1, 2, 1  # PROT_READ, PROT_WRITE, MAP_SHARED
_COARSE = 5  # CLOCK_REALTIME_COARSE: what the times of inodes are taken from
_FUTEX, _WAIT, _WAKE = 202, 0, 1
_WORD, _BACK = 64, 128  # offsets in the first page: a futex, and what a reader writes

Made = tuple[dict[str, Any], list[int], list[int]]  # what to know; descriptors for the reader; for the writer


def call(function: Any, *arguments: Any) -> int:
    """Call into the C library; raises with its errno."""
    value = function(*arguments)
    if value in (-1, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(value or 0)


def datum(number: int) -> bytes:
    """What goes across, eight bytes."""
    return b"%08d" % number


def said(function: Callable[[], object]) -> str:
    """`ok`, or which error: for looks whose answer the error is, a refusal included."""
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def content(path: str) -> str:
    """What a file in /proc says; Python's own open() would look at its state as well."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16).decode()
    finally:
        os.close(fd)


def tick(*, second: bool = False) -> None:
    """Until a new time stamp (cut to a `second`) differs from an old one."""
    unit = 1_000_000_000 if second else 1
    start = time.clock_gettime_ns(_COARSE) // unit
    while time.clock_gettime_ns(_COARSE) // unit == start:
        pass


def until_full(write: Callable[[], object]) -> None:
    """Write until there is no room."""
    with contextlib.suppress(BlockingIOError):
        while True:
            write()


class Kind:
    """One mechanism, in one of its processes."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.key = 0x51F00000 + int(tag) * 16
        self.fds: list[int] = []

    def make(self) -> Made:
        """The maker's part."""
        return {}, [], []

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any] | None:
        """Open one side; what is returned reaches the other side's `info`."""
        raise NotImplementedError

    def write(self, number: int) -> None:
        """Send a datum."""
        raise NotImplementedError

    def read(self, number: int) -> bool:
        """Whether it has arrived."""
        raise NotImplementedError

    def keep(self, fd: int) -> int:
        """A descriptor to close with the rest."""
        self.fds.append(fd)
        return fd

    def close(self) -> None:
        """Close this side."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds = []

    def drop(self) -> None:
        """Remove the object; nothing happens when there is none."""


class Descriptor(Kind):
    """A mechanism whose sides hold one descriptor each."""

    fd = -1

    def take(self, fds: list[int] | None) -> int:
        """The descriptor that was handed over; a refused one did not arrive."""
        if not fds:
            raise OSError(errno.EACCES, "the descriptor was kept back")
        self.fd = self.keep(fds[0])
        return self.fd

    def write(self, number: int) -> None:
        os.write(self.fd, datum(number))

    def read(self, number: int) -> bool:
        return os.read(self.fd, 8) == datum(number)

    def fill(self) -> None:
        """The writer's part before it looks for room."""
        until_full(lambda: os.write(self.fd, bytes(PAGE)))

    def drain(self) -> None:
        """Take all that there is."""
        os.read(self.fd, 1 << 16)

    def look_room(self) -> str:
        """Whether a write is taken."""
        return said(lambda: os.write(self.fd, b"1"))

    def look_poll(self) -> bool:
        """Whether poll(2) says that there is room."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))

    def look_unread(self) -> int:
        """FIONREAD."""
        return int(struct.unpack("@i", fcntl.ioctl(self.fd, 0x541B, bytes(4)))[0])

    def look_atime(self) -> int:
        """When it was last read, by fstat(2)."""
        return os.fstat(self.fd).st_atime_ns

    def look_mtime(self) -> int:
        """When it was last changed."""
        return os.fstat(self.fd).st_mtime_ns

    def write_later(self) -> None:
        """Something to read, at a later time than it was made: else reading sets no time (relatime)."""
        tick()
        self.write(1)

    def read_later(self) -> None:
        """Read, at a later time than it was written."""
        tick()
        self.read(1)

    def look_flock(self) -> str:
        """Whether somebody else has it locked."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held"
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return "free"

    def hold_flock(self) -> None:
        """Lock it."""
        fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def look_record(self) -> int:
        """fcntl(F_GETLK): the kind of lock that a write lock would meet."""
        asked = struct.pack("@hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
        return int(struct.unpack_from("@h", fcntl.fcntl(self.fd, fcntl.F_GETLK, asked))[0])

    def hold_record(self) -> None:
        """fcntl(F_SETLK)."""
        fcntl.lockf(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def other_way(self, flags: int) -> int:
        """The same object again, by the link in /proc, for the other direction."""
        return self.keep(os.open(f"/proc/self/fd/{self.fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC))


class Mapped(Kind):
    """A mechanism whose sides map the same pages."""

    address = 0

    def map(self, fd: int, protection: int) -> None:
        """Map two pages of a file."""
        self.address = call(libc.mmap, None, MAPPED, protection, SHARED, fd, 0)

    def write(self, number: int) -> None:
        ctypes.memmove(self.address, datum(number), 8)

    def read(self, number: int) -> bool:
        return ctypes.string_at(self.address, 8) == datum(number)

    def close(self) -> None:
        if self.address:
            self.unmap()
            self.address = 0
        super().close()

    def unmap(self) -> None:
        """Give the mapping up."""
        call(libc.munmap, self.address, MAPPED)

    def look_back(self) -> bytes | str:
        """What the reader wrote, if it could."""
        return ctypes.string_at(self.address + _BACK, 8).hex()

    def store_back(self, address: int) -> None:
        """The reader's store through a mapping that it may write to."""
        ctypes.memmove(address + _BACK, b"backward", 8)

    def look_resident(self) -> int:
        """mincore(2) of the page that nobody has touched."""
        vector = ctypes.create_string_buffer(1)
        call(libc.mincore, self.address + PAGE, PAGE, vector)
        return vector.raw[0] & 1

    def touch(self) -> None:
        """Read the page that nobody has touched."""
        ctypes.string_at(self.address + PAGE, 1)

    def look_woken(self, patient: bool) -> str:
        """Wait on a word in the mapping: woken, or not in time."""
        wait = struct.pack("@qq", 5 if patient else 0, 0 if patient else 20_000_000)
        return said(lambda: self._futex(_WAIT, 0, wait))

    def wake(self) -> None:
        """Wake whoever waits there, as soon as somebody does."""
        deadline = time.monotonic() + 5
        while not self._futex(_WAKE, 1, None) and time.monotonic() < deadline:
            os.sched_yield()

    def _futex(self, operation: int, value: int, wait: bytes | None) -> int:
        word = ctypes.c_void_p(self.address + _WORD)
        return call(libc.syscall, ctypes.c_long(_FUTEX), word, operation, value, wait, None, 0)
