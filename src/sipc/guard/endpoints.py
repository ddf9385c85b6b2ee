# SPDX-License-Identifier: Apache-2.0
"""Who a stage's process must be, as endpoint policies: for the stage itself, for who starts it, for who receives of it.

Owns what each of the three asks.  The stage asks all that the guard file says of it, and its domain where a channel
asks for SELinux.  Whoever starts it asks that and more: the groups and the program that it gave it.  A stage that
receives asks of the one that sends what can be seen from there: of another user's process neither program nor digest
(proc(5)), for which whoever started it stands.
"""

from __future__ import annotations

import grp
import os
from typing import Any

from sipc.endpoint_policy import EndpointPolicy
from sipc.errors import Denied, SpecError
from sipc.guard.model import EndpointRules, Guard, GuardChannel, Stage
from sipc.guard.policy import account, by_selinux
from sipc.spec import Backend, Enforcement

__all__ = ("groups_of", "is_judged", "own_policy", "peer_policy", "started_policy")

_NO_RULES = EndpointRules()


def groups_of(stage: Stage, names: tuple[str | int, ...] | None) -> frozenset[int] | None:
    """Groups by number.  Raises `SpecError` for one that this host has not."""
    if names is None:
        return None
    found = set()
    for name in names:
        try:
            found.add(name if isinstance(name, int) else grp.getgrnam(name).gr_gid)
        except KeyError:
            raise SpecError(
                f"stage {stage.name}: there is no group {name!r} on this host: create it, or give a number"
            ) from None
    return frozenset(found)


def own_policy(guard: Guard, stage: Stage) -> EndpointPolicy | None:
    """What a stage must find itself to be when it opens its ends; None where the file says nothing."""
    return _policy(_asked(guard, stage))


def started_policy(stage: Stage, *, uid: int, gid: int, groups: frozenset[int], program: str) -> EndpointPolicy:
    """What a process must be that was started in the foreground as this stage, with this user, groups and program."""
    rules = stage.endpoint or _NO_RULES
    only = groups_of(stage, rules.only_groups)
    asked: dict[str, Any] = {
        "uid": uid, "gid": gid, "only_groups": groups if only is None else groups & only,
        "program": rules.program or program,
    }  # fmt: skip
    return EndpointPolicy(**_shown(stage), **asked)


def is_judged(guard: Guard, channel: GuardChannel) -> bool:
    """Whether the receiver of this channel can ask who sent last, and the file says who may."""
    sender = guard.stages[channel.sender]
    told = sender.user is not None or sender.endpoint is not None
    return told and channel.spec.enforcement is Enforcement.DAC and channel.spec.backend is Backend.SYSV


def peer_policy(guard: Guard, channel: GuardChannel) -> EndpointPolicy | None:
    """What a process must be that sends on this channel, as its receiver, which is this process, can see it."""
    if not is_judged(guard, channel):
        return None
    sender = guard.stages[channel.sender]
    asked = _asked(guard, sender)
    # ptrace(2), access mode checking: all users and groups the same, or CAP_SYS_PTRACE.
    mine = (os.getuid(), os.getgid())
    same = (asked.get("uid", mine[0]), asked.get("gid", mine[1])) == mine
    if not same and os.geteuid() != 0:
        asked.pop("program", None)
        asked.pop("digest", None)
    return _policy(asked)


def _asked(guard: Guard, stage: Stage) -> dict[str, Any]:
    """All that the file says of a stage's process."""
    try:
        uid, gid = account(stage)
    except LookupError as error:
        raise Denied(
            f"stage {stage.name}: there is no {error.args[0]} {error.args[1]!r} on this host: create it"
        ) from error
    rules = stage.endpoint or _NO_RULES
    asked = _shown(stage)
    for key, value in (
        ("uid", uid), ("gid", gid), ("program", rules.program), ("only_groups", groups_of(stage, rules.only_groups)),
    ):  # fmt: skip
        if value is not None:
            asked[key] = value
    if stage.type is not None and by_selinux(guard, stage.name):
        asked["selinux_type"] = stage.type
    return asked


def _shown(stage: Stage) -> dict[str, Any]:
    """The rules that mean the same to all three."""
    rules = stage.endpoint or _NO_RULES
    found = {
        "in_groups": groups_of(stage, rules.in_groups), "digest": rules.digest, "selinux_type": rules.selinux_type,
        "selinux_range": rules.selinux_range,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def _policy(asked: dict[str, Any]) -> EndpointPolicy | None:
    return EndpointPolicy(**asked) if asked else None
