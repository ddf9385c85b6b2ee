# SPDX-License-Identifier: Apache-2.0
"""What a stage has left in its directories, read by whoever runs the guard.

A stage may be hostile: little is read, nothing is followed, and what makes no sense says nothing.  What a stage can
gain by a lie here is at most what it can do anyway: lose what it was given, send it twice, or accuse who sends to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from sipc.errors import SpecError
from sipc.guard.chain import MAX_LINE, decode
from sipc.guard.model import AuditPlace, Medium, Source, Stage
from sipc.guard.places import Places
from sipc.guard.rules import ended_in_order
from sipc.guard.sources import in_hand
from sipc.guard.stage import AUDIT, LAST, StageExit

__all__ = ("accused", "cursor_of", "is_unfinished")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def cursor_of(place: Places, channel: str) -> Path:
    """Where a stage keeps how far it has come with a channel that it receives from."""
    return place.state / f"{channel}.cursor"


def accused(place: Places, audit: AuditPlace) -> str:
    """The channel of which a stage's log says last that its sender broke the protocol; "" when it does not say."""
    try:
        fd = os.open(place.state / (AUDIT if audit is AuditPlace.FILE else LAST), _READ)
        try:
            data = os.pread(fd, MAX_LINE, max(0, os.fstat(fd).st_size - MAX_LINE))
        finally:
            os.close(fd)
        entry = decode(data.splitlines(keepends=True)[-1])
    except (OSError, SpecError, LookupError):
        return ""
    return entry.channel if entry.verdict == "violation" else ""


def is_unfinished(stage: Stage, code: int) -> bool:
    """Whether a stage that ended so has to take up something that it may have sent on the channels as they are."""
    work = stage.work
    if not isinstance(work, Source) or not ended_in_order(code):
        return not ended_in_order(code)
    try:
        if work.medium is Medium.DIRECTORY and work.path is not None:
            return in_hand(work.path)
    except OSError:
        return True
    return work.medium is Medium.FILE and code != StageExit.ENDED
