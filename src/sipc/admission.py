# SPDX-License-Identifier: Apache-2.0
"""What the helper asks of a channel's ends before it makes the channel: what can be told of them before they exist.

Owns the rules about an end whose definition names its `program`, and their judgement.  Part of the trusted helper: no
import beyond `spec` and the standard library.  Every rule is evaluated, whatever the ones before it gave, and all that
refuse are told together; what can not be looked at is a refusal.

What runs in the end is judged when it runs: by the end itself, and by whoever starts it (`endpoint_policy.py`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sipc.errors import Denied
from sipc.spec import ChannelSpec, Principal, Role

__all__ = ("admit", "refusals")


def admit(specs: Iterable[ChannelSpec]) -> None:
    """Refuse channels of which an end can not be what its definition says: `Denied`, naming each end and rule."""
    found = [f"{spec.label}: {text}" for spec in specs for text in refusals(spec)]
    if found:
        raise Denied(f"the helper makes no channel for such ends: {'; '.join(found)}")


def refusals(spec: ChannelSpec) -> list[str]:
    """What speaks against the ends of a channel, `END RULE: what was found: what to do`; never raises."""
    found = []
    for role, who, other in (
        (Role.SENDER, spec.sender, spec.receiver),
        (Role.RECEIVER, spec.receiver, spec.sender),
    ):
        if who.program is None:
            continue
        end = _End(who=who, other=other.uid if other.uid != who.uid else None, program=who.program)
        for rule, judge in _RULES:
            try:
                answer = judge(end)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong while judging is a refusal
                answer = f"can not be judged: {_said(error)}: see to it that the helper can look at it"
            if answer is not None:
                found.append(f"{role} {rule}: {answer}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end; `other` is the user of the other end where that is another one."""

    who: Principal
    other: int | None
    program: str


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__


# -- the rules: each returns None when it holds, else what was found instead, and what to do ---------------------


def _user(end: _End) -> str | None:
    import pwd  # noqa: PLC0415 - only where ends are judged

    uid = end.who.uid
    if uid is None:
        return None  # whoever runs the helper
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return f"this host has no account with uid {uid}: create it, or name another user"
    return None


def _group(end: _End) -> str | None:
    import grp  # noqa: PLC0415 - only where ends are judged

    gid = end.who.gid
    if gid is None:
        return None
    try:
        grp.getgrgid(gid)
    except KeyError:
        return f"this host has no group with gid {gid}: create it, or name another group"
    return None


def _program(end: _End) -> str | None:
    """A plain file under its own path."""
    path = end.program
    try:
        status = Path(path).lstat()
        real = os.path.realpath(path)
    except FileNotFoundError:
        return f"{path} is not there: install it, or name what the end runs"
    if real != path:
        return f"{path} is a link, or lies behind one: name {real}"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file: name what the end runs"
    return None


def _writable(end: _End) -> str | None:
    """Neither file nor any directory above it is such that another than its owner could put something else there."""
    path = Path(end.program)
    for place in (path, *path.parents):
        status = place.lstat()
        # In a sticky directory only the owner of an entry may take it away (inode(7)).
        if stat.S_ISLNK(status.st_mode):
            continue  # it has no mode of its own, and is refused as what it is
        if status.st_mode & 0o022 and not (place != path and status.st_mode & stat.S_ISVTX):
            mode = stat.S_IMODE(status.st_mode)
            return f"{place} has mode {mode:04o}, so that others may change what runs: run 'chmod go-w {place}'"
    return None


def _owner(end: _End) -> str | None:
    """The other end's user, who may be hostile to this one, owns neither: an owner can give himself the right."""
    path = Path(end.program)
    for place in (path, *path.parents):
        if end.other is not None and end.other != 0 and place.lstat().st_uid == end.other:
            return f"{place} belongs to uid {end.other}, the user of the other end: run 'chown root {place}'"
    return None


def _digest(end: _End) -> str | None:
    import hashlib  # noqa: PLC0415 - brings OpenSSL, which only those pay for who have digests

    wanted = end.who.digest
    if wanted is None:
        return None
    fd = os.open(end.program, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return f"{end.program} is no regular file: name what the end runs"
        with os.fdopen(fd, "rb", closefd=False) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(fd)
    if found == wanted:
        return None
    return f"{end.program} has {found}, not {wanted}: put the right file there, or write its digest"


_RULES: tuple[tuple[str, Callable[[_End], str | None]], ...] = (
    ("user", _user),
    ("group", _group),
    ("program", _program),
    ("mode", _writable),
    ("owner", _owner),
    ("digest", _digest),
)
