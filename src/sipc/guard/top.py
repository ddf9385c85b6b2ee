# SPDX-License-Identifier: Apache-2.0
"""What stages say of themselves, as a table for people: per stage restarts, verdicts, quarantine; per channel the flow.

Owns rows, columns and speeds; `observe.py` reads, the command draws.  A row says whose word it is: both ends of a
channel count, and each has a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sipc.guard.model import Kind
from sipc.guard.observe import Seen
from sipc.guard.reported import ChannelReport, Direction, StageReport
from sipc.guard.text import cells, fitted

__all__ = ("Rate", "Rates", "as_dict", "table")

SCHEMA = 1
_CADENCE = 0.5  # seconds: a stage that counts writes its status so often
_IDLE = 1.0  # seconds without a new status: nothing was counted

_Key = tuple[str, str, str]  # guard, stage, channel
_STAGES = ("STAGE", "KIND", "STATE", "OWNER", "RESTARTS", "PASSED", "DROPPED", "REFUSED", "QUARANTINE", "WRITTEN", "")
_CHANNELS = ("CHANNEL", "END", "STAGE", "MESSAGES", "MSG/S", "BYTES/S", "BLOCKED", "NOW", "LAST SEQ")
_LEFT = {"STAGE", "KIND", "STATE", "OWNER", "CHANNEL", "END", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Speed of one end: messages and bytes per second, and the share of the time that it was blocked, 0 to 1."""

    messages: float
    bytes: float
    blocked: float


@dataclass(slots=True)
class _Last:
    report: StageReport
    since: float  # when this report was first seen
    looked: float  # when it was last seen
    rates: dict[str, Rate]


class Rates:
    """Speeds, from two looks at the same stages or more.  Times are of the looker's own monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], _Last] = {}

    def take(self, seen: Iterable[Seen], now: float) -> dict[_Key, Rate]:
        """Look; a channel that was not seen before, or whose counters began anew, has no speed yet."""
        fresh: dict[tuple[str, str], _Last] = {}
        for one in seen:
            if one.report is not None:
                key = (one.guard, one.stage)
                fresh[key] = _next(self._last.get(key), one.report, now)
        self._last = fresh
        return {(*key, name): rate for key, last in fresh.items() for name, rate in last.rates.items()}


def _next(last: _Last | None, report: StageReport, now: float) -> _Last:
    if last is None:
        return _Last(report, now, now, {})
    if report.updated == last.report.updated:
        idle = now - last.since >= _IDLE
        rates = {name: Rate(messages=0, bytes=0, blocked=0) for name in report.channels} if idle else last.rates
        return _Last(last.report, last.since, now, rates)
    # What is new was counted after the last look, but for what waited to be written then.
    time = min(report.updated - last.report.updated, max(now - last.looked, _CADENCE))
    rates = {
        name: rate
        for name, channel in report.channels.items()
        if (rate := _rate(last.report.channels.get(name), channel, time)) is not None
    }
    return _Last(report, now, now, rates)


def _rate(old: ChannelReport | None, new: ChannelReport, time: float) -> Rate | None:
    if old is None or time < _CADENCE / 10:
        return None
    messages, size = new.messages - old.messages, new.bytes - old.bytes
    blocked = new.blocked_seconds - old.blocked_seconds
    if messages < 0 or size < 0 or blocked < 0:
        return None
    return Rate(messages=messages / time, bytes=size / time, blocked=min(1.0, blocked / time))


def as_dict(seen: Sequence[Seen], rates: Mapping[_Key, Rate], clock: float) -> dict[str, Any]:
    """For JSON: every report, with the speeds."""
    return {"version": SCHEMA, "time": clock, "stages": [_stage(one, rates) for one in seen]}


def _stage(one: Seen, rates: Mapping[_Key, Rate]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "guard": one.guard, "stage": one.stage or None, "owner": one.owner or None, "problem": one.problem or None,
        "report": None,
    }  # fmt: skip
    if one.report is not None:
        report = document["report"] = asdict(one.report)
        del report["guard"], report["stage"]
        report["restarts"] = one.report.restarts
        for name, channel in report["channels"].items():
            rate = rates.get((one.guard, one.stage, name))
            channel["rate"] = None if rate is None else asdict(rate)
    return document


def table(seen: Sequence[Seen], rates: Mapping[_Key, Rate], clock: float, width: int | None = None) -> list[str]:
    """The lines of the table, no longer than `width` cells; `clock` is now, in seconds since 1970."""
    lines: list[str] = []
    for guard in dict.fromkeys(one.guard for one in seen):
        stages = [one for one in seen if one.guard == guard]
        lines += ["", f"guard {guard}"] if lines else [f"guard {guard}"]
        lines += [f"! {one.problem}" for one in stages if not one.stage]
        lines += _columns(_STAGES, [_row(one, clock) for one in stages if one.stage])
        reports = [one.report for one in stages if one.report is not None]
        ends = sorted(
            ((name, report.stage, channel) for report in reports for name, channel in report.channels.items()),
            key=lambda end: (end[0], end[2].direction is Direction.IN, end[1]),
        )
        if ends:
            rows = [_flow(name, stage, channel, rates.get((guard, stage, name))) for name, stage, channel in ends]
            lines += ["", *_columns(_CHANNELS, rows)]
        lines += [f"! {text}" for text in _contradictions(ends)]
    return lines if width is None else [fitted(line, width) for line in lines]


def _row(one: Seen, clock: float) -> tuple[str, ...]:
    report = one.report
    if report is None:
        return (one.stage, "", "?", one.owner or "?", *[""] * 6, one.problem)
    kept = report.quarantine
    judged = report.verdicts if report.kind == Kind.FILTER else {}  # of others it would say that nothing went through
    return (
        one.stage, report.kind, report.state, one.owner, str(report.restarts),
        *(str(judged.get(verdict, "")) for verdict in ("pass", "drop", "quarantine")),
        "" if kept is None else f"{kept.messages}: {_bytes(kept.bytes)} of {_bytes(kept.limit)}",
        _ago(clock - report.updated), report.reason,
    )  # fmt: skip


def _flow(name: str, stage: str, channel: ChannelReport, rate: Rate | None) -> tuple[str, ...]:
    speeds = ("-", "-") if rate is None else (f"{rate.messages:.1f}", _bytes(rate.bytes))
    share = "-" if rate is None else f"{rate.blocked:.0%}"
    return (
        name, channel.direction, stage, str(channel.messages), *speeds, _seconds(channel.blocked_seconds), share,
        str(channel.last_seq),
    )  # fmt: skip


def _contradictions(ends: Iterable[tuple[str, str, ChannelReport]]) -> Iterator[str]:
    """Two stages that both say to be one end of a channel: only one can be."""
    claims: dict[tuple[str, Direction], list[str]] = {}
    for name, stage, channel in ends:
        claims.setdefault((name, channel.direction), []).append(stage)
    for (name, direction), stages in claims.items():
        if len(stages) > 1:
            yield f"channel {name}: {' and '.join(stages)} both say to be its '{direction}' end: one of them lies"


def _columns(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    shown = [tuple(heads), *rows]
    widths = [max(cells(row[at]) for row in shown) for at in range(len(heads))]
    return ["  ".join(map(_padded, row, widths, heads)).rstrip() for row in shown]


def _padded(text: str, width: int, head: str) -> str:
    room = " " * (width - cells(text))
    return text + room if head in _LEFT else room + text


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB"


def _seconds(time: float) -> str:
    if time < 100:
        return f"{time:.1f} s"
    if time < 6000:
        return f"{time / 60:.0f} min"
    return f"{time / 3600:.0f} h"


def _ago(age: float) -> str:
    """How old a status is; its clock is the stage's, which may be ahead."""
    return f"{_seconds(age)} ago" if age >= 0 else f"in {_seconds(-age)}"
