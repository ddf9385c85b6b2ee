# SPDX-License-Identifier: Apache-2.0
"""What a channel is in the kernel and on disk, looked up from outside: by the tests, with the calls endpoints avoid.

Owns the checks "this channel is whole" and "nothing is left of it", which tests of the helper share.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import posix_ipc
import sysv_ipc

from sipc.descriptor import Descriptor
from sipc.kernel import limits
from sipc.registry import Registry
from sipc.spec import Backend, Role, SegmentCreator, Transport, Wire, modes

__all__ = ("Object", "assert_empty", "assert_whole", "queue_of", "segment_of", "snapshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """Owner, group, mode, and bytes: what a queue may hold, or a segment's size."""

    uid: int
    gid: int
    mode: int
    size: int


def queue_of(descriptor: Descriptor) -> Object | None:
    """The queue of a channel as the kernel has it, None when there is none."""
    key = descriptor.keys.queue
    if descriptor.spec.backend is Backend.SYSV:
        try:
            queue = sysv_ipc.MessageQueue(int(key), mode=0)
        except sysv_ipc.ExistentialError:
            return None
        return Object(uid=queue.uid, gid=queue.gid, mode=queue.mode, size=queue.max_size)
    try:
        posix = posix_ipc.MessageQueue(key, read=False, write=True)
    except posix_ipc.ExistentialError:
        return None
    try:
        return _of_file(os.fstat(posix.mqd), posix.max_messages * posix.max_message_size)
    finally:
        posix.close()


def segment_of(descriptor: Descriptor) -> Object | None:
    """The segment of a channel as the kernel has it, None when there is none."""
    key = descriptor.keys.segment
    if key is None:
        return None
    if descriptor.spec.backend is Backend.SYSV:
        try:
            segment = sysv_ipc.SharedMemory(int(key), mode=0o400)
        except sysv_ipc.ExistentialError:
            return None
        try:
            return Object(uid=segment.uid, gid=segment.gid, mode=segment.mode, size=segment.size)
        finally:
            segment.detach()
    try:
        posix = posix_ipc.SharedMemory(key, read_only=True)
    except posix_ipc.ExistentialError:
        return None
    try:
        status = os.fstat(posix.fd)
        return _of_file(status, status.st_size)
    finally:
        posix.close_fd()


def _of_file(status: os.stat_result, size: int) -> Object:
    return Object(uid=status.st_uid, gid=status.st_gid, mode=stat.S_IMODE(status.st_mode), size=size)


def snapshot(calls: list[str] | None = None) -> set[str]:
    """Every System V object there is, our segments in /dev/shm, and the queues named by logged `calls` that exist."""
    found = set()
    for kind in ("msg", "shm"):
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            found.add(f"{kind} {fields[0]} {fields[1]}")
    found.update(entry for entry in os.listdir("/dev/shm") if entry.startswith("sipc-"))
    for name in {call.split(" ")[1] for call in calls or () if call.startswith("mq_open ")}:
        try:
            posix_ipc.MessageQueue(f"/{name}", read=False, write=True).close()
        except posix_ipc.ExistentialError:
            continue
        found.add(f"queue {name}")
    return found


def assert_whole(registry: Path, name: str) -> Descriptor:
    """The channel is published, and everything its descriptor promises is there with the right owner, mode, size."""
    with Registry(registry) as opened:
        assert opened.names() == [name]
        assert opened.journals() == []
        descriptor = opened.read(name)
    spec = descriptor.spec
    uid, gid, queue_mode, segment_mode = modes(spec)
    owner = {"uid": os.geteuid() if uid is None else uid, "gid": os.getegid() if gid is None else gid}
    if spec.wire is Wire.LIBSIPC and spec.transport is Transport.QUEUE:
        room = limits.read("kernel.msgmnb") or 0
    else:
        room = spec.geometry.depth * limits.message_size(spec)
    assert queue_of(descriptor) == Object(mode=queue_mode, size=room, **owner)
    expected = None
    if spec.transport is Transport.SEGMENT and spec.segment_creator is SegmentCreator.HELPER:
        expected = Object(mode=segment_mode, size=limits.size_of_segment(spec), **owner)
    assert segment_of(descriptor) == expected
    assert stat.S_IMODE((registry / f"{name}.json").stat().st_mode) == 0o644
    for role, who in ((Role.SENDER, spec.sender), (Role.RECEIVER, spec.receiver)):
        private = registry / ".private" / name / role
        mine = who.uid is None
        assert stat.S_IMODE(private.stat().st_mode) == (0o700 if mine else 0o710)
        assert private.stat().st_uid == os.geteuid()
        assert private.stat().st_gid == (os.getegid() if mine else who.gid)
        for entry, size in (("lock", 0), ("state", 64)):
            status = (private / entry).stat()
            assert (status.st_size, stat.S_IMODE(status.st_mode)) == (size, 0o600)
            assert status.st_uid == (os.geteuid() if mine else who.uid)
    return descriptor


def assert_empty(registry: Path) -> None:
    """No descriptor, no journal, no private directory."""
    if registry.exists():
        assert {entry.name for entry in registry.iterdir()} <= {".helper-lock", ".private"}
        private = registry / ".private"
        assert not private.exists() or list(private.iterdir()) == []
