# SPDX-License-Identifier: Apache-2.0
"""Directories and files of a stage: opened without following links, written whole or not at all.

Owns the steps that sources, sinks, quarantine and audit share.  What fails is a `KernelError` that names the call, the
file, and what to do; a directory that is not what it should be is a `SpecError`, before anything is done in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sipc.errors import KernelError, SpecError

__all__ = ("NoMessage", "check_replaceable", "close_directory", "doing", "open_directory", "read_file", "regular",
           "remove", "replace_file", "too_large", "write_all", "write_new")  # fmt: skip

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that somebody put there must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PIECE = 1 << 20


class NoMessage(SpecError):
    """A file that can not be a message; `why` says it in one word."""

    def __init__(self, why: str, message: str) -> None:
        """`why`: part of a file's name."""
        super().__init__(message)
        self.why = why


@contextmanager
def doing(syscall: str, obj: object, advice: str) -> Iterator[None]:
    """Turn what the kernel refuses into a `KernelError` that says what to do."""
    try:
        yield
    except KernelError:
        raise
    except OSError as error:
        raise KernelError(
            error.errno or 0, f"{error.strerror or error}: {advice}", syscall=syscall, obj=str(obj)
        ) from error


def open_directory(path: Path, what: str, *, private: bool) -> int:
    """A descriptor of the directory; `private`: of this user, and nobody else may write there.

    Raises `SpecError`.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        raise SpecError(f"{what} {path}: {error.strerror}: name a directory that is there and that this user may use") \
            from error  # fmt: skip
    try:
        with doing("fstat", path, "it can not be looked at, so it is not used"):
            status = os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise
    if private and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        os.close(fd)
        raise SpecError(
            f"{what} {path} (uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}) can be changed by others: "
            "name a directory of this user's own that nobody else may write (mode 0700)"
        )
    return fd


def close_directory(fd: int) -> None:
    """Let a directory go; the kernel does, whatever close(2) says, and all that matters was synced."""
    with suppress(OSError):
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left[:_PIECE]) :]


def write_new(directory: int, name: str, data: bytes, mode: int) -> None:
    """Make a file, whole and on disk; what had the name, a link too, is removed first.  It is not there if this fails.

    Raises `OSError`.  Kept from view by its name: rename it when this has returned.
    """
    remove(directory, name)
    fd = os.open(name, _NEW, 0o600, dir_fd=directory)
    try:
        write_all(fd, data)
        os.fchmod(fd, mode)
        os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(fd)


def remove(directory: int, name: str) -> None:
    """Remove a file, if it is there.  Raises `OSError`."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file that anybody may read in the place of the plain file that is there: whole, or as it was.

    A device, a pipe or a link is not replaced: what is said to it would reach nobody, and root's /dev/null is gone.
    Raises `SpecError`, which says what to do; nothing is left behind.
    """
    fresh = f".{path.name}.new"
    fd = open_directory(path.parent, "directory", private=False)
    try:
        check_replaceable(fd, path)
        write_new(fd, fresh, data, 0o644)
        try:
            os.rename(fresh, path.name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            remove(fd, fresh)
            raise
        os.fsync(fd)
    except OSError as error:
        raise SpecError(
            f"{path}: {error.strerror}: make room, or name a file in a directory that this user may write"
        ) from error
    finally:
        os.close(fd)


def check_replaceable(directory: int, path: Path) -> None:
    """Raise `SpecError` when something stands at `path`, in this directory, that is no plain file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise SpecError(f"{path} is no plain file, and would be replaced by one: name another, or standard output")


def regular(directory: int, name: str) -> os.stat_result | None:
    """What a plain file is like; None for anything else, and for nothing."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def read_file(directory: int | None, name: str, where: Path, limit: int) -> bytes:
    """The whole of a plain file of at most `limit` bytes that nobody writes to meanwhile.

    Raises `NoMessage` for what is not that, `OSError` when the kernel refuses.
    """
    fd = os.open(name, _READ, dir_fd=directory)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise NoMessage("no-file", f"{where} is not a plain file: only plain files are messages")
        if before.st_size > limit:
            raise too_large(where, before.st_size, limit)
        data = bytearray()
        while piece := os.read(fd, _PIECE):
            data += piece
            if len(data) > limit:
                break
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise NoMessage(
            "changing", f"{where} was written to while it was read: write elsewhere, and rename it when it is whole"
        )
    return bytes(data)


def too_large(where: Path, size: int, limit: int) -> NoMessage:
    """What to raise for a file of more bytes than a message may have."""
    return NoMessage(
        "too-large",
        f"{where} has {size} bytes, and a message may have {limit}: take the file away, or raise max_message of the "
        "channel",
    )
