# SPDX-License-Identifier: Apache-2.0
"""A guard as systemd units: what `sipc guard install` writes.

Owns the text of the units and of the definitions that the helper reads; pure.  `systemd.py` writes them and drives
systemd.  One target per guard; below it one oneshot per channel, which makes it, and one service per stage.  Whoever
uses systemd's own tools on them gets what `up` and `down` give.

A stage says by its exit code how it ended (`stage.py`), and the receiver of a channel can do nothing to its sender: so
each stage has a unit that is started when it failed, and that stops what the guard file says.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from sipc.errors import SpecError
from sipc.guard.endpoints import is_judged
from sipc.guard.model import (
    AuditPlace,
    Guard,
    GuardChannel,
    Kind,
    Medium,
    OnQuarantineFull,
    OnViolation,
    PythonFilter,
    Sink,
    Source,
    Stage,
)
from sipc.guard.policy import account, by_selinux, channel_specs, file_places, state_place
from sipc.guard.tables import File
from sipc.guard.unit_texts import ACT, CHANNEL, COMMON, SLICE, STAGE, TARGET
from sipc.selinux.grants import types_of
from sipc.spec import Role

__all__ = (
    "CHANNELS",
    "FULL",
    "GUARDS",
    "VIOLATION",
    "Programs",
    "act_name",
    "channel_name",
    "definitions",
    "modules_of",
    "prefix",
    "render",
    "slice_name",
    "stage_name",
    "target_name",
)

GUARDS = "/etc/sipc/guards"
REGISTRY = "/run/sipc"
CHANNELS = "channels.toml"
_NOT_RESTARTED = "3 4 76 77 130"  # what a new start would not change: `StageExit`
VIOLATION, FULL = 76, 77
# Together the stages of a guard may have this much of the memory, each the same part.
_MEMORY = 80  # percent
# Directories that are not one stage's, and those that a service of ours does not see.
_SYSTEM = frozenset(
    ("/", "/bin", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/root", "/run",
     "/sbin", "/srv", "/usr", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool",
     "/var/lib/sipc")
)  # fmt: skip
_HIDDEN = ("/boot", "/dev", "/etc", "/proc", "/run/sipc", "/run/sipc-guards", "/sys", "/usr", "/var/lib/sipc-guards",
           "/tmp", "/var/tmp")  # fmt: skip # noqa: S108 - refused
_HOMES = ("/home", "/root", "/run/user")
_BARE = re.compile(r"[A-Za-z0-9/._@=,+-]+")

@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What the units run; systemd looks for a bare name where it looks for all programs."""

    sipc: str = "sipc"
    helper: str = "sipc-helper"


def prefix(guard: str) -> str:
    """What the names of all units of a guard begin with; '-' is a separator, so one in a name is escaped."""
    return f"sipc-guard-{_escaped(guard)}"


def target_name(guard: str) -> str:
    """The target that stands for a guard."""
    return f"{prefix(guard)}.target"


def slice_name(guard: str) -> str:
    """The slice that all its processes are in."""
    return f"{prefix(guard)}.slice"


def channel_name(guard: str, channel: str) -> str:
    """The unit that makes a channel."""
    return f"{prefix(guard)}-channel-{_escaped(channel)}.service"


def stage_name(guard: str, stage: str) -> str:
    """The unit of a stage."""
    return f"{prefix(guard)}-stage-{_escaped(stage)}.service"


def act_name(guard: str, stage: str) -> str:
    """The unit that is started when a stage has failed."""
    return f"{prefix(guard)}-act-{_escaped(stage)}.service"


def render(guard: Guard, programs: Programs | None = None) -> dict[str, str]:
    """All units of a guard, name: text.

    Raises `SpecError` for a stage that can not be a service: one that talks to a terminal, one whose directory is a
    system's, one whose socket its own domain forbids.
    """
    programs = programs or Programs()
    for stage in guard.stages.values():
        _check(guard, stage)
    stages = {stage_name(guard.name, name): _stage(guard, stage, programs) for name, stage in guard.stages.items()}
    channels = {channel_name(guard.name, name): _channel(guard, channel, programs)
                for name, channel in guard.channels.items()}  # fmt: skip
    name = guard.name
    return {
        target_name(name): TARGET.format(guard=name, units=" ".join((*channels, *stages))),
        slice_name(name): SLICE.format(guard=name, memory=_MEMORY, tasks=_TASKS[Kind.FILTER] * (len(stages) + 1)),
        **channels,
        **stages,
        **{act_name(name, stage): _act(guard, guard.stages[stage], programs) for stage in guard.stages},
    }


def definitions(guard: Guard) -> str:
    """The guard's channels as a definition file, for the helper."""
    lines = ["# Made by 'sipc guard install' from the guard file: change that one, and install it again."]
    for channel in guard.channels.values():
        spec = channel.spec
        values: dict[str, object] = {
            "wire": spec.wire, "transport": spec.transport, "backend": spec.backend,
            "segment_creator": spec.segment_creator, "enforcement": spec.enforcement,
            "slots": spec.geometry.slots, "depth": spec.geometry.depth, "slot_size": spec.geometry.slot_size,
            "max_message": spec.max_message, "checksum": spec.checksum,
        }  # fmt: skip
        if spec.channel_type is not None:
            values["type"] = spec.channel_type
        if spec.tag is not None:
            values["tag"] = spec.tag
        lines += ["", f"[channel.{json.dumps(spec.name)}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        for role, name in ((Role.SENDER, channel.sender), (Role.RECEIVER, channel.receiver)):
            stage = guard.stages[name]
            who: dict[str, str | int | None] = {"user": stage.user, "group": stage.group, "type": stage.type}
            if stage.endpoint is not None and stage.endpoint.program is not None:
                who |= {"program": stage.endpoint.program, "digest": stage.endpoint.digest}
            given = {key: json.dumps(value, ensure_ascii=False) for key, value in who.items() if value is not None}
            if given:
                lines.append(f"{role} = {{ {', '.join(f'{key} = {value}' for key, value in given.items())} }}")
    return "\n".join(lines) + "\n"


def modules_of(guard: Guard) -> tuple[str, ...]:
    """Top-level names of the Python modules that the guard's filters are in."""
    names = []
    for stage in guard.stages.values():
        if isinstance(stage.work, PythonFilter):
            names += [name.partition(":")[0].partition(".")[0] for name in (stage.work.function, stage.work.decode)
                      if name is not None]  # fmt: skip
    return tuple(dict.fromkeys(names))


# A filter has a worker, or a command with processes of its own.
_TASKS = {Kind.SOURCE: 16, Kind.FILTER: 64, Kind.SINK: 16}


def _channel(guard: Guard, channel: GuardChannel, programs: Programs) -> str:
    """The oneshot that makes one channel, in the channel's own domain."""
    spec = channel_specs(guard, users=False)[channel.name]
    return CHANNEL.format(
        guard=guard.name, channel=channel.name, sender=channel.sender, receiver=channel.receiver,
        slice=slice_name(guard.name), registry=REGISTRY,
        context=_context(types_of(spec).channel if by_selinux(guard, channel.sender, channel.receiver) else None),
        helper=_word(programs.helper), file=f"{GUARDS}/{guard.name}/{CHANNELS}", registered=spec.name,
        common=COMMON.format(home="ProtectHome=yes"),
    )  # fmt: skip


def _stage(guard: Guard, stage: Stage, programs: Programs) -> str:
    """The service of one stage: its user, its domain, its places, its share."""
    name, kind = stage.name, stage.kind
    sends, receives = ([channel for channel in guard.channels.values() if name == end(channel)]
                       for end in (attrgetter("sender"), attrgetter("receiver")))  # fmt: skip
    ends = [*((channel, Role.SENDER) for channel in sends), *((channel, Role.RECEIVER) for channel in receives)]
    channels = [channel_name(guard.name, channel.name) for channel, _ in ends]
    # Who receives starts first and stops last, so that little stays on the channels.
    after = [stage_name(guard.name, channel.receiver) for channel in sends]
    places = file_places(stage)
    homes = [place for place in places if _below(place, *_HOMES)]
    own = [f"{REGISTRY}/.private/{channel.spec.name}/{role}" for channel, role in ends]
    socket = isinstance(stage.work, (Source, Sink)) and stage.work.medium is Medium.SOCKET
    journal = guard.audit is AuditPlace.JOURNAL and bool(receives)
    place = state_place(guard.name, name)
    return STAGE.format(
        guard=guard.name, stage=name, kind=kind, target=target_name(guard.name), channels=" ".join(channels),
        after=" ".join((*channels, *dict.fromkeys(after))), act=act_name(guard.name, name),
        slice=slice_name(guard.name), user=_user(stage),
        context=_context(stage.type if by_selinux(guard, name) else None),
        registry=REGISTRY, modules=f"{GUARDS}/{guard.name}", sipc=_word(programs.sipc),
        file=f"{GUARDS}/{guard.name}.toml", state=place, identifier=f"sipc-guard-{guard.name}-{name}",
        not_restarted=_NOT_RESTARTED, memory=max(1, _MEMORY // len(guard.stages)), tasks=_TASKS[kind],
        # A filter's child that took too much is gone, and its message refused; the stage itself goes on.
        oom="continue" if kind is Kind.FILTER else "stop",
        common=COMMON.format(home="ProtectHome=tmpfs" if homes else "ProtectHome=yes"),
        writable=" ".join(map(_path, (*own, *places))),
        binds="".join(f"BindPaths={_path(home)}\n" for home in homes),
        families="AF_UNIX" if socket or journal else "none",
        # A stage that judges who sent last looks at that process, which is another user's.
        proc="default" if any(is_judged(guard, channel) for channel in receives) else "invisible",
        # Only a filter runs code of others, which may compile at run time.
        deny="no" if kind is Kind.FILTER else "yes",
    )  # fmt: skip


def _act(guard: Guard, stage: Stage, programs: Programs) -> str:
    """What happens when a stage has failed for good, as a shell's lines: no more code than that, and in no stage."""
    unit = stage_name(guard.name, stage.name)
    everything = _stop([target_name(guard.name)])
    violation = {OnViolation.STOP_GUARD: everything, OnViolation.LOG: ""}
    full = {OnQuarantineFull.STOP_STAGE: "", OnQuarantineFull.STOP_GUARD: everything}
    if guard.on_violation is OnViolation.STOP_SENDER:
        violation[OnViolation.STOP_SENDER] = _stop_sender(guard, stage, programs)
    cases = (
        (VIOLATION, "its sender violated the protocol", guard.on_violation, violation[guard.on_violation]),
        (FULL, "its quarantine is full", guard.on_quarantine_full, full[guard.on_quarantine_full]),
    )
    script = [f'case "${{MONITOR_EXIT_STATUS:-$(systemctl show -P ExecMainStatus {shlex.quote(unit)})}}" in']
    for code, what, rule, stop in cases:
        script.append(f'{code}) echo "stage {stage.name}: {what}: {rule}"{stop};;')
    script.append(f'*) echo "stage {stage.name} has failed and is not started again: sipc guard status {guard.name}";;')
    return ACT.format(
        guard=guard.name, stage=stage.name, identifier=f"sipc-guard-{guard.name}",
        script=_word(" ".join((*script, "esac"))),
    )  # fmt: skip


def _stop(units: Iterable[str]) -> str:
    return f"; exec systemctl stop --no-block {shlex.join(units)}"


def _stop_sender(guard: Guard, stage: Stage, programs: Programs) -> str:
    """Who sends on the channel that the stage's log accuses; where it accuses none of its own, all who send to it."""
    coming = [channel for channel in guard.channels.values() if channel.receiver == stage.name]
    senders = {channel.sender: stage_name(guard.name, channel.sender) for channel in coming}
    if len(senders) < 2:
        return _stop(senders.values()) if senders else ""
    asked = shlex.join((programs.sipc, "guard", "accused", f"{GUARDS}/{guard.name}.toml", stage.name))
    cases = [(channel.spec.name, f"stage {channel.sender} is stopped: it broke the protocol on {channel.name}",
              [senders[channel.sender]]) for channel in coming]  # fmt: skip
    cases.append(("*", f"stage {stage.name} does not say which: all that send to it are stopped", [*senders.values()]))
    lines = [f'{channel}) echo "{text}"{_stop(units)};;' for channel, text, units in cases]
    return " ".join((f'; case "$({asked})" in', *lines, "esac"))


def _check(guard: Guard, stage: Stage) -> None:
    """Refuse a stage that can not be a service.  Raises `SpecError`."""
    file = File(source=guard.source, lines=guard.lines)
    place, work = ("stage", stage.name), stage.work
    selinux = by_selinux(guard, stage.name)
    if stage.user is None:
        file.problem(place, "user", "is missing, and systemd would run the stage as root", 'write user = "NAME"')
    if isinstance(work, (Source, Sink)) and work.medium is Medium.STREAM:
        fix = "give a directory, a file or a socket, or run it in the foreground: sipc guard run"
        file.problem(place, stage.kind, "a service has no terminal and no pipe", fix)
    if isinstance(work, (Source, Sink)) and work.medium is Medium.SOCKET and selinux:
        reason = "the policy of a stage forbids names of sockets, which others can see taken or free"
        file.problem(place, stage.kind, reason, "give a directory or a file")
    for path in file_places(stage):
        if path in _SYSTEM or _below(path, *_HIDDEN):
            reason = f"{path} is the system's, or hidden from services, and would be the stage's own"
            file.problem(place, None, reason, f"give a directory like /var/lib/sipc/{guard.name}/{stage.name}")
        elif ":" in path and _below(path, *_HOMES):
            file.problem(place, None, f"{path}: BindPaths= can not name it", "give a directory without a colon")
    if file.problems:
        raise SpecError("\n".join(problem.text(guard.source) for problem in file.problems))


def _user(stage: Stage) -> str:
    group: str | int | None = stage.group
    if group is None and isinstance(stage.user, int):
        group = account(stage)[1]
    lines = [f"User={stage.user}\n", *([f"Group={group}\n"] if group is not None else [])]
    if stage.endpoint is not None and stage.endpoint.in_groups:
        lines.append(f"SupplementaryGroups={' '.join(map(str, stage.endpoint.in_groups))}\n")
    return "".join(lines)


def _context(kind: str | None) -> str:
    """Without a leading '-': where SELinux is asked for, a unit that can not get its domain does not start."""
    return f"SELinuxContext=system_u:system_r:{kind}:s0\n" if kind is not None else ""


def _below(path: str, *places: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _escaped(name: str) -> str:
    """A name in a unit's name (systemd.unit(5)): '-' parts names, and slices from their parents."""
    return name.replace("-", "\\x2d")


def _path(path: str) -> str:
    """A path in a list of paths: '%' begins a specifier there, and quotes are the shell's (systemd.syntax(7))."""
    if _BARE.fullmatch(path):
        return path
    text = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'


def _word(text: str) -> str:
    """One word of a command line: besides, '$' begins a variable there."""
    return text if _BARE.fullmatch(text) else _path(text).replace("$", "$$")
