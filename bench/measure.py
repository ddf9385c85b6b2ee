# SPDX-License-Identifier: Apache-2.0
"""The two measurements a contestant can take: throughput and one-way latency.

Throughput: the receiver reads the clock after the warm-up messages and again after the last one, so opening,
connecting and first page faults are outside.  Latency: the sender puts the clock into a 64-byte message about
every millisecond, and the receiver, blocked since the one before, subtracts it from its own reading; Linux
has one monotonic clock for all processes.
"""

from __future__ import annotations

import struct
import time
from typing import cast

from bench.contest import KIB, MIB, Contestant
from bench.harness import Place, run_pair

_STAMP = struct.Struct("<q56x")
_FIRST_GUESS = {64: 2000, 4 * KIB: 2000, 64 * KIB: 500, MIB: 60, 16 * MIB: 6}
_LEAST = 8  # messages in a timed stretch, however slow
_WARM_LATENCIES = 20


def throughput(contestant: Contestant, size: int, count: int, place: Place) -> float:
    """Seconds for `count` messages after a warm-up of an eighth of them."""
    warm = max(4, count // 8)

    def send() -> None:
        contestant.give(warm + count)

    def receive() -> float:
        contestant.take(warm)
        start = time.perf_counter()
        contestant.take(count)
        end = time.perf_counter()
        contestant.check()
        return end - start

    return cast("float", run_pair(contestant, size, send, receive, place)[1])


def calibrate(contestant: Contestant, size: int, seconds: float, place: Place) -> int:
    """How many messages take about `seconds`; also each contestant's first, unrecorded run."""
    count = _FIRST_GUESS.get(size, 100)
    for _ in range(5):
        took = max(throughput(contestant, size, count, place), 1e-6)
        if took > seconds / 2:
            break
        count = int(count * min(50.0, seconds / took)) + 1
    return max(_LEAST, int(count * seconds / took))


def latency(contestant: Contestant, count: int, gap: float, place: Place) -> list[int]:
    """Nanoseconds from before sending to after receiving, for `count` messages `gap` seconds apart."""

    def send() -> None:
        clock, pack, give = time.perf_counter_ns, _STAMP.pack, contestant.give_one
        for _ in range(_WARM_LATENCIES + count):
            time.sleep(gap)
            give(pack(clock()))

    def receive() -> list[int]:
        clock, unpack, take = time.perf_counter_ns, _STAMP.unpack, contestant.take_one
        values = []
        for _ in range(_WARM_LATENCIES + count):
            data = take()
            values.append(clock() - unpack(data)[0])
        return values[_WARM_LATENCIES:]

    return cast("list[int]", run_pair(contestant, _STAMP.size, send, receive, place)[1])
