# SPDX-License-Identifier: Apache-2.0
"""Mechanisms that are descriptors, made by one process and handed over (and the FIFO, a pipe with a name)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Any

from .flow_kind import READ, WRITE, Descriptor, Kind, Made, Mapped, call, datum, libc, said

__all__ = ("DESCRIPTORS",)

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_SET_PIPE, _GET_PIPE = 1031, 1032  # F_SETPIPE_SZ, F_GETPIPE_SZ
_ADD_SEALS, _GET_SEALS, _SEAL_GROW = 1033, 1034, 4


class Pipe(Descriptor):
    """pipe(2), made by the maker, an end handed to each side."""

    def make(self) -> Made:
        reading, writing = os.pipe2(_FLAGS)
        fcntl.fcntl(writing, _SET_PIPE, 4096)
        return {}, [reading], [writing]

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.take(fds)

    def look_size(self) -> int:
        """How much the pipe can hold."""
        return fcntl.fcntl(self.fd, _GET_PIPE)

    def resize(self) -> None:
        """Make it hold more."""
        fcntl.fcntl(self.fd, _SET_PIPE, 1 << 16)

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        fd = self.other_way(os.O_RDONLY)
        try:
            return os.read(fd, 8).hex()
        except BlockingIOError:
            return ""
        finally:
            self.fds.remove(fd)
            os.close(fd)

    def write_back(self) -> None:
        """Write from the reader's side."""
        os.write(self.other_way(os.O_WRONLY), b"backward")


class Fifo(Pipe):
    """A FIFO on a disk."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.path = f"/var/tmp/flow.{tag}"

    def make(self) -> Made:
        os.mkfifo(self.path, 0o666)
        return {}, [], []

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        flags = os.O_RDONLY if role == "reader" else os.O_WRONLY
        self.fd = self.keep(os.open(self.path, flags | _FLAGS))

    def drop(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def shrink(self) -> None:
        """The writer's part before the pipe's size is looked at."""
        fcntl.fcntl(self.fd, _SET_PIPE, 4096)

    def look_reader(self) -> str:
        """Whether anybody reads: ENXIO when nobody does."""
        return said(lambda: os.close(os.open(self.path, os.O_WRONLY | _FLAGS)))


class Memfd(Descriptor):
    """memfd_create(2): a descriptor to write for one side, one to read for the other."""

    writing = os.O_WRONLY

    def make(self) -> Made:
        fd = os.memfd_create("flow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 8192)
        ends = [os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC) for flags in (os.O_RDONLY, self.writing)]
        os.close(fd)
        return {}, [ends[0]], [ends[1]]

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.take(fds)

    def write(self, number: int) -> None:
        os.pwrite(self.fd, datum(number), 0)

    def read(self, number: int) -> bool:
        return os.pread(self.fd, 8, 0) == datum(number)


class MappedMemfd(Mapped, Memfd):
    """The same, mapped by both."""

    writing = os.O_RDWR

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        Memfd.open(self, role, info, fds)
        self.map(self.fd, READ if role == "reader" else READ | WRITE)

    def write_back(self) -> None:
        """Open it again by the link in /proc, and map that to write."""
        self.store_back(call(libc.mmap, None, 4096, READ | WRITE, 1, self.other_way(os.O_RDWR), 0))


class OneMemfd(Memfd):
    """The descriptor that memfd_create(2) returned, handed to both."""

    def make(self) -> Made:
        fd = os.memfd_create("flow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 8192)
        return {}, [os.dup(fd)], [fd]

    def look_offset(self) -> int:
        """Where the file's position is."""
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def seek(self) -> None:
        """Move the file's position."""
        os.lseek(self.fd, 4711, os.SEEK_SET)

    def look_flags(self) -> int:
        """F_GETFL."""
        return fcntl.fcntl(self.fd, fcntl.F_GETFL)

    def set_flags(self) -> None:
        """F_SETFL."""
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_NONBLOCK)

    def look_seals(self) -> int:
        """F_GET_SEALS."""
        return fcntl.fcntl(self.fd, _GET_SEALS)

    def seal(self) -> None:
        """F_ADD_SEALS."""
        fcntl.fcntl(self.fd, _ADD_SEALS, _SEAL_GROW)

    def look_back(self) -> str:
        """What the reader wrote."""
        return os.pread(self.fd, 8, 128).hex()

    def write_back(self) -> None:
        """Write from the reader's side."""
        os.pwrite(self.fd, b"backward", 128)


class Event(Descriptor):
    """eventfd(2), handed to both."""

    def make(self) -> Made:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return {}, [os.dup(fd)], [fd]

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.take(fds)

    def write(self, number: int) -> None:
        os.eventfd_write(self.fd, number)

    def read(self, number: int) -> bool:
        return os.eventfd_read(self.fd) == number

    def fill(self) -> None:
        os.eventfd_write(self.fd, 2**64 - 2)

    def look_room(self) -> str:
        return said(lambda: os.eventfd_write(self.fd, 1))

    def drain(self) -> None:
        os.eventfd_read(self.fd)

    def look_back(self) -> str:
        """Whether there is anything to read."""
        return said(lambda: os.eventfd_read(self.fd))

    def write_back(self) -> None:
        """Write from the reader's side."""
        os.eventfd_write(self.fd, 1)


DESCRIPTORS: dict[str, type[Kind]] = {kind.__name__: kind for kind in (Pipe, Fifo, Memfd, MappedMemfd, OneMemfd, Event)}
