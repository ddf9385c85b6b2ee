# SPDX-License-Identifier: Apache-2.0
"""The examples' filters in the process that a stage runs them in: as their guard files say, with input as it comes.

`tests/unit/guard/test_example_json.py` and `test_example_log.py` call them directly.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.orders import BAD, CANONICAL, changed

from sipc.guard.filters import PythonFilter
from sipc.guard.verdicts import Pass, Quarantine, Reason

pytestmark = pytest.mark.host

EXAMPLES = Path(__file__).parents[3] / "examples"
LINE = b"<34>1 2024-05-17T09:30:00Z host su 77 - - text\n"
EPOCH = b"<14>1 1970-01-01T00:00:00.000000Z - - - - -\n"
# What no limit of a channel has kept away: the filter itself has to say no, in its time and its memory.
HUGE: dict[str, bytes] = {
    "100 MB": b"\0" * 100_000_000,
    "100 MB of white space around an order": b" " * 50_000_000 + CANONICAL + b" " * 50_000_000,
    "an order and 100 MB": CANONICAL + b"x" * 100_000_000,
    "a million arrays": b"[" * 1_000_000 + b"]" * 1_000_000,
    "a million objects": b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000,
    "a number of 10 MB": b"9" * 10_000_000,
    "a line of 10 MB": b"<34>1 - - - - - - " + b"x" * 10_000_000 + b"\n",
}


def filter_of(name: str, function: str | None = None) -> PythonFilter:
    """As a stage makes it from the guard file: nothing is given that does not stand there."""
    table: dict[str, Any] = tomllib.loads((EXAMPLES / name / "guard.toml").read_text())["stage"]["scrub"]["filter"]
    assert set(table) == {"python", "timeout"}
    return PythonFilter(function or table["python"], timeout=table["timeout"], path=[EXAMPLES / name])


@pytest.fixture(scope="module")
def orders() -> Iterator[PythonFilter]:
    with filter_of("json_guard") as judge:
        yield judge


def test_good_orders_pass_in_one_spelling(orders: PythonFilter) -> None:
    """What is passed is the canonical form, byte by byte."""
    for message in (changed(), CANONICAL, changed(order="Z-9", note="")):
        verdict = orders.judge(message)
        assert isinstance(verdict, Pass)
        assert orders.judge(verdict.payload) == verdict
    assert orders.judge(changed()) == Pass(CANONICAL)


@pytest.mark.parametrize("name", BAD)
def test_bad_orders_are_quarantined_by_their_reason(orders: PythonFilter, name: str) -> None:
    """The reason that is logged is the filter's own, and the next order passes."""
    message, reason = BAD[name]
    verdict = orders.judge(message)
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == reason
    assert orders.judge(changed()) == Pass(CANONICAL)


def test_a_reason_that_stands_in_the_order_is_logged_as_filter(orders: PythonFilter) -> None:
    """It could be the order's word and not the filter's; the detail has it."""
    verdict = orders.judge(changed(note="what a sum", total=1))
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == Reason.FILTER
    assert verdict.detail.startswith("reason: sum; total is 1")


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize(
    ("example", "function", "good", "passed"),
    [
        ("json_guard", None, changed(), CANONICAL),
        ("log_diode", None, LINE, LINE),
        ("log_diode", "log_diode:journal", b'{"__REALTIME_TIMESTAMP":"0"}\n', EPOCH),
    ],
    ids=["orders", "lines", "journal"],
)  # fmt: skip
def test_whatever_is_huge_is_refused_by_the_filter_itself(
    example: str, function: str | None, good: bytes, passed: bytes, name: str
) -> None:
    """By its own word, not by running out of time or memory; and the same process judges the next message."""
    with filter_of(example, function) as judge:
        judge.timeout = 60.0  # of a loaded machine
        assert judge.judge(good) == Pass(passed)
        before = judge._child
        verdict = judge.judge(HUGE[name])
        assert isinstance(verdict, Quarantine)
        assert verdict.reason not in {Reason.TIMEOUT, Reason.DIED, Reason.EXCEPTION, Reason.OUTPUT}
        assert verdict.reason in {"size", "batch-size"}
        assert judge.judge(good) == Pass(passed)
        assert judge._child is before


def test_random_bytes_never_pass(orders: PythonFilter) -> None:
    """Of any length; and none of them ends the process."""
    with filter_of("log_diode") as judge:
        for length in (0, 1, 2, 3, 7, 64, 4096, 65536, 65537, 1 << 20, (1 << 20) + 1):
            message = os.urandom(length)
            for one in (orders, judge):
                verdict = one.judge(message)
                assert isinstance(verdict, Quarantine)
                assert verdict.reason not in set(Reason)


def test_what_logger_writes_passes_as_it_is(tmp_path: Path) -> None:
    """Lines of a program that is not ours (logger(1) of util-linux), as a syslog daemon gets them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon, filter_of("log_diode") as judge:
        daemon.bind(str(tmp_path / "log"))
        for options in ([], ["--id=7", "-t", "app", "-p", "auth.err"], ["--sd-id", "x@1", "--sd-param", r'k="a\"b\]"']):
            subprocess.run(
                ["logger", "-u", tmp_path / "log", "--socket-errors=on", "--rfc5424", *options, "--", "text [x] €"],
                check=True, timeout=60,
            )  # fmt: skip
            line = daemon.recv(65536).rstrip(b"\0\n") + b"\n"
            assert line.startswith(b"<")
            assert judge.judge(line) == Pass(line)


def test_a_terminals_escape_does_not_come_out() -> None:
    """Neither as one byte nor as two, from either kind of log."""
    for function, message in (
        (None, LINE[:-1] + b"\x1b[2J\x9b\xc2\x9b\r\n"),
        ("log_diode:journal", b'{"__REALTIME_TIMESTAMP":"0","MESSAGE":"\\u001b[2J","SYSLOG_IDENTIFIER":"\\u009b"}\n'),
    ):
        with filter_of("log_diode", function) as judge:
            verdict = judge.judge(message)
            assert isinstance(verdict, Pass)
            assert verdict.payload.decode().removesuffix("\n").isprintable()
            assert rb"\x1b[2J" in verdict.payload
