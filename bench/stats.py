# SPDX-License-Identifier: Apache-2.0
"""The numbers of one run: series by section, contestant and column; medians, spread, paired ratios.

A ratio of two contestants is taken within each round and the median is taken of those: what the machine did
in one round hits both.  Knows nothing of how a number was measured.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

Series = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Median and spread of one series."""

    median: float
    low: float
    high: float
    iqr: float
    rounds: int


def summarize(values: list[float]) -> Summary:
    """Summary of at least one value."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Summary(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        iqr=quarters[2] - quarters[0],
        rounds=len(values),
    )


def percentile(values: list[int], percent: int) -> float:
    """The value below which `percent` of a hundred lie."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)])


@dataclass(slots=True)
class Results:
    """Everything measured, and everything that could not be."""

    rounds: int
    units: dict[str, str] = field(default_factory=dict)
    series: dict[str, dict[str, dict[str, Series]]] = field(default_factory=dict)
    notes: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, section: str, name: str, column: str, turn: int, value: float) -> None:
        """Record one value of round `turn`."""
        row = self.series.setdefault(section, {}).setdefault(name, {})
        row.setdefault(column, [None] * self.rounds)[turn] = value

    def enter(self, section: str, names: list[str]) -> None:
        """Fix the order in which a section's contestants are shown."""
        self.series.setdefault(section, {}).update({name: {} for name in names})

    def note(self, section: str, name: str, column: str, **facts: Any) -> None:
        """Record how a series was taken."""
        self.notes.setdefault(section, {}).setdefault(name, {}).setdefault(column, {}).update(facts)

    def fail(self, section: str, name: str, column: str, turn: int, reason: str) -> None:
        """Record that there is no value, and why."""
        self.failures.append({"section": section, "name": name, "column": column, "round": turn, "reason": reason})

    def values(self, section: str, name: str, column: str) -> list[float]:
        """The values there are, in the order of the rounds."""
        series = self.series.get(section, {}).get(name, {}).get(column, [])
        return [value for value in series if value is not None]

    def trim(self, rounds: int) -> None:
        """There were only so many rounds."""
        self.rounds = rounds
        for rows in self.series.values():
            for columns in rows.values():
                for series in columns.values():
                    del series[rounds:]

    def summary(self, section: str, name: str, column: str) -> Summary | None:
        """Summary of one series, or None when it has no value."""
        values = self.values(section, name, column)
        return summarize(values) if values else None

    def ratio(self, section: str, ours: tuple[str, str], theirs: tuple[str, str]) -> Summary | None:
        """Summary of ours / theirs, each (contestant, column), by round; None without a common round."""
        rows = self.series.get(section, {})
        a = rows.get(ours[0], {}).get(ours[1], [])
        b = rows.get(theirs[0], {}).get(theirs[1], [])
        both = [x / y for x, y in zip(a, b, strict=False) if x is not None and y]
        return summarize(both) if both else None

    def as_json(self) -> dict[str, Any]:
        """Plain data: every round's values beside their summary."""
        sections: dict[str, Any] = {}
        for section, rows in self.series.items():
            out: dict[str, Any] = {"unit": self.units.get(section, ""), "contestants": {}}
            for name, columns in rows.items():
                out["contestants"][name] = {
                    column: {
                        **self.notes.get(section, {}).get(name, {}).get(column, {}),
                        **_plain(self.summary(section, name, column)),
                        "values": series,
                    }
                    for column, series in columns.items()
                }
            sections[section] = out
        return sections

    @classmethod
    def from_json(cls, rounds: int, sections: dict[str, Any], failures: list[dict[str, Any]]) -> Results:
        """The inverse of `as_json`, to draw and judge a run again."""
        results = cls(rounds, failures=failures)
        for section, body in sections.items():
            results.units[section] = body["unit"]
            results.enter(section, list(body["contestants"]))
            for name, columns in body["contestants"].items():
                for column, cell in columns.items():
                    results.series.setdefault(section, {}).setdefault(name, {})[column] = cell["values"]
                    facts = {key: cell[key] for key in cell if key not in ("values", *Summary.__slots__)}
                    results.note(section, name, column, **facts)
        return results


def _plain(summary: Summary | None) -> dict[str, float]:
    return {} if summary is None else {key: getattr(summary, key) for key in Summary.__slots__}
