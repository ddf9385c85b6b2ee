# SPDX-License-Identifier: Apache-2.0
"""Mechanisms with classes of their own: Unix sockets, the three of System V, signals."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
from typing import Any

from .flow_kind import PAGE, Descriptor, Kind, Made, Mapped, call, content, datum, libc, said, until_full

__all__ = ("IPC",)

libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
CREATE, EXCLUSIVE, NO_WAIT = 0o1000, 0o2000, 0o4000
RMID, SET, STAT = 0, 1, 2
MSG_COPY, SHM_RDONLY, SHM_LOCK = 0o40000, 0o10000, 11
GETPID, GETVAL, GETNCNT, SETVAL = 11, 12, 14, 16
_PENDING = 16  # signals that may wait, of one user
_OUTQ = 0x5411  # SIOCOUTQ
_QUIET = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class Stream(Descriptor):
    """A Unix stream socket with a path; the reader listens."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.path = f"/var/tmp/flow.{tag}"
        self.listening = -1

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        if role == "writer":
            self.fd = self.connect()
            return
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | _QUIET)
        self.listening = self.keep(end.detach())
        call(libc.bind, self.listening, _address(self.path), 110)
        call(libc.listen, self.listening, 1)

    def connect(self) -> int:
        """A connection more."""
        fd = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | _QUIET).detach())
        call(libc.connect, fd, _address(self.path), 110)
        return fd

    def accept(self) -> None:
        """Take a connection."""
        if self.listening >= 0:
            self.fd = self.keep(call(libc.accept4, self.listening, None, None, _QUIET))

    def write(self, number: int) -> None:
        self.put(datum(number))

    def put(self, data: bytes) -> None:
        """send(2)."""
        call(libc.send, self.fd, data, len(data), socket.MSG_NOSIGNAL)

    def read(self, number: int) -> bool:
        if self.fd < 0:
            self.accept()
        return self.get(8) == datum(number)

    def get(self, size: int) -> bytes:
        """recv(2)."""
        space = ctypes.create_string_buffer(size)
        got = call(libc.recv, self.fd, space, size, 0)
        return space.raw[:got]

    def fill(self) -> None:
        until_full(lambda: self.put(bytes(PAGE)))

    def drain(self) -> None:
        if self.fd < 0:
            self.accept()
        until_full(lambda: self.get(1 << 16))

    def look_room(self) -> str:
        return said(lambda: self.put(b"1"))

    def write_something(self) -> None:
        """The writer's part before what is unread is looked at."""
        self.put(b"something")

    def look_outq(self) -> int:
        """SIOCOUTQ: what of one's own nobody has read."""
        return int(struct.unpack("@i", fcntl.ioctl(self.fd, _OUTQ, bytes(4)))[0])

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        try:
            return self.get(8).hex()
        except BlockingIOError:
            return ""

    def write_back(self) -> None:
        """Write from the reader's side."""
        if self.fd < 0:
            self.accept()
        self.put(b"backward")

    def shut(self) -> None:
        """shutdown(2) for reading."""
        if self.fd < 0:
            self.accept()
        call(libc.shutdown, self.fd, socket.SHUT_RD)

    def fill_backlog(self) -> None:
        """As many connections as are taken."""
        until_full(self.connect)

    def look_backlog(self) -> str:
        """Whether one more is taken."""
        return said(self.connect)

    def close(self) -> None:
        super().close()
        self.fd = self.listening = -1

    def drop(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _address(path: str) -> bytes:
    return struct.pack("@H108s", socket.AF_UNIX, path.encode())


class Pair(Stream):
    """socketpair(2), made by the maker, an end handed to each side."""

    def make(self) -> Made:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | _QUIET)
        return {}, [ends[0].detach()], [ends[1].detach()]

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.take(fds)


class Datagram(Stream):
    """A Unix datagram socket with a path; the writer does not connect."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.fd = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | _QUIET).detach())
        if role == "reader":
            call(libc.bind, self.fd, _address(self.path), 110)

    def put(self, data: bytes) -> None:
        call(libc.sendto, self.fd, data, len(data), socket.MSG_NOSIGNAL, _address(self.path), 110)

    def bind_back(self) -> None:
        """A name for the writer."""
        call(libc.bind, self.fd, _address(f"\0flow.{self.tag}"), 110)

    def write_back(self) -> None:
        address = _address(f"\0flow.{self.tag}")
        call(libc.sendto, self.fd, b"backward", 8, socket.MSG_NOSIGNAL, address, 110)


class SystemV(Kind):
    """What the three of System V have in common."""

    id = -1
    get: Any
    control: Any
    table = ""

    def find(self, mode: int) -> int:
        """Look the key up, for these rights."""
        raise NotImplementedError

    def create(self, key: int) -> int:
        """Make one."""
        raise NotImplementedError

    def make(self) -> Made:
        return {"id": self.create(self.key)}, [], []

    def look_state(self) -> str:
        """IPC_STAT."""
        space = ctypes.create_string_buffer(256)
        self._control(self.id, STAT, space)
        return space.raw.hex()

    def look_table(self) -> str:
        """/proc/sysvipc."""
        return content(f"/proc/sysvipc/{self.table}")

    def look_made(self) -> str:
        """Whether there is an object with another key: ENOENT, or not."""
        return said(lambda: self.other(0))

    def other(self, flags: int) -> int:
        """That object."""
        raise NotImplementedError

    def make_other(self) -> None:
        """Make that object."""
        self.other(CREATE | EXCLUSIVE | 0o666)

    def change(self) -> None:
        """IPC_SET: a mode that lets nobody in (and, of a queue, a limit)."""
        space = ctypes.create_string_buffer(256)
        struct.pack_into("@Q", space, 88, PAGE)
        self._control(self.id, SET, space)

    def look_mode(self) -> str:
        """Whether the writer can open it again."""
        return said(lambda: self.open("writer", {}))

    def remove(self) -> None:
        """IPC_RMID."""
        self._control(self.id, RMID, None)

    def _control(self, number: int, command: int, space: Any) -> int:
        raise NotImplementedError

    def drop(self) -> None:
        for flags in (self.key, self.key + 1):
            with contextlib.suppress(OSError):
                self._control(self.by_key(flags), RMID, None)

    def by_key(self, key: int) -> int:
        """The object with this key."""
        raise NotImplementedError


class Queue(SystemV):
    """A System V message queue."""

    table = "msg"

    def create(self, key: int) -> int:
        return call(libc.msgget, key, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.msgget, key, 0)

    def other(self, flags: int) -> int:
        return call(libc.msgget, self.key + 1, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.msgctl, number, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.msgget, self.key, 0o400 if role == "reader" else 0o200)

    def put(self, data: bytes) -> None:
        """msgsnd(2)."""
        call(libc.msgsnd, self.id, struct.pack("@l", 1) + data, len(data), NO_WAIT)

    def write(self, number: int) -> None:
        self.put(datum(number))

    def read(self, number: int) -> bool:
        space = ctypes.create_string_buffer(8 + PAGE)
        size = call(libc.msgrcv, self.id, space, PAGE, ctypes.c_long(0), NO_WAIT)
        return space.raw[8 : 8 + size] == datum(number)

    def write_something(self) -> None:
        """The writer's part before the state is looked at."""
        self.write(1)

    def fill(self) -> None:
        """As much as it takes."""
        until_full(lambda: self.put(bytes(2048)))

    def drain(self) -> None:
        """Take one."""
        self.read(0)

    def look_room(self) -> str:
        """Whether one more is taken."""
        return said(lambda: self.put(bytes(2048)))

    def look_copy(self) -> str:
        """MSG_COPY: the first message, left where it is."""
        space = ctypes.create_string_buffer(64)
        flags = MSG_COPY | NO_WAIT
        try:
            call(libc.msgrcv, self.id, space, 8, ctypes.c_long(0), flags)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return space.raw[8:16].hex()

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        return said(lambda: call(libc.msgrcv, self.id, bytes(64), 8, ctypes.c_long(2), NO_WAIT))

    def write_back(self) -> None:
        """Write from the reader's side."""
        call(libc.msgsnd, self.id, struct.pack("@l", 2) + b"backward", 8, NO_WAIT)


class Segment(Mapped, SystemV):
    """A System V shared memory segment."""

    table = "shm"

    def create(self, key: int) -> int:
        return call(libc.shmget, key, 2 * PAGE, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.shmget, key, 0, 0)

    def other(self, flags: int) -> int:
        return call(libc.shmget, self.key + 1, PAGE if flags else 0, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.shmctl, number, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        reading = role == "reader"
        self.id = call(libc.shmget, self.key, 0, 0o400 if reading else 0o600)
        self.address = self.attach(SHM_RDONLY if reading else 0)

    def attach(self, flags: int) -> int:
        """shmat(2)."""
        return call(libc.shmat, self.id, None, flags)

    def attach_again(self) -> None:
        """One attach more."""
        self.attach(SHM_RDONLY)

    def unmap(self) -> None:
        call(libc.shmdt, self.address)

    def look_back(self) -> str:
        return str(Mapped.look_back(self))

    def write_back(self) -> None:
        """Attach it to write."""
        self.store_back(self.attach(0))

    def pin(self) -> None:
        """SHM_LOCK."""
        self._control(self.id, SHM_LOCK, None)

    def drop(self) -> None:
        SystemV.drop(self)


class Semaphores(SystemV):
    """A System V semaphore set; the writer sets a value, the reader reads it."""

    table = "sem"

    def create(self, key: int) -> int:
        return call(libc.semget, key, 1, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.semget, key, 0, 0)

    def other(self, flags: int) -> int:
        return call(libc.semget, self.key + 1, 1 if flags else 0, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.semctl, number, 0, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.semget, self.key, 0, 0o400 if role == "reader" else 0o200)

    def write(self, number: int) -> None:
        call(libc.semctl, self.id, 0, SETVAL, number)

    def read(self, number: int) -> bool:
        return call(libc.semctl, self.id, 0, GETVAL) == number

    def set_zero(self) -> None:
        """The writer's part before the reader waits for zero."""
        self.write(0)

    def wait_for_zero(self) -> None:
        """semop(2) that changes nothing."""
        call(libc.semop, self.id, struct.pack("@HhH", 0, 0, NO_WAIT), 1)

    def up(self) -> None:
        """semop(2) that adds one."""
        call(libc.semop, self.id, struct.pack("@HhH", 0, 1, NO_WAIT), 1)

    def set_two(self) -> None:
        """SETVAL from the reader's side."""
        self.write(2)

    def look_value(self) -> int:
        """GETVAL."""
        return call(libc.semctl, self.id, 0, GETVAL)

    def look_pid(self) -> int:
        """GETPID: who operated last."""
        return call(libc.semctl, self.id, 0, GETPID)


class Counting(Semaphores):
    """The same set, used as the manual says: the writer adds one, the reader takes one."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.semget, self.key, 0, 0o600)

    def write(self, number: int) -> None:
        self.up()

    def read(self, number: int) -> bool:
        call(libc.semop, self.id, struct.pack("@HhH", 0, -1, NO_WAIT), 1)
        return True

    def take(self) -> None:
        """Take one."""
        self.read(1)


class Signal(Kind):
    """A signal that the reader waits for."""

    number = signal.SIGUSR1
    target = 0

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any] | None:
        if role == "writer":
            self.target = info["pid"]
            return None
        self.target = info["writer"]
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.number, signal.SIGRTMIN})
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (_PENDING, resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]))
        return {"pid": os.getpid()}

    def write(self, number: int) -> None:
        os.kill(self.target, self.number)

    def read(self, number: int) -> bool:
        return signal.sigtimedwait({self.number}, 0) is not None

    def queue(self) -> None:
        """rt_sigqueueinfo(2): one of those that are counted."""
        info = struct.pack("@iiiiiiq", signal.SIGRTMIN, 0, -1, 0, os.getpid(), 0, 0) + bytes(96)
        call(libc.syscall, ctypes.c_long(129), self.target, int(signal.SIGRTMIN), info)

    def fill(self) -> None:
        """As many as the target's limit takes."""
        until_full(self.queue)

    def look_room(self) -> str:
        """Whether one more is taken."""
        return said(self.queue)

    def drain(self) -> None:
        """Take all."""
        while signal.sigtimedwait({signal.SIGRTMIN}, 0) is not None:
            pass


    def expect(self) -> None:
        """The writer's part before the reader signals back."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.number})

    def look_back(self) -> bool:
        """Whether a signal came."""
        return self.read(0)

    def write_back(self) -> None:
        """Signal the writer."""
        os.kill(self.target, self.number)


class Child(Signal):
    """A signal to a child of the reader, of its domain, which does nothing."""

    child = 0

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any] | None:
        if role == "writer":
            self.target = info["pid"]
            return None
        self.child = os.fork()
        if self.child == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            while True:
                signal.pause()
        return {"pid": self.child}

    def read(self, number: int) -> bool:
        status = os.waitpid(self.child, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            return os.WSTOPSIG(status) == self.number
        self.child = 0
        return os.WTERMSIG(status) == self.number

    def finish(self) -> None:
        """The child ends, and its parent knows."""
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            self.child = 0

    def look_there(self) -> str:
        """kill(2) with no signal: whether there is such a process."""
        return said(lambda: os.kill(self.target, 0))

    def close(self) -> None:
        self.finish()


class ChildSignal(Signal):
    """SIGCHLD, sent by hand."""

    number = signal.SIGCHLD


class Stop(Child):
    """SIGSTOP."""

    number = signal.SIGSTOP


class Kill(Child):
    """SIGKILL."""

    number = signal.SIGKILL


IPC: dict[str, type[Kind]] = {
    kind.__name__: kind
    for kind in (
        Stream, Pair, Datagram, Queue, Segment, Semaphores, Counting, Signal, ChildSignal, Stop, Kill, Child,
    )
}  # fmt: skip
