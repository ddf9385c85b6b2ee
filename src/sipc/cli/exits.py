# SPDX-License-Identifier: Apache-2.0
"""What the exit codes mean, and which error ends in which."""

from __future__ import annotations

import enum

from sipc.errors import Broken, ChannelExists, ChannelNotFound, SipcError, SpecError, Timeout

__all__ = ("EPILOG", "Exit", "code_of")


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    NO = 1
    USAGE = 2
    BAD_INPUT = 3
    REFUSED = 4
    TIMEOUT = 5
    BUG = 70
    INTERRUPTED = 130


EPILOG = (
    "Exit codes: 0 yes; 1 the answer is no, or the stream was cut; 2 usage; 3 bad input; "
    "4 the environment refused; 5 timeout; 70 a bug in sipc; 130 interrupted."
)
_CODES: tuple[tuple[type[SipcError], Exit], ...] = (
    (SpecError, Exit.BAD_INPUT),
    (ChannelNotFound, Exit.BAD_INPUT),
    (ChannelExists, Exit.BAD_INPUT),
    (Timeout, Exit.TIMEOUT),
    (Broken, Exit.NO),
    (SipcError, Exit.REFUSED),
)


def code_of(error: SipcError) -> Exit:
    """The exit code for one of our errors."""
    return next(code for kind, code in _CODES if isinstance(error, kind))
