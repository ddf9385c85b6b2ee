# SPDX-License-Identifier: Apache-2.0
"""Sources: where a stage's messages come from, when none comes from a channel.

Owns taking one message at a time, and letting it go only when the stage says that it is `done`.  Every source has the
same two verbs; taking again before `done` gives the same message again.

Of a directory, a file is a message when it is whole, and only its writer knows when that is.  So names beginning with
a dot are left alone: write under such a name, or elsewhere on the file system, and rename.

Who fills a spool may not be able to stop what empties it.  So a file that can not be a message, because it is too large
or may not be read, is given a name beginning with a dot, and told; the next one is taken.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from sipc.errors import Broken, EndOfStream, KernelError, SpecError, Timeout
from sipc.guard.framing import FramingError, MessageFrames
from sipc.guard.storage import (
    NoMessage,
    close_directory,
    doing,
    open_directory,
    read_file,
    regular,
    remove,
    too_large,
)
from sipc.guard.text import clean
from sipc.guard.verdicts import MessageId
from sipc.watch import watching

__all__ = ("DirectorySource", "FileSource", "Source", "StreamSource", "in_hand")

_PIECE = 65536
_STREAM_PIECE = 1 << 20  # bytes; as much as a pipe has at most without privileges
_TAKEN = ".taken"
_REFUSED = ".refused"
_LONGEST_NAME = 255  # bytes, NAME_MAX
# What opening a file says when the file is the reason: its mode or label, a link, a socket or device put in its place,
# a lease that its owner holds.
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EAGAIN)


class Source(Protocol):
    """Messages, one at a time; one caller at a time."""

    def take(self, timeout: float | None = None) -> bytes:
        """The next message, or again the one in hand; waits up to `timeout` seconds (None: for ever).

        Raises `EndOfStream` after the last, `Timeout`, `Broken` when the stream was cut.
        """
        ...

    def done(self) -> None:
        """The message in hand is in safety: let it go."""
        ...

    def close(self) -> None:
        """Close; a message in hand is not let go."""
        ...


def left_of(deadline: float | None) -> float | None:
    """Milliseconds for poll(2); raises `Timeout` when there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Timeout("no message came in time: is there anybody who brings one?")
    return left * 1000 + 1


def in_hand(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory has a message that its source began to send, and has not let go; asked from outside.

    Raises `OSError`.
    """
    return any(name.startswith(f"{_TAKEN}-") for name in os.listdir(directory))


class _Base:
    def __init__(self) -> None:
        self._in_hand: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close; a message in hand is not let go."""
        self._in_hand = None


class FileSource(_Base):
    """One file, one message.  The file stays."""

    def __init__(self, path: str | os.PathLike[str], *, max_message: int) -> None:
        """Read `path`, of at most `max_message` bytes, when asked."""
        super().__init__()
        self._path = Path(path)
        self._limit = max_message
        self._over = False

    def take(self, timeout: float | None = None) -> bytes:
        """The file; `EndOfStream` once it is done."""
        del timeout  # a plain file is never waited for
        if self._over:
            raise EndOfStream(f"{self._path} was the one message")
        if self._in_hand is None:
            with doing("open", self._path, "name a file that this user can read"):
                self._in_hand = read_file(None, str(self._path), self._path, self._limit)
        return self._in_hand

    def done(self) -> None:
        """The file is done with."""
        self._over = self._in_hand is not None or self._over
        self._in_hand = None


class DirectorySource(_Base):
    """A spool: each file a message, in the order of their names, removed when done.

    The file in hand is renamed to `.taken`, so that another of its name can come and is not removed in its place.  A
    file that comes later counts among those that are not taken yet: between two messages the order is by name.
    `skipped` names what lies there and is no plain file.  A plain one that can not be a message is renamed to
    `.refused-TIME-WHY-NAME`; rename it back when that has changed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_message: int, report: Callable[[str], None] | None = None
    ) -> None:
        """Open the directory, where others may put files.  What a predecessor had in hand is taken first.

        `report` is told, a line at a time, what is left alone and what is refused.
        """
        super().__init__()
        self.path = Path(path)
        self._limit = max_message
        self._report = report
        self._name = ""  # of the file in hand, when it was put there; a predecessor's is not known
        self._fd = open_directory(self.path, "spool", private=False)
        self._names: list[str] = []
        self.skipped: set[str] = set()
        held = sorted(name for name in os.listdir(self._fd) if name == _TAKEN or name.startswith(f"{_TAKEN}-"))
        if len(held) > 1:
            close_directory(self._fd)
            raise SpecError(f"spool {self.path} has {held}, and one file can be in hand: look which, move the others")
        self._held = held[0] if held else None
        if before := sum(name.startswith(f"{_REFUSED}-") for name in os.listdir(self._fd)):
            self._tell(f"spool {self.path} has {before} of {_REFUSED}-*, refused before: look why, or take them away")

    def _tell(self, line: str) -> None:
        if self._report is not None:
            self._report(clean(line))

    def close(self) -> None:
        """Close; the file in hand stays in hand for the next process."""
        super().close()
        if self._fd >= 0:
            close_directory(self._fd)
            self._fd = -1

    @property
    def intended(self) -> MessageId | None:
        """As which message the file in hand was going to be sent, if that was noted: perhaps it was sent."""
        return MessageId.from_name(self._held[len(_TAKEN) + 1 :]) if self._held is not None else None

    def intend(self, message: MessageId) -> None:
        """Note, before sending, as which message the file in hand goes.

        After a crash the sender knows what it has sent (`Sender.last_seq`): so a file goes neither twice nor never.
        """
        if self._held is None:
            raise SpecError(f"spool {self.path}: no message is in hand: take one first")
        name = f"{_TAKEN}-{message.name}"
        with doing("rename", self.path / name, "this user must be allowed to rename files there"):
            os.rename(self._held, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._held = name

    def take(self, timeout: float | None = None) -> bytes:
        """The next file that can be a message."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._in_hand is None:
            if self._held is None:
                self._hold(deadline)
            held = self._held or _TAKEN
            place = self.path / (self._name or held)
            try:
                with doing("open", place, "this user must be allowed to read what is put there"):
                    self._in_hand = read_file(self._fd, held, place, self._limit)
            except (NoMessage, KernelError) as error:
                if self.intended is not None or (isinstance(error, KernelError) and error.errno not in _UNREADABLE):
                    raise  # perhaps it was sent; or it is not the file's fault
                self._refuse(held, error)
                self._held = None
        return self._in_hand

    def _refuse(self, name: str, error: NoMessage | KernelError) -> None:
        """Put a file out of the way: whole, in the same directory, with the reason in its name, and told."""
        why = error.why if isinstance(error, NoMessage) else "unreadable"
        known = name if name != _TAKEN else self._name or "taken"
        kept = os.fsencode(f"{_REFUSED}-{time.time_ns()}-{why}-{known}")[:_LONGEST_NAME]
        with doing("rename", self.path / name, "this user must be allowed to rename files there"):
            try:
                os.rename(name, kept, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except FileNotFoundError:
                return  # its writer thought better of it
        self._tell(f"refused: {error}; it is {os.fsdecode(kept)} now")

    def done(self) -> None:
        """Remove the file in hand."""
        if self._held is not None:
            with doing("unlink", self.path / self._held, "this user must be allowed to remove files there"):
                remove(self._fd, self._held)
        self._held = self._in_hand = None
        self._name = ""

    def _hold(self, deadline: float | None) -> None:
        while True:
            if self._hold_next():
                return
            with watching([self.path]) as fd:
                if self._hold_next():  # it may have come before the watch
                    return
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(left_of(deadline))

    def _hold_next(self) -> bool:
        if not self._names:
            with doing("getdents", self.path, "this user must be allowed to list it"):
                self._names = sorted((n for n in os.listdir(self._fd) if not n.startswith(".")), reverse=True)
            self.skipped &= set(self._names)
        while self._names:
            name = self._names[-1]
            status = regular(self._fd, name)
            if status is None:
                self._names.pop()
                self._skip(name)
                continue
            self._names.pop()
            if status.st_size > self._limit:  # under its own name: of `.taken`, a successor would not know it
                self._refuse(name, too_large(self.path / name, status.st_size, self._limit))
                continue
            with doing("rename", self.path / name, "this user must be allowed to rename files there"):
                try:
                    os.rename(name, _TAKEN, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                except FileNotFoundError:
                    continue  # its writer thought better of it
            self._held, self._name = _TAKEN, name
            return True
        return False

    def _skip(self, name: str) -> None:
        if name not in self.skipped:
            self.skipped.add(name)
            self._tell(f"spool {self.path} has {name!r}, which is no plain file: it is left where it is")


class StreamSource(_Base):
    """Standard input, or any descriptor: messages as frames (`framing.py`).  The descriptor stays the caller's."""

    def __init__(self, fd: int, *, max_message: int) -> None:
        """Read from `fd`, messages of at most `max_message` bytes."""
        super().__init__()
        self._fd = fd
        self._frames = MessageFrames(max_message)

    def take(self, timeout: float | None = None) -> bytes:
        """The next message.  Raises `Broken` for half a frame, and for one too large: what follows has no beginning."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._in_hand is None:
            try:
                self._in_hand = self._frames.next()
            except FramingError as error:
                raise Broken(f"the input is no stream of frames: {error}; nothing after this can be read") from error
            if self._in_hand is not None:
                break
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if not poll.poll(left_of(deadline)):
                continue
            with doing("read", f"descriptor {self._fd}", "the input must be open for reading"):
                piece = os.read(self._fd, _STREAM_PIECE)
            if not piece:
                if self._frames.partial:
                    raise Broken("the input ends within a frame: its writer died, or writes no frames")
                raise EndOfStream("the input has ended")
            self._frames.feed(piece)
        return self._in_hand

    def take_behind(self, most: int, count: int) -> list[bytes]:
        """The messages behind the one in hand that have come, as many as there are within `most` bytes and `count`.

        They are in hand with it.  What is wrong with the stream behind them `take` says.
        """
        found, size = list[bytes](), 0
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            found += (more := self._frames.rest(most - size, count - len(found)))
            size += sum(map(len, more))
            if size >= most or len(found) >= count or not poll.poll(0):
                return found
            with doing("read", f"descriptor {self._fd}", "the input must be open for reading"):
                piece = os.read(self._fd, _STREAM_PIECE)
            self._frames.feed(piece)
            if not piece or not more:
                return found  # it has ended, or a frame is large, or none

    def done(self) -> None:
        """Forget the message: a stream has no way to tell."""
        self._in_hand = None
