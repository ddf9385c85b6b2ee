# SPDX-License-Identifier: Apache-2.0
"""Denials of access by SELinux (AVC lines), read from whatever log they stand in, and what each one means.

Owns the parsing of a line and the judgement of it against channels' definitions: is this the direction being
enforced, a module that is not loaded, a wrong domain or label, or somebody else's matter.  Reads text, asks nobody.
Source: the audit documentation's log format; security/selinux/avc.c (`avc_audit_pre_callback`).
"""

from __future__ import annotations

import enum
import functools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sipc.selinux.base import CLIENT, CREATOR, PROGRAM
from sipc.selinux.cil import Allow
from sipc.selinux.ends import ends_of
from sipc.selinux.grants import ChannelTypes, types_of
from sipc.selinux.options import Options
from sipc.selinux.policy import generate
from sipc.spec import Backend, ChannelSpec

__all__ = ("Denial", "Kind", "Verdict", "collapse", "judge", "parse")

_AVC = re.compile(r"avc:\s+denied\s+\{([^{}]*)\}\s+for\s+(.*)")
_FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
# Labels that files have which nobody labelled on purpose.
_STRAY = frozenset((
    "default_t", "file_t", "tmp_t", "unlabeled_t", "user_home_t", "user_tmp_t", "admin_home_t", "var_t", "var_run_t",
))  # fmt: skip
_OBJECTS = ("msgq", "msg", "shm", "sem")
_MAKING = frozenset(("create",))


class Kind(enum.StrEnum):
    """What a denial is."""

    DIRECTION = "direction"  # this is what the policy is for
    MODULE = "module"  # the channel's policy is not loaded, or not the one of its definition
    DOMAIN = "domain"  # a process that is none of the channel's
    LABEL = "label"  # a file whose label nobody set
    PROGRAM = "program"  # what an end's program does besides the channel
    FOREIGN = "foreign"  # no channel is concerned


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One refused access: `source` and `target` are types, the contexts as logged beside them."""

    permissions: tuple[str, ...]
    source: str
    target: str
    cls: str
    source_context: str
    target_context: str
    comm: str = ""
    pid: str = ""
    name: str = ""
    permissive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one denial means: the channel and role it concerns, a paragraph, and the command that settles it."""

    kind: Kind
    channel: str | None
    role: str | None
    text: str
    command: str | None


def parse(lines: Iterable[str]) -> Iterator[Denial]:
    """The denials in a log, whatever else stands in it; lines that are none, or cut off, are passed over."""
    for line in lines:
        found = _AVC.search(line)
        if found is None:
            continue
        fields: dict[str, str] = dict(_FIELD.findall(found[2]))
        source, target, cls = fields.get("scontext", ""), fields.get("tcontext", ""), fields.get("tclass", "")
        if not (_type(source) and _type(target) and cls):
            continue
        yield Denial(
            permissions=tuple(found[1].split()),
            source=_type(source),
            target=_type(target),
            cls=cls,
            source_context=source,
            target_context=target,
            comm=_plain(fields.get("comm", "")),
            pid=fields.get("pid", ""),
            name=_plain(fields.get("path", fields.get("name", ""))),
            permissive=fields.get("permissive") == "1",
        )


def _type(context: str) -> str:
    parts = context.split(":")
    return parts[2] if len(parts) >= 3 else ""


def _plain(value: str) -> str:
    """A value as it was: the audit system quotes plain text and writes anything else in hexadecimal."""
    if value.startswith('"'):
        return value.strip('"')
    if len(value) % 2 == 0 and _HEX.fullmatch(value):
        return bytes.fromhex(value).decode(errors="replace")
    return value


def collapse(denials: Iterable[Denial]) -> dict[Denial, int]:
    """The same access refused again and again counts once; process ids do not tell accesses apart."""
    counts: dict[Denial, int] = {}
    first: dict[tuple[object, ...], Denial] = {}
    for denial in denials:
        key = (denial.permissions, denial.source_context, denial.target_context, denial.cls, denial.comm, denial.name)
        one = first.setdefault(key, denial)
        counts[one] = counts.get(one, 0) + 1
    return counts


def judge(denial: Denial, specs: Sequence[ChannelSpec]) -> Verdict:
    """What a denial means, given the channels there are.

    A domain may be an end of several channels (a filter), so the channel whose thing was touched speaks first.
    """
    channels = [(spec, types_of(spec)) for spec in specs if spec.backend is not Backend.MEMORY]
    ours = [(spec, types) for spec, types in channels if _role(denial.source, types) is not None]
    theirs = [(spec, types) for spec, types in channels if denial.target in _own(types)]
    for spec, types in ours:
        if denial.target in _own(types):
            return _end_on_own(denial, spec, types, _role(denial.source, types) or "")
    if ours and (denial.cls in _OBJECTS or not theirs) and denial.target != "unlabeled_t":
        spec, types = ours[0]
        return _end_elsewhere(denial, spec, _role(denial.source, types) or "")
    for spec, types in (*theirs, *ours):
        return _stranger(denial, spec, types)
    return Verdict(
        kind=Kind.FOREIGN,
        channel=None,
        role=None,
        text=(
            f"{_act(denial)}: neither side belongs to a channel that is defined here. If the program works it is "
            "noise; if not, it is a matter of that program's own policy."
        ),
        command=f"ausearch -m avc -ts recent -c {shlex.quote(denial.comm or 'PROGRAM')} | audit2allow",
    )


def _said(kind: Kind, spec: ChannelSpec, role: str | None, text: str, command: str | None = None) -> Verdict:
    return Verdict(kind=kind, channel=spec.name, role=role, text=text, command=command)


def _role(name: str, types: ChannelTypes) -> str | None:
    return {types.sender: "sender", types.receiver: "receiver", types.channel: "helper"}.get(name)


def _own(types: ChannelTypes) -> frozenset[str]:
    more = (name for name in (types.segment, types.objects) if name is not None)
    return frozenset((types.channel, types.message, types.sender, types.receiver, *types.files, *more))


@functools.lru_cache(maxsize=256)
def _granted(spec: ChannelSpec) -> Mapping[tuple[str, str, str], frozenset[str]]:
    """What the modules of a channel grant, by source, target and class; attributes stand for who has them."""
    types = types_of(spec)
    made = [end.name for end in ends_of([spec], Options()).values() if end.made]
    members = {
        CLIENT: (types.sender, types.receiver), CREATOR: (types.channel,), PROGRAM: (*made, types.channel),
    }  # fmt: skip
    found: dict[tuple[str, str, str], frozenset[str]] = {}
    for module in generate([spec]).values():
        for rule in module.statements:
            if isinstance(rule, Allow):
                for source in members.get(rule.source, (rule.source,)):
                    key = (source, source if rule.target == "self" else rule.target, rule.cls)
                    found[key] = found.get(key, frozenset()) | frozenset(rule.permissions)
    return found


def _due(denial: Denial, spec: ChannelSpec) -> list[str]:
    """The permissions refused that the channel's modules grant."""
    granted = _granted(spec).get((denial.source, denial.target, denial.cls), frozenset())
    return [permission for permission in denial.permissions if permission in granted]


def _end_on_own(denial: Denial, spec: ChannelSpec, types: ChannelTypes, role: str) -> Verdict:
    """An end or the helper, on something of its own channel."""
    if due := _due(denial, spec):
        return _not_loaded(denial, spec, role, due)
    return _said(
        Kind.DIRECTION,
        spec,
        role,
        f"{_act(denial)}: {_reason(denial, types, role)} This is the direction of channel {spec.name!r} being "
        "enforced, by design: there is nothing to fix, and allowing it would open a way back.",
    )


def _not_loaded(denial: Denial, spec: ChannelSpec, role: str | None, due: list[str]) -> Verdict:
    who = f"the {role}" if role is not None else f"{denial.source}, which starts the ends,"
    return _said(
        Kind.MODULE,
        spec,
        role,
        f"{_act(denial)}: {who} of channel {spec.name!r} needs {' '.join(due)}, and the channel's modules grant it. So "
        "the module that is loaded is not the one of this definition, or none is.",
        _install(spec),
    )


def _reason(denial: Denial, types: ChannelTypes, role: str) -> str:
    permissions = set(denial.permissions)
    other = {"sender": "receiver", "receiver": "sender"}.get(role)
    if denial.cls == "process" or denial.target in {types.sender, types.receiver} - {denial.source}:
        return f"the {role} reached for the process of the {other or 'end'}, or for something of its own."
    if permissions & {"getattr"} and denial.cls in ("msgq", "shm"):
        return "IPC_STAT shows the other end's process ids, times and counts, so no end may call it."
    if permissions & _MAKING:
        return "an end makes no IPC objects: which keys exist could be seen from the other side."
    if role == "receiver" and permissions & {"write", "unix_write", "enqueue", "send", "append"}:
        return "the receiver tried to write where the sender could see it."
    if role == "sender" and permissions & {"read", "unix_read", "receive"}:
        return "the sender tried to read what only the receiver may."
    if permissions & {"lock"}:
        return "a lock that both ends could try carries information back."
    return f"the {role} has no use for it in the protocol."


def _end_elsewhere(denial: Denial, spec: ChannelSpec, role: str) -> Verdict:
    """An end or the helper, on something that is not the channel's."""
    if due := _due(denial, spec):
        return _not_loaded(denial, spec, role, due)
    if denial.cls in _OBJECTS or denial.permissions == ("lock",):
        return _said(
            Kind.DIRECTION,
            spec,
            role,
            f"{_act(denial)}: the {role} of channel {spec.name!r} may use no IPC object but its channel's, and "
            "lock no file that another could lock. By design: nothing to fix.",
        )
    if denial.target in _STRAY:
        where = denial.name or "the file"
        return _said(
            Kind.LABEL,
            spec,
            role,
            f"{_act(denial)}: {where} has the label {denial.target}, which things get that nobody labelled. If "
            f"the {role} of channel {spec.name!r} should use it, it lies in the wrong place or was moved instead "
            "of copied.",
            f"restorecon -v {shlex.quote(where)}" if denial.name else "restorecon -Rv /run/sipc /var/lib/sipc",
        )
    return _said(
        Kind.PROGRAM,
        spec,
        role,
        f"{_act(denial)}: the program that is the {role} of channel {spec.name!r} does this besides the channel. "
        "The channel's module grants only what the library needs. If the program needs it, a module of its own "
        "must say so; then prove the policy again.",
        f"sipc policy verify {_file(spec)}",
    )


def _stranger(denial: Denial, spec: ChannelSpec, types: ChannelTypes) -> Verdict:
    """Something of a channel, touched by a domain that is none of its."""
    if denial.source == "unlabeled_t" or denial.target == "unlabeled_t":
        return _said(
            Kind.MODULE,
            spec,
            _role(denial.source, types),
            f"{_act(denial)}: what has no label known to the loaded policy was made under another one. The module "
            f"of channel {spec.name!r} is not loaded, or was not when its objects were made.",
            _install(spec),
        )
    if due := _due(denial, spec):
        return _not_loaded(denial, spec, None, due)
    return _said(
        Kind.DOMAIN,
        spec,
        None,
        f"{_act(denial)}: {denial.source} is no domain of channel {spec.name!r}, whose sender is {types.sender}, "
        f"receiver {types.receiver} and helper {types.channel}. If this process is meant to be one of them it runs "
        "in the wrong domain; otherwise the channel is kept from a stranger, by design.",
        f"ps -eZ | grep -w {denial.pid}" if denial.pid.isdigit() else "ps -eZ",
    )


def _act(denial: Denial) -> str:
    who = f"{denial.comm} ({denial.source})" if denial.comm else denial.source
    soft = ", in permissive mode, so it was logged and let through" if denial.permissive else ""
    return f"{who} was refused {' '.join(denial.permissions)} on {denial.target} ({denial.cls}){soft}"


def _file(spec: ChannelSpec) -> str:
    return spec.source.split(":")[0] if spec.source else "DEFINITION"


def _install(spec: ChannelSpec) -> str:
    return f"sipc policy install {_file(spec)}"
