# SPDX-License-Identifier: Apache-2.0
"""Where stages publish how they are, and the reading of it by somebody who does not trust them.

Owns directories and files, not what is in them (`reported.py`).  Needs no right but to read what stages publish: no
channel is opened, no queue or process is asked, nothing is written.

Whose word it is, is decided by owners: the place, and a guard's directory in it, must belong to root, to this user, or
to whom the place belongs, and nobody else may write there; a stage's file must belong to the owner of the stage's
directory.  Links are not followed below the place.  A file is looked at before it is opened, so that a pipe, a device
or a lease holds up nobody, and it is read up to a limit.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sipc.errors import SpecError
from sipc.guard.places import default_state
from sipc.guard.reported import LARGEST, NAME, StageReport, parse
from sipc.guard.text import clean

__all__ = ("SYSTEM", "Seen", "observe", "places")

SYSTEM = Path("/run/sipc-guards")
STATUS = "status.json"
_RUN = "run"  # of a guard in the foreground: STAGE/run beside STAGE/state

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST = 1024  # guards in a place, stages in a guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One stage: its report, or why there is none; and the user whose word that is.

    Without a name (empty) it stands for the guard as a whole, of which there is a problem.
    """

    guard: str
    stage: str
    owner: str = ""
    report: StageReport | None = None
    problem: str = ""


def places(state: Path | None) -> list[Path]:
    """Where to look: in the directory given; else where systemd's units publish, and then this user's own guards."""
    if state is not None:
        return [state]
    try:
        return [SYSTEM, default_state(os.environ)]
    except SpecError:  # who has no home has no guards of its own
        return [SYSTEM]


def observe(where: Sequence[Path], guard: str | None = None) -> list[Seen]:
    """Every stage of one guard, or of all; a guard is taken from the first place that has it.

    Raises `SpecError` when there is none, or a place is not to be believed.
    """
    if guard is not None and not NAME.fullmatch(guard):
        raise SpecError(f"{guard!r} is no name of a guard: give one like 'json'")
    found: dict[str, list[Seen]] = {}
    for place in where:
        with _place(place) as trusted:
            if trusted is None:
                continue
            fd, owners = trusted
            for name in _names(fd, str(place)) if guard is None else [guard]:
                if name not in found and (stages := _guard(fd, name, owners)):
                    found[name] = stages
    if not found:
        named = "no guard has published anything" if guard is None else f"guard {guard!r} has published nothing"
        raise SpecError(f"{named} in {' or '.join(map(str, where))}: is it started? give --state DIR if it runs there")
    return [seen for name in sorted(found) for seen in found[name]]


@contextmanager
def _place(path: Path) -> Iterator[tuple[int, frozenset[int]] | None]:
    """The place and whom to believe about it; None when it is not there."""
    try:
        fd = os.open(path, _LIST)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}: give a directory that this user may read") from error
    try:
        status = os.fstat(fd)
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            raise SpecError(f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}): whatever is "
                            "there may be theirs; make it 0755")  # fmt: skip
        yield fd, frozenset({0, os.geteuid(), status.st_uid})
    finally:
        os.close(fd)


def _names(fd: int, path: str) -> list[str]:
    names = sorted(name for name in os.listdir(fd) if NAME.fullmatch(name))
    if len(names) > _MOST:
        raise SpecError(f"{path} has {len(names)} entries, and at most {_MOST} are looked at: name one, or clean up")
    return names


def _guard(place: int, name: str, owners: frozenset[int]) -> list[Seen]:
    """The stages of one guard; none when the directory is not there or is not one."""
    try:
        fd = os.open(name, _LIST | os.O_NOFOLLOW, dir_fd=place)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return []
        return [Seen(guard=name, stage="", problem=f"can not be read: {error.strerror}")]
    try:
        status = os.fstat(fd)
        if status.st_uid not in owners or status.st_mode & 0o022:
            raise SpecError(
                f"its directory (uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}) can be changed by "
                "others, so that stages could speak for each other: it must be root's or this user's, mode 0755"
            )
        return [seen for stage in _names(fd, "it") if (seen := _stage(fd, name, stage, owners)) is not None]
    except SpecError as error:
        return [Seen(guard=name, stage="", problem=str(error))]
    finally:
        os.close(fd)


def _stage(guard: int, name: str, stage: str, owners: frozenset[int]) -> Seen | None:
    """One stage; None for what is no directory."""
    opened: list[int] = []
    owner = ""
    try:
        outer = _look(stage, guard, opened)
        if not stat.S_ISDIR(outer.st_mode):
            return None
        inner = outer
        try:
            inner = _look(_RUN, opened[-1], opened)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISDIR(inner.st_mode):
                raise SpecError("run is no directory")
        owner = _user(inner.st_uid)
        if outer.st_uid not in owners | {inner.st_uid} or (outer.st_mode | inner.st_mode) & 0o022:
            raise SpecError("its directory can be written by others, so that this may be anybody's word")
        return Seen(guard=name, stage=stage, owner=owner,
                    report=parse(_read(opened, inner.st_uid), guard=name, stage=stage))  # fmt: skip
    except FileNotFoundError:
        return Seen(guard=name, stage=stage, owner=owner, problem="has published nothing yet")
    except SpecError as error:
        return Seen(guard=name, stage=stage, owner=owner, problem=clean(str(error), 300))
    except OSError as error:
        return Seen(guard=name, stage=stage, owner=owner, problem=f"can not be read: {error.strerror}")
    finally:
        for fd in opened:
            os.close(fd)


def _look(name: str, directory: int, opened: list[int]) -> os.stat_result:
    """What stands there, held by a descriptor that lets nobody read, wait or be waited for."""
    fd = os.open(name, _LOOK, dir_fd=directory)
    opened.append(fd)
    return os.fstat(fd)


def _read(opened: list[int], owner: int) -> bytes:
    """A status file's bytes."""
    status = _look(STATUS, opened[-1], opened)
    if not stat.S_ISREG(status.st_mode):
        raise SpecError(f"{STATUS} is no plain file")
    if status.st_uid != owner:
        raise SpecError(f"{STATUS} belongs to {_user(status.st_uid)}, and its directory to {_user(owner)}")
    if status.st_size > LARGEST:
        raise SpecError(f"{STATUS} has {status.st_size} bytes, and a status at most {LARGEST}")
    fd = os.open(f"/proc/self/fd/{opened[-1]}", _READ)  # the very file that was looked at
    opened.append(fd)
    data = bytearray()
    while len(data) <= LARGEST and (piece := os.read(fd, LARGEST + 1 - len(data))):
        data += piece
    return bytes(data)


def _user(uid: int) -> str:
    try:
        return clean(pwd.getpwuid(uid).pw_name, 32)
    except (KeyError, OverflowError):
        return str(uid)
