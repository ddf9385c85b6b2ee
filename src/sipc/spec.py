# SPDX-License-Identifier: Apache-2.0
"""What a channel is: its words, its bounds, its defaults.

Owns the validated description of one channel (`ChannelSpec`) and of its parts.  Must not know TOML, the
registry or the kernel: `definitions.py` reads files into these, `registry.py` writes descriptors from them.
Every bound below is justified beside it; a value outside is a `SpecError` that names key, value and bound.
"""

from __future__ import annotations

import enum
import posixpath
import re
from dataclasses import dataclass, field

from sipc.errors import SpecError

__all__ = (
    "Backend",
    "ChannelSpec",
    "Enforcement",
    "Geometry",
    "Principal",
    "Role",
    "SegmentCreator",
    "Tag",
    "Transport",
    "Wire",
    "check_name",
    "is_digest",
    "is_program",
    "modes",
)

PAGE = 4096

# A name becomes a file name in the registry and, later, part of SELinux identifiers: no separators, no
# leading dot, at most 64 bytes (DESIGN 7).
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_SHA256 = re.compile(r"[0-9a-f]{64}")
# `slot` is a u16 on the wire; five bits are plenty, but the wire is the bound.
MAX_SLOTS = 0xFFFF
# The rule holds for any depth; the queue must hold depth * 32 bytes, and msgmnb is 16384 by default.
MAX_DEPTH = 512
# Larger blocks lose speed (DESIGN 11): 1 GiB is already far past any use.
MAX_SLOT_SIZE = 1 << 30
# 128 bits: a forger's guess is right once in 2**128 tries, and the first wrong one ends the receiver (NIST SP 800-107
# allows MAC tags from 64 bits on).
TAG_SIZE = 16
# Receiving one message must not take all memory: the sender is not trusted.
DEFAULT_MAX_MESSAGE = 1 << 30


class Wire(enum.StrEnum):
    """What goes over queue and segment."""

    SIPC2 = "sipc2"
    LIBSIPC = "libsipc"


class Transport(enum.StrEnum):
    """Where the data travels: in a shared segment, or inside the queue's messages."""

    SEGMENT = "segment"
    QUEUE = "queue"


class Backend(enum.StrEnum):
    """Whose kernel objects carry the channel; `memory` is the in-process fake."""

    SYSV = "sysv"
    POSIX = "posix"
    MEMORY = "memory"


class Enforcement(enum.StrEnum):
    """What must hold the direction: an enforcing SELinux policy, or only uid, gid and mode."""

    SELINUX = "selinux"
    DAC = "dac"


class Tag(enum.StrEnum):
    """How each block shows that its sender has the channel's key; the key itself is in no description."""

    BLAKE2B = "blake2b"


class SegmentCreator(enum.StrEnum):
    """Who makes the segment: the helper, or the sender under the key the helper published."""

    HELPER = "helper"
    SENDER = "sender"


class Role(enum.StrEnum):
    """The two ends."""

    SENDER = "sender"
    RECEIVER = "receiver"


def check_name(name: str) -> str:
    """Return `name` if it may name a channel, else raise `SpecError`."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SpecError(
            f"channel name {name!r} is not usable: start with a-z or 0-9, go on with a-z 0-9 . _ -, "
            "at most 64 characters, for example 'sensor-feed'"
        )
    return name


def is_program(path: object) -> bool:
    """Whether this can be the path of what a process runs, as the kernel shows it."""
    if not isinstance(path, str) or not path.startswith("/") or path.endswith(" (deleted)") or "\0" in path:
        return False
    return path == posixpath.normpath(path)


def is_digest(text: object) -> bool:
    """Whether this is a SHA-256 as sha256sum prints it."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _between(key: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise SpecError(f"{key} = {value!r} is out of range: give a whole number from {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Slots in the segment, control messages in the queue, bytes in a slot.

    `slots = depth + 2` streams without a single NOOP; fewer slots cost NOOPs, never data; more only cost
    cache.  Source: DESIGN section 3.
    """

    slots: int = 4
    depth: int = 2
    slot_size: int = 256 * 1024

    def __post_init__(self) -> None:
        _between("slots", self.slots, 1, MAX_SLOTS)
        _between("depth", self.depth, 1, MAX_DEPTH)
        _between("slot_size", self.slot_size, 1, MAX_SLOT_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who one end is: numeric uid and gid (None: the helper's own), and the expected SELinux type.

    `program` is the file that it runs (for a script: its interpreter) and `digest` the SHA-256 of it in hex: the helper
    looks at them before it makes the channel.  They are no part of the channel and stand in no descriptor.
    """

    uid: int | None = None
    gid: int | None = None
    type: str | None = None
    program: str | None = field(default=None, compare=False)
    digest: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.program is not None and not is_program(self.program):
            raise SpecError(
                f"program = {self.program!r} must be an absolute path, in its shortest form, not ending in ' (deleted)'"
            )
        if self.digest is not None and not is_digest(self.digest):
            raise SpecError(f"digest = {self.digest!r} must be 64 hex digits in lower case: sha256sum FILE prints them")
        if self.digest is not None and self.program is None:
            raise SpecError("a digest without a program: give program = '/path/of/it' too")
        for key, value in (("uid", self.uid), ("gid", self.gid)):
            if value is not None:
                _between(key, value, 0, 0xFFFFFFFE)  # (uid_t)-1 means "leave as it is" to chown(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """One channel as its definition describes it; validated when made."""

    name: str
    source: str | None = field(default=None, compare=False)  # where it is defined, for messages: "FILE: [channel.NAME]"
    wire: Wire = Wire.SIPC2
    transport: Transport = Transport.SEGMENT
    backend: Backend = Backend.SYSV
    geometry: Geometry = field(default_factory=Geometry)
    segment_creator: SegmentCreator = SegmentCreator.HELPER
    enforcement: Enforcement = Enforcement.SELINUX
    checksum: bool = False
    tag: Tag | None = None
    max_message: int = DEFAULT_MAX_MESSAGE
    key_path: str | None = None  # libsipc wire only: the path given to ftok(3)
    channel_type: str | None = None  # SELinux type of the queue and segment, C in DESIGN 9
    sender: Principal = field(default_factory=Principal)
    receiver: Principal = field(default_factory=Principal)

    def __post_init__(self) -> None:
        check_name(self.name)
        _between("max_message", self.max_message, 1, (1 << 63) - 1)
        if self.wire is Wire.LIBSIPC:
            self._check_libsipc()
        elif self.key_path is not None:
            raise SpecError("key_path belongs to wire = 'libsipc'; sipc2 keys are random: remove it")
        if self.segment_creator is SegmentCreator.SENDER and self.transport is Transport.QUEUE:
            raise SpecError("transport = 'queue' has no segment: remove segment_creator")

        if self.tag is not None:
            self._check_tag()

    @property
    def tag_size(self) -> int:
        """Bytes at the end of each block that are its tag."""
        return 0 if self.tag is None else TAG_SIZE

    @property
    def block_size(self) -> int:
        """Bytes of messages that one block holds: a slot, less the tag."""
        return self.geometry.slot_size - self.tag_size

    @property
    def label(self) -> str:
        """The channel as a message names it."""
        return self.source or f"channel {self.name!r}"

    def _check_tag(self) -> None:
        if self.checksum:
            raise SpecError("a tag covers what a checksum would, and more: remove checksum or tag")
        if self.geometry.slot_size <= TAG_SIZE:
            raise SpecError(
                f"slot_size = {self.geometry.slot_size} has no room for a message beside its tag: "
                f"give at least {TAG_SIZE + 1} bytes, or remove tag"
            )

    def _check_libsipc(self) -> None:
        if self.key_path is None:
            raise SpecError("wire = 'libsipc' finds its objects with ftok(3): give key_path = '/an/existing/file'")
        if self.backend is not Backend.SYSV:
            raise SpecError(f"wire = 'libsipc' knows System V only: backend = {self.backend.value!r} cannot be")
        if (self.geometry.slots, self.geometry.depth) != (1, 1):
            raise SpecError("wire = 'libsipc' has one slot and one message: set slots = 1, depth = 1")
        if self.checksum:
            raise SpecError("wire = 'libsipc' carries no checksum: remove checksum")
        if self.tag is not None:
            raise SpecError("wire = 'libsipc' carries no tag: remove tag")


def modes(spec: ChannelSpec) -> tuple[int | None, int | None, int, int]:
    """(uid, gid, queue mode, segment mode) that give each role its direction and no more.

    Two users: the sender owns, the receiver is the group, so the queue is 0240 and the segment 0640.  The owner
    is the sender because an owner may change the mode (IPC_SET): a receiver that could would open a way back.
    One user: 0600, and the kernel's discretionary control separates nothing.
    """
    sender, receiver = spec.sender, spec.receiver
    if sender.uid is not None and receiver.uid is not None and sender.uid != receiver.uid:
        return sender.uid, receiver.gid, 0o240, 0o640
    owner = sender.uid if sender.uid is not None else receiver.uid
    return owner, None, 0o600, 0o600
