# SPDX-License-Identifier: Apache-2.0
"""Running the helper's `main`, or any function, in a forked process whose n-th system call fails or is met by a signal.

Owns the building of `faults.c`, its shared plan, and the report of one run.  Must not judge: what may be left
behind after which fault is the tests' to say.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sipc import helper

__all__ = ("CRASHED", "Faults", "Run", "at_every_step", "build", "with_every_failure")

CRASHED = 99  # exit code of a run out of which an exception came

_ENTRIES, _TEXT = 2048, 48
_SOURCE = Path(__file__).with_suffix(".c")


class _Entry(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint32), ("text", ctypes.c_char * _TEXT))


class _Plan(ctypes.Structure):
    """`struct plan` of faults.c."""

    _fields_ = (
        ("first", ctypes.c_uint32), ("second", ctypes.c_uint32), ("code", ctypes.c_uint32),
        ("sticky", ctypes.c_uint32), ("at", ctypes.c_uint32), ("signal", ctypes.c_uint32), ("count", ctypes.c_uint32),
        ("log", _Entry * _ENTRIES),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one run went: exit code (minus the signal's number if killed), what it said, the calls it made.

    A call is "name" or "name path"; of more calls than the log holds, the first.
    """

    code: int
    output: str
    errors: str
    calls: list[str]


def build(folder: Path) -> Path:
    """Compile faults.c."""
    library = folder / "faults.so"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-pthread", "-o", library, _SOURCE], check=True
    )
    return library


class Faults:
    """The compiled library, and a memory that each run shares with this process."""

    def __init__(self, library: Path) -> None:
        self._arm = ctypes.CDLL(str(library)).faults_arm
        self._memory = mmap.mmap(-1, ctypes.sizeof(_Plan))
        self._plan = _Plan.from_buffer(self._memory)

    def run(
        self,
        *argv: str,
        first: int = 0,
        second: int = 0,
        code: int = errno.EIO,
        sticky: bool = False,
        at: int = 0,
        number: int = signal.SIGKILL,
    ) -> Run:
        """Run the helper's `main(argv)`; see faults.c for what the numbers mean."""

        def act() -> int:
            # argparse looks for translations and the terminal's size otherwise: dozens of calls of no interest.
            os.environ.update(LANGUAGE="C", COLUMNS="80", LINES="24")
            return helper.main(list(argv))

        return self.act(act, first=first, second=second, code=code, sticky=sticky, at=at, number=number)

    def act(
        self,
        function: Callable[[], int],
        *,
        first: int = 0,
        second: int = 0,
        code: int = errno.EIO,
        sticky: bool = False,
        at: int = 0,
        number: int = signal.SIGKILL,
    ) -> Run:
        """Run any function; the process's exit code is what it returns."""
        plan = self._plan
        ctypes.memset(ctypes.addressof(plan), 0, ctypes.sizeof(plan))
        plan.first, plan.second, plan.code, plan.sticky = first, second, code, sticky
        plan.at, plan.signal = at, number
        output, errors = os.memfd_create("output"), os.memfd_create("errors")
        pid = os.fork()
        if pid == 0:
            self._child(function, output, errors)
        _, status = os.waitpid(pid, 0)
        count = min(plan.count, _ENTRIES)
        return Run(
            code=os.waitstatus_to_exitcode(status),
            output=_taken(output),
            errors=_taken(errors),
            calls=[plan.log[i].text.decode(errors="replace") or f"call {plan.log[i].number}" for i in range(count)],
        )

    def _child(self, function: Callable[[], int], output: int, errors: int) -> None:
        status = CRASHED
        try:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the two threads take turns: one core is faster
            gc.disable()  # the test process's garbage is not the helper's
            sys.stdout = os.fdopen(output, "w")
            sys.stderr = os.fdopen(errors, "w")
            refused = self._arm(ctypes.byref(self._plan))
            if refused:
                raise OSError(refused, "the kernel takes no seccomp filter with a listener")
            status = function()
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:
                os._exit(status)


def _taken(fd: int) -> str:
    with os.fdopen(fd, "r") as file:
        file.seek(0)
        return file.read()


def at_every_step(faults: Faults, function: Callable[[], int], check: Callable[[bool], None]) -> int:
    """Kill `function` before each of its system calls in turn, and `check` what is left; the last run ends by itself.

    `check` is told whether it did.  Returns how many steps there were.
    """
    for at in count(1):
        run = faults.act(function, at=at)
        assert run.code in (0, -signal.SIGKILL), run.errors
        check(run.code == 0)
        if run.code == 0:
            return at - 1
    raise AssertionError


def with_every_failure(faults: Faults, function: Callable[[], int], check: Callable[[bool], None], code: int) -> None:
    """Let each system call of `function` fail in turn; `check` is told whether it said that it went well."""
    for first in count(1):
        run = faults.act(function, first=first, code=code)
        assert run.code in (0, CRASHED), run.errors
        if run.code == CRASHED:
            assert "sipc.errors." in run.errors.splitlines()[-1], run.errors
        check(run.code == 0)
        if first > len(run.calls):
            return
