# SPDX-License-Identifier: Apache-2.0
"""Who the stages at the ends of a channel are, as the guard file says it: rules for their processes, users, keys.

Owns the tables `endpoint` and `key_file` of the file, and what must hold of users, domains and key files together.
What is made of the rules is `endpoints.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sipc.guard.model import EndpointRules, GuardChannel, Stage
from sipc.guard.structure import Place
from sipc.guard.tables import Table, shown
from sipc.spec import Enforcement, is_digest, is_program

__all__ = ("check_keys", "check_users", "endpoint_rules", "key_files")

_RULES = ("in_groups", "only_groups", "program", "digest", "selinux_type", "selinux_range")
# What a context of the kernel's ends in: sensitivities and categories, s0-s0:c0.c1023.
_RANGE = re.compile(r"[A-Za-z0-9_.,:-]{1,255}")


def endpoint_rules(stage: Table) -> EndpointRules | None:
    """The table `endpoint` of a stage."""
    table = stage.table("endpoint", '{ program = "/usr/bin/python3" }')
    if table is None:
        return None
    theirs = "it stands in the stage's own table and is a rule already: remove it"
    table.only(_RULES, {
        "user": theirs, "group": theirs, "uid": theirs, "gid": theirs, "type": "write selinux_type",
        "range": "write selinux_range", "groups": "write in_groups, or only_groups",
        "callback": "a guard has none: use the library",
    })  # fmt: skip
    if not table.values:
        table.problem(None, "has no rule", f"give one of {', '.join(_RULES)}, or remove the table")
    wanted, only = table.groups("in_groups"), table.groups("only_groups")
    if wanted is not None and only is not None and set(wanted) - set(only):
        table.problem("in_groups", "names a group that only_groups does not", "write it into both lists")
    program = table.file_path("program")
    if program is not None and not is_program(program):
        table.problem("program", f"{shown(program)} can not be what runs", "give a path that does not end in (deleted)")
    return EndpointRules(
        in_groups=wanted,
        only_groups=only,
        program=program,
        digest=table.matching("digest", is_digest, "SHA-256", "write 64 hex digits in lower case, as sha256sum does"),
        selinux_type=table.identifier("selinux_type"),
        selinux_range=table.matching(
            "selinux_range", lambda text: _RANGE.fullmatch(str(text)) is not None, "range of a context",
            'write what follows the type, as in "s0"',
        ),
    )  # fmt: skip


def key_files(channel: Table) -> dict[str, str]:
    """The key files of a channel: by `from` and `to`, the same for both where only one is given."""
    value = channel.values.get("key_file")
    if not isinstance(value, dict):
        path = channel.file_path("key_file")
        return {} if path is None else {"from": path, "to": path}
    table = channel.table("key_file", '"/path/of/the/key"')
    if table is None:
        return {}
    table.only(("from", "to"))
    for key in ("from", "to"):
        if key not in table.values:
            table.problem(key, "is missing", "give the path of each stage's own copy, or one path for both")
    return {key: path for key in ("from", "to") if (path := table.file_path(key)) is not None}


def check_keys(channels: Mapping[str, GuardChannel], tables: Mapping[str, Table], places: Iterable[Place]) -> None:
    """Refuse a key file that a stage would take for a message, write over, or keep with what it refuses."""
    places = list(places)
    for name, channel in channels.items():
        for path in dict.fromkeys(channel.keys.values()):
            for stage, keys, place in places:
                if path == place or path.startswith(f"{place}/"):
                    reason = f"{shown(path)} is or lies in the {keys[0]} of stage {stage}"
                    tables[name].problem("key_file", reason, "put it where no messages come and go")


def check_users(
    guard: str | None, channels: Mapping[str, GuardChannel], stages: Mapping[str, Stage], given: Mapping[str, Table]
) -> None:
    """Where a channel asks for SELinux, its stages have users and types; else it is one user's, or two users'."""
    needed = {
        stage
        for channel in channels.values()
        if channel.spec.enforcement is Enforcement.SELINUX
        for stage in (channel.sender, channel.receiver)
    }
    _users_of_both(channels, given)
    for name, stage in stages.items():
        table = given[name]
        rules = stage.endpoint
        if name in needed and "user" not in table.values:
            table.problem("user", "is missing, and a channel asks for SELinux", 'write user = "NAME"')
        if name in needed and stage.type is None and "type" not in table.values and guard is not None:
            reason = f"has no type: {guard}_{name}_t can not be one"
            table.problem(None, reason, 'write type = "NAME_t", or begin the guard\'s name with a letter')
        if name in needed and rules is not None and rules.selinux_type not in (None, stage.type):
            reason = f"its domain is {stage.type}, and endpoint.selinux_type is {rules.selinux_type}"
            table.problem("endpoint", reason, "remove selinux_type: its domain is a rule already")


def _users_of_both(channels: Mapping[str, GuardChannel], given: Mapping[str, Table]) -> None:
    """Under file modes alone a channel is one user's, or two users'; not one's and whoever's."""
    told: set[str] = set()
    for name, channel in channels.items():
        if channel.spec.enforcement is Enforcement.SELINUX:
            continue
        for stage, other in ((channel.sender, channel.receiver), (channel.receiver, channel.sender)):
            if stage not in given or other not in given or stage in told:
                continue
            if "user" in given[other].values and "user" not in given[stage].values:
                told.add(stage)
                reason = f"is missing, and {other}, at the other end of channel {name}, has one"
                given[stage].problem("user", reason, "give both, or neither")
