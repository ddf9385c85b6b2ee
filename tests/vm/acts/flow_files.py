# SPDX-License-Identifier: Apache-2.0
"""Mechanisms that are files with names: files, and the shared memory, queues and semaphores of POSIX."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import Any

from .flow_kind import READ, WRITE, Descriptor, Kind, Made, Mapped, call, content, datum, libc, said, tick

__all__ = ("FILES",)

libc.sem_open.restype = ctypes.c_void_p
for _name in ("sem_post", "sem_trywait", "sem_close"):
    getattr(libc, _name).argtypes = (ctypes.c_void_p,)
libc.sem_getvalue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_ACCESS, _OPEN = 0x1, 0x20  # IN_ACCESS, IN_OPEN
_MAXMSG = 2


class File(Descriptor):
    """A regular file on a disk, by read(2) and write(2)."""

    mode = os.O_WRONLY
    folder = "/var/tmp"

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.path = f"{self.folder}/flow.{tag}"
        self.watch = -1

    def make(self) -> Made:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        os.ftruncate(fd, 8192)
        os.write(fd, bytes(8))
        os.close(fd)
        return {}, [], []

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.fd = self.keep(os.open(self.path, (os.O_RDONLY if role == "reader" else self.mode) | os.O_CLOEXEC))

    def write(self, number: int) -> None:
        os.pwrite(self.fd, datum(number), 0)

    def read(self, number: int) -> bool:
        return os.pread(self.fd, 8, 0) == datum(number)

    def drop(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def watch_it(self) -> None:
        """Inotify for opening and reading."""
        self.watch = self.keep(call(libc.inotify_init1, _FLAGS))
        call(libc.inotify_add_watch, self.watch, self.path.encode(), _ACCESS | _OPEN)

    def look_events(self) -> str:
        """Whether inotify has anything."""
        return said(lambda: os.read(self.watch, 4096))

    def look_there(self) -> str:
        """Whether it can be opened."""
        return said(lambda: os.close(os.open(self.path, self.mode | os.O_CLOEXEC)))

    def unlink(self) -> None:
        """Take its name away."""
        os.unlink(self.path)

    def set_times(self) -> None:
        """utimensat(2)."""
        os.utime(self.path, (1, 1))

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, 8, 128).hex()
        finally:
            os.close(fd)

    def write_back(self) -> None:
        """Write from the reader's side."""
        os.pwrite(self.keep(os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)), b"backward", 128)

    def look_locks(self) -> str:
        """/proc/locks."""
        return content("/proc/locks")


class Append(File):
    """The same, the writer adds to its end and can do no more."""

    mode = os.O_WRONLY | os.O_APPEND

    def make(self) -> Made:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        return {}, [], []

    def write(self, number: int) -> None:
        os.write(self.fd, datum(number))

    def read(self, number: int) -> bool:
        return os.pread(self.fd, 1 << 16, 0)[-8:] == datum(number)

    def overwrite(self) -> None:
        """What an appender may not: write anywhere else."""
        os.close(os.open(self.path, os.O_WRONLY | os.O_CLOEXEC))


class MappedFile(Mapped, File):
    """The same, mapped by both."""

    mode = os.O_RDWR

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        File.open(self, role, info)
        self.map(self.fd, READ if role == "reader" else READ | WRITE)

    def look_back(self) -> str:
        return str(Mapped.look_back(self))

    def write_back(self) -> None:
        """Map it again, to write."""
        fd = self.keep(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))
        self.store_back(call(libc.mmap, None, 4096, READ | WRITE, 1, fd, 0))

    def write_later(self) -> None:
        tick()
        os.pwrite(self.fd, b"later", 256)  # a store into the mapping need not set a time

    def map_later(self) -> None:
        """Map it again, at a later time than it was made."""
        tick()
        call(libc.mmap, None, 4096, READ, 1, self.fd, 0)


class SharedMemory(MappedFile):
    """shm_open(3): a file in /dev/shm, mapped by both."""

    folder = "/dev/shm"


class PosixQueue(Descriptor):
    """mq_open(3)."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.name = f"/flow.{tag}".encode()

    def make(self) -> Made:
        attributes = struct.pack("@8q", 0, _MAXMSG, 8, 0, 0, 0, 0, 0)
        os.close(call(libc.mq_open, self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, attributes))
        return {}, [], []

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        flags = os.O_RDONLY if role == "reader" else os.O_WRONLY
        self.fd = self.keep(call(libc.mq_open, self.name, flags | _FLAGS, 0, None))

    def write(self, number: int) -> None:
        call(libc.mq_send, self.fd, datum(number), 8, 0)

    def read(self, number: int) -> bool:
        space = ctypes.create_string_buffer(8)
        return call(libc.mq_receive, self.fd, space, 8, None) == 8 and space.raw == datum(number)

    def fill(self) -> None:
        for number in range(_MAXMSG):
            self.write(number)

    def drain(self) -> None:
        self.read(0)

    def look_room(self) -> str:
        return said(lambda: self.write(9))

    def write_something(self) -> None:
        """The writer's part before a message is taken."""
        self.write(1)

    def read_later(self) -> None:
        tick(second=True)  # what the times of this file system are cut to
        self.read(1)

    def look_count(self) -> int:
        """mq_getattr(3): how many are in it."""
        space = ctypes.create_string_buffer(64)
        call(libc.mq_getattr, self.fd, space)
        return int(struct.unpack_from("@4q", space.raw)[3])

    def look_notify(self) -> str:
        """mq_notify(3): EBUSY when the other side has asked for it."""
        outcome = said(self.ask_notify)
        if outcome == "ok":
            call(libc.mq_notify, self.fd, None)
        return outcome

    def ask_notify(self) -> None:
        """Ask to be told, by nothing (SIGEV_NONE)."""
        call(libc.mq_notify, self.fd, struct.pack("@qii", 0, 0, 1) + bytes(48))

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        fd = call(libc.mq_open, self.name, os.O_RDONLY | _FLAGS, 0, None)
        try:
            return said(lambda: call(libc.mq_receive, fd, bytes(8), 8, None))
        finally:
            os.close(fd)

    def write_back(self) -> None:
        """Write from the reader's side."""
        self.fd = self.keep(call(libc.mq_open, self.name, os.O_WRONLY | _FLAGS, 0, None))
        self.write(7)

    def drop(self) -> None:
        libc.mq_unlink(self.name)


class Semaphore(Kind):
    """sem_open(3), used by both as the manual says."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.name = f"/flow.{tag}".encode()
        self.address = 0

    def make(self) -> Made:
        self._use(os.O_CREAT | os.O_EXCL)
        return {}, [], []

    def _use(self, flags: int) -> None:
        address = libc.sem_open(self.name, flags, 0o666, 0)
        if not address:
            raise OSError(ctypes.get_errno(), "sem_open")
        self.address = address

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self._use(0)

    def write(self, number: int) -> None:
        call(libc.sem_post, self.address)

    def read(self, number: int) -> bool:
        return int(libc.sem_trywait(self.address)) == 0

    def look_value(self) -> int:
        """sem_getvalue(3)."""
        value = ctypes.c_int()
        call(libc.sem_getvalue, self.address, ctypes.addressof(value))
        return value.value

    def post(self) -> None:
        """The writer's part before the reader takes it."""
        self.write(1)

    def take(self) -> None:
        """sem_trywait(3)."""
        call(libc.sem_trywait, self.address)

    def close(self) -> None:
        if self.address:
            libc.sem_close(self.address)
            self.address = 0

    def drop(self) -> None:
        libc.sem_unlink(self.name)


class WatchedSemaphore(Mapped, Semaphore):
    """The same semaphore; the reader maps its file to read, and takes nothing: it looks at the value."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.role = role
        if role == "writer":
            Semaphore.open(self, role, info)
            return
        fd = self.keep(os.open(f"/dev/shm/sem.{self.name.decode()[1:]}", os.O_RDONLY | os.O_CLOEXEC))
        self.address = call(libc.mmap, None, 4096, READ, 1, fd, 0)

    def write(self, number: int) -> None:
        Semaphore.write(self, number)

    def read(self, number: int) -> bool:
        return int.from_bytes(ctypes.string_at(self.address, 4), "little") == number

    def unmap(self) -> None:
        if self.role == "writer":
            libc.sem_close(self.address)
        else:
            libc.munmap(self.address, 4096)

    def write_back(self) -> None:
        """Open it for writing after all."""
        self._use(0)
        call(libc.sem_post, self.address)

    def drop(self) -> None:
        libc.sem_unlink(self.name)


FILES: dict[str, type[Kind]] = {
    kind.__name__: kind for kind in (File, Append, MappedFile, SharedMemory, PosixQueue, Semaphore, WatchedSemaphore)
}
