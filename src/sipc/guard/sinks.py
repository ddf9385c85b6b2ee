# SPDX-License-Identifier: Apache-2.0
"""Sinks: where a stage's messages go, when none goes to a channel.

Owns that a message is there whole or not at all, and is on disk when `put` returns.  A stage puts a message again when
it was killed before it could mark it finished, under the same `MessageId`.  In a directory that changes nothing: there
every message appears exactly once, even when who reads the spool has already taken it away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from sipc.errors import Broken, Closed, SpecError
from sipc.guard.framing import message
from sipc.guard.storage import (
    check_replaceable,
    close_directory,
    doing,
    open_directory,
    regular,
    remove,
    write_all,
    write_new,
)
from sipc.guard.verdicts import MessageId

__all__ = ("DirectorySink", "FileSink", "Sink", "StreamSink")

_ADVICE = "make room, or let this user write there; the message was not delivered and comes again"
_NEW, _LAST = ".new-", ".last-"


class Sink(Protocol):
    """Where messages end; one caller at a time."""

    def put(self, data: bytes, identity: MessageId) -> None:
        """Deliver one message; when this raises, put it again later."""
        ...

    def close(self) -> None:
        """Close."""
        ...


class _Directory:
    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._fd = open_directory(path, what, private=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close."""
        if self._fd >= 0:
            close_directory(self._fd)
            self._fd = -1

    def _check_open(self) -> None:
        if self._fd < 0:
            raise Closed(f"sink {self.path} was closed: open it again")


class FileSink(_Directory):
    """One file that always holds the newest message, whole: readers see the old one or the new one."""

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o600) -> None:
        """Replace `path`, with `mode`, by each message.

        Raises `SpecError` when a device, a pipe, a directory or a link is there: root's /dev/null would be replaced.
        """
        place = Path(path)
        if not place.name:
            raise SpecError(f"sink {place}: name a file")
        super().__init__(place.parent, "directory of the sink's file")
        self._name, self._mode = place.name, mode
        try:
            check_replaceable(self._fd, place)
        except BaseException:
            self.close()
            raise

    def put(self, data: bytes, identity: MessageId) -> None:
        """Replace the file."""
        del identity
        self._check_open()
        new = f".{self._name}.new"
        with doing("write", self.path / self._name, _ADVICE):
            write_new(self._fd, new, data, self._mode)
            os.rename(new, self._name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.fsync(self._fd)


class DirectorySink(_Directory):
    """A spool: each message a file named by its `MessageId`, so they sort as they came.

    Beside them lie, hidden by a dot, `.new-ID` while it is written, and `.last-ID`, an empty file whose name says which
    message is the newest.  The order is: write `.new-ID`, rename `.last-OLD` to `.last-ID`, rename `.new-ID` to `ID`.
    So after a kill, `.last-ID` with `.new-ID` is a message to be published, without it one that was.  The directory may
    be emptied by others, but for what begins with a dot; one sink at a time.
    """

    def __init__(self, path: str | os.PathLike[str], *, suffix: str = "", mode: int = 0o600) -> None:
        """Open the directory; files are called ID and `suffix`, and have `mode`.

        What a killed predecessor wrote wholly and did not publish is published, what it wrote in part is removed.
        """
        if "/" in suffix or "\0" in suffix or len(os.fsencode(suffix)) > 100:
            raise SpecError(
                f"sink {path}: suffix {suffix!r} must be an ending of at most 100 bytes, for example '.json'"
            )
        super().__init__(Path(path), "spool")
        self._suffix, self._mode = suffix, mode
        self._last: MessageId | None = None
        try:
            with doing("rename", self.path, _ADVICE):
                self._recover()
        except BaseException:
            self.close()
            raise

    def _recover(self) -> None:
        names = os.listdir(self._fd)
        marks = [mark for mark in (MessageId.from_name(n[len(_LAST) :]) for n in names if n.startswith(_LAST)) if mark]
        if len(marks) > 1:
            raise SpecError(
                f"spool {self.path} has {len(marks)} files {_LAST}*: one sink makes one; look who else writes"
            )
        self._last = marks[0] if marks else None
        for name in (n for n in names if n.startswith(_NEW)):
            if self._last is not None and name == _NEW + self._last.name:
                self._publish(self._last)
            else:
                remove(self._fd, name)

    def _publish(self, identity: MessageId) -> None:
        source, target = _NEW + identity.name, identity.name + self._suffix
        os.rename(source, target, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def put(self, data: bytes, identity: MessageId) -> None:
        """Publish one message; one that was published before, or is older than the newest, is not published again."""
        self._check_open()
        last = self._last
        with doing("write", self.path / identity.name, _ADVICE):
            if last is not None and last.epoch == identity.epoch and identity <= last:
                if regular(self._fd, _NEW + identity.name) is not None:
                    self._publish(identity)  # this very call failed before, after its mark
                else:
                    os.fsync(self._fd)  # who published it may have been killed before this
                return
            write_new(self._fd, _NEW + identity.name, data, self._mode)
            mark = _LAST + identity.name
            if last is None:
                write_new(self._fd, mark, b"", 0o600)
            else:
                os.rename(_LAST + last.name, mark, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._last = identity
            self._publish(identity)


class StreamSink:
    """Standard output, or any descriptor: messages as frames (`framing.py`).  The descriptor stays the caller's.

    Who reads it sees half a frame when this process is killed; a new process must have a new stream.
    """

    def __init__(self, fd: int) -> None:
        """Write to `fd`."""
        self._fd = fd
        self._cut = False

    def put(self, data: bytes, identity: MessageId) -> None:
        """Write one frame.  Raises `Broken` when the reader has gone; then no further one can be written."""
        del identity
        self.put_all((data,))

    def put_all(self, messages: Sequence[bytes]) -> None:
        """Write the frame of each, as `put` does."""
        if self._cut:
            raise Broken("the output was cut within a frame: begin a new one")
        frames = b"".join(map(message, messages))
        self._cut = True
        try:
            with doing("write", f"descriptor {self._fd}", "the output must be open for writing, and blocking"):
                write_all(self._fd, frames)
        except OSError as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise Broken("who reads the output has gone: begin a new one") from error
            raise
        self._cut = False

    def close(self) -> None:
        """Write no more."""
        self._cut = True
