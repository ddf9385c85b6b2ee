# SPDX-License-Identifier: Apache-2.0
"""Whether a guard file describes a guard that can be: what `sipc guard check` asks, and whoever starts one.

Owns the questions that go beyond the file: names of the policy to be made, among each other and against those a policy
has already; users of this host.  It reads, and touches nothing.
"""

from __future__ import annotations

import pathlib
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sipc.definitions import check_apart
from sipc.errors import SpecError
from sipc.guard.config import LONGEST_TEXT, read
from sipc.guard.endpoints import groups_of
from sipc.guard.lines import Path
from sipc.guard.model import CommandFilter, Guard
from sipc.guard.policy import account, channel_specs, options
from sipc.guard.tables import File, Problem, listed, shown, title
from sipc.selinux.base import base_module
from sipc.selinux.cil import Module
from sipc.selinux.ends import ends_of
from sipc.selinux.image import Policy
from sipc.selinux.policy import channel_module, end_module
from sipc.spec import Backend, Enforcement, Principal

__all__ = ("Examined", "examine", "load", "text_of")

_T = TypeVar("_T")
_ANOTHER = 'write type = "ANOTHER_t"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The verdict: `guard` when there is no problem; `notes` on what holds it less than one might think."""

    source: str
    guard: Guard | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    names: int | None = None  # how many types were looked for in a policy

    @property
    def lines(self) -> list[str]:
        """Every problem as a line of text."""
        return [problem.text(self.source) for problem in self.problems]


def load(path: pathlib.Path) -> Guard:
    """Read and check a guard file.  Raises `SpecError` with every problem, one a line; nothing was touched."""
    found = examine(text_of(path), str(path))
    if found.guard is None:
        raise SpecError("\n".join(found.lines))
    return found.guard


def text_of(path: pathlib.Path) -> str:
    """A file's text, line ends as they are."""
    most = 4 * LONGEST_TEXT  # bytes; a device has no end
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise SpecError(f"{path}:1: has more than {most} bytes: give at most {LONGEST_TEXT} characters")
        if data.startswith(BOM_UTF8):
            raise SpecError(f"{path}:1: begins with a byte order mark, which TOML has not: save the file without one")
        return data.decode("utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}): give an existing guard file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from error


def examine(text: str, source: str, policy: Policy | None = None) -> Examined:
    """Check a guard file's text; with `policy`, also that the names to be made are free there."""
    guard, problems = read(text, source)
    if guard is None:
        return Examined(source=source, guard=None, problems=tuple(problems))
    file = File(source=source, lines=guard.lines)
    made = _made(file, guard)
    if policy is not None and not file.problems:
        _collisions(file, made, policy)
    notes = [*_users(file, guard), *_notes(guard)]
    found = tuple(sorted(file.problems, key=lambda problem: problem.line))
    names = len(made) if policy is not None else None
    return Examined(source=source, guard=None if found else guard, problems=found, notes=tuple(notes), names=names)


def _made(file: File, guard: Guard) -> dict[str, Path]:
    """Every type that the guard's policy makes, and the stage or channel that it is made for.

    None, and problems, where a name would be two things; what `generate` refuses, refused with the line.
    """
    shape = options(guard)
    specs = channel_specs(guard, users=False)
    base = base_module()
    places: dict[str, Path] = {}
    for name, stage in guard.stages.items():
        if stage.type in shape.launchers:
            reason = f"{stage.type} is the domain that starts the stages"
            file.problem(("stage", name), "type", reason, _ANOTHER)
        elif stage.type in base.declared():
            file.problem(("stage", name), "type", f"{stage.type} is a type of sipc itself", _ANOTHER)
        elif stage.type in places:
            reason = f"{stage.type} is the type of {title(places[stage.type])} too: nothing would keep the two apart"
            file.problem(("stage", name), "type", reason, _ANOTHER)
        elif stage.type is not None:
            places[stage.type] = ("stage", name)
    for name, spec in specs.items():
        _noting(file, ("channel", name), partial(ends_of, [spec], shape))
    if file.problems:
        return {}
    ends = ends_of(specs.values(), shape)
    modules: dict[str, Path] = {base.name: ()}
    types: dict[str, Path] = dict.fromkeys(base.declared(), ())
    makers: list[tuple[Path, Callable[[], Module]]] = [
        *((place, partial(end_module, ends[kind], shape)) for kind, place in places.items()),
        *((("channel", name), partial(channel_module, spec, ends, shape)) for name, spec in specs.items()),
    ]
    for place, make in makers:
        module = _noting(file, place, make)
        if module is None:
            continue
        for before, names in ((modules, [module.name]), (types, module.declared())):
            twice = [name for name in names if name in before]
            if twice:
                other = title(before[twice[0]]) if before[twice[0]] else "sipc itself"
                reason = f"{twice[0]} would be made in the policy for this and for {other}"
                file.problem(place, "type", reason, _ANOTHER)
                break
            before.update(dict.fromkeys(names, place))
    return {name: place for name, place in types.items() if place}


def _noting(file: File, place: Path, make: Callable[[], _T]) -> _T | None:
    """What `make` makes; its refusal is a problem with the type of what stands at `place`."""
    try:
        return make()
    except SpecError as error:
        reason, _, fix = str(error).rpartition(": ")
        if "sender.type" in fix:  # a key of a channel's definition; here the ends are stages
            fix = f"give its stages and itself a type of its own each: {_ANOTHER}"
        file.problem(place, "type", reason, fix)
        return None


def _collisions(file: File, made: Mapping[str, Path], policy: Policy) -> None:
    """No type to be made is a type, an attribute or an alias already."""
    taken: dict[Path, list[str]] = {}
    for name, place in made.items():
        if name in policy.numbers:
            taken.setdefault(place, []).append(name)
    for place, names in taken.items():
        reason = f"{policy.source} has {listed(names)} already"
        file.problem(place, "type", reason, f"{_ANOTHER}, unless that is this guard's own policy: look at one without")


def _users(file: File, guard: Guard) -> list[str]:
    """Two users in one group are a problem; a user that there is not yet is none of the file's."""
    notes = []
    who: dict[str, Principal] = {}
    for name, stage in guard.stages.items():
        try:
            uid, gid = account(stage)
        except LookupError as error:
            kind, missing = error.args
            notes.append(f"stage {name}: there is no {kind} {missing!r} on this host: create it before the guard runs")
            continue
        who[name] = Principal(uid=uid, gid=gid)
        try:
            for names in (stage.endpoint.in_groups, stage.endpoint.only_groups) if stage.endpoint is not None else ():
                groups_of(stage, names)
        except SpecError as error:
            notes.append(f"{error} before the guard runs")
        if uid == 0:
            notes.append(f"stage {name} runs as root, whom file modes do not bind: give it a user of its own")
    for name, channel in guard.channels.items():
        if channel.sender not in who or channel.receiver not in who:
            continue
        spec = replace(channel.spec, sender=who[channel.sender], receiver=who[channel.receiver])
        try:
            check_apart(spec.label, spec)
        except SpecError as error:
            reason, _, fix = str(error).removeprefix(f"{spec.label}: ").partition(": ")
            file.problem(("channel", name), None, reason, fix)
        if spec.enforcement is Enforcement.DAC and spec.sender.uid == spec.receiver.uid:
            notes.append(f"channel {name}: enforcement is dac and both ends run as one user, so nothing in the kernel "
                         "keeps it one-way")  # fmt: skip
        elif spec.enforcement is Enforcement.DAC:
            notes.append(f"channel {name}: enforcement is dac: users and file modes alone keep it one-way, and root "
                         "is not bound")  # fmt: skip
    return notes


def _notes(guard: Guard) -> list[str]:
    """What a channel asks for and what comes with it; programs that there are not yet."""
    unseen = [
        f"channel {name}: POSIX queues do not tell who sent last, so {channel.receiver} can not judge it: give the "
        "channel a key_file"
        for name, channel in guard.channels.items()
        if channel.spec.backend is Backend.POSIX and channel.spec.enforcement is Enforcement.DAC and not channel.keys
        and (guard.stages[channel.sender].user is not None or guard.stages[channel.sender].endpoint is not None)
    ]  # fmt: skip
    return [
        *unseen,
        *(
            f"stage {name}: there is no program {shown(stage.work.command[0])} on this host: install it before the "
            "guard runs"
            for name, stage in guard.stages.items()
            if isinstance(stage.work, CommandFilter) and not _is_file(stage.work.command[0])
        ),
        *(
            f"channel {name}: POSIX queues have ways back that no policy mediates (docs/operations.md)"
            for name, channel in guard.channels.items()
            if channel.spec.backend is Backend.POSIX
        ),
    ]


def _is_file(path: str) -> bool:
    """Whether a file is there; one that this user may not look at is not, for him."""
    try:
        return pathlib.Path(path).is_file()
    except OSError:
        return False
