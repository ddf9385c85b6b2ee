# SPDX-License-Identifier: Apache-2.0
"""Waiting for a channel to appear, with inotify(7) and without polling.

Owns one thing: block until a name is published in one of the directories of the search path.  Watches only
what the helper does (entries made, renamed, deleted), never reads by others, which would be a way back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sipc.descriptor import Descriptor
from sipc.errors import ChannelNotFound, KernelError, Timeout
from sipc.registry import Registry

__all__ = ("find", "wait_for", "watching")

_IN_CREATE, _IN_MOVED_TO, _IN_DELETE, _IN_ATTRIB = 0x100, 0x80, 0x200, 0x4
_IN_MOVE_SELF, _IN_DELETE_SELF, _IN_ONLYDIR = 0x800, 0x400, 0x01000000
_EVENTS = _IN_CREATE | _IN_MOVED_TO | _IN_DELETE | _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF | _IN_ONLYDIR


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
    try:
        return find(name, directories)
    except ChannelNotFound:
        if timeout is not None and timeout <= 0:
            raise
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        with watching(directories) as fd:
            try:
                return find(name, directories)  # it may have come before the watch
            except ChannelNotFound:
                pass
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                places = " or ".join(map(str, directories))
                raise Timeout(f"channel {name!r} did not appear in {places} within {timeout} s: has its helper run?")


@contextmanager
def watching(directories: list[Path]) -> Iterator[int]:
    """An inotify descriptor on each directory, or on the nearest one above it that exists."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        code = ctypes.get_errno()
        raise KernelError(code, os.strerror(code), syscall="inotify_init1", obj="fs.inotify.max_user_instances")
    try:
        for directory in directories:
            for place in (directory, *directory.absolute().parents):
                if libc.inotify_add_watch(fd, os.fsencode(place), _EVENTS) >= 0:
                    break
                code = ctypes.get_errno()
                if code not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                    raise KernelError(code, os.strerror(code), syscall="inotify_add_watch", obj=str(place))
        yield fd
    finally:
        os.close(fd)
