# SPDX-License-Identifier: Apache-2.0
"""The targets, and whether one run reached them.

Each target is a set of parts (sizes, geometries); it is met when every part was measured in every round and
is met, and the worst part is shown.  "os.pipe" means the plain contestant of that name; ratios are paired,
see `stats.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.contest import KIB, MIB, SIZES, size_label
from bench.stats import Results, Summary, summarize

BACKENDS = ("sysv", "posix")
GEOMETRIES = ("4/2", "3/1", "1/1")
DEFAULT = "sipc sysv 4/2"
LARGE = [size for size in SIZES if size >= 64 * KIB]
SMALL = [size for size in SIZES if size < 64 * KIB]
PIPES = ("os.pipe, 64 KiB reads", "os.pipe, 64 B reads")
SMALL_FILE, LARGE_FILE = 64 * MIB, 1 << 30
Found = dict[str, Summary | None]  # what a target's parts were measured at
_FLAT_KIB = 4 * KIB  # more for 1 GiB than for 64 MiB; the allocator's noise measures well under 1 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One comparison of a target."""

    label: str
    value: float
    low: float
    high: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise: `sign` is ">=", "<=" or "<", `bound` in `unit`; `missing` parts lack a round or all."""

    title: str
    sign: str
    bound: float
    unit: str
    parts: list[Part]
    missing: list[str]

    @property
    def met(self) -> bool | None:
        """True or False; None when no part missed but not all were measured."""
        if not all(part.met for part in self.parts):
            return False
        return None if self.missing else True

    @property
    def worst(self) -> Part | None:
        """The part nearest to a miss, or farthest past it."""
        if not self.parts:
            return None
        ordered = sorted(self.parts, key=lambda part: part.value)
        return ordered[0] if self.sign == ">=" else ordered[-1]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        parts = [{key: getattr(part, key) for key in Part.__slots__} for part in self.parts]
        keys = ("title", "sign", "bound", "unit", "met", "missing")
        return {**{key: getattr(self, key) for key in keys}, "parts": parts}


def _target(title: str, sign: str, bound: float, unit: str, found: Found, *, rounds: int) -> Target:
    parts, missing = [], []
    for label, summary in found.items():
        if summary is None or summary.rounds < rounds:
            missing.append(label)
        else:
            value = summary.median
            met = {">=": value >= bound, "<=": value <= bound, "<": value < bound}[sign]
            parts.append(Part(label=label, value=value, low=summary.low, high=summary.high, met=met))
    return Target(title=title, sign=sign, bound=bound, unit=unit, parts=parts, missing=missing)


def _against_bare(results: Results, sizes: list[int]) -> Found:
    return {
        f"{backend} {geometry}, {size_label(size)}": results.ratio(
            "throughput", (f"sipc {backend} {geometry}", str(size)), (f"bare {backend} {geometry}", str(size))
        )
        for backend in BACKENDS
        for geometry in GEOMETRIES
        for size in sizes
    }


def _against(results: Results, peer: str) -> Found:
    return {size_label(size): results.ratio("throughput", (DEFAULT, str(size)), (peer, str(size))) for size in LARGE}


def _records(results: Results) -> Found:
    found: Found = {}
    for backend in BACKENDS:
        ours = f"sipc {backend} 4/2, send_many"
        for pipe in PIPES:
            found[f"{backend}, {pipe}"] = results.ratio("records", (ours, "64"), (pipe, "64"))
    return found


def _latency(results: Results) -> Found:
    return {
        backend: results.ratio("latency", (f"sipc {backend} 4/2", "p50"), ("os.pipe", "p50")) for backend in BACKENDS
    }


def _memory(results: Results) -> Found:
    found: Found = {}
    for program in ("sipc send", "sipc recv"):
        found[program] = None
        small = results.values("memory", program, str(SMALL_FILE))
        large = results.values("memory", program, str(LARGE_FILE))
        if small and large:
            more = max(large) - min(small)
            found[program] = Summary(median=more, low=more, high=more, iqr=0.0, rounds=results.rounds)
    return found


def _start(results: Results) -> Found:
    rows = results.series.get("start", {})
    pairs = zip(rows.get("import sipc", {}).get("s", []), rows.get("bare Python", {}).get("s", []), strict=False)
    more = [(ours - theirs) * 1000 for ours, theirs in pairs if ours is not None and theirs is not None]
    return {"import sipc": summarize(more) if more else None}


def judge(results: Results) -> list[Target]:
    """Every target, in the order the table shows them."""
    file_ratio = results.ratio("file", ("cat FILE | cat", str(LARGE_FILE)), ("sipc send, sipc recv", str(LARGE_FILE)))
    target = partial(_target, rounds=results.rounds)
    return [
        target("bare loop, same geometry, from 64 KiB up", ">=", 0.9, "x", _against_bare(results, LARGE)),
        target("bare loop, same geometry, below 64 KiB", ">=", 0.7, "x", _against_bare(results, SMALL)),
        target("os.pipe, from 64 KiB up", ">=", 3.0, "x", _against(results, "os.pipe")),
        target("ZeroMQ ipc, from 64 KiB up", ">=", 2.0, "x", _against(results, "ZeroMQ ipc")),
        target("iceoryx2, from 64 KiB up", ">=", 1.0, "x", _against(results, "iceoryx2, polling")),
        target("send_many, 64-byte records, against one os.pipe write each", ">=", 2.5, "x", _records(results)),
        target("latency p50 against os.pipe", "<=", 1.3, "x", _latency(results)),
        target("1 GiB: sipc send, sipc recv against cat FILE | cat", ">=", 1.0, "x", {"1 GiB": file_ratio}),
        target("memory for 1 GiB above that for 64 MiB", "<=", _FLAT_KIB, "KiB", _memory(results)),
        target("import sipc above bare Python", "<", 60.0, "ms", _start(results)),
    ]
