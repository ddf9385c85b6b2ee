# SPDX-License-Identifier: Apache-2.0
"""Waiting for a channel to appear, with inotify(7) and without polling.

Owns one thing: block until something changes in one of the directories of the search path, which need not be there
yet.  Watches only what the helper does (entries made, written, renamed, deleted), never reads by others, which would
be a way back.  An event means "look again": so none that was merged or lost (IN_Q_OVERFLOW) matters.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sipc.descriptor import Descriptor
from sipc.errors import ChannelNotFound, KernelError, Timeout
from sipc.registry import Registry
from sipc.spec import check_name

__all__ = ("Happening", "Watches", "find", "wait_for", "watching")

_IN_CREATE, _IN_MOVED_TO, _IN_MOVED_FROM, _IN_DELETE, _IN_ATTRIB = 0x100, 0x80, 0x40, 0x200, 0x4
_IN_CLOSE_WRITE, _IN_MOVE_SELF, _IN_DELETE_SELF = 0x8, 0x800, 0x400
_IN_ONLYDIR, _IN_DONT_FOLLOW, _IN_Q_OVERFLOW, _IN_UNMOUNT = 0x01000000, 0x02000000, 0x4000, 0x2000
_MOVED = _IN_MOVE_SELF | _IN_DELETE_SELF | _IN_ONLYDIR
_EVENTS = _IN_CREATE | _IN_MOVED_TO | _IN_MOVED_FROM | _IN_DELETE | _IN_ATTRIB | _IN_CLOSE_WRITE | _MOVED
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)
_READ = 64 * 1024  # bytes of events taken at once
_EVENT = struct.Struct("=iIII")  # wd, mask, cookie, length of the name


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What an event says of one directory, or of all (`directory` None) when events were lost.

    `entry` was `written` (closed by a writer) or `renamed` to that name; `lost` when the directory is another now.
    """

    directory: Path | None
    entry: str = ""
    written: bool = False
    renamed: bool = False
    lost: bool = False


class Watches:
    """An inotify descriptor on directories that may not be there yet, may go and may come again.

    Close it, or use it as a context manager.
    """

    def __init__(self, directories: list[Path], *, ancestors: bool = False) -> None:
        """With `ancestors`, a directory that goes because one above it is moved is an event too.

        An end does without: its policy has the registry alone.  Raises `KernelError` when inotify has no room.
        """
        self._ancestors = ancestors
        self._directories = directories
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._numbers: set[int] = set()
        self._places: dict[int, Path] = {}
        self._fd: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise KernelError(code, os.strerror(code), syscall="inotify_init1", obj="fs.inotify.max_user_instances")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def fileno(self) -> int:
        """A descriptor that polls readable when something may have changed."""
        return self._fd

    def arm(self) -> list[Happening]:
        """Take the events there are, and watch each directory, or the nearest one above it that exists.

        Look at the directories after it, not before: what changes from here on is an event.
        """
        happenings = list(self._take())
        before, self._numbers = self._numbers, set()
        self._places = {}
        if self._ancestors:
            for directory in self._directories:
                for above in directory.absolute().parents:
                    self._add(above, _MOVED)
        for directory in self._directories:
            self._watch_nearest(directory)
        for number in before - self._numbers:
            self._libc.inotify_rm_watch(self._fd, number)  # it has moved; or it is gone, and then this fails
        return happenings

    def pending(self) -> bool:
        """Whether there are events that have not been taken."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def _take(self) -> Iterator[Happening]:
        while True:
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                if mask & _IN_Q_OVERFLOW:
                    yield Happening(directory=None, lost=True)
                elif number in self._places:
                    yield Happening(
                        directory=self._places[number],
                        entry=os.fsdecode(data[at - length : at].rstrip(b"\0")),
                        written=bool(mask & _IN_CLOSE_WRITE),
                        renamed=bool(mask & _IN_MOVED_TO),
                        lost=bool(mask & (_IN_MOVE_SELF | _IN_DELETE_SELF | _IN_UNMOUNT)),
                    )

    def _watch_nearest(self, directory: Path) -> None:
        before = -1
        while True:
            # The last part may be no link (registry.py), and so a link there is watched for in its parent.
            number = self._add(directory, _EVENTS | _IN_DONT_FOLLOW)
            if number >= 0:
                self._places[number] = directory
            above = iter(directory.absolute().parents)
            while number < 0 and (place := next(above, None)) is not None:
                number = self._add(place, _EVENTS)
            if number == before:
                return
            before = number  # again: what was missing can have been made before its parent was watched

    def _add(self, place: Path, mask: int) -> int:
        number: int = self._libc.inotify_add_watch(self._fd, os.fsencode(place), mask)
        if number < 0:
            code = ctypes.get_errno()
            if code not in _ABSENT:
                raise KernelError(code, os.strerror(code), syscall="inotify_add_watch", obj=str(place))
        else:
            self._numbers.add(number)
        return number


def find(name: str, directories: list[Path]) -> tuple[Registry, Descriptor]:
    """The first directory that holds `name`, opened, and the descriptor.  Raises `ChannelNotFound`."""
    for directory in directories:
        try:
            registry = Registry(directory)
        except ChannelNotFound:
            continue
        try:
            return registry, registry.read(name)
        except ChannelNotFound:
            registry.close()
        except BaseException:
            registry.close()
            raise
    places = " or ".join(map(str, directories))
    raise ChannelNotFound(
        f"no channel {name!r} in {places}: create it with 'sipc create', 'sipc list' shows what there is"
    )


def wait_for(name: str, directories: list[Path], timeout: float | None) -> tuple[Registry, Descriptor]:
    """Like `find`, but wait up to `timeout` seconds (None: for ever) for the channel to be published."""
    check_name(name)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        return find(name, directories)
    except ChannelNotFound:
        if timeout is not None and timeout <= 0:
            raise
    with Watches(directories) as watches:
        poll = select.poll()
        poll.register(watches, select.POLLIN)
        while True:
            watches.arm()
            try:
                return find(name, directories)  # it may have come before the watch
            except ChannelNotFound:
                pass
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                places = " or ".join(map(str, directories))
                waited = round(timeout or 0, 2)
                raise Timeout(f"channel {name!r} did not appear in {places} within {waited} s: has its helper run?")


@contextmanager
def watching(directories: list[Path]) -> Iterator[int]:
    """An inotify descriptor on each directory, or on the nearest one above it that exists."""
    with Watches(directories) as watches:
        watches.arm()
        yield watches.fileno()
