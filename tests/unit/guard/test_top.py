# SPDX-License-Identifier: Apache-2.0
"""The table: whose word each row is, how fast a channel is, and what does not fit together."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.statuses import channel, report

from sipc.guard.observe import Seen
from sipc.guard.text import cells
from sipc.guard.top import Rate, Rates, as_dict, table

CLOCK = 1_700_000_001.5


def seen(**changes: object) -> Seen:
    """Stage scrub."""
    return Seen(guard="json", stage="scrub", owner="scrub", report=report(**changes))


def at(updated: float, messages: int, **changes: object) -> list[Seen]:
    """Stage scrub, `updated` seconds after it began, with so many messages of 100 bytes."""
    raw = channel("in", messages=messages, bytes=100 * messages, blocked_seconds=updated / 4)
    return [seen(updated=1_700_000_000.0 + updated, channels={"raw": raw}, **changes)]


RAW = ("json", "scrub", "raw")


def test_the_table_has_all_that_was_asked_for() -> None:
    """Per channel messages, bytes/s, blocked time, last seq; per stage quarantine and restarts."""
    rates = {RAW: Rate(messages=2.5, bytes=3 << 20, blocked=0.25)}
    assert table([seen()], rates, CLOCK) == [
        "guard json",
        "STAGE  KIND    STATE    OWNER  RESTARTS  PASSED  DROPPED  REFUSED              QUARANTINE    WRITTEN",
        "scrub  filter  running  scrub         2       9        0        1  1: 4.0 KiB of 64.0 MiB  0.5 s ago",
        "",
        "CHANNEL  END  STAGE  MESSAGES  MSG/S  BYTES/S  BLOCKED  NOW  LAST SEQ",
        "clean    out  scrub         9      -        -    0.5 s    -        10",
        "raw      in   scrub        10    2.5  3.0 MiB    0.5 s  25%        10",
    ]


def test_who_judges_nothing_has_no_counts_of_verdicts() -> None:
    """PASSED 0 of a source would read as if nothing had come through."""
    ingest = report(stage="ingest", kind="source", verdicts={"pass": 0, "drop": 0, "quarantine": 0}, quarantine=None)
    lines = table([Seen(guard="json", stage="ingest", owner="x", report=ingest)], {}, CLOCK)
    assert lines[2].split() == ["ingest", "source", "running", "x", "2", "0.5", "s", "ago"]


def test_a_stage_without_a_status_has_a_row_with_the_reason() -> None:
    """And a guard that is not to be believed has a line."""
    lines = table([Seen(guard="json", stage="scrub", owner="scrub", problem="is no JSON")], {}, CLOCK)
    assert lines[2].split() == ["scrub", "?", "scrub", "is", "no", "JSON"]
    assert table([Seen(guard="json", stage="", problem="is bad")], {}, CLOCK)[1] == "! is bad"


def test_guards_stand_below_each_other() -> None:
    """Each with its own stages."""
    other = Seen(guard="other", stage="a", owner="a", report=report(guard="other", stage="a", channels={}))
    lines = table([seen(), other], {}, CLOCK)
    assert [line for line in lines if line.startswith("guard")] == ["guard json", "guard other"]
    assert lines[lines.index("guard other") - 1] == ""


def test_two_stages_that_say_to_be_one_end_are_shown_with_that() -> None:
    """Which of them lies can not be known here."""
    lie = report(stage="ingest", channels={"clean": channel("out")})
    liar = Seen(guard="json", stage="ingest", owner="x", report=lie)
    assert table([liar, seen()], {}, CLOCK)[-1] == (
        "! channel clean: ingest and scrub both say to be its 'out' end: one of them lies"
    )


def test_a_reason_stands_at_the_end_of_its_row() -> None:
    """Free text moves nothing else."""
    row = table([seen(state="failed", reason="the worker could not start")], {}, CLOCK)[2]
    assert row.endswith("0.5 s ago  the worker could not start")


@pytest.mark.parametrize(("ahead", "words"), [(-120, "2 min ago"), (-7200, "2 h ago"), (60, "in 60.0 s")])
def test_a_clock_is_the_stages(ahead: float, words: str) -> None:
    """It may be behind, or ahead."""
    assert words in table([seen(updated=CLOCK + ahead)], {}, CLOCK)[2]


@given(st.text(max_size=300), st.integers(1, 120), st.integers(0, (1 << 63) - 1), st.floats(0, 1e12))
def test_whatever_a_stage_says_no_line_is_longer_than_the_window(
    reason: str, width: int, number: int, time: float
) -> None:
    """And none has anything in it that a terminal obeys."""
    raw = channel("in", messages=number, bytes=number, last_seq=number, blocked_seconds=time)
    stage = seen(reason=reason, starts=number, updated=time, channels={"raw": raw})
    lines = table([stage], {RAW: Rate(messages=1e18, bytes=1e30, blocked=1)}, CLOCK, width)
    assert all(cells(line) <= width and line.isprintable() for line in lines)


# -- speeds


def test_speed_is_of_the_time_between_two_looks() -> None:
    """By the stage's clock, as long as that is no longer than ours."""
    rates = Rates()
    assert rates.take(at(1, 10), 100) == {}
    assert rates.take(at(2, 30), 101) == {RAW: Rate(messages=20, bytes=2000, blocked=0.25)}
    assert rates.take(at(2.5, 40), 101.5) == {RAW: Rate(messages=20, bytes=2000, blocked=0.25)}


def test_what_comes_after_a_pause_is_no_average_over_the_pause() -> None:
    """An idle stage writes no status; what is new then is as new as the last look."""
    rates = Rates()
    rates.take(at(1, 10), 100)
    assert rates.take(at(1, 10), 160)[RAW].messages == 0
    assert rates.take(at(62, 30), 161)[RAW].messages == 20


def test_a_stage_that_writes_nothing_keeps_its_speed_until_it_is_idle() -> None:
    """Looks may be more frequent than what is looked at."""
    rates = Rates()
    rates.take(at(1, 10), 100)
    rates.take(at(2, 30), 101)
    assert rates.take(at(2, 30), 101.3)[RAW].messages == 20
    assert rates.take(at(2, 30), 102.1)[RAW].messages == 0


@pytest.mark.parametrize(("updated", "messages"), [(2, 5), (0.5, 20), (1.001, 1_000_000)])
def test_counters_that_begin_anew_or_clocks_that_go_back_have_no_speed(updated: float, messages: int) -> None:
    """Neither a negative one nor an endless one."""
    rates = Rates()
    rates.take(at(1, 10), 100)
    assert rates.take(at(updated, messages), 101) == {}


def test_a_stage_that_was_away_begins_anew() -> None:
    """Nothing is said of the time when it was not seen."""
    rates = Rates()
    rates.take(at(1, 10), 100)
    assert rates.take([Seen(guard="json", stage="scrub", problem="is no JSON")], 101) == {}
    assert rates.take(at(3, 50), 102) == {}


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, (1 << 63) // 200)), min_size=2, max_size=6))
def test_whatever_a_stage_counts_a_speed_is_finite_and_not_below_zero(steps: list[tuple[float, int]]) -> None:
    """And blocked at most all of the time."""
    rates = Rates()
    for now, (updated, messages) in enumerate(steps):
        for rate in rates.take(at(updated, messages), now).values():
            assert 0 <= rate.messages < 1e20
            assert 0 <= rate.bytes < 1e22
            assert 0 <= rate.blocked <= 1


def test_the_object_has_the_same() -> None:
    """Versioned; a stage without a status is there with its problem."""
    document = as_dict(
        [seen(), Seen(guard="json", stage="x", problem="is no JSON")],
        {RAW: Rate(messages=1, bytes=2, blocked=0.5)}, CLOCK,
    )  # fmt: skip
    assert (document["version"], document["time"]) == (1, CLOCK)
    first, second = document["stages"]
    assert (first["guard"], first["stage"], first["owner"], first["problem"]) == ("json", "scrub", "scrub", None)
    assert (first["report"]["state"], first["report"]["restarts"]) == ("running", 2)
    raw = first["report"]["channels"]["raw"]
    assert raw == channel("in") | {"rate": {"messages": 1, "bytes": 2, "blocked": 0.5}}
    assert first["report"]["channels"]["clean"]["rate"] is None
    assert (second["report"], second["problem"], second["owner"]) == (None, "is no JSON", None)
    assert json.loads(json.dumps(document)) == document
