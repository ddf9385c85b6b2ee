# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT: a stage ends where it can go on later, and nowhere else.

Owns the two signals of the process.  In a `with` of the one `Stopping` the signal ends what is waited for, at once;
elsewhere the stage goes on to the next such place.  The places are those after which a successor finds all it needs:
waiting for a message, and sending what an intent was noted for.
"""

from __future__ import annotations

import signal
from typing import Self

__all__ = ("Stopped", "Stopping")


class Stopped(BaseException):
    """The stage was asked to stop, and can."""


class Stopping:
    """Whether the stage was asked to stop; a context in which it does so at once."""

    def __init__(self) -> None:
        self.asked = False
        self._may = False

    def listen(self) -> None:
        """Take the signals.  For the main thread alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask())

    def _ask(self) -> None:
        self.asked = True
        if self._may:
            self._may = False
            raise Stopped

    def check(self) -> None:
        """Raise `Stopped` when the stage was asked to stop."""
        if self.asked:
            raise Stopped

    def __enter__(self) -> Self:
        self._may = True
        if self.asked:
            self._may = False  # no second time: whoever is told closes up, and can not be interrupted in that
            raise Stopped
        return self

    def __exit__(self, *exc: object) -> None:
        self._may = False
