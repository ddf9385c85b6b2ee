# SPDX-License-Identifier: Apache-2.0
"""How a command that goes on until it is told to end is told to, by SIGTERM and SIGHUP, and hears it in time."""

from __future__ import annotations

import atexit
import signal
from types import FrameType
from typing import Never

__all__ = ("end_in_order",)

_LATEST = 1.0  # seconds until a signal is acted upon


def end_in_order() -> None:
    """Terminated, or left by its terminal, a command cleans up, and an end tells the other, as for Ctrl-C.

    What is ignored from the start stays so (nohup).  For the process's main thread, once; takes SIGALRM.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminated)
    if signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0):
        return  # an alarm that is to end this process, set by who started it
    # Python sees a signal between two of its instructions: one that comes in the last moment before a system call that
    # waits would be seen when that ends, perhaps never.  Another one ends it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _LATEST, _LATEST)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # before Python takes the handler away: it would be fatal


def _terminated(number: int, frame: FrameType | None) -> Never:
    del frame
    raise KeyboardInterrupt(signal.Signals(number).name)
