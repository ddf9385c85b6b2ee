# SPDX-License-Identifier: Apache-2.0
"""The kernel's limits on IPC objects: what they are, and whether a channel fits.

Owns the names, places and meaning of the limits, so that the helper's refusal and `sipc doctor` say the same.
Source: sysctl/kernel.rst, mq_overview(7), sysvipc(7).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sipc.errors import SpecError
from sipc.proto.control import CONTROL_SIZE
from sipc.proto.libsipc import chunk_size
from sipc.proto.segment import segment_size
from sipc.spec import Backend, ChannelSpec, Transport, Wire

__all__ = ("LIMITS", "Limit", "check", "message_size", "read", "size_of_segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One kernel limit: sysctl name, what it bounds."""

    name: str
    bounds: str

    @property
    def path(self) -> Path:
        """Where it is read."""
        return Path("/proc/sys", *self.name.split("."))


LIMITS = {
    limit.name: limit
    for limit in (
        Limit(name="kernel.msgmni", bounds="System V queues in this ipc namespace"),
        Limit(name="kernel.msgmax", bounds="bytes in one System V message"),
        Limit(name="kernel.msgmnb", bounds="bytes in one System V queue"),
        Limit(name="kernel.shmmni", bounds="System V segments in this ipc namespace"),
        Limit(name="kernel.shmmax", bounds="bytes in one System V segment"),
        Limit(name="kernel.shm_rmid_forced", bounds="whether segments die with their last user (must be 0)"),
        Limit(name="fs.mqueue.queues_max", bounds="POSIX queues"),
        Limit(name="fs.mqueue.msg_max", bounds="messages in one POSIX queue"),
        Limit(name="fs.mqueue.msgsize_max", bounds="bytes in one POSIX message"),
    )
}


def read(name: str) -> int | None:
    """Value of one limit, None where the kernel does not have it."""
    try:
        return int(LIMITS[name].path.read_text())
    except (OSError, ValueError):
        return None


def message_size(spec: ChannelSpec) -> int:
    """Bytes of the largest message of a channel: the queue holds `depth` times this, exactly."""
    if spec.wire is Wire.LIBSIPC:
        if spec.transport is Transport.SEGMENT:
            return 8
        return min(spec.geometry.slot_size, chunk_size(read("fs.mqueue.msgsize_max") or 8192))
    if spec.transport is Transport.SEGMENT:
        return CONTROL_SIZE
    return CONTROL_SIZE + spec.geometry.slot_size


def size_of_segment(spec: ChannelSpec) -> int:
    """Bytes of a channel's segment, 0 in the queue transport."""
    if spec.transport is Transport.QUEUE:
        return 0
    if spec.wire is Wire.LIBSIPC:
        return spec.geometry.slot_size
    return segment_size(spec.geometry)


def check(spec: ChannelSpec) -> None:
    """Refuse a channel this kernel can not hold; the error names key, value, limit and remedy."""
    size, depth = message_size(spec), spec.geometry.depth
    wanted: list[tuple[str, str, int]] = []
    if spec.backend is Backend.SYSV:
        wanted = [
            ("slot_size" if spec.transport is Transport.QUEUE else "wire", "kernel.msgmax", size),
            ("depth", "kernel.msgmnb", size * depth),
            ("slots * slot_size", "kernel.shmmax", size_of_segment(spec)),
        ]
    elif spec.backend is Backend.POSIX:
        wanted = [
            ("depth", "fs.mqueue.msg_max", depth),
            ("slot_size" if spec.transport is Transport.QUEUE else "wire", "fs.mqueue.msgsize_max", size),
        ]
    for key, name, needed in wanted:
        limit = read(name)
        if limit is not None and needed > limit:
            raise SpecError(
                f"{spec.label}: {key} needs {name} = {needed}, and this kernel's limit is {limit} "
                f"({LIMITS[name].bounds}): lower {key}, or run 'sysctl -w {name}={needed}' as root"
            )
