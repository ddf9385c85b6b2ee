# SPDX-License-Identifier: Apache-2.0
"""What a receiver could still tell a sender, measured: `python -m bench.leftovers` (`make leftovers`).

Two processes that collude, each on a core of its own.  The receiver acts by random symbols, the sender looks, and what
it saw is compared.  First each way's settings are tried for a moment and the one that carries most is kept; then the
rounds: every way three times in an order shuffled anew: free, with the receiver under its seccomp filter, with both.

Capacity is raw rate * (1 - H2(share of wrong bits)): what a code over these bits could carry without error, taken bit
by bit.  It is this turn's, not the leftover's: a better one carries more.  What others do on the machine spoils runs,
so there are more rounds as long as there is time.  Exit codes: 0 all measured, 1 something could not be, and then
nothing is written, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench import machine, report
from bench.harness import Failed, Place
from bench.leftover_ways import OPEN, WARM, WAYS, Confined, Received, Run, Setting, Way
from bench.stats import Results, Summary

__all__ = ("MARKS", "Outcome", "Rounds", "capacity", "fragment", "main", "outcome", "wrong_bits")

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "threat-model.md"
OUT = TOP / "bench" / "results" / "leftovers.json"
MARKS = ("<!-- leftovers:begin -->", "<!-- leftovers:end -->")
_SEED = 20250101
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 11
_BUDGET = 55.0  # seconds for everything
_TRIES = 3  # of each setting
_SECONDS = 0.02  # of one run
_GUESS = 4.0  # standard deviations from one half within which bits count as guessed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run judged: kbit/s, and the share of bits that were wrong (none came: nan)."""

    raw: float
    wrong: float
    capacity: float


def wrong_bits(sent: Sequence[int], seen: Sequence[int]) -> int:
    """How many bits differ, as far as symbols came."""
    return sum((a ^ b).bit_count() for a, b in zip(sent, seen, strict=False))


def capacity(raw: float, wrong: int, bits: int) -> float:
    """`raw` * (1 - H2(wrong / bits)); 0 when the bits could as well have been guessed."""
    share = wrong / bits if bits else 0.5
    if abs(share - 0.5) <= _GUESS * math.sqrt(0.25 / max(bits, 1)):
        return 0.0
    lost = sum(-part * math.log2(part) for part in (share, 1 - share) if part)
    return raw * (1 - lost)


def outcome(sent: Sequence[int], received: Received, bits: int) -> Outcome:
    """What a run is worth; `bits` are of one symbol."""
    count = len(received.symbols) * bits
    if not count:
        return Outcome(raw=0.0, wrong=math.nan, capacity=0.0)
    raw = (len(received.symbols) + WARM) * bits / received.took_ns * 1e6
    wrong = wrong_bits(sent, received.symbols)
    return Outcome(raw=raw, wrong=wrong / count, capacity=capacity(raw, wrong, count))


class Rounds:
    """All runs within a time; `results` has a section for each of `Confined`."""

    def __init__(self, ways: Sequence[Way], rounds: int, place: Place, seed: int) -> None:
        self.ways, self.least, self.place = ways, rounds, place
        self.results = Results(max(rounds, _MOST_ROUNDS))
        for confined in Confined:
            self.results.units[confined.value] = "kbit/s"
            self.results.enter(confined.value, [way.key for way in ways])
        self.settings: dict[str, Setting] = {}
        self._counts: dict[str, int] = {}
        self._dice = random.Random(seed)
        self._end = time.monotonic() + _BUDGET

    def all_rounds(self) -> Results:
        """Try the settings, then measure; what fails is recorded and not tried again."""
        for way in self.ways:
            try:
                self._choose(way)
            except Failed as failure:
                for confined in Confined:
                    self._failed(way, confined, 0, failure)
        every = [(way, confined) for way in self.ways for confined in Confined if way.key in self.settings]
        out: set[tuple[Way, Confined]] = set()
        for turn in range(self.results.rounds):
            start = time.monotonic()
            print(f"round {turn + 1}", file=sys.stderr, flush=True)
            for way, confined in self._dice.sample(every, len(every)):
                if (way, confined) not in out:
                    try:
                        self._measure(way, confined, turn)
                    except Failed as failure:
                        out.add((way, confined))
                        self._failed(way, confined, turn, failure)
            now = time.monotonic()
            if turn + 1 >= self.least and now + 1.5 * (now - start) > self._end:
                break
        self.results.trim(turn + 1)
        return self.results

    def _play(self, way: Way, setting: Setting, confined: Confined, count: int) -> tuple[Outcome, Received]:
        if time.monotonic() > self._end:
            raise Failed(f"the {_BUDGET:.0f} s for all of it are over: is the machine busy?")
        run = Run.drawn(way, setting, confined, count, self._dice)
        received = run.run(self.place)
        return outcome(run.sent, received, setting.bits), received

    def _choose(self, way: Way) -> None:
        """The setting with the largest median, and how many of its symbols take about `_SECONDS`."""
        best = -1.0
        for setting in way.settings:
            count = 1000 if setting.bits < 32 else 200
            tries = [self._play(way, setting, Confined.NONE, count) for _ in range(_TRIES)]
            median = sorted(judged.capacity for judged, _ in tries)[_TRIES // 2]
            if median > best:
                best = median
                took = sorted(received.took_ns for _, received in tries)[_TRIES // 2]
                self.settings[way.key] = setting
                self._counts[way.key] = max(200, min(40_000, int(count * _SECONDS * 1e9 / took)))

    def _measure(self, way: Way, confined: Confined, turn: int) -> None:
        setting = self.settings[way.key]
        judged, received = self._play(way, setting, confined, self._counts[way.key])
        add, section = self.results.add, confined.value
        add(section, way.key, "raw", turn, judged.raw)
        add(section, way.key, "capacity", turn, judged.capacity)
        if not math.isnan(judged.wrong):
            add(section, way.key, "wrong", turn, judged.wrong)
        self.results.note(
            section, way.key, "capacity", bits=setting.bits, span_ns=setting.span_ns, refused=received.refused
        )

    def _failed(self, way: Way, confined: Confined, turn: int, failure: Failed) -> None:
        self.results.fail(confined.value, way.key, "capacity", turn + 1, str(failure))
        print(f"FAILED {way.key}, {confined.value}: {failure}", file=sys.stderr, flush=True)


def _capacity_cell(results: Results, section: str, way: Way) -> str:
    summary = results.summary(section, way.key, "capacity")
    refused = results.notes.get(section, {}).get(way.key, {}).get("capacity", {}).get("refused")
    if summary is None:
        return "not measured"
    return f"0 ({refused})" if refused and not summary.high else "0" if not summary.high else report.cell_of(summary)


_CONFINED = [confined.value for confined in Confined if confined is not Confined.NONE]


def _row(results: Results, way: Way) -> list[str]:
    free = Confined.NONE.value
    setting = results.notes.get(free, {}).get(way.key, {}).get("capacity", {})
    span = f", {setting['span_ns']} ns" if setting.get("span_ns") else ""
    bits = f", {setting['bits']} bits" if setting.get("bits", 1) > 1 else ""
    return [
        way.name,
        f"{way.code}{bits}{span}",
        way.closed_by,
        report.cell_of(results.summary(free, way.key, "raw")),
        report.cell_of(results.summary(free, way.key, "wrong"), 100),
        *(_capacity_cell(results, confined.value, way) for confined in Confined),
    ]


def _both(results: Results, way: Way) -> Summary | None:
    return results.summary(Confined.BOTH.value, way.key, "capacity")


def fragment(results: Results, facts: dict[str, Any], ways: Sequence[Way] = WAYS) -> str:
    """The page's part: where and when, the table, and the widest of what stays open."""
    heading = (
        f"{report.measured_on(facts['machine'])}, load {facts['load']:.1f}, {facts['made'][:10]}: {results.rounds} "
        "rounds, all ways interleaved. kbit/s; cells are the median and (lowest-highest) over the rounds."
    )
    head = ["way back", "one turn", "closed by", "raw", "bits wrong, %", "capacity", *_CONFINED]
    lines = [heading, "", *report.table(head, [_row(results, way) for way in ways], words=3), ""]
    for backend, label in (("sysv", "System V"), ("posix", "POSIX")):
        still = [way for way in ways if way.backend == backend and way.closed_by.startswith(OPEN)]
        found = [(summary.high, summary.median, way.key) for way in still if (summary := _both(results, way))]
        if found:  # by the best round: what others do on the machine only takes away
            high, median, key = max(found)
            lines.append(
                f"Widest of what policy and filters leave open, {label}: {report.number(high)} kbit/s in its best "
                f"round, {report.number(median)} in the median ({key}).\n"
            )
    lines += [f"- not measured: {fail['name']}, {fail['section']}: {fail['reason']}" for fail in results.failures]
    return "\n".join(lines).rstrip() + "\n"


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)  # so that every `finally` runs


def main(argv: list[str] | None = None) -> int:
    """Run; see the module's text for the exit codes."""
    parser = argparse.ArgumentParser(prog="python -m bench.leftovers", description="Measure what flows back.")
    parser.add_argument("--rounds", type=int, default=_LEAST_ROUNDS, help="at least so many (default: 5)")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the bits, and of the order within the rounds")
    parser.add_argument("--cores", metavar="A,B", help="sender's and receiver's core (default: two that share nothing)")
    parser.add_argument("--only", action="append", metavar="NAME", help="ways whose name contains NAME")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/threat-model.md")
    arguments = parser.parse_args(argv)
    ways = [way for way in WAYS if not arguments.only or any(part in way.key for part in arguments.only)]
    if arguments.rounds < _LEAST_ROUNDS or not ways:
        parser.error(f"nothing to measure: no way has such a name, or fewer than {_LEAST_ROUNDS} rounds")
    if arguments.write_docs and arguments.only:
        parser.error("the page has all ways: --write-docs goes without --only")
    signal.signal(signal.SIGTERM, _terminate)
    load = machine.load()
    try:
        results = Rounds(ways, arguments.rounds, machine.place(arguments.cores, 5.0), arguments.seed).all_rounds()
    except KeyboardInterrupt:
        print("bench.leftovers: interrupted; nothing was written", file=sys.stderr)
        return 130
    facts = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.describe(), "load": load,
        "seed": arguments.seed, "rounds": results.rounds,
    }  # fmt: skip
    text = fragment(results, facts, ways)
    if arguments.write_docs and not results.failures:
        document = {**facts, "results": results.as_json(), "failures": results.failures}
        report.write(OUT, json.dumps(document, indent=1) + "\n")
        report.into_page(PAGE, text, MARKS)
    print(text, end="")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
