# SPDX-License-Identifier: Apache-2.0
"""The rounds: which measurement follows which.

One round holds every measurement once: for each size all contestants in an order shuffled anew (from a seed,
so a run can be repeated), then records, latency, files and the import, each shuffled too.  What fails is
recorded and not tried again, so that one hanging contestant costs one deadline and not nine.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench import measure, programs
from bench.contest import Contestant, size_label
from bench.harness import Failed, Place
from bench.small import RECORD
from bench.stats import Results, percentile

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Plan:
    """What to run, how often, how long."""

    rounds: int
    seconds: float
    sizes: tuple[int, ...]
    latencies: int
    gap: float
    file_size: int
    memory_sizes: tuple[int, ...]
    seed: int
    throughput: list[Contestant] = field(default_factory=list)
    records: list[Contestant] = field(default_factory=list)
    latency: list[Contestant] = field(default_factory=list)
    pipelines: dict[str, Callable[[Path, Place], float]] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    memory: bool = False


class Run:
    """One run of a plan; `results` grows while it goes on."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan = plan
        self.place = place
        self.results = Results(plan.rounds)
        self.results.units = {
            "throughput": "GB/s",
            "records": "messages/s",
            "latency": "us",
            "file": "s",
            "memory": "KiB",
            "start": "s",
        }
        for section in ("throughput", "records", "latency"):
            self.results.enter(section, [contestant.name for contestant in getattr(plan, section)])
        self.results.enter("file", list(plan.pipelines))
        self.results.enter("start", list(plan.starts))
        self._counts: dict[tuple[str, str, int], int] = {}
        self._out: set[tuple[str, str, str]] = set()
        self._random = random.Random(plan.seed)
        self._start = time.monotonic()

    def all_rounds(self) -> Results:
        """Run everything; raises nothing for a contestant's failure."""
        plan = self.plan
        if plan.pipelines or plan.memory:
            with programs.real_file(plan.file_size) as file:
                self._rounds(file)
                if plan.memory:
                    self._memory(file)
        else:
            self._rounds(None)
        return self.results

    def _rounds(self, file: Path | None) -> None:
        for turn in range(self.plan.rounds):
            self._say(f"round {turn + 1} of {self.plan.rounds}")
            for size in self.plan.sizes:
                for contestant in self._shuffled(self.plan.throughput):
                    self._throughput("throughput", contestant, size, turn)
            for contestant in self._shuffled(self.plan.records):
                self._throughput("records", contestant, RECORD, turn)
            for contestant in self._shuffled(self.plan.latency):
                self._latency(contestant, turn)
            if file is not None:
                for name in self._shuffled(list(self.plan.pipelines)):
                    pipeline = partial(self.plan.pipelines[name], file, self.place)
                    self._try("file", name, str(self.plan.file_size), turn, pipeline)
            for name in self._shuffled(list(self.plan.starts)):
                self._try(
                    "start",
                    name,
                    "s",
                    turn,
                    partial(programs.start_seconds, self.plan.starts[name], self.place),
                )

    def _throughput(self, section: str, contestant: Contestant, size: int, turn: int) -> None:
        reason = contestant.why_not(size)
        if reason is not None:
            if turn == 0:
                self.results.note(section, contestant.name, str(size), impossible=reason)
            return
        self._try(section, contestant.name, str(size), turn, partial(self._rate, section, contestant, size))

    def _rate(self, section: str, contestant: Contestant, size: int) -> float:
        key = (section, contestant.name, size)
        if key not in self._counts:
            self._counts[key] = measure.calibrate(contestant, size, self.plan.seconds, self.place)
        count = self._counts[key]
        took = measure.throughput(contestant, size, count, self.place)
        self.results.note(section, contestant.name, str(size), messages=count, received_in=contestant.private)
        return count / took if section == "records" else count * size / took / 1e9

    def _latency(self, contestant: Contestant, turn: int) -> None:
        values: list[int] = []

        def median() -> float:
            values.extend(measure.latency(contestant, self.plan.latencies, self.plan.gap, self.place))
            return percentile(values, 50) / 1000

        if self._try("latency", contestant.name, "p50", turn, median):
            self.results.add("latency", contestant.name, "p99", turn, percentile(values, 99) / 1000)
            for column in ("p50", "p99"):
                self.results.note("latency", contestant.name, column, messages=len(values))

    def _memory(self, large: Path) -> None:
        """Peak memory for a small and the large file; the last round's slot, as it is measured once."""
        for size in self.plan.memory_sizes:
            try:
                if size == self.plan.file_size:
                    peaks = programs.sipc_peaks(large, self.place)
                else:
                    with programs.real_file(size) as small:
                        peaks = programs.sipc_peaks(small, self.place)
            except Failed as failure:
                self._failed("memory", "sipc send, sipc recv", str(size), self.plan.rounds - 1, failure)
                continue
            for name, peak in zip(("sipc send", "sipc recv"), peaks, strict=True):
                self.results.add("memory", name, str(size), self.plan.rounds - 1, float(peak))

    def _try(self, section: str, name: str, column: str, turn: int, take: Callable[[], float]) -> bool:
        """Add what `take` gives, or record why it gave nothing and do not try this again."""
        key = (section, name, column)
        if key in self._out:
            return False
        try:
            self.results.add(section, name, column, turn, take())
        except Failed as failure:
            self._out.add(key)
            self._failed(section, name, column, turn, failure)
            return False
        return True

    def _failed(self, section: str, name: str, column: str, turn: int, failure: Failed) -> None:
        self.results.fail(section, name, column, turn + 1, str(failure))
        label = size_label(int(column)) if column.isdigit() else column
        self._say(f"FAILED {section}, {name}, {label}: {failure}")

    def _shuffled(self, things: list[T]) -> list[T]:
        return self._random.sample(things, len(things))

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", file=sys.stderr, flush=True)
