# SPDX-License-Identifier: Apache-2.0
"""What becomes of a guard when one of its stages ends: one table, without a process in it.

A stage's exit code says what happened; who must act, and how, stands in the guard file.  The stage itself decides
nothing about others.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from sipc.guard.model import Guard, OnQuarantineFull, OnViolation
from sipc.guard.stage import StageExit

__all__ = ("Act", "Ending", "StartLimit", "act_on", "ended_in_order")


class Act(enum.Enum):
    """What the supervisor does."""

    LEAVE = enum.auto()  # the stage stays ended, the others go on
    RESTART = enum.auto()
    STOP_SENDER = enum.auto()  # those who send to the stage
    STOP_GUARD = enum.auto()


class Ending(enum.IntEnum):
    """How a run of a guard ended; the numbers are the command line's exit codes."""

    OK = 0  # every stage ended with 0
    ALARM = 1  # a stage broke the protocol, or a quarantine is full
    BAD_FILE = 3
    REFUSED = 4  # refused by the environment or a policy, or a stage that ended too often
    BUG = 70
    INTERRUPTED = 130


_ON_VIOLATION = {
    OnViolation.STOP_SENDER: Act.STOP_SENDER,
    OnViolation.STOP_GUARD: Act.STOP_GUARD,
    OnViolation.LOG: Act.LEAVE,
}
_ON_FULL = {OnQuarantineFull.STOP_STAGE: Act.LEAVE, OnQuarantineFull.STOP_GUARD: Act.STOP_GUARD}


def act_on(code: int, guard: Guard) -> tuple[Act, Ending, str]:
    """What to do about a stage that ended with `code` (minus a signal) unasked, how the run ends then, and why."""
    if code < 0 or code == StageExit.TEMPORARY:
        return Act.RESTART, Ending.OK, "temporary" if code == StageExit.TEMPORARY else "killed"
    if code == StageExit.VIOLATED:
        return _ON_VIOLATION[guard.on_violation], Ending.ALARM, "violation"
    if code == StageExit.FULL:
        return _ON_FULL[guard.on_quarantine_full], Ending.ALARM, "quarantine-full"
    table: dict[int, tuple[Act, Ending, str]] = {
        StageExit.ENDED: (Act.LEAVE, Ending.OK, "done"),
        StageExit.STOPPED: (Act.LEAVE, Ending.INTERRUPTED, "stopped"),
        StageExit.BAD_FILE: (Act.STOP_GUARD, Ending.BAD_FILE, "bad-file"),
        StageExit.REFUSED: (Act.STOP_GUARD, Ending.REFUSED, "refused"),
    }
    return table.get(code, (Act.STOP_GUARD, Ending.BUG, "unexpected"))


def ended_in_order(code: int) -> bool:
    """Whether a stage that ended with `code` has nothing in hand that it would have to take up again."""
    return code in (StageExit.ENDED, StageExit.STOPPED)


@dataclass(slots=True, kw_only=True)
class StartLimit:
    """At most `burst` starts within `interval` seconds, as systemd counts them (StartLimitBurst=, systemd.unit(5))."""

    burst: int
    interval: float
    _starts: deque[float] = field(default_factory=deque)

    def allows(self, now: float) -> bool:
        """Whether one more start is allowed at `now`; if so it is counted."""
        while self._starts and now - self._starts[0] >= self.interval:
            self._starts.popleft()
        if len(self._starts) >= self.burst:
            return False
        self._starts.append(now)
        return True
