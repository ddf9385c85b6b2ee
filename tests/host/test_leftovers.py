# SPDX-License-Identifier: Apache-2.0
"""The ways back, played for real: what is named open carries, what a filter closes is refused, nothing stays behind.

What carries by time is not played here but step by step: no test depends on how fast this machine is.
"""

from __future__ import annotations

import ctypes
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.harness import Failed, Place
from bench.leftover_ways import NOTHING, WAYS, Confined, Mode, Received, Run, Way, library
from tests.host.conftest import kernel_objects

from sipc.spec import Role

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
SHOWING = [way for way in WAYS if way.mode is Mode.SHOWS]
FILLED = next(way for way in WAYS if "all filled" in way.name)
REFUSED = {  # way: who is refused when the receiver has a filter, and when both have one
    "futex_woken": ("receiver: EPERM", "sender: EPERM"),
    "futex_counted": ("receiver: EPERM", "sender: EPERM"),
    "pages_resident": ("", "sender: EPERM"),
    "last_receiver": ("", "sender: EPERM"),
}


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither objects nor files: the directory for temporary ones is this test's own."""
    before = kernel_objects()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert kernel_objects() <= before
    assert list(tmp_path.iterdir()) == []


def play(way: Way, confined: Confined) -> tuple[tuple[int, ...], Received]:
    """Random symbols, the same every time; where both ends run is the scheduler's."""
    run = Run.drawn(way, way.settings[0], confined, 64, random.Random(7))
    return run.sent, run.run(Place(sender_core=None, receiver_core=None, deadline=60))


@pytest.mark.parametrize("way", [way for way in SHOWING if way is not FILLED], ids=lambda way: way.key)
def test_what_is_open_without_a_filter_carries(way: Way) -> None:
    """Every symbol that came is the one that was sent."""
    sent, seen = play(way, Confined.NONE)
    assert seen.refused == ""
    assert seen.symbols
    assert seen.symbols == sent[: len(seen.symbols)]


@pytest.mark.parametrize("confined", [Confined.RECEIVER, Confined.BOTH])
@pytest.mark.parametrize("way", [way for way in SHOWING if way is not FILLED], ids=lambda way: way.key)
def test_what_a_filter_closes_is_refused_and_what_it_does_not_close_carries_on(way: Way, confined: Confined) -> None:
    """EPERM for the end that the page names, and not one symbol; else what came is what was sent."""
    refused = REFUSED.get(way.function, ("", ""))[confined is Confined.BOTH]
    sent, seen = play(way, confined)
    # A refused sender stops at once, and then the receiver may not have got to its call.
    assert seen.refused in ({refused, f"receiver: EPERM, {refused}"} if refused else {""})
    assert bool(seen.symbols) == (not refused)
    assert seen.symbols == sent[: len(seen.symbols)]
    filters = "seccomp" if confined is Confined.BOTH else "either end"
    assert bool(refused) == (filters in way.closed_by)


def test_filled_pages_tell_nothing() -> None:
    """The sender sees the same whatever the receiver reads: every page."""
    _, seen = play(FILLED, Confined.NONE)
    assert set(seen.symbols) == {(1 << 62) - 1}


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way.mode is not Mode.SHOWS], ids=lambda way: f"{way.key}, {way.mode.name}"
)
def test_one_turn_of_what_carries_by_time(way: Way) -> None:
    """Nothing shows until the receiver acts; then the sender sees it once, and all is as before."""
    run = Run(way, way.settings[0], Confined.NONE, [])
    run.prepare(0)
    try:
        ends = [run.opened(Role.SENDER), run.opened(Role.RECEIVER)]
        name = way.function.encode()
        sender, receiver = map(ctypes.byref, ends)
        zero = 0 if way.mode is Mode.SAMPLED else NOTHING
        for turn, symbol in enumerate((0, 1, 1, 0, 1), start=1):
            assert library().leftover_reset(name, sender) == 0
            if way.mode is not Mode.SAMPLED:  # that one holds from turn to turn
                assert library().leftover_look(name, sender, turn) == NOTHING
            assert library().leftover_act(name, receiver, turn, symbol) == 0
            assert library().leftover_look(name, sender, turn) == (symbol or zero)
    finally:
        run.teardown()


def test_a_run_that_hangs_is_ended_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its deadline both ends are killed, and the objects removed."""
    monkeypatch.setattr(Run, "look", lambda _: signal.pause())
    run = Run(SHOWING[0], SHOWING[0].settings[0], Confined.NONE, [1] * 8)
    with pytest.raises(Failed, match="did not say 'done' in time"):
        run.run(Place(sender_core=None, receiver_core=None, deadline=1))


def test_the_program_that_is_ended_leaves_nothing() -> None:
    """SIGTERM in the middle: no object, no file, no process."""
    argv = [sys.executable, "-m", "bench.leftovers", "--only", "msg_lrpid", "--rounds", "1000"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.readline() == "round 1\n"
        program.terminate()
        out, _ = program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM
    assert out == ""
