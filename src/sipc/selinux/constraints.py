# SPDX-License-Identifier: Apache-2.0
"""The constraints of a channel: what the kernel demands on top of every allow rule of every module.

Owns the lines that make the direction hold against later modules and unconfined root (DESIGN section 9).  They
name types and never attributes, because a later module may put its own type into an attribute.
"""

from __future__ import annotations

from sipc.selinux.cil import Comment, Constrain, Expression, Is, IsNot, NeverAllow, Or, Statement
from sipc.selinux.ends import End
from sipc.selinux.grants import ChannelTypes
from sipc.selinux.options import Options, Profile
from sipc.spec import Backend, ChannelSpec, SegmentCreator

__all__ = (
    "GUARDED",
    "OWN",
    "end_constraints",
    "file_constraints",
    "neverallows",
    "object_constraints",
    "only",
    "own_constraints",
    "posix_constraints",
    "process_constraints",
    "wall_constraints",
)

# Acts on a process that reach into it.  Who may do the first group: launchers and the domain itself.
GUARDED = ("noatsecure", "rlimitinh", "setcap", "setpgid", "setrlimit", "setsched", "sigchld", "siginh", "sigkill",
           "signal", "signull", "sigstop", "transition")  # fmt: skip
# Nobody but the domain itself.
OWN = ("ptrace", "share")
# System V classes, and what makes or unmakes an object of them.
_MAKING = {"msgq": ("create", "destroy"), "sem": ("create", "destroy"), "shm": ("create", "destroy")}
# Classes whose objects an end makes with its own type.  Neither end may touch such an object of the other.
_WALL = ("dir", "fd", "fifo_file", "file", "key", "lnk_file", "msgq", "process", "sem", "shm", "sock_file",
         "unix_dgram_socket", "unix_stream_socket")  # fmt: skip
# Of these, what is a sealed domain's own and nobody else's.
_OWN_CLASSES = ("fd", "fifo_file", "key", "unix_dgram_socket", "unix_stream_socket")
# Ways around: writes through map_files, tracing, reading others' IPC objects, raw memory.
_CAPABILITIES = ("ipc_owner", "sys_admin", "sys_module", "sys_ptrace", "sys_rawio")
_CAPABILITIES2 = ("bpf", "checkpoint_restore", "mac_admin", "mac_override", "perfmon")
# flock(2) and fcntl(2) locks on a file that both may open carry bits either way (docs/threat-model.md has the rates).
_LOCKED_CLASSES = ("blk_file", "chr_file", "dir", "fifo_file", "file", "lnk_file", "sock_file")


def only(target: str, *sources: str) -> Expression:
    """On `target`, these source types alone."""
    return Or((IsNot("t2", target), *(Is("t1", source) for source in dict.fromkeys(sources))))


def own_constraints(name: str, options: Options) -> list[Statement]:
    """For a sealed domain: what it makes with its own type is touched by itself and its launchers alone."""
    allowed = (name, *options.launchers, *options.switchers)
    return [
        Comment("its own pipes, sockets and keys are nobody else's, nor what can be written in its /proc"),
        *(
            Constrain(cls, None, only(name, *allowed))
            for cls in _OWN_CLASSES
        ),
        Constrain("file", ("append", "setattr", "write"), only(name, name, *options.launchers)),
        Comment("no names for sockets: base policies let all domains bind, and whether a name is taken can be seen"),
        Constrain("unix_stream_socket", ("bind", "connect", "listen"), IsNot("t1", name)),
        Constrain("unix_dgram_socket", ("bind", "connect", "create"), IsNot("t1", name)),
    ]


def posix_constraints(types: ChannelTypes) -> list[Statement]:
    """Direction and ownership of the files behind POSIX objects."""
    s, r, c = types.sender, types.receiver, types.channel
    statements: list[Statement] = []
    for name in dict.fromkeys(name for name in (types.objects, types.segment) if name is not None):
        makers = (c,) if name == types.objects else (s, c)
        statements += [
            Constrain("file", ("append", "write"), only(name, s, c)),
            Constrain("file", ("execute", "getattr", "ioctl", "map", "open", "read"), only(name, s, r, c)),
            Constrain("file", ("create", "setattr", "unlink"), only(name, *makers)),
            Constrain("file", ("link", "lock", "relabelfrom", "relabelto", "rename"), IsNot("t2", name)),
        ]
    return statements


def object_constraints(spec: ChannelSpec, types: ChannelTypes) -> list[Statement]:
    """Direction and ownership of queue, messages and segment (DESIGN section 9, the form that was run)."""
    s, r, c, m = types.sender, types.receiver, types.channel, types.message
    statements: list[Statement] = [
        Comment("the direction: the kernel demands this of every rule of every module"),
        Constrain("msgq", ("unix_write", "write"), only(c, s)),
        Constrain("msgq", ("read",), only(c, r)),
        Constrain("msgq", ("unix_read",), only(c, r, c)),
        Constrain("msgq", ("enqueue",), only(c, m)),
        Constrain("msgq", ("create", "destroy", "getattr", "setattr"), only(c, c)),
        Constrain("msgq", ("associate",), only(c, s, r, c)),
        Constrain("msg", ("send",), only(m, s)),
        Constrain("msg", ("receive",), only(m, r)),
        Constrain("sem", None, only(c)),
    ]
    if types.segment == s and spec.segment_creator is SegmentCreator.SENDER:
        return [
            *statements,
            Constrain("shm", None, only(c)),
            Constrain("shm", ("unix_write", "write"), only(s, s)),
            Constrain("shm", ("read", "unix_read"), only(s, s, r)),
            Constrain("shm", ("create", "setattr"), only(s, s)),
            Constrain("shm", ("destroy",), only(s, s, c)),
            Constrain("shm", ("associate",), only(s, s, r, c)),
            Comment("not even the sender: it would see when its receiver attaches"),
            Constrain("shm", ("getattr", "lock"), only(s)),
        ]
    if types.segment is None:
        return [*statements, Constrain("shm", None, only(c))]
    return [
        *statements,
        Constrain("shm", ("unix_write", "write"), only(c, s, c)),
        Constrain("shm", ("read", "unix_read"), only(c, s, r, c)),
        Constrain("shm", ("create", "destroy", "getattr", "setattr"), only(c, c)),
        Constrain("shm", ("lock",), only(c)),
        Constrain("shm", ("associate",), only(c, s, r, c)),
    ]


def file_constraints(types: ChannelTypes) -> list[Statement]:
    """The registry's files: only the helper writes them, and each end's lock and state are its own."""
    c = types.channel
    make = ("append", "create", "link", "relabelfrom", "relabelto", "rename", "setattr", "unlink", "write")
    statements: list[Statement] = [
        Comment("a descriptor can not be forged, nor an end's lock and state be used by another"),
        Constrain("file", make, only(types.descriptor, c)),
    ]
    for state, end in ((types.sender_state, types.sender), (types.receiver_state, types.receiver)):
        statements += [
            Constrain("file", ("append", "write"), only(state, end, c)),
            Constrain("file", make[1:-1], only(state, c)),
            Constrain("file", ("lock", "map", "read"), only(state, end, c)),
        ]
    statements += [
        Constrain("dir", ("add_name", "create", "relabelfrom", "relabelto", "remove_name", "rename", "reparent",
                          "rmdir", "setattr", "write"), only(name, c))
        for name in types.files[1:]
    ]  # fmt: skip
    return statements


def end_constraints(end: End, options: Options) -> list[Statement]:
    """The doors around one end, whatever its channels."""
    name = end.name
    statements: list[Statement] = [Comment(f"{name} makes no IPC object, of any class")]
    for cls, making in _MAKING.items():
        spared = (Is("t2", name),) if cls == "shm" and end.makes_segment else ()
        statements.append(Constrain(cls, making, Or((IsNot("t1", name), *spared))))
    statements.append(Comment("no shared locks, no look at others' IPC objects, no way around"))
    for cls in _LOCKED_CLASSES:
        places = tuple(Is("t2", place) for place in end.lockable) if cls == "file" else ()
        if end.data is not None and cls in {"dir", "file"}:
            places += (Is("t2", end.data),)  # nobody else's: `end_module` gives it to no other end
        statements.append(Constrain(cls, ("lock",), Or((IsNot("t1", name), *places))))
    return [
        *statements,
        Constrain("system", ("ipc_info",), IsNot("t1", name)),
        Constrain("capability", _CAPABILITIES, IsNot("t1", name)),
        Constrain("capability2", _CAPABILITIES2, IsNot("t1", name)),
        Constrain("cap_userns", _CAPABILITIES, IsNot("t1", name)),
        Constrain("cap2_userns", _CAPABILITIES2, IsNot("t1", name)),
        Constrain("bpf", None, IsNot("t1", name)),
        Constrain("perf_event", None, IsNot("t1", name)),
        *process_constraints(name, options),
    ]


def wall_constraints(spec: ChannelSpec, types: ChannelTypes, sealed: list[str]) -> list[Statement]:
    """Between the two ends: nothing but the channel."""
    s, r = types.sender, types.receiver
    statements: list[Statement] = [Comment("what one end makes with its own type, the other does not touch")]
    segment = types.segment == s and spec.backend is Backend.SYSV
    for source, target in ((r, s), (s, r)):
        # What `own_constraints` says already, to everybody.
        said = _OWN_CLASSES if target in sealed else ()
        statements += [
            Constrain(cls, None, Or((IsNot("t1", source), IsNot("t2", target))))
            for cls in _WALL
            if cls not in said and not (cls == "shm" and target == s and segment)
        ]
    return statements


def process_constraints(name: str, options: Options) -> list[Statement]:
    """Who may start, change into, trace and signal a domain."""
    return [
        Comment(f"{name} is started and signalled by its launchers alone, and traced by nobody"),
        Constrain("process", GUARDED, only(name, name, *options.launchers, *options.switchers)),
        Constrain("process", ("dyntransition",), only(name, name, *options.switchers)),
        Constrain("process", OWN, only(name, name)),
        Constrain("process2", None, only(name, name, *options.launchers, *options.switchers)),
    ]


def neverallows(
    spec: ChannelSpec, types: ChannelTypes, made: list[str], options: Options
) -> list[Statement]:
    """The same between the roles, for policies that are built with checks.

    Not for outsiders: a base policy lets unconfined domains do anything, and only constraints take that back.
    Nor for ends that exist already: their own modules may let them make objects, which only constraints stop.
    """
    s, r, c, m = types.sender, types.receiver, types.channel, types.message
    if spec.backend is Backend.POSIX:
        objects = types.objects or c
        return [Comment("checked where the policy is built"), NeverAllow(r, objects, "file", ("append", "write"))]
    statements: list[Statement] = [
        Comment("checked where the policy is built"),
        NeverAllow(r, c, "msgq", ("create", "destroy", "enqueue", "getattr", "setattr", "unix_write", "write")),
        NeverAllow(s, c, "msgq", ("create", "destroy", "enqueue", "getattr", "read", "setattr", "unix_read")),
        NeverAllow(r, m, "msg", ("send",)),
        NeverAllow(s, m, "msg", ("receive",)),
    ]
    if types.segment is not None:
        forbidden = ("create", "destroy", "getattr", "lock", "setattr", "unix_write", "write")
        statements.append(NeverAllow(r, types.segment, "shm", forbidden))
    if options.profile is Profile.REFPOLICY:
        for end in made:
            for cls, making in _MAKING.items():
                if not (cls == "shm" and end == types.segment):
                    statements.append(NeverAllow(end, "self", cls, making))
    return statements
