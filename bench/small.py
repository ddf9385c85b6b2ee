# SPDX-License-Identifier: Apache-2.0
"""64-byte messages per second through one os.pipe write each: what `send_many` is compared with.

The reader either makes one bytes object per message, as `receive_many` does, or reads 64 KiB at a time and
does not split them at all, which is generous to the pipe.  The target is judged against both.
"""

from __future__ import annotations

import os

from bench.contest import KIB, Contestant
from bench.peers import OsPipe

RECORD = 64
_CHUNK = 64 * KIB


class BulkRead(OsPipe):
    """One write per message, 64 KiB per read."""

    def __init__(self) -> None:
        super().__init__("os.pipe, 64 KiB reads")
        self.over = 0

    def take(self, count: int) -> None:
        read, fd = os.read, self.reader
        have, chunk, want = self.over, b"", count * self.size
        while have < want:
            chunk = read(fd, _CHUNK)
            have += len(chunk)
        self.over = have - want
        if chunk:
            # A read may end inside a message: turn the last 64 bytes back to the start of one.
            inside = have % self.size
            self.got = (chunk[-self.size :] * 2)[self.size - inside : 2 * self.size - inside]


def contestants() -> list[Contestant]:
    """Both readers."""
    return [BulkRead(), OsPipe("os.pipe, 64 B reads")]
