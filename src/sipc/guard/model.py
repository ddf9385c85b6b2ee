# SPDX-License-Identifier: Apache-2.0
"""What a guard is: its stages, its channels, its requirements, as values.

Owns the vocabulary of the guard file without its text: `config.py` reads files into these, and makes a `Guard` of none
that has a problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sipc.guard.lines import Lines
from sipc.guard.requirements import Edge, Requirement
from sipc.spec import ChannelSpec, Enforcement

__all__ = (
    "AuditPlace",
    "CommandFilter",
    "EndpointRules",
    "Guard",
    "GuardChannel",
    "Kind",
    "Medium",
    "OnQuarantineFull",
    "OnViolation",
    "PythonFilter",
    "Quarantine",
    "Sink",
    "Source",
    "Stage",
)

DEFAULT_TIMEOUT = 5.0
DEFAULT_LIMIT = 64 << 20


class Kind(StrEnum):
    """What a stage does."""

    SOURCE = "source"
    FILTER = "filter"
    SINK = "sink"


class Medium(StrEnum):
    """Where a source takes data from, or a sink puts it."""

    FILE = "file"
    DIRECTORY = "directory"
    STREAM = "stream"  # stdin of a source, stdout of a sink
    SOCKET = "socket"


class OnViolation(StrEnum):
    """What the supervisor stops when a stage violates the protocol."""

    STOP_SENDER = "stop-sender"
    STOP_GUARD = "stop-guard"
    LOG = "log"


class OnQuarantineFull(StrEnum):
    """What the supervisor stops when a filter's quarantine is full."""

    STOP_STAGE = "stop-stage"
    STOP_GUARD = "stop-guard"


class AuditPlace(StrEnum):
    """Where stages log what became of messages."""

    FILE = "file"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Takes data in from outside.  `path` is None for standard input."""

    medium: Medium
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Gives data out.  `path` is None for standard output."""

    medium: Medium
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFilter:
    """A function, "module:name", called for each record; `decode`, a class or function, makes its argument."""

    function: str
    decode: str | None = None
    timeout: float = DEFAULT_TIMEOUT  # seconds for one record


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFilter:
    """A program, run for each record, or (`persistent`) once for all of them."""

    command: tuple[str, ...]
    persistent: bool = False
    timeout: float = DEFAULT_TIMEOUT  # seconds for one record


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Where a filter's refused records are kept, and how many bytes of them."""

    directory: str
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRules:
    """What a stage's process must be besides its user, group and domain, by the rules of `EndpointPolicy`."""

    in_groups: tuple[str | int, ...] | None = None
    only_groups: tuple[str | int, ...] | None = None
    program: str | None = None
    digest: str | None = None
    selinux_type: str | None = None
    selinux_range: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One process of a guard: who it runs as, and what it does."""

    name: str
    work: Source | Sink | PythonFilter | CommandFilter
    user: str | int | None = None
    group: str | int | None = None
    type: str | None = None  # the SELinux type of its domain; None only where no channel asks for SELinux
    quarantine: Quarantine | None = None
    endpoint: EndpointRules | None = None

    @property
    def kind(self) -> Kind:
        """Source, filter or sink."""
        if isinstance(self.work, Source):
            return Kind.SOURCE
        return Kind.SINK if isinstance(self.work, Sink) else Kind.FILTER


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardChannel:
    """One channel of a guard: the stages at its ends, and all of its definition but who these are.

    `keys`: where it has tags, the key file of each stage.
    """

    name: str
    sender: str
    receiver: str
    spec: ChannelSpec
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A guard as its file describes it: read without a problem, and its requirements hold."""

    source: str
    name: str
    on_violation: OnViolation
    on_quarantine_full: OnQuarantineFull
    audit: AuditPlace
    enforcement: Enforcement
    require: tuple[Requirement, ...]
    stages: Mapping[str, Stage]
    channels: Mapping[str, GuardChannel]
    lines: Lines = field(compare=False, repr=False)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The channels as (from, to, name)."""
        return tuple((channel.sender, channel.receiver, name) for name, channel in self.channels.items())
