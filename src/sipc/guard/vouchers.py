# SPDX-License-Identifier: Apache-2.0
"""Which processes a stage was, and when: what the supervisor tells the stages that receive from it.

Owns the file STATE/GUARD/STAGE/senders, one line for each start of a stage that sends to STAGE: `NAME PID BEGAN ENDED`,
seconds since 1970, `-` while it runs.  It is the supervisor's, in a directory that no other stage may enter, so the one
that sends does not see it read.  A line is written for a process that was judged by its whole policy, and ended before
the process was reaped: until then nobody else has its number.  So the receiver can tell whose the messages are that a
stage left when it was killed, which it can not be asked any more.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sipc.guard.endpoints import is_judged
from sipc.guard.model import Guard
from sipc.guard.places import Places
from sipc.guard.storage import close_directory, doing, open_directory, write_new

__all__ = ("Voucher", "Vouchers", "vouching")

_NAME = "senders"
_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,31}) ([1-9][0-9]{0,9}) ([0-9]{1,12}) (-|[0-9]{1,12})")
_MOST = 256  # lines kept: more starts than a guard has with anything of them left in a channel
_LARGEST = 1 << 16


@dataclass(slots=True, kw_only=True)
class Voucher:
    """One start of a stage; `ended` is None while it runs."""

    stage: str
    pid: int
    began: int
    ended: int | None = None

    def covers(self, pid: int, second: int) -> bool:
        """Whether the number was this process's in that second."""
        return pid == self.pid and self.began <= second and (self.ended is None or second <= self.ended)

    def __str__(self) -> str:
        """As it stands in the file."""
        return f"{self.stage} {self.pid} {self.began} {'-' if self.ended is None else self.ended}"


@dataclass(slots=True, kw_only=True)
class Vouchers:
    """The supervisor's side: one file for each stage that judges who sends to it."""

    directories: Mapping[str, Path]  # of the stages that judge
    groups: Mapping[str, int]
    senders: Mapping[str, frozenset[str]]  # whom each of them judges
    known: dict[str, list[Voucher]] = field(default_factory=dict)

    @classmethod
    def of(cls, guard: Guard, places: Mapping[str, Places], groups: Mapping[str, int]) -> Vouchers:
        """Those of a guard.  What an earlier run has left open ended with it: by now."""
        senders = {
            name: frozenset(
                channel.sender
                for channel in guard.channels.values()
                if channel.receiver == name and is_judged(guard, channel)
            )
            for name in guard.stages
        }
        senders = {name: those for name, those in senders.items() if those}
        made = cls(
            directories={name: places[name].state.parent for name in senders}, groups=groups, senders=senders
        )
        now = int(time.time())
        for name in senders:
            made.known[name] = _read(made.directories[name] / _NAME)
            for one in made.known[name]:
                one.ended = now if one.ended is None else one.ended
            made._write(name)
        return made

    def began(self, stage: str, pid: int, second: int) -> None:
        """A process that is what the stage must be runs since then."""
        for name, those in self.senders.items():
            if stage in those:
                self.known[name] = [*self.known[name], Voucher(stage=stage, pid=pid, began=second)][-_MOST:]
                self._write(name)

    def ended(self, stage: str, pid: int) -> None:
        """It has ended, and was not reaped yet."""
        for name, those in self.senders.items():
            if stage not in those:
                continue
            for one in self.known[name]:
                if (one.stage, one.pid, one.ended) == (stage, pid, None):
                    one.ended = int(time.time())
            self._write(name)

    def _write(self, name: str) -> None:
        """Whole or not at all; the group is the stage's, who else can not get there."""
        where = self.directories[name]
        text = "".join(f"{one}\n" for one in self.known[name])
        with doing("write", where / _NAME, "make room, or let this user write there"):
            fd = open_directory(where, "stage's directory", private=True)
            try:
                write_new(fd, f".{_NAME}.new", text.encode(), 0o640)
                if self.groups[name] != os.getegid():
                    os.chown(f".{_NAME}.new", -1, self.groups[name], dir_fd=fd, follow_symlinks=False)
                os.rename(f".{_NAME}.new", _NAME, src_dir_fd=fd, dst_dir_fd=fd)
            finally:
                close_directory(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vouching:
    path: Path
    stage: str

    def __call__(self, pid: int, second: int) -> bool:
        return any(one.stage == self.stage and one.covers(pid, second) for one in _read(self.path))


def vouching(places: Places, stage: str) -> _Vouching:
    """Asks of a process that has ended whether it was this stage; by systemd nobody says so."""
    return _Vouching(path=places.state.parent / _NAME, stage=stage)


def _read(path: Path) -> list[Voucher]:
    """What stands there; nothing unless all of it is as a supervisor writes it, and nobody else could have."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            trusted = status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
            if not stat.S_ISREG(status.st_mode) or not trusted:
                return []
            data = os.read(fd, _LARGEST + 1)
        finally:
            os.close(fd)
        lines = [_LINE.fullmatch(line) for line in data.decode("ascii", "replace").splitlines()]
        if len(data) <= _LARGEST and all(lines):
            return [_voucher(*line.groups()) for line in lines if line is not None]
    return []


def _voucher(stage: str, pid: str, began: str, ended: str) -> Voucher:
    return Voucher(stage=stage, pid=int(pid), began=int(began), ended=None if ended == "-" else int(ended))
