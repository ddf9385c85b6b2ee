# SPDX-License-Identifier: Apache-2.0
"""What a stage's end means for its guard: every exit code under every policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.guards import SMALL

from sipc.cli.exits import Exit
from sipc.guard.config import read
from sipc.guard.model import Guard, OnQuarantineFull, OnViolation
from sipc.guard.rules import Act, Ending, StartLimit, act_on, ended_in_order
from sipc.guard.stage import StageExit


def small(violation: OnViolation = OnViolation.LOG, full: OnQuarantineFull = OnQuarantineFull.STOP_STAGE) -> Guard:
    """A guard with these policies."""
    guard, _ = read(SMALL, "F")
    assert guard is not None
    return replace(guard, on_violation=violation, on_quarantine_full=full)


@pytest.mark.parametrize("violation", OnViolation)
@pytest.mark.parametrize("full", OnQuarantineFull)
@pytest.mark.parametrize(
    ("code", "act", "ending"),
    [
        (0, Act.LEAVE, Ending.OK),
        (-9, Act.RESTART, Ending.OK),
        (-11, Act.RESTART, Ending.OK),
        (75, Act.RESTART, Ending.OK),
        (3, Act.STOP_GUARD, Ending.BAD_FILE),
        (4, Act.STOP_GUARD, Ending.REFUSED),
        (130, Act.LEAVE, Ending.INTERRUPTED),
        (1, Act.STOP_GUARD, Ending.BUG),
        (70, Act.STOP_GUARD, Ending.BUG),
        (255, Act.STOP_GUARD, Ending.BUG),
    ],
)
def test_most_ends_mean_the_same_in_every_guard(
    code: int, act: Act, ending: Ending, violation: OnViolation, full: OnQuarantineFull
) -> None:
    """Only deaths and what is temporary are reasons to start again; what is unknown stops the guard."""
    assert act_on(code, small(violation, full))[:2] == (act, ending)


@pytest.mark.parametrize(
    ("policy", "act"),
    [
        (OnViolation.STOP_SENDER, Act.STOP_SENDER),
        (OnViolation.STOP_GUARD, Act.STOP_GUARD),
        (OnViolation.LOG, Act.LEAVE),
    ],
)
def test_a_violation_is_for_the_guard_file_to_judge(policy: OnViolation, act: Act) -> None:
    """And an alarm whatever it says."""
    assert act_on(StageExit.VIOLATED, small(violation=policy))[:2] == (act, Ending.ALARM)


@pytest.mark.parametrize(
    ("policy", "act"),
    [(OnQuarantineFull.STOP_STAGE, Act.LEAVE), (OnQuarantineFull.STOP_GUARD, Act.STOP_GUARD)],
)
def test_a_full_quarantine_is_for_the_guard_file_to_judge(policy: OnQuarantineFull, act: Act) -> None:
    """And an alarm whatever it says."""
    assert act_on(StageExit.FULL, small(full=policy))[:2] == (act, Ending.ALARM)


@given(code=st.integers(-64, 255))
def test_only_those_that_ended_in_order_have_nothing_to_take_up(code: int) -> None:
    """For every code there could be."""
    assert ended_in_order(code) == (code in (0, 130))


def test_a_run_ends_with_an_exit_code_of_the_command_line() -> None:
    """The guard may not import these, and says the same."""
    assert {int(ending) for ending in Ending} <= {int(code) for code in Exit}
    same = {Ending.BAD_FILE: Exit.BAD_INPUT, Ending.REFUSED: Exit.REFUSED, Ending.INTERRUPTED: Exit.INTERRUPTED}
    assert all(int(ending) == int(code) for ending, code in same.items())


@given(
    burst=st.integers(1, 6), interval=st.integers(0, 20),
    gaps=st.lists(st.integers(0, 10), min_size=1, max_size=40),
)  # fmt: skip
def test_no_interval_has_more_starts_than_it_may(burst: int, interval: int, gaps: list[int]) -> None:
    """And a start is refused only when an interval would."""
    limit = StartLimit(burst=burst, interval=interval)
    now, allowed = 0, list[int]()
    for gap in gaps:
        now += gap
        recent = [at for at in allowed if now - at < interval]
        expected = len(recent) < burst
        assert limit.allows(now) is expected
        if expected:
            allowed.append(now)
