# SPDX-License-Identifier: Apache-2.0
"""What a stage says of itself, taken from a stage that may lie: the form of `status.json`, checked to the last value.

Owns the reading of one file's bytes, and no file.  A stage can say anything about itself and nothing about another:
its words must name the guard and stage that they were found under, names have the form of names, numbers are finite and
bounded, and a text has nothing in it that a terminal would obey.  What is not so is a `SpecError`, never half a status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Never, TypeVar

from sipc.errors import SpecError
from sipc.guard.model import Kind
from sipc.guard.tables import shown
from sipc.guard.text import clean

__all__ = ("LARGEST", "NAME", "ChannelReport", "Direction", "QuarantineReport", "StageReport", "State", "parse")

VERSION = 1
LARGEST = 1 << 18  # bytes of a file; a channel takes about 150, so this is more than a thousand
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # of guards, stages and channels alike (config.py)

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MOST = 1024  # channels, or verdicts, of one stage
_INTEGER = (1 << 63) - 1  # counters; the last is reached after centuries
_EPOCH = (1 << 64) - 1
_REAL = 1e12  # seconds: no clock shows more, and no sum of waits
_REASON = 200  # characters

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


class State(StrEnum):
    """What a stage is doing, or how it ended."""

    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    VIOLATED = "violated"
    FULL = "full"
    FAILED = "failed"


class Direction(StrEnum):
    """Which end of a channel the stage is."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReport:
    """One end of a channel, as the stage at that end counts."""

    direction: Direction
    messages: int
    bytes: int
    blocked_seconds: float
    last_seq: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineReport:
    """What is in a quarantine, and the bytes that it may hold."""

    messages: int
    bytes: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One status file, whole and of the form it must have.  Times are seconds since 1970, by the stage's clock."""

    guard: str
    stage: str
    kind: Kind
    pid: int
    starts: int
    since: float
    updated: float
    state: State
    reason: str
    channels: Mapping[str, ChannelReport]
    verdicts: Mapping[str, int]
    quarantine: QuarantineReport | None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)


def parse(data: bytes, *, guard: str, stage: str) -> StageReport:
    """Read the status that was found under this guard and stage.  Raises `SpecError`, on one printable line."""
    if len(data) > LARGEST:
        raise SpecError(f"has more than {LARGEST} bytes: a status has some hundred for each channel")
    table = _Table("", _document(data))
    version = table.values.get("version")
    if type(version) is not int or version != VERSION:
        raise SpecError(f"version is {shown(version)}, not {VERSION}: are stage and reader of one release?")
    for key, expected in (("guard", guard), ("stage", stage)):
        if table.values.get(key) != expected:
            given = shown(table.values.get(key))
            raise SpecError(f"{key} is {given}, and it was found under {expected!r}: a stage speaks for itself alone")
    return StageReport(
        guard=guard,
        stage=stage,
        kind=table.choice("kind", Kind),
        pid=table.whole("pid"),
        starts=table.whole("starts"),
        since=table.seconds("since"),
        updated=table.seconds("updated"),
        state=table.choice("state", State),
        reason=table.text("reason"),
        channels=table.each("channels", NAME, _channel),
        verdicts=table.each("verdicts", _WORD, lambda inside, key: inside.whole(key)),
        quarantine=None if table.values.get("quarantine") is None else _quarantine(table.inside("quarantine")),
    )


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise SpecError("is JSON too deep to be a status") from None
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8") from None
    except SpecError:
        raise
    except ValueError as error:  # no JSON, or a number of more digits than Python reads
        raise SpecError(f"is no JSON: {clean(str(error), 120)}") from None
    if not isinstance(found, dict):
        raise SpecError(f"is {shown(found)}, not an object")
    return found


def _no_number(word: str) -> Never:
    raise SpecError(f"has {word} where a number should be")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise SpecError("gives a key twice")
    return found


class _Table:
    """One object; each method takes out a value of the form it must have."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place = place
        self.values = values

    def _wrong(self, key: str, wanted: str) -> SpecError:
        given = shown(self.values[key]) if key in self.values else "missing"
        return SpecError(f"{self.place}{clean(key, 40)} is {given}: {wanted}")

    def whole(self, key: str, most: int = _INTEGER) -> int:
        value = self.values.get(key)
        if type(value) is not int or not 0 <= value <= most:
            raise self._wrong(key, f"a whole number from 0 to {most}")
        return value

    def seconds(self, key: str) -> float:
        value: Any = self.values.get(key)
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0 <= value <= _REAL:  # NaN is not in between
            raise self._wrong(key, f"seconds, from 0 to {_REAL:g}")
        return float(value)

    def choice(self, key: str, kind: type[_E]) -> _E:
        value = self.values.get(key)
        if not isinstance(value, str) or value not in {one.value for one in kind}:
            raise self._wrong(key, f"one of {', '.join(kind)}")
        return kind(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return clean(value, _REASON)

    def inside(self, key: str) -> _Table:
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return _Table(f"{self.place}{key}.", value)

    def each(self, key: str, name: re.Pattern[str], read: Callable[[_Table, str], _T]) -> dict[str, _T]:
        inside = self.inside(key)
        if len(inside.values) > _MOST:
            raise SpecError(f"{self.place}{key} has {len(inside.values)} entries: at most {_MOST}")
        for entry in inside.values:
            if not name.fullmatch(entry):
                raise SpecError(f"{self.place}{key} has {shown(entry)}, which is no name")
        return {entry: read(inside, entry) for entry in inside.values}


def _channel(table: _Table, name: str) -> ChannelReport:
    inside = table.inside(name)
    return ChannelReport(
        direction=inside.choice("direction", Direction),
        messages=inside.whole("messages"),
        bytes=inside.whole("bytes"),
        blocked_seconds=inside.seconds("blocked_seconds"),
        last_seq=inside.whole("last_seq"),
        epoch=inside.whole("epoch", _EPOCH),
    )


def _quarantine(table: _Table) -> QuarantineReport:
    return QuarantineReport(
        messages=table.whole("messages"), bytes=table.whole("bytes"), limit=table.whole("limit")
    )
