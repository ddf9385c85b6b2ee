# SPDX-License-Identifier: Apache-2.0
"""What every kind of filter has: a name, limits, a process that is there or not, and one way to fail.

Owns the interface that a stage uses, and the exchange of one frame for another with the process.  The kinds are in
`filters.py` and `python_filter.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from sipc.errors import SpecError
from sipc.guard.area import TAG
from sipc.guard.framing import ANSWER, FramingError, read_answer
from sipc.guard.process import Child, End, Exchange
from sipc.guard.verdicts import Code, Quarantine, Reason, Verdict

__all__ = ("DEFAULT_OUTPUT", "DEFAULT_TIMEOUT", "WORDS", "Filter", "FilterBase", "said")

DEFAULT_TIMEOUT = 5.0
# A filter seldom makes more of a message than there was; 64 MiB is far beyond one message of most guards.
DEFAULT_OUTPUT = 64 << 20
WORDS = 8192  # room for a reason and its detail, and for why a function can not be loaded


class Filter(Protocol):
    """What a stage does with a message; one caller at a time."""

    def judge(self, data: bytes) -> Verdict:
        """The verdict on one message.  Raises `KernelError`, `SpecError` when the filter can not be started."""
        ...

    def judge_many(self, messages: Sequence[bytes]) -> list[Verdict]:
        """The verdict on each, as if they had been judged one by one."""
        ...

    def submit(self, messages: Sequence[bytes]) -> None:
        """Take messages whose verdicts will be collected."""
        ...

    def collect(self, *, most: int | None = None, seconds: float | None = None) -> list[Verdict]:
        """The verdicts on what was submitted first: all, or, within limits of bytes and time, some and at least one."""
        ...

    def close(self) -> None:
        """Kill what runs."""
        ...


class FilterBase:
    """What the kinds share: limits, and a process that is there or not."""

    def __init__(self, what: str, timeout: float, max_output: int) -> None:
        if not 0 < timeout < float("inf"):
            raise SpecError(f"filter {what}: timeout must be more than 0 seconds, not {timeout!r}, for example 5.0")
        if not 0 < max_output <= 0xFFFFFFFF - TAG:
            raise SpecError(f"filter {what}: max_output must be from 1 to {0xFFFFFFFF - TAG} bytes, not {max_output!r}")
        self.what = what
        self.timeout = timeout
        self.max_output = max_output
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _framed(self, start: Child, request: bytes, room: int) -> tuple[Code, bytes] | Quarantine:
        """One request and its answer over frames; the process is gone when the answer is a `Quarantine` of ours."""
        child = start
        answers: list[tuple[Code, bytes]] = []

        def complete(output: bytearray) -> bool:
            found = read_answer(output, room)
            answers.extend([found] if found is not None else [])
            return found is not None

        kept = False
        try:
            try:
                done = child.exchange(request, timeout=self.timeout, limit=ANSWER.size + room, complete=complete)
            except FramingError as error:
                return Quarantine(Reason.FRAMING, str(error))
            if done.end is End.ANSWERED and not done.taken:
                return Quarantine(Reason.FRAMING, "it answered before it had read the message")
            kept = done.end is End.ANSWERED
        finally:
            if not kept:
                self.close()
        return answers[0] if kept else self._failed(done, child.returncode)

    def _failed(self, done: Exchange, code: int | None) -> Quarantine:
        if done.end is End.TIMEOUT:
            return Quarantine(Reason.TIMEOUT, said(f"no answer within {self.timeout} s", done.errors))
        if done.end is End.OVERFLOW:
            return Quarantine(Reason.OUTPUT, said(f"more than {self.max_output} bytes", done.errors))
        return Quarantine(Reason.DIED, said(f"ended with {code}, without a whole answer", done.errors))


def said(what: str, errors: str) -> str:
    """A detail, with what the process said on stderr, if it did."""
    return f"{what}; it said: {errors}" if errors else what
