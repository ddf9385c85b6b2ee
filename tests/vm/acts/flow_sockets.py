# SPDX-License-Identifier: Apache-2.0
"""Mechanisms between two processes and nothing else: Unix sockets, signals."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
from typing import Any

from .flow_kind import PAGE, Descriptor, Kind, Made, call, datum, libc, said, until_full

__all__ = ("SOCKETS",)

_OUTQ = 0x5411  # SIOCOUTQ
_QUIET = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_PENDING = 16  # signals that may wait, of one user
_QUEUE = 129  # rt_sigqueueinfo


def _address(path: str) -> bytes:
    return struct.pack("@H108s", socket.AF_UNIX, path.encode())


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
        call(libc.syscall, ctypes.c_long(_QUEUE), self.target, int(signal.SIGRTMIN), info)

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


SOCKETS: dict[str, type[Kind]] = {
    kind.__name__: kind for kind in (Stream, Pair, Datagram, Signal, ChildSignal, Stop, Kill)
}
