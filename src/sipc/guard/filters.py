# SPDX-License-Identifier: Apache-2.0
"""Filters: message bytes in, one verdict out, whatever the filter does.

Owns two of the three kinds (a command for each message, a command that stays; the third, a Python function, is
`python_filter.py`) and the rule that they share: only an explicit, whole and timely pass is a pass.  An exception, a
timeout, a death, a value of another type, garbage, too much output: each is a `Quarantine`, the process is killed with
its group, and the next message meets a new one.  An error is raised only when no filter can be started; then no message
was judged.

No filter runs in the stage's process: a C loop does not see a signal's handler, and only SIGKILL ends `while True`.
Being started by exec it has no segment mapped and no queue open, and sees only the bytes it is given.
"""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from sipc.errors import SpecError
from sipc.guard.filter_base import DEFAULT_OUTPUT, DEFAULT_TIMEOUT, WORDS, Filter, FilterBase, said
from sipc.guard.framing import message, too_long
from sipc.guard.process import Child, End, environment
from sipc.guard.python_filter import PythonFilter
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Reason, Verdict

__all__ = ("CommandFilter", "Filter", "PersistentFilter", "PythonFilter")


class _Command(FilterBase, ABC):
    """What commands share; each kind says how one is asked."""

    @abstractmethod
    def judge(self, data: bytes) -> Verdict:
        """The command's verdict, or `Quarantine`."""

    def judge_many(self, messages: Sequence[bytes]) -> list[Verdict]:
        """The command's verdict on each."""
        return [self.judge(data) for data in messages]

    def submit(self, messages: Sequence[bytes]) -> None:
        """Take messages; a command sees each when its verdict is collected."""
        self._submitted.append(deque(messages))

    def collect(self, *, most: int | None = None, seconds: float | None = None) -> list[Verdict]:
        """The verdicts on what was submitted first: all, or some, as `PythonFilter.collect` gives them."""
        if not self._submitted:
            raise SpecError(f"filter {self.what}: nothing was submitted that could be collected")
        left, found, held = self._submitted[0], list[Verdict](), 0
        until = None if seconds is None else time.monotonic() + seconds
        while left:
            verdict = self.judge(left[0])
            left.popleft()
            found.append(verdict)
            held += len(verdict.payload) if isinstance(verdict, Pass) else 0
            if (most is not None and held >= most) or (until is not None and time.monotonic() >= until):
                break
        if not left:
            self._submitted.popleft()
        return found

    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = DEFAULT_OUTPUT,
        variables: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        """Check `argv`; no shell is involved.

        `timeout` is in seconds for one message, `variables` are added to a short list of ours, `directory` is where it
        runs.  Raises `SpecError` when there is no such command.
        """
        if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
            raise SpecError(f"filter: command must be a list of words, for example ['/usr/bin/jq', '.'], not {argv!r}")
        super().__init__(" ".join(argv), timeout, max_output)
        found = shutil.which(argv[0])
        if found is None:
            raise SpecError(f"filter {argv[0]}: there is no such command that this user may run: name it by its path")
        self._submitted: deque[deque[bytes]] = deque()
        self._argv = [str(Path(found).absolute()), *argv[1:]]
        self._variables = environment(variables)
        self._directory = None if directory is None else os.fspath(directory)

    def _start(self) -> Child:
        return Child(self._argv, variables=self._variables, directory=self._directory)


class CommandFilter(_Command):
    """A command that is started for each message.

    The message is on stdin, what to pass on stdout, the verdict is the exit code (`Code`).  Everything else is a
    quarantine, and so is a pass without a single byte: a command that did nothing looks like that.
    """

    def judge(self, data: bytes) -> Verdict:
        """The command's verdict, or `Quarantine`; its last words on stderr are the detail."""
        child = self._child = self._start()
        try:
            done = child.exchange(data, timeout=self.timeout, limit=self.max_output, complete=None)
        finally:
            self.close()
        if done.end is not End.EXITED:
            return self._failed(done, child.returncode)
        if child.returncode == Code.PASS:
            if done.output:
                return Pass(done.output)
            return Quarantine(Reason.NO_OUTPUT, said("it said pass, and nothing to pass", done.errors))
        if child.returncode == Code.DROP:
            return Drop()
        if child.returncode == Code.QUARANTINE:
            return Quarantine(Reason.FILTER, done.errors)
        if child.returncode is None or child.returncode < 0:
            return self._failed(done, child.returncode)
        return Quarantine(Reason.EXIT, said(f"exit code {child.returncode}", done.errors))


class PersistentFilter(_Command):
    """A command that is started once and answers messages as frames (`framing.py`)."""

    def judge(self, data: bytes) -> Verdict:
        """The command's verdict, or `Quarantine`."""
        too_long(data)
        if self._child is not None and (unasked := self._child.unasked()) != b"":
            self.close()
            if unasked is not None:
                return Quarantine(Reason.FRAMING, f"it said {len(unasked)} bytes before it was asked")
        if self._child is None:
            self._child = self._start()
        answer = self._framed(self._child, message(data), self.max_output)
        if isinstance(answer, Quarantine):
            return answer
        code, payload = answer
        if code is Code.PASS:
            return Pass(payload)
        return Drop() if code is Code.DROP else Quarantine(Reason.FILTER, payload[:WORDS].decode(errors="replace"))
