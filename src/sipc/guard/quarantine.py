# SPDX-License-Identifier: Apache-2.0
"""Quarantine: refused messages, kept whole for a person to look at.

Owns a directory of the stage's own, in which every message is a directory ID with two files, `payload` and
`meta.json`, made under another name and renamed: there is all of it or none.  The same message kept twice is one.

There is a limit, and when it is reached nothing is thrown away, neither old nor new: `QuarantineFull`, before the
message is counted as done, so that it comes again.  Counted is what disks count: every file in whole pages, and a page
for its directory; else ten thousand small messages would be little.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from sipc.errors import Closed, QuarantineFull, SpecError
from sipc.guard.storage import close_directory, doing, open_directory, remove, write_new
from sipc.guard.verdicts import MessageId, check_reason
from sipc.registry import lock

__all__ = ("QuarantineStore", "digests", "timestamp")

_PAGE = 4096
_NEW = ".new-"
_PAYLOAD, _META = "payload", "meta.json"
_DETAIL = 4096  # characters: a filter's last words, not another message
_ADVICE = "make room, or let this user write there; the message is not finished and comes again"


def digests(messages: Iterable[bytes]) -> tuple[str, ...]:
    """SHA-256 in hexadecimal, as sha256sum(1) prints it: the names by which logs call messages' content."""
    sha256 = hashlib.sha256
    return tuple([sha256(data).hexdigest() for data in messages])


def timestamp(now: float) -> str:
    """Seconds since 1970 as UTC, to the microsecond (RFC 3339)."""
    whole, micro = divmod(int(now * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micro:06d}Z"


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class QuarantineStore:
    """The quarantine of one stage; one process at a time."""

    def __init__(self, path: str | os.PathLike[str], *, stage: str, limit: int) -> None:
        """Open the directory, private to this user, and remove what a killed predecessor had half written.

        `limit` is in bytes.  Raises `SpecError`, or `Busy` when another process has it.
        """
        if limit <= 0:
            raise SpecError(f"quarantine {path}: limit must be more than 0 bytes, not {limit}, for example 64 MiB")
        self.path = Path(path)
        self.limit = limit
        self._stage = stage
        self._fd = open_directory(self.path, "quarantine", private=True)
        try:
            with doing("flock", self.path, _ADVICE):
                lock(self._fd, f"quarantine {self.path} is open in another process, and only one may be: end it")
            with doing("unlink", self.path, _ADVICE):
                for name in os.listdir(self._fd):
                    if name.startswith(_NEW):
                        self._remove_new(name)
                self.used = self._count(self._fd)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the directory go."""
        if self._fd >= 0:
            close_directory(self._fd)
            self._fd = -1

    def kept(self) -> list[MessageId]:
        """What is there, sorted."""
        self._check_open()
        return sorted(found for found in map(MessageId.from_name, os.listdir(self._fd)) if found is not None)

    def keep(self, data: bytes, identity: MessageId, *, channel: str, reason: str, detail: str = "") -> bool:
        """Keep one message; it is on disk when this returns.  False when it was there already.

        Raises `QuarantineFull` when there is no room, `KernelError` when the disk refuses: finish the message only
        when this returned.
        """
        self._check_open()
        name = identity.name
        meta = {
            "version": 1, "stage": self._stage, "channel": channel, "epoch": f"{identity.epoch:016x}",
            "seq": identity.seq, "record": identity.record, "time": timestamp(time.time()),
            "reason": check_reason(reason), "detail": detail[:_DETAIL], "size": len(data), "digest": digests([data])[0],
        }  # fmt: skip
        text = (json.dumps(meta, indent=1) + "\n").encode()
        with doing("write", self.path / name, _ADVICE):
            if self._there(name):
                os.fsync(self._fd)  # who put it there may have been killed before this
                return False
            size = _PAGE + _pages(len(data)) + _pages(len(text))
            if self.used + size > self.limit:
                self.used = self._count(self._fd)  # somebody may have made room
            if self.used + size > self.limit:
                raise QuarantineFull(
                    f"quarantine {self.path}: {size} bytes are needed, and {self.used} of {self.limit} are taken; the "
                    "message is not finished: look at what is there, move it away, and start the stage again"
                )
            try:
                self._write(name, data, text)
            except BaseException:
                with suppress(OSError):
                    self._remove_new(_NEW + name)
                raise
            self.used += size
        return True

    def _check_open(self) -> None:
        if self._fd < 0:
            raise Closed(f"quarantine {self.path} was closed: open it again")

    def _there(self, name: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def _write(self, name: str, data: bytes, text: bytes) -> None:
        new = _NEW + name
        self._remove_new(new)
        os.mkdir(new, 0o700, dir_fd=self._fd)
        fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            write_new(fd, _PAYLOAD, data, 0o600)
            write_new(fd, _META, text, 0o600)
            os.fsync(fd)
        finally:
            close_directory(fd)
        os.rename(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def _remove_new(self, name: str) -> None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return
        try:
            for entry in (_PAYLOAD, _META):
                remove(fd, entry)
        finally:
            close_directory(fd)
        os.rmdir(name, dir_fd=self._fd)

    def _count(self, fd: int) -> int:
        """Bytes below an open directory."""
        total = 0
        for name in os.listdir(fd):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    total += _pages(status.st_size)
                    continue
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileNotFoundError:
                continue  # it is being moved away
            try:
                total += _PAGE + self._count(below)
            finally:
                close_directory(below)
        return total
