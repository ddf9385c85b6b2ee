# SPDX-License-Identifier: Apache-2.0
"""A channel's policy module, from its definition.

Owns which statements make a channel one-way: types, the grants of `grants.py`, the constraints that the kernel
ANDs with every rule of every module, and neverallows for policies that are built with checks.  Loads nothing.

The theory (DESIGN section 9): allow rules add up over all modules, so they can not forbid; constraints can.  They
name types and never attributes, because a later module may put its own type into an attribute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sipc.errors import SpecError
from sipc.selinux.base import (
    CLIENT,
    CREATOR,
    EXEC,
    HELPER_EXEC,
    PROGRAM,
    REGISTRY,
    base_module,
    file_type,
    program_file,
)
from sipc.selinux.cil import (
    Allow,
    AttributeMembers,
    Comment,
    DontAudit,
    FileContext,
    Module,
    RoleType,
    Statement,
    Type,
    TypeTransition,
)
from sipc.selinux.constraints import (
    end_constraints,
    file_constraints,
    neverallows,
    object_constraints,
    own_constraints,
    posix_constraints,
    process_constraints,
    wall_constraints,
)
from sipc.selinux.ends import End, data_type, ends_of
from sipc.selinux.grants import ChannelTypes, expected, types_of
from sipc.selinux.options import Options
from sipc.spec import Backend, ChannelSpec

__all__ = ("channel_module", "end_module", "generate")


def generate(specs: Iterable[ChannelSpec], options: Options | None = None) -> dict[str, Module]:
    """All modules of some channels by name: the base, one for each end that the definitions name, one per channel.

    Give all channels that share an end at once: the end's module names what each of them lets it lock.  Raises
    `SpecError` for names that can not be types, when two modules would declare the same type, or when `options.new`
    names a type no channel uses.
    """
    options = options or Options()
    specs = list(specs)
    if not specs:
        raise SpecError("no channel to make a policy for: give a definition file")
    ends = ends_of(specs, options)
    named = sorted(end.name for end in ends.values() if end.home is None)
    if strangers := sorted((options.new | options.sealed) - set(named)):
        raise SpecError(f"no channel has an end of type {strangers[0]}: the types named are {named or 'none'}")
    modules = [base_module(), *(end_module(ends[name], options) for name in named)]
    modules += [channel_module(spec, ends, options) for spec in specs]
    owner: dict[str, str] = {}
    found: dict[str, Module] = {}
    for module in modules:
        if module.name in found:
            raise SpecError(f"two channels make a module called {module.name}: give one of them type = 'another_t'")
        found[module.name] = module
        for name in module.declared():
            if name in owner:
                raise SpecError(
                    f"type {name} would be made by both {owner[name]} and {module.name}: "
                    "give one channel type = 'another_t'"
                )
            owner[name] = module.name
    return found


def channel_module(spec: ChannelSpec, ends: Mapping[str, End], options: Options) -> Module:
    """The module of one channel."""
    types = types_of(spec)
    made = [name for name in (types.sender, types.receiver) if ends[name].home is not None]
    statements: list[Statement] = [
        Comment(f"sipc channel {spec.name}: {types.sender} -> {types.receiver}"),
        *_types(spec, types),
    ]
    for name in made:
        statements += [*_domain(name, options), *own_constraints(name, options), *end_constraints(ends[name], options)]
    statements += [*_data(types, made), *_helper(types, options), *_rules(spec, types)]
    statements += _posix(types) if spec.backend is Backend.POSIX else object_constraints(spec, types)
    statements += [
        *file_constraints(types),
        *wall_constraints(spec, types, [name for name in (types.sender, types.receiver) if ends[name].sealed]),
        *process_constraints(types.channel, options),
        *neverallows(spec, types, made, options),
        *_contexts(spec, types),
    ]
    return Module(types.stem if types.stem.startswith("sipc_") else f"sipc_{types.stem}", tuple(statements))


def end_module(end: End, options: Options) -> Module:
    """The module of one end that the definitions name: its constraints, and the domain itself if it is made here."""
    stem = end.name.removesuffix("_t")
    statements: list[Statement] = [Comment(f"sipc end {end.name}")]
    if end.made:
        data = data_type(end.name)
        statements += [
            *_domain(end.name, options),
            Comment("a place of its own"),
            *file_type(data),
            Allow(end.name, data, "dir", _MANAGE_DIR),
            Allow(end.name, data, "file", _MANAGE_FILE),
            FileContext(f"/var/lib/sipc/domains/{stem}(/.*)?", "any", data),
            *_places(end, data, options),
        ]
    if end.sealed:
        statements += own_constraints(end.name, options)
    statements += end_constraints(end, options)
    return Module(f"sipc_end_{stem}", tuple(statements))


def _places(end: End, data: str, options: Options) -> list[Statement]:
    """More directories of its own, with the locks on them, and programs for one that runs them."""
    places = options.places.get(end.name, ())
    statements: list[Statement] = [FileContext(f"{_literal(place)}(/.*)?", "any", data) for place in places]
    if places:
        statements += [
            Comment("it waits for files there, and locks what nobody else may"),
            Allow(end.name, data, "dir", ("lock", "watch")),
            Allow(end.name, data, "file", ("lock",)),
        ]
    if any(place.startswith("/var/spool/") for place in places):
        statements.append(Allow(end.name, "var_spool_t", "dir", ("getattr", "search")))
    if end.name in options.runners:
        statements += [
            Comment("programs run in this very domain: no door of it is wider for them"),
            Allow(end.name, "bin_t", "file", ("execute_no_trans",)),
            Comment("what it shares with them, memfd_create(2), is its own data and not of the type that all have"),
            TypeTransition(end.name, "tmpfs_t", "file", data),
            Allow(data, "tmpfs_t", "filesystem", ("associate",)),
        ]
    return statements


_LIST_DIR = ("getattr", "ioctl", "open", "read", "search")
_MANAGE_DIR = (*_LIST_DIR, "add_name", "create", "remove_name", "rename", "rmdir", "setattr", "write")
_MANAGE_FILE = ("append", "create", "getattr", "ioctl", "link", "map", "open", "read", "rename", "setattr", "unlink",
                "write")  # fmt: skip


def _types(spec: ChannelSpec, types: ChannelTypes) -> list[Statement]:
    statements: list[Statement] = [
        Comment("the helper, and with it the queue; messages; files in the registry"),
        Type(types.channel),
        Type(types.message),
        RoleType("object_r", types.message),
    ]
    for name in types.files:
        statements += file_type(name)
    if spec.backend is Backend.POSIX:
        for name in dict.fromkeys(name for name in (types.objects, types.segment) if name is not None):
            statements += file_type(name)
    statements += [
        AttributeMembers("domain", (types.channel,)),
        RoleType("system_r", types.channel),
        AttributeMembers(PROGRAM, (types.channel,)),
        AttributeMembers(CREATOR, (types.channel,)),
        AttributeMembers(CLIENT, tuple(dict.fromkeys((types.sender, types.receiver)))),
    ]
    return statements


def _domain(name: str, options: Options) -> list[Statement]:
    """A new domain for one end, its program's type, and how it starts."""
    program = f"{name.removesuffix('_t')}_exec_t"
    statements: list[Statement] = [
        Comment(f"domain {name}, entered by running a file of type {program}"),
        Type(name),
        *program_file(program),
        AttributeMembers("domain", (name,)),
        AttributeMembers(PROGRAM, (name,)),
        RoleType("system_r", name),
        *(
            Allow(name, entry, "file", ("entrypoint", "execute", "getattr", "ioctl", "map", "open", "read"))
            for entry in (program, EXEC, "bin_t")
        ),
        *_launch(name, options),
    ]
    statements += [TypeTransition(launcher, program, "process", name) for launcher in options.launchers]
    for launcher in options.launchers:
        statements.append(Allow(launcher, program, "file", ("execute", "getattr", "map", "open", "read")))
    return statements


def _data(types: ChannelTypes, made: list[str]) -> list[Statement]:
    """Where new ends keep their data: the sender reads, the receiver writes (its cursor too)."""
    statements: list[Statement] = []
    if types.sender in made:
        source = f"{types.stem}_in_t"
        statements += [
            Comment("what the sender reads"),
            *file_type(source),
            Allow(types.sender, source, "dir", _LIST_DIR),
            Allow(types.sender, source, "file", ("getattr", "ioctl", "map", "open", "read")),
            FileContext(f"/var/lib/sipc/{_escaped(types.name)}/in(/.*)?", "any", source),
        ]
    if types.receiver in made:
        target = f"{types.stem}_out_t"
        statements += [
            Comment("what the receiver writes, its cursor included"),
            *file_type(target),
            Allow(types.receiver, target, "dir", _MANAGE_DIR),
            Allow(types.receiver, target, "file", _MANAGE_FILE),
            FileContext(f"/var/lib/sipc/{_escaped(types.name)}/out(/.*)?", "any", target),
        ]
    return statements


def _escaped(name: str) -> str:
    return name.replace(".", "\\.")


def _literal(path: str) -> str:
    """A path as a pattern that matches it alone (PCRE, as libselinux reads file_contexts)."""
    if " " in path:
        raise SpecError(f"{path}: a file context can not name a path with a space: give the directory another name")
    return re.sub(r"([\\.^$|?*+()\[\]{}])", r"\\\1", path)


def _launch(name: str, options: Options) -> list[Statement]:
    """Who may start a domain, and what it may use of what its launcher left open."""
    statements: list[Statement] = []
    for launcher in options.launchers:
        statements += [
            Allow(launcher, name, "process", ("getattr", "getpgid", "getsched", "getsession", "rlimitinh", "setrlimit",
                                              "setsched", "sigchld", "siginh", "sigkill", "signal", "signull",
                                              "sigstop", "transition")),
            Allow(launcher, name, "process2", ("nnp_transition", "nosuid_transition")),
            Allow(name, launcher, "process", ("sigchld",)),
            Allow(name, launcher, "fd", ("use",)),
            Allow(name, launcher, "fifo_file", ("append", "getattr", "ioctl", "read", "write")),
            Allow(name, launcher, "unix_stream_socket", ("append", "getattr", "ioctl", "read", "write")),
        ]  # fmt: skip
    for switcher in options.switchers:
        statements += [
            Allow(switcher, name, "process", ("dyntransition", "sigkill", "signal", "transition")),
            Allow(name, switcher, "process", ("sigchld",)),
            Allow(name, switcher, "fd", ("use",)),
            Allow(name, switcher, "fifo_file", ("append", "getattr", "ioctl", "read", "write")),
        ]
    return statements


def _helper(types: ChannelTypes, options: Options) -> list[Statement]:
    """What the helper does besides the objects: descriptor and private directories."""
    c = types.channel
    create = ("create", "getattr", "ioctl", "open", "read", "setattr", "unlink", "write")
    directory = ("add_name", "create", "getattr", "ioctl", "open", "read", "remove_name", "rmdir", "search", "setattr",
                 "write")  # fmt: skip
    run = ("execute", "getattr", "map", "open", "read")
    statements: list[Statement] = [
        Comment("the helper: starts, publishes, withdraws"),
        *_launch(c, options),
        *(Allow(launcher, HELPER_EXEC, "file", run) for launcher in options.launchers),
        TypeTransition(c, REGISTRY, "file", types.descriptor),
        TypeTransition(c, REGISTRY, "file", REGISTRY, ".helper-lock"),
        TypeTransition(c, REGISTRY, "dir", types.private, types.name),
        TypeTransition(c, types.private, "dir", types.sender_state, "sender"),
        TypeTransition(c, types.private, "dir", types.receiver_state, "receiver"),
        Allow(c, types.descriptor, "file", (*create, "rename")),
    ]
    for name in types.files[1:]:
        statements.append(Allow(c, name, "dir", directory))
        if name != types.private:
            statements.append(Allow(c, name, "file", create))
    return statements


def _rules(spec: ChannelSpec, types: ChannelTypes) -> list[Statement]:
    s, r = types.sender, types.receiver
    statements: list[Statement] = [Comment("the channel: exactly the calls each role makes")]
    statements += [Allow(grant.source, _target(grant.source, grant.target), grant.cls, grant.permissions)
                   for grant in expected(spec, types)]  # fmt: skip
    if spec.backend is Backend.SYSV:
        statements.append(TypeTransition(s, types.channel, "msg", types.message))
        if types.segment == s:
            # The owner is the sender's user; removing another's segment takes this.
            statements.append(Allow(types.channel, "self", "capability", ("sys_admin",)))
    statements.append(Comment("each end: the descriptor, and a lock and state of its own"))
    for end, state in ((s, types.sender_state), (r, types.receiver_state)):
        statements += [
            Allow(end, types.descriptor, "file", ("getattr", "ioctl", "open", "read")),
            Allow(end, types.private, "dir", ("getattr", "search")),
            Allow(end, state, "dir", ("getattr", "search")),
            Allow(end, state, "file", ("getattr", "ioctl", "lock", "map", "open", "read", "write")),
        ]
    return statements


def _target(source: str, target: str) -> str:
    return "self" if source == target else target


def _posix(types: ChannelTypes) -> list[Statement]:
    """Files behind POSIX objects: made in mqueue and tmpfs, both labelled tmpfs_t at their roots."""
    s, r, c = types.sender, types.receiver, types.channel
    objects = types.objects or c
    own = types.segment not in (None, objects)
    walk = ("getattr", "search")
    make = (*walk, "add_name", "remove_name", "write")
    statements: list[Statement] = [
        Comment("POSIX objects are files; no rule can hide mq_getattr, mq_notify, poll or a queue's times"),
        TypeTransition(c, "tmpfs_t", "file", objects),
        Allow(objects, "tmpfs_t", "filesystem", ("associate",)),
        Allow(c, "tmpfs_t", "dir", make),
        Allow(s, "tmpfs_t", "dir", make if own else walk),
        Allow(r, "tmpfs_t", "dir", walk),
        Comment("mq_open asks for it before it looks whether the limits need it (ipc/mqueue.c, mq_attr_ok)"),
        DontAudit(c, "self", "capability", ("sys_resource",)),
    ]
    if own and types.segment is not None:
        statements += [
            TypeTransition(s, "tmpfs_t", "file", types.segment),
            Allow(types.segment, "tmpfs_t", "filesystem", ("associate",)),
        ]
    return [*statements, *posix_constraints(types)]


def _contexts(spec: ChannelSpec, types: ChannelTypes) -> list[Statement]:
    name = _escaped(spec.name)
    return [
        Comment("labels of the registry's files, for tools that restore labels"),
        FileContext(f"/run/sipc/{name}\\.json", "file", types.descriptor),
        FileContext(f"/run/sipc/\\.{name}\\.json\\.new", "file", types.descriptor),
        FileContext(f"/run/sipc/\\.private/{name}", "dir", types.private),
        FileContext(f"/run/sipc/\\.private/{name}/sender(/.*)?", "any", types.sender_state),
        FileContext(f"/run/sipc/\\.private/{name}/receiver(/.*)?", "any", types.receiver_state),
    ]
