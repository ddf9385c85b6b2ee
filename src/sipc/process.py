# SPDX-License-Identifier: Apache-2.0
"""What a process is: its users, groups, program and SELinux context, read so that another one can not pass for it.

Owns the reading of /proc/PID, and nothing of what is allowed.  A pid is only a number, and is given to another process
when its owner has ended.  So everything is read below one descriptor of /proc/PID, between two looks: a process that
has ended by then (its pidfd says so), or that was anything else at the second look (start time, users, program,
context), counts as not read at all.  What the kernel does not show is noted with its reason, and never guessed.

Source: proc(5), pidfd_open(2).  The program and its digest of another user's process take CAP_SYS_PTRACE.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

__all__ = ("Process", "ended", "planned", "read")

_T = TypeVar("_T")
_DELETED = " (deleted)"  # what proc(5) puts behind a program that is not at its path any more
_SELINUX = Path("/sys/fs/selinux/enforce")
_MOST = 1 << 16  # bytes of a file of /proc: status has about 1 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process.  What could not be read is None here and has its reason in `unread`, by the field's name.

    `uids` and `gids` are real, effective, saved and of the file system; `groups` the supplementary ones; `program` the
    path of what it runs, for a script its interpreter's; `deleted` whether that path leads there no more; `digest` the
    SHA-256 of what it runs, in hex, where it was asked for; `context` its SELinux context; `started` when, in seconds
    since boot.  `stale` says why none of this may be believed: the process ended or changed while it was looked at.
    """

    pid: int
    started: float | None = None
    uids: tuple[int, ...] | None = None
    gids: tuple[int, ...] | None = None
    groups: frozenset[int] | None = None
    program: str | None = None
    deleted: bool = False
    digest: str | None = None
    context: str | None = None
    stale: str | None = None
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def started_at(self) -> float | None:
        """When it started, in seconds since 1970, by the clock as it is now."""
        if self.started is None:
            return None
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + self.started


def read(pid: int, *, digest: bool = False, pidfd: int | None = None) -> Process:
    """The process that has `pid` now, or the one that `pidfd` is of, if that still has the number.

    Never raises for what the process is or does: look at `stale` and `unread`.
    """
    own = -1
    try:
        if pidfd is None:
            pidfd = own = os.pidfd_open(pid)
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            first = _look(directory)
            sha = _Digest(directory) if digest else None
            second = _look(directory)
        finally:
            os.close(directory)
        # Last: a process that lives now had its number all the while, and so was the one looked at, if that is `pid`.
        number = _number(pidfd)
        if ended(pidfd):
            return Process(pid=pid, stale="it has ended")
        if number != pid:
            return Process(pid=pid, stale=f"it is another one: the one that was meant has pid {number}")
    except (OSError, ValueError, OverflowError, StopIteration) as error:
        return Process(pid=pid, stale=f"it can not be looked at: {_reason(error)}")
    finally:
        if own >= 0:
            os.close(own)
    if first != second or (sha is not None and sha.value and sha.identity != first.identity):
        return Process(pid=pid, stale="it changed while it was looked at")
    if first.started is None:
        return Process(pid=pid, stale=f"its start time can not be read: {first.unread.get('started')}")
    unread = dict(first.unread)
    if sha is None:
        unread["digest"] = "it was not asked for"
    elif sha.value is None:
        unread["digest"] = sha.reason
    return Process(
        pid=pid,
        started=first.started,
        uids=first.uids,
        gids=first.gids,
        groups=first.groups,
        program=first.program,
        deleted=first.deleted,
        digest=None if sha is None else sha.value,
        context=first.context,
        unread=unread,
    )


def planned(
    *, uid: int, gid: int, groups: frozenset[int] = frozenset(), program: str, context: str | None = None
) -> Process:
    """A process that is yet to be started, as its starter means it to be: for a check before that.

    The digest is that of the file at `program` now.  What runs in the end is seen only by `read` after the start.
    """
    unread = {} if context is not None else {"context": "the starter names none"}
    sha: str | None = None
    try:
        path = os.path.realpath(program, strict=True)
        with Path(path).open("rb") as file:
            sha = _sha256(file)
    except (OSError, ValueError) as error:
        path = program
        unread["program"] = unread["digest"] = f"{program}: {_reason(error)}"
    return Process(
        pid=0,
        uids=(uid,) * 4,
        gids=(gid,) * 4,
        groups=groups,
        program=None if "program" in unread else path,
        digest=sha,
        context=context,
        unread=unread,
    )


def ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended (its parent may not have noticed yet)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _number(pidfd: int) -> int:
    """The pid of a pidfd's process in the namespace that /proc shows, -1 when it has ended."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
    return next(int(line[4:]) for line in text.splitlines() if line.startswith("Pid:"))


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@dataclass(kw_only=True)
class _Look:
    """What one look gives, to be compared with a second one."""

    started: float | None = None
    uids: tuple[int, ...] | None = None
    gids: tuple[int, ...] | None = None
    groups: frozenset[int] | None = None
    program: str | None = None
    deleted: bool = False
    identity: tuple[int, int] | None = None  # device and inode of what it runs
    context: str | None = None
    unread: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, reader: Callable[[], _T]) -> _T | None:
        """What `reader` returns; None and a note when it can not be read."""
        try:
            return reader()
        except (OSError, ValueError, LookupError) as error:
            self.unread[name] = _reason(error) or type(error).__name__
            return None


def _look(directory: int) -> _Look:
    look = _Look()
    # Field 22 of stat; field 2 is the program's own name for itself, with blanks and brackets as it likes.
    look.started = look.take(
        "started",
        lambda: int(_file(directory, "stat").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK"),
    )
    status = look.take("uids", lambda: _status(_file(directory, "status")))
    if status is not None:
        look.uids, look.gids, look.groups = status
    else:
        look.unread["gids"] = look.unread["groups"] = look.unread["uids"]
    link = look.take("program", lambda: os.readlink("exe", dir_fd=directory))
    if link is not None:
        look.program, look.deleted = link.removesuffix(_DELETED), link.endswith(_DELETED)
        found = look.take("program", lambda: os.stat("exe", dir_fd=directory))
        look.identity = None if found is None else (found.st_dev, found.st_ino)
    look.context = look.take("context", lambda: _context(directory))
    return look


def _file(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, _MOST).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _status(text: str) -> tuple[tuple[int, ...], tuple[int, ...], frozenset[int]]:
    """Users, groups and supplementary groups out of the text of /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    uids, gids = (tuple(map(int, lines[name].split())) for name in ("Uid", "Gid"))
    if len(uids) != 4 or len(gids) != 4:
        raise ValueError("it does not have four users and four groups")
    return uids, gids, frozenset(map(int, lines["Groups"].split()))


def _context(directory: int) -> str:
    # Another module (AppArmor) answers in the same file, in words that anybody may have chosen.
    if not _SELINUX.exists():
        raise ValueError("this kernel runs without SELinux")
    return _file(directory, "attr/current").rstrip("\0\n")


def _sha256(file: BufferedReader) -> str:
    import hashlib  # noqa: PLC0415 - brings OpenSSL, which only those pay for who ask for a digest

    return hashlib.file_digest(file, "sha256").hexdigest()


class _Digest:
    """The SHA-256 of what a process runs: of the very file, opened once through the kernel's link, not by a path."""

    def __init__(self, directory: int) -> None:
        self.value: str | None = None
        self.identity: tuple[int, int] | None = None
        self.reason = ""
        try:
            with os.fdopen(os.open("exe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
                status = os.fstat(file.fileno())
                self.identity = (status.st_dev, status.st_ino)
                self.value = _sha256(file)
        except OSError as error:
            self.value, self.reason = None, _reason(error)
