# SPDX-License-Identifier: Apache-2.0
"""Who may be an endpoint: rules about a process, each with a bit of its own in the result and a line in the report.

Owns the rules and their judgement over a `Process`; what a process is, is read in `process.py`.  Every rule is
evaluated, whatever the ones before it gave.  What can not be read, looked up or judged is a denial: an exception in a
callback, and an answer of it that is anything but True.

    policy = EndpointPolicy(user="ingest", only_groups=frozenset(), program="/usr/bin/python3.11")
    with sipc.open_sender("feed", policy=policy) as sender: ...

These rules add to what the kernel enforces and replace none of it: an end that checks itself is honest about what it
is or it would not check itself.  What binds a hostile process is the SELinux policy, under `dac` users and modes, and
against data of others the tags (`proto/tags.py`).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from sipc import process
from sipc.errors import Denied, SpecError
from sipc.process import Process
from sipc.spec import is_digest, is_program

__all__ = ("EndpointPolicy", "Failed", "Verdict")

_LAST_ID = 0xFFFFFFFE  # (uid_t)-1 is no user


class Failed(enum.IntFlag):
    """Which rules a process failed; 0 when it may be an endpoint."""

    NONE = 0
    PROCESS = 1  # it could not be read: it has ended, changed, or is not the one that was meant
    UID = 2
    GID = 4
    USER = 8
    GROUP = 16
    IN_GROUPS = 32
    ONLY_GROUPS = 64
    PROGRAM = 128
    DIGEST = 256
    SELINUX_TYPE = 512
    SELINUX_RANGE = 1024
    CALLBACK = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a policy says of one process: the rules it failed, and one line for each rule that the policy has."""

    pid: int
    failed: Failed
    report: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether no rule failed."""
        return self.failed == Failed.NONE

    @property
    def refusals(self) -> tuple[str, ...]:
        """The lines of the rules that failed."""
        return tuple(line for line in self.report if line.startswith("FAILED "))

    def require(self, what: str) -> None:
        """Raise `Denied` naming every rule that failed; nothing when none did."""
        if not self.allowed:
            raise Denied(
                f"{what}: the endpoint policy refuses process {self.pid}: {'; '.join(self.refusals)}; "
                "start it as the policy says, or change the policy that was given"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPolicy:
    """Rules; those that are None ask nothing, and at least one must be given.

    `uid`, `gid`, `user`, `group`: all four of the process's users (groups) are this one: real, effective, saved, and of
    the file system; a saved one is a way back to it.  `in_groups`: it has each of these supplementary groups;
    `only_groups`: it has no other, by name or number (its own group does not count).  `program`: absolute path, without
    symbolic links, of what it runs, and the file is still there; for a script that is the interpreter.  `digest`:
    SHA-256 of that file in hex, as sha256sum prints it.  `selinux_type`, `selinux_range`: parts of its context.
    `callback`: called with the `Process`, must return True.
    """

    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    in_groups: frozenset[int | str] | None = None
    only_groups: frozenset[int | str] | None = None
    program: str | None = None
    digest: str | None = None
    selinux_type: str | None = None
    selinux_range: str | None = None
    callback: Callable[[Process], bool] | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise SpecError("an endpoint policy without a rule would allow everybody: give at least one, such as user=")
        for key in ("uid", "gid"):
            value = getattr(self, key)
            if value is not None and not (type(value) is int and 0 <= value <= _LAST_ID):
                raise SpecError(f"{key} = {value!r} is out of range: give a whole number from 0 to {_LAST_ID}")
        for key in ("user", "group", "selinux_type", "selinux_range"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value):
                raise SpecError(f"{key} = {value!r} must be a non-empty string")
        for key in ("in_groups", "only_groups"):
            value = getattr(self, key)
            good = value is None or (isinstance(value, frozenset) and all(type(one) in (int, str) for one in value))
            if not good:
                raise SpecError(f"{key} = {value!r} must be a frozenset of names and numbers of groups")
        if self.program is not None and not is_program(self.program):
            raise SpecError(
                f"program = {self.program!r} must be an absolute path, in its shortest form, not ending in ' (deleted)'"
            )
        if self.digest is not None and not is_digest(self.digest):
            raise SpecError(f"digest = {self.digest!r} must be 64 hex digits in lower case: sha256sum FILE prints them")
        if self.callback is not None and not callable(self.callback):
            raise SpecError(f"callback = {self.callback!r} can not be called: give a function of one Process")

    def judge(self, subject: Process) -> Verdict:
        """Evaluate every rule over what is known of one process; never raises."""
        stale = subject.stale
        failed = Failed.NONE if stale is None else Failed.PROCESS
        report = ["ok process: it is the one that was meant" if stale is None else f"FAILED process: {stale}"]
        for bit, key, rule in _RULES:
            wanted = getattr(self, key)
            if wanted is None:
                continue
            try:
                found = rule(wanted, subject)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong while judging is a denial
                found = f"can not be judged: {_said(error)}"
            if found is None:
                report.append(f"ok {key}")
            else:
                failed |= bit
                report.append(f"FAILED {key}: {found}")
        return Verdict(pid=subject.pid, failed=failed, report=tuple(report))

    def judge_pid(self, pid: int, *, pidfd: int | None = None) -> Verdict:
        """Read the process that has `pid` (or that `pidfd` is of, if it still has that pid), and judge it."""
        return self.judge(process.read(pid, digest=self.digest is not None, pidfd=pidfd))

    def check_self(self, what: str) -> Verdict:
        """Refuse to go on in a process that the policy does not allow: `Denied`, naming all failed rules."""
        verdict = self.judge_pid(os.getpid())
        verdict.require(what)
        return verdict


def _said(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an exception that can not even be shown
        return type(error).__name__


# -- the rules: each returns None when it holds, else what was found instead -----------------------------------


def _known(subject: Process, name: str) -> Any:
    value = getattr(subject, name)
    if value is None:
        raise LookupError(f"{name} unknown: {subject.unread.get(name) or subject.stale or 'it was not read'}")
    return value


def _all_are(wanted: int, found: tuple[int, ...]) -> str | None:
    if len(found) == 4 and set(found) == {wanted}:
        return None
    return f"real, effective, saved and file system's are {', '.join(map(str, found))}, not all {wanted}"


def _uid(wanted: int, subject: Process) -> str | None:
    return _all_are(wanted, _known(subject, "uids"))


def _gid(wanted: int, subject: Process) -> str | None:
    return _all_are(wanted, _known(subject, "gids"))


def _user(wanted: str, subject: Process) -> str | None:
    import pwd  # noqa: PLC0415 - only where names are asked about

    try:
        number = pwd.getpwnam(wanted).pw_uid
    except KeyError:
        return f"there is no user {wanted!r} here"
    found = _all_are(number, _known(subject, "uids"))
    return found and f"{found} ({wanted})"


def _number_of_group(wanted: int | str) -> int:
    import grp  # noqa: PLC0415 - only where names are asked about

    return wanted if isinstance(wanted, int) else grp.getgrnam(wanted).gr_gid


def _group(wanted: str, subject: Process) -> str | None:
    found = _all_are(_number_of_group(wanted), _known(subject, "gids"))
    return found and f"{found} ({wanted})"


def _in_groups(wanted: frozenset[int | str], subject: Process) -> str | None:
    missing = set(map(_number_of_group, wanted)) - _known(subject, "groups")
    return f"it lacks {sorted(missing)}" if missing else None


def _only_groups(wanted: frozenset[int | str], subject: Process) -> str | None:
    more = _known(subject, "groups") - set(map(_number_of_group, wanted)) - set(_known(subject, "gids"))
    return f"it also has {sorted(more)}" if more else None


def _program(wanted: str, subject: Process) -> str | None:
    path = _known(subject, "program")
    if subject.deleted:
        return f"it runs {path}, which was removed or replaced since"
    return None if path == wanted else f"it runs {path}, not {wanted}"


def _digest(wanted: str, subject: Process) -> str | None:
    found = _known(subject, "digest")
    return None if found == wanted else f"what it runs has {found}, not {wanted}"


def _context(subject: Process) -> list[str]:
    parts: list[str] = _known(subject, "context").split(":", 3)
    if len(parts) != 4:
        raise LookupError(f"{subject.context!r} is no context of the form user:role:type:range")
    return parts


def _selinux_type(wanted: str, subject: Process) -> str | None:
    found = _context(subject)[2]
    return None if found == wanted else f"it is {found}, not {wanted}"


def _selinux_range(wanted: str, subject: Process) -> str | None:
    found = _context(subject)[3]
    return None if found == wanted else f"it is {found}, not {wanted}"


def _callback(wanted: Callable[[Process], bool], subject: Process) -> str | None:
    # True and nothing else: a coroutine that nobody awaits is true as well.
    return None if (answer := wanted(subject)) is True else f"it returned a {type(answer).__name__} that is not True"


_RULES: tuple[tuple[Failed, str, Callable[[Any, Process], str | None]], ...] = (
    (Failed.UID, "uid", _uid),
    (Failed.GID, "gid", _gid),
    (Failed.USER, "user", _user),
    (Failed.GROUP, "group", _group),
    (Failed.IN_GROUPS, "in_groups", _in_groups),
    (Failed.ONLY_GROUPS, "only_groups", _only_groups),
    (Failed.PROGRAM, "program", _program),
    (Failed.DIGEST, "digest", _digest),
    (Failed.SELINUX_TYPE, "selinux_type", _selinux_type),
    (Failed.SELINUX_RANGE, "selinux_range", _selinux_range),
    (Failed.CALLBACK, "callback", _callback),
)
