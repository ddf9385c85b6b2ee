# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of a stage's own side: a source that others connect to, a sink that connects to others.

Owns both ends of one conversation: message frames one way, and for each, when it is in safety, one answer frame with
the code `PASS` and no payload.  So a sink of one guard can be joined to a source of the next.  A message that was not
answered is to be sent again: between processes that is all that can be promised, and a repeat is possible.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from sipc.errors import Broken, Busy, SpecError, Timeout
from sipc.guard.framing import FramingError, MessageFrames, answer, message, read_answer
from sipc.guard.sources import left_of
from sipc.guard.storage import doing
from sipc.guard.verdicts import Code, MessageId

__all__ = ("SocketSink", "SocketSource")

_PIECE = 65536
# Clients of one user on one host; each may make us hold one message.
_CONNECTIONS = 64
_LONGEST_PATH = 107  # bytes of sun_path, less its NUL
# Seconds between two attempts at who is not there: soon enough for one who is restarted, and no load while he is away.
# That somebody listens again no file event tells: listen(2) comes after bind(2).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# What the kernel says when there is nobody, or nobody any more.
_GONE = (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


def _check_path(path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    if len(os.fsencode(place)) > _LONGEST_PATH:
        raise SpecError(
            f"socket {place}: a path of at most {_LONGEST_PATH} bytes is possible (unix(7)): choose a shorter"
        )
    return place


class _Connection:
    def __init__(self, peer: socket.socket, limit: int) -> None:
        peer.setblocking(False)
        self.peer = peer
        self.frames = MessageFrames(limit)
        self.ended = False


class SocketSource:
    """A listening socket; clients send message frames and get an answer for each that is done.

    A client that sends what is no frame, or too large a one, is hung up on, and so is one that does not read answers.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_message: int, mode: int = 0o600) -> None:
        """Listen at `path`, which appears with `mode`; a socket that nobody listens on any more is replaced.

        Raises `Busy` when somebody does, `SpecError` when there is something else.
        """
        self.path = _check_path(path)
        self._limit = max_message
        self._in_hand: bytes | None = None
        self._from: _Connection | None = None
        self._connections: list[_Connection] = []
        self._clear()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            before = os.umask(0o777 & ~mode)
            try:
                with doing("bind", self.path, "name a place in a directory that this user may write"):
                    self._listener.bind(str(self.path))
            finally:
                os.umask(before)
            self._listener.listen(_CONNECTIONS)
        except BaseException:
            self._listener.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everybody, and remove the socket."""
        for connection in self._connections:
            connection.peer.close()
        self._connections, self._from, self._in_hand = [], None, None
        if self._listener.fileno() >= 0:
            self._listener.close()
            self.path.unlink(missing_ok=True)

    def _clear(self) -> None:
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SpecError(f"socket {self.path}: {error.strerror}: name a place in a directory of your own") from error
        if not stat.S_ISSOCK(status.st_mode):
            raise SpecError(f"socket {self.path}: something else is there: move it away, or name another place")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                with doing("unlink", self.path, "remove it by hand"):
                    self.path.unlink(missing_ok=True)
                return
            except OSError as error:
                raise SpecError(f"socket {self.path}: {error.strerror}: it is not this user's: name another") from error
        raise Busy(f"socket {self.path}: another process listens there, and only one can: end it, or name another")

    def take(self, timeout: float | None = None) -> bytes:
        """The next client's message, each client in its turn."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._in_hand is None and not self._next_frame():
            poll = select.poll()
            if len(self._connections) < _CONNECTIONS:
                poll.register(self._listener, select.POLLIN)
            by_fd = {connection.peer.fileno(): connection for connection in self._connections}
            for fd in by_fd:
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(left_of(deadline)):
                if fd in by_fd:
                    self._read(by_fd[fd])
                else:
                    with suppress(BlockingIOError, ConnectionAbortedError):
                        self._connections.append(_Connection(self._listener.accept()[0], self._limit))
        return self._in_hand or b""

    def _next_frame(self) -> bool:
        for connection in list(self._connections):
            try:
                found = connection.frames.next()
            except FramingError:
                self._hang_up(connection)
                continue
            if found is not None:
                self._connections.remove(connection)  # to the end of the line
                self._connections.append(connection)
                self._in_hand, self._from = found, connection
                return True
            if connection.ended:
                self._hang_up(connection)
        return False

    def _read(self, connection: _Connection) -> None:
        try:
            piece = connection.peer.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        connection.frames.feed(piece)
        connection.ended = not piece

    def _hang_up(self, connection: _Connection) -> None:
        connection.peer.close()
        self._connections.remove(connection)

    def done(self) -> None:
        """Tell the client."""
        connection, self._from, self._in_hand = self._from, None, None
        if connection is not None:
            told = answer(Code.PASS, b"")
            try:
                whole = connection.peer.send(told, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(told)
            except BrokenPipeError:
                return  # it listens no more; what it sent before that counts
            except OSError:
                whole = False
            if not whole:
                self._hang_up(connection)


class _Away(Broken):
    """Nobody is there who could take the message; somebody may come."""


class SocketSink:
    """Sends each message to who listens at a path, and waits until that one says that it has it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Connect at the first message; `timeout` is in seconds for each message.

        With `report`, a message waits for who is not there, or has gone, as for one who is slow; it is told so once.
        """
        self.path = _check_path(path)
        self._timeout = timeout
        self._report = report
        self._peer: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()

    def put(self, data: bytes, identity: MessageId) -> None:
        """Deliver one message.  Raises `Broken`, `Timeout`; then it may have arrived, and is to be put again."""
        del identity  # the other side gets messages, and nothing else
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        pause = 0.0
        while True:
            try:
                self._put(data, deadline)
            except _Away as error:
                if self._report is None:
                    raise
                if not pause:
                    self._report(f"{error}; the message waits")
                pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                time.sleep(pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic())))
            else:
                if pause and self._report is not None:
                    self._report(f"socket {self.path}: the message that waited was taken")
                return

    def _put(self, data: bytes, deadline: float | None) -> None:
        try:
            self._send(message(data), deadline)
            self._await_answer(deadline)
        except TimeoutError as error:
            self.close()
            raise Timeout(f"socket {self.path}: no answer within {self._timeout} s: it may have the message") from error
        except OSError as error:
            self.close()
            advice = {errno.ENOENT: "nobody listens there", errno.ECONNREFUSED: "nobody listens there any more"}
            why = advice.get(error.errno or 0, f"{error.strerror}")
            kind = _Away if error.errno in _GONE else Broken
            raise kind(f"socket {self.path}: {why}: start who should, then put the message again") from error
        except BaseException:
            self.close()
            raise

    def _left(self, deadline: float | None) -> float | None:
        if deadline is None:
            return None
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _send(self, frame: bytes, deadline: float | None) -> None:
        if self._peer is not None:
            try:
                self._peer.setblocking(False)
                unasked = self._peer.recv(1)
            except BlockingIOError:
                pass
            else:
                self.close()  # it hung up since; or, if it said something, nobody knows what its answers are to
                if unasked:
                    raise Broken(f"socket {self.path}: it answered what it was not asked: put the message again")
        if self._peer is None:
            self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._peer.settimeout(self._left(deadline))
            self._peer.connect(str(self.path))
        self._peer.settimeout(self._left(deadline))
        self._peer.sendall(frame)

    def _await_answer(self, deadline: float | None) -> None:
        peer, told = self._peer, bytearray()
        while peer is not None:
            peer.settimeout(self._left(deadline))
            piece = peer.recv(_PIECE)
            if not piece:
                raise _Away(f"socket {self.path}: it hung up without an answer: it may have the message; put it again")
            told += piece
            try:
                found = read_answer(told, 0)
            except FramingError as error:
                raise Broken(f"socket {self.path}: it does not answer in frames: {error}") from error
            if found is not None:
                if found[0] is not Code.PASS:
                    raise Broken(f"socket {self.path}: it refused the message ({found[0].name})")
                return
