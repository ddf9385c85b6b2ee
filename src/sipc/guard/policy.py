# SPDX-License-Identifier: Apache-2.0
"""A guard's channels as specs, and all that its SELinux policy is made from and proven by.

Owns who the ends of each channel are: users by number, domains by type.  `sipc policy generate` and `verify` take it
from here: `generate(channel_specs(guard).values(), options(guard))`, and `policy_requirements(guard)` to prove.
"""

from __future__ import annotations

import grp
import posixpath
import pwd
from dataclasses import replace

from sipc.definitions import check_apart
from sipc.errors import SpecError
from sipc.guard.model import Guard, Kind, Medium, Sink, Source, Stage
from sipc.guard.tables import File
from sipc.selinux.options import Options
from sipc.selinux.requirements import Requirement
from sipc.spec import ChannelSpec, Enforcement, Principal

__all__ = (
    "account",
    "by_selinux",
    "channel_specs",
    "file_places",
    "options",
    "own_places",
    "policy_requirements",
    "state_place",
)


def channel_specs(guard: Guard, *, users: bool = True) -> dict[str, ChannelSpec]:
    """Each channel by its name in the file, registered as GUARD.CHANNEL, with who its ends are.

    Without `users` the ends have types alone, which is all that a policy needs, on any host.  Raises `SpecError` for a
    user or group that this host has not, and for a channel between two users of one group.
    """
    who = {name: _principal(guard, stage, users=users) for name, stage in guard.stages.items()}
    specs = {}
    for name, channel in guard.channels.items():
        spec = replace(channel.spec, sender=who[channel.sender], receiver=who[channel.receiver])
        check_apart(spec.label, spec)
        specs[name] = spec
    return specs


def options(guard: Guard) -> Options:
    """What the definitions of the guard's channels do not say.

    Every stage's domain is made with them, its directories are labelled as its own, and a filter may run programs.
    """
    types = {name: stage.type for name, stage in guard.stages.items() if stage.type is not None}
    held = {name: kind for name, kind in types.items() if by_selinux(guard, name)}
    return Options(
        new=frozenset(types.values()),
        places={kind: own_places(guard, guard.stages[name]) for name, kind in held.items()},
        runners=frozenset(kind for name, kind in held.items() if guard.stages[name].kind is Kind.FILTER),
    )


def by_selinux(guard: Guard, *stages: str) -> bool:
    """Whether a channel of these stages (none: of any) asks for SELinux, so that they must run in their domains."""
    return any(
        channel.spec.enforcement is Enforcement.SELINUX
        for channel in guard.channels.values()
        if not stages or channel.sender in stages or channel.receiver in stages
    )


def state_place(guard: str, stage: str) -> str:
    """A stage's place below /var/lib and below /run, under systemd."""
    return f"sipc-guards/{guard}/{stage}"


def file_places(stage: Stage) -> tuple[str, ...]:
    """The directories that the guard file gives a stage: it reads, writes, renames and removes files there."""
    places = []
    if isinstance(stage.work, (Source, Sink)) and stage.work.path is not None:
        path = stage.work.path
        places.append(path if stage.work.medium is Medium.DIRECTORY else posixpath.dirname(path))
    if stage.quarantine is not None:
        places.append(stage.quarantine.directory)
    return tuple(posixpath.normpath(place) for place in places)


def own_places(guard: Guard, stage: Stage) -> tuple[str, ...]:
    """All directories that are a stage's own: state, status, and what the guard file gives it."""
    place = state_place(guard.name, stage.name)
    return (f"/var/lib/{place}", f"/run/{place}", *file_places(stage))


def policy_requirements(guard: Guard) -> list[Requirement]:
    """The file's requirements, about domains: to be proven of a policy.  Only of a guard whose stages have types."""
    types = {name: stage.type for name, stage in guard.stages.items() if stage.type is not None}
    if len(types) < len(guard.stages):
        untyped = next(name for name in guard.stages if name not in types)
        raise SpecError(f"{guard.source}: [stage.{untyped}] type: is missing: write type = 'NAME_t'")
    return [about for requirement in guard.require for about in requirement.by_types(types, guard.edges)]


def account(stage: Stage) -> tuple[int | None, int | None]:
    """A stage's uid and gid on this host; a user brings its own group.  Raises `LookupError`: what there is not."""
    user, group = stage.user, stage.group
    uid: int | None = None
    gid: int | None = None
    if isinstance(user, int):
        uid = user
        try:
            gid = pwd.getpwuid(user).pw_gid
        except (KeyError, OverflowError):
            gid = user  # containers and remote directories have users that this host can not name
    elif user is not None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise LookupError("user", user) from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if isinstance(group, int):
        gid = group
    elif group is not None:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise LookupError("group", group) from None
    return uid, gid


def _principal(guard: Guard, stage: Stage, *, users: bool) -> Principal:
    if not users:
        return Principal(type=stage.type)
    try:
        uid, gid = account(stage)
    except LookupError as error:
        kind, name = error.args
        file = File(source=guard.source, lines=guard.lines)
        file.problem(("stage", stage.name), kind, f"there is no {kind} {name!r} here", "create it, or give a number")
        raise SpecError(file.problems[0].text(guard.source)) from None
    rules = stage.endpoint
    if rules is None or rules.program is None:
        return Principal(uid=uid, gid=gid, type=stage.type)
    return Principal(uid=uid, gid=gid, type=stage.type, program=rules.program, digest=rules.digest)
