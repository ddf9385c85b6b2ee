# SPDX-License-Identifier: Apache-2.0
"""What a contestant is: one way to move messages from a sender process to a receiver process.

Two copies are the rule for all of them: the sender copies out of a private buffer (always the same one,
filled with random bytes), and the receiver ends with the message in memory of its own.  Which memory that is,
a new bytes object or one preallocated buffer, `private` says; each contestant uses what suits it best.

Must not know processes, clocks or statistics: `harness.py` forks, `measure.py` times, `stats.py` counts.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

KIB, MIB = 1 << 10, 1 << 20
SIZES = (64, 4 * KIB, 64 * KIB, MIB, 16 * MIB)
SLOT_SIZE = 256 * KIB
# A message that fits in one slot becomes a bytes object; a larger one goes into a preallocated buffer: a new
# 16 MiB object for every message measures the page faults of the allocator, not the transport.
BYTES_UP_TO = SLOT_SIZE


def size_label(size: int) -> str:
    """64 -> '64 B', 4096 -> '4 KiB'."""
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


@cache
def payload(size: int) -> bytes:
    """The message of this size: random (no page is the kernel's one zero page), known to both ends."""
    return random.Random(size).randbytes(size)


def spans(size: int, limit: int) -> list[tuple[int, int]]:
    """(start, end) of the parts of a message when one part may have at most `limit` bytes."""
    return [(start, min(start + limit, size)) for start in range(0, size, limit)]


class Contestant(ABC):
    """One transport.

    The parent calls `setup` and `teardown`; one child calls `open_sender` and `give`, the other
    `open_receiver` and `take`; each calls `close` at the end.  `teardown` may be called at any time and more
    than once.
    """

    private = "bytes"
    both_cores = False  # its own threads share the work: let each end use both cores

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.got: bytes | memoryview = b""
        self.undo = ExitStack()

    def why_not(self, size: int) -> str | None:
        """Why messages of this size are impossible here, or None."""
        del size
        return None

    def use(self, size: int) -> None:
        """Fix the message size; sets `private`."""
        self.size = size
        self.private = "bytes" if size <= BYTES_UP_TO else "buffer"

    def prepare(self, size: int) -> None:
        """Make the objects both children inherit or find, in the parent."""
        self.use(size)
        payload(size)
        self.setup()

    def removing(self, remove: Callable[[], object]) -> None:
        """Have `remove` called at teardown, latest first."""
        self.undo.callback(remove)

    @abstractmethod
    def setup(self) -> None:
        """Make what both ends need; every kernel object goes through `removing` at once."""

    def teardown(self) -> None:
        """Remove everything `setup` made."""
        self.undo.close()

    @abstractmethod
    def open_sender(self) -> None:
        """Open the sending end, in the sender's process; the receiver is open by then."""

    @abstractmethod
    def open_receiver(self) -> None:
        """Open the receiving end, in the receiver's process."""

    @abstractmethod
    def give(self, count: int) -> None:
        """Send the payload `count` times."""

    @abstractmethod
    def take(self, count: int) -> None:
        """Receive `count` messages, each into private memory; leave the last one in `got`."""

    def give_one(self, data: bytes) -> None:
        """Send this message now (latency)."""
        raise NotImplementedError(self.name)

    def take_one(self) -> bytes:
        """Wait for one message (latency)."""
        raise NotImplementedError(self.name)

    def close(self) -> None:  # noqa: B027 - the end of the process closes most of them
        """Close this end, in its own process."""

    def check(self) -> None:
        """Whether the last message arrived whole."""
        if self.got != payload(self.size):
            raise RuntimeError(f"{self.name}: the last message is not the one that was sent")


class Private:
    """Bytes of the sender's own: a copy made after the fork, so no page is shared with the receiver."""

    @staticmethod
    def message(size: int) -> bytes:
        """The payload as this process's own bytes."""
        return bytes(bytearray(payload(size)))

    @staticmethod
    def buffer(size: int) -> memoryview:
        """A preallocated, touched buffer."""
        return memoryview(bytearray(size))
