# SPDX-License-Identifier: Apache-2.0
"""What stages say of themselves, as Prometheus text (exposition format 0.0.4).

Owns names, units and escaping.  Units are base units (seconds, bytes), counters end in `_total`, as Prometheus' naming
practices have it.  Every sample names the stage whose word it is, and each stage's words come from its own directory:
what one says can change no line of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from sipc.guard.observe import Seen
from sipc.guard.reported import StageReport, State

__all__ = ("exposition",)

_Sample = tuple[dict[str, str], float]
_Reports = Sequence[tuple[Seen, StageReport]]


def exposition(seen: Sequence[Seen]) -> str:
    """All samples, under their HELP and TYPE; nothing in it depends on when it is read."""
    reports = [(one, one.report) for one in seen if one.report is not None]
    lines: list[str] = []
    valid = [(_of(one), float(one.report is not None)) for one in seen]
    _family(lines, "sipc_guard_stage_status_valid", "gauge", "1 for a stage whose status is one, else 0.", valid)
    for name, kind, words, samples in _FAMILIES:
        _family(lines, name, kind, words, samples(reports))
    return "\n".join(lines) + "\n"


def _family(lines: list[str], name: str, kind: str, words: str, samples: Iterable[_Sample]) -> None:
    found = [f"{name}{{{_labels(labels)}}} {_number(value)}" for labels, value in samples]
    if found:
        lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *found]


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    """As the format has it; nothing else is special between the quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, int) or value.is_integer() else repr(value)


def _of(seen: Seen, **more: str) -> dict[str, str]:
    return {"guard": seen.guard, "stage": seen.stage, **more}


def _each(value: Callable[[StageReport], float]) -> Callable[[_Reports], Iterator[_Sample]]:
    """One sample for each stage."""

    def samples(reports: _Reports) -> Iterator[_Sample]:
        for seen, report in reports:
            yield _of(seen), value(report)

    return samples


def _info(reports: _Reports) -> Iterator[_Sample]:
    for seen, report in reports:
        yield _of(seen, kind=report.kind, owner=seen.owner), 1


def _states(reports: _Reports) -> Iterator[_Sample]:
    for seen, report in reports:
        for state in State:
            yield _of(seen, state=state), float(report.state is state)


def _channels(attribute: str) -> Callable[[_Reports], Iterator[_Sample]]:
    def samples(reports: _Reports) -> Iterator[_Sample]:
        for seen, report in reports:
            for name, channel in report.channels.items():
                yield _of(seen, channel=name, direction=channel.direction), getattr(channel, attribute)

    return samples


def _verdicts(reports: _Reports) -> Iterator[_Sample]:
    for seen, report in reports:
        for verdict, count in report.verdicts.items():
            yield _of(seen, verdict=verdict), count


def _kept(attribute: str) -> Callable[[_Reports], Iterator[_Sample]]:
    def samples(reports: _Reports) -> Iterator[_Sample]:
        for seen, report in reports:
            if report.quarantine is not None:
                yield _of(seen), getattr(report.quarantine, attribute)

    return samples


_FAMILIES: tuple[tuple[str, str, str, Callable[[_Reports], Iterator[_Sample]]], ...] = (
    ("sipc_guard_stage_info", "gauge", "What the stage is, and the user whose word all of its samples are.", _info),
    ("sipc_guard_stage_state", "gauge", "1 for the state that the stage is in, 0 for the others.", _states),
    ("sipc_guard_stage_restarts_total", "counter", "How often the stage was started again.",
     _each(lambda report: report.restarts)),
    ("sipc_guard_stage_start_time_seconds", "gauge", "When the stage was last started, since 1970, by its clock.",
     _each(lambda report: report.since)),
    ("sipc_guard_stage_updated_time_seconds", "gauge", "When the stage last wrote its status (an idle one does not).",
     _each(lambda report: report.updated)),
    ("sipc_guard_channel_messages_total", "counter", "Messages that passed this end of the channel.",
     _channels("messages")),
    ("sipc_guard_channel_bytes_total", "counter", "Bytes that passed this end of the channel.", _channels("bytes")),
    ("sipc_guard_channel_blocked_seconds_total", "counter", "Time that this end of the channel waited for the other.",
     _channels("blocked_seconds")),
    ("sipc_guard_channel_last_seq", "gauge", "Number of the last block at this end; begins anew with the channel.",
     _channels("last_seq")),
    ("sipc_guard_verdicts_total", "counter", "Messages by what the filter said of them.", _verdicts),
    ("sipc_guard_quarantine_messages", "gauge", "Messages in the quarantine.", _kept("messages")),
    ("sipc_guard_quarantine_bytes", "gauge", "Bytes in the quarantine.", _kept("bytes")),
    ("sipc_guard_quarantine_limit_bytes", "gauge", "Bytes that the quarantine may hold.", _kept("limit")),
)  # fmt: skip
