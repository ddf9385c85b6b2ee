# SPDX-License-Identifier: Apache-2.0
"""The names of a channel's types, and exactly what each role may do to the channel's objects.

Owns the one table that both the generator (`policy.py`) and the verifier (`verify.py`) read.  Each permission is
the price of a system call of DESIGN section 6; what is not listed is forbidden.  Source: ipc/msg.c, ipc/shm.c,
ipc/util.c (`ipcperms`) and security/selinux/hooks.c of the kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sipc.errors import SpecError
from sipc.selinux.cil import check_identifier
from sipc.spec import Backend, ChannelSpec, SegmentCreator, Transport

__all__ = ("ChannelTypes", "Grant", "expected", "stem_of", "types_of")

# Types of the base module; a channel may not be called so that its own types collide with them.
BASE_TYPES = ("sipc_exec_t", "sipc_helper_exec_t", "sipc_registry_t")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTypes:
    """Every type of one channel.

    `sender` and `receiver` are the two ends' domains, `channel` the helper's domain and so the type of the queue
    and of a segment it makes, `message` the type of what travels on the queue.
    """

    name: str
    stem: str
    channel: str
    message: str
    sender: str
    receiver: str
    segment: str | None  # None: the queue carries the data
    objects: str | None  # POSIX only: the files behind queue and segment

    @property
    def descriptor(self) -> str:
        """The published descriptor and its journal."""
        return f"{self.stem}_descriptor_t"

    @property
    def private(self) -> str:
        """The directory with both roles' private directories."""
        return f"{self.stem}_private_t"

    @property
    def sender_state(self) -> str:
        """The sender's lock and state."""
        return f"{self.stem}_sender_state_t"

    @property
    def receiver_state(self) -> str:
        """The receiver's lock and state."""
        return f"{self.stem}_receiver_state_t"

    @property
    def files(self) -> tuple[str, ...]:
        """Types of files that this channel alone has in the registry."""
        return (self.descriptor, self.private, self.sender_state, self.receiver_state)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Grant:
    """`source` may do `permissions` to `target` of class `cls`."""

    source: str
    target: str
    cls: str
    permissions: tuple[str, ...]


def stem_of(name: str) -> str:
    """The channel's name as part of an identifier: `sensor-feed` gives `sipc_sensor_feed`."""
    return "sipc_" + re.sub(r"[.-]", "_", name)


def types_of(spec: ChannelSpec) -> ChannelTypes:
    """Name a channel's types; those that the definition names are kept.

    Raises `SpecError` for a name that can not be one, or for types that two parts of the channel would share.
    """
    given = spec.channel_type
    stem = stem_of(spec.name) if given is None else check_identifier(given, "type").removesuffix("_t")
    sender = check_identifier(spec.sender.type or f"{stem}_sender_t", "sender.type")
    receiver = check_identifier(spec.receiver.type or f"{stem}_receiver_t", "receiver.type")
    if spec.backend is Backend.MEMORY:
        raise SpecError(f"channel {spec.name!r}: backend = 'memory' has no kernel objects, so no policy")
    posix = spec.backend is Backend.POSIX
    channel = given or f"{stem}_t"
    objects = f"{stem}_posix_t" if posix else None
    if spec.transport is Transport.QUEUE:
        segment = None
    elif spec.segment_creator is SegmentCreator.SENDER:
        segment = f"{stem}_segment_t" if posix else sender
    else:
        segment = objects or channel
    types = ChannelTypes(
        name=spec.name, stem=stem, channel=channel, message=f"{stem}_msg_t", sender=sender, receiver=receiver,
        segment=segment, objects=objects,
    )  # fmt: skip
    apart = [sender, receiver, channel, types.message, *types.files, *BASE_TYPES]
    twice = sorted({name for name in apart if apart.count(name) > 1})
    if twice:
        raise SpecError(
            f"channel {spec.name!r}: {twice[0]} would be two things at once: give sender, receiver and channel "
            "types of their own (keys sender.type, receiver.type, type)"
        )
    return types


def expected(spec: ChannelSpec, types: ChannelTypes) -> tuple[Grant, ...]:
    """All that S, R, C and M may do to the queue, the messages and the segment.  Nothing else may be granted."""
    grants = _posix(types) if spec.backend is Backend.POSIX else _system_v(spec, types)
    return tuple(sorted(grants))


def _system_v(spec: ChannelSpec, types: ChannelTypes) -> list[Grant]:
    s, r, c, m = types.sender, types.receiver, types.channel, types.message

    def grant(source: str, target: str, cls: str, permissions: str) -> Grant:
        return Grant(source=source, target=target, cls=cls, permissions=tuple(sorted(permissions.split())))

    grants = [
        # msgget(key, 0200) and msgsnd; msgget(key, 0400) and msgrcv.  No getattr: IPC_STAT shows the other end.
        grant(s, c, "msgq", "associate unix_write write"),
        grant(r, c, "msgq", "associate unix_read read"),
        grant(s, m, "msg", "send"),
        grant(m, c, "msgq", "enqueue"),
        grant(r, m, "msg", "receive"),
        # IPC_CREAT, IPC_STAT and IPC_SET (limit, owner, mode), IPC_RMID.
        grant(c, c, "msgq", "associate create destroy getattr setattr unix_read"),
    ]
    if spec.transport is Transport.QUEUE:
        return grants
    if spec.segment_creator is SegmentCreator.HELPER:
        return [
            *grants,
            grant(s, c, "shm", "associate read unix_read unix_write write"),
            grant(r, c, "shm", "associate read unix_read"),
            grant(c, c, "shm", "associate create destroy getattr read setattr unix_read unix_write write"),
        ]
    return [
        *grants,
        # A segment keeps its maker's type.  No getattr: the sender would see when its receiver attaches.
        grant(s, s, "shm", "associate create destroy read setattr unix_read unix_write write"),
        grant(r, s, "shm", "associate read unix_read"),
        grant(c, s, "shm", "associate destroy"),
    ]


def _posix(types: ChannelTypes) -> list[Grant]:
    """Queue and segment are files of one type here: both are made by the helper in file systems of one type.

    getattr is needed (is the queue still linked? how large is the segment?), and shows times: a way back, one
    of the reasons why this backend must be asked for by name.
    """
    s, r, c, objects = types.sender, types.receiver, types.channel, types.objects or types.channel
    own = types.segment not in (None, objects)  # the sender makes the segment, with a type of its own

    def grant(source: str, target: str, permissions: str) -> Grant:
        return Grant(source=source, target=target, cls="file", permissions=tuple(sorted(permissions.split())))

    mapped = types.segment == objects
    grants = [
        grant(s, objects, "getattr map open read write" if mapped else "getattr open write"),
        grant(r, objects, "getattr map open read" if mapped else "getattr open read"),
        grant(c, objects, "create getattr map open read setattr unlink write"),
    ]
    if own and types.segment is not None:
        grants += [
            grant(s, types.segment, "create getattr map open read setattr unlink write"),
            grant(r, types.segment, "getattr map open read"),
            grant(c, types.segment, "getattr open read unlink write"),
        ]
    return grants
