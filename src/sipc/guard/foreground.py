# SPDX-License-Identifier: Apache-2.0
"""What a process needs that looks after others in the foreground: signals as events, orphans, foreign words in a log.

Knows nothing of guards.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

__all__ = ("Interrupts", "Strays", "lines_of")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_prctl = ctypes.CDLL(None).prctl
_LONGEST_LINE = 2000  # characters of one line of a stage's in the log
_ROUNDS = 64  # each takes one generation of orphans; who makes them faster than that is left to who runs us
_WAIT = 10_000  # milliseconds until a killed process that the kernel can not end (disk, NFS) is left alone


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP, counted and polled for while this is open; one that is ignored stays so (nohup)."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _nothing)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reading)
        os.close(self._writing)

    def fileno(self) -> int:
        """A descriptor that polls readable when one came."""
        return self._reading

    def take(self) -> list[signal.Signals]:
        """Those that came since the last call."""
        with suppress(BlockingIOError):
            # Python writes the number of every signal that has a handler: other code's too.
            return [signal.Signals(number) for number in os.read(self._reading, 256) if number in self._before]
        return []


def _nothing(number: int, frame: FrameType | None) -> None:
    del number, frame  # the wakeup descriptor has it


class Strays:
    """While this is open, descendants whose parents ended become our children, and `clear` ends them.

    A filter's program may leave its process group and outlive its stage; then nobody else is there to end it.  Source:
    prctl(2), PR_SET_CHILD_SUBREAPER.  On a kernel without /proc/PID/task/TID/children none are found.
    """

    def __enter__(self) -> Self:
        value = ctypes.c_int(0)
        _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0)
        self._before = value.value
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(self, *exc: object) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, self._before, 0, 0, 0)

    def clear(self, known: set[int]) -> list[int]:
        """Kill and reap every child that is not `known`, and what it leaves behind; returns who was alive."""
        killed: list[int] = []
        for _ in range(_ROUNDS):
            found = _children() - known
            if not found:
                break
            killed += [pid for pid in found if _end(pid)]
        return killed


def _children() -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            found |= set(map(int, (task / "children").read_text(encoding="ascii").split()))
    return found


def _end(pid: int) -> bool:
    """Kill and reap a child of ours: until then its number is nobody else's."""
    if os.waitpid(pid, os.WNOHANG)[0]:
        return False
    pidfd = os.pidfd_open(pid)
    try:
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(_WAIT):
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return True


def lines_of(held: bytes, piece: bytes) -> tuple[list[str], bytes]:
    """The whole lines of what another process says, fit to be shown; and what is held until its line is whole.

    An end (`piece` empty) makes a line whole, and so does its length.  What a terminal would obey is spelled out.
    """
    *whole, rest = (held + piece).split(b"\n")
    if rest and (not piece or len(rest) > _LONGEST_LINE):
        whole, rest = [*whole, rest], b""
    texts = (line.decode(errors="replace").rstrip("\r")[:_LONGEST_LINE] for line in whole)
    return ["".join(map(_shown, text)) for text in texts if text], rest


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
