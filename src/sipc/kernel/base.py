# SPDX-License-Identifier: Apache-2.0
"""What every backend offers, and how all of them wait.

Owns the interface and the meaning of time: `timeout=None` waits for ever, `0` does not wait, else seconds.
Must not know the protocol.  One conformance kit in `tests/host/test_kernel.py` runs over every backend.
"""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sipc.errors import Broken, Denied, SipcError, SpecError
from sipc.spec import Role

__all__ = ("SPINS", "KernelObjects", "KeyTaken", "Keys", "Memory", "Queue", "attempt", "backoff", "lost", "squatted")

# A peer that is running answers within microseconds, and being put to sleep and woken costs more than that (a
# factor of four in throughput at small blocks, measured): so a wait begins with this many bare attempts of about
# a microsecond each.  More gain nothing, and where blocks come from memory rather than a cache, 16 and more cost
# up to a third (measured, `bench/`).  On a single core the peer can not run meanwhile, so there it does not.
SPINS = 4 if len(os.sched_getaffinity(0)) > 1 else 1
# A timed wait on System V has to poll: msgsnd(2) and msgrcv(2) know no timeout.  It backs off to 2 ms, which
# costs under 1 % of a core.
_FIRST_PAUSE = 50e-6
_LONGEST_PAUSE = 2e-3


class KeyTaken(SipcError):
    """An object with this key exists already; the creator picks another key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where a channel's objects are found: System V keys as decimal strings, or POSIX names."""

    queue: str
    segment: str | None


def backoff(deadline: float) -> Iterator[float]:
    """Pauses in seconds between attempts until `deadline`; ends when it has passed."""
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


class Memory(abc.ABC):
    """One attached segment.

    `view` is a flat byte memoryview of exactly the size asked for, read-only for a receiver.
    """

    view: memoryview

    @abc.abstractmethod
    def close(self) -> None:
        """Release `view` and detach; the mapping itself lives until the last view derived from it is gone."""


class Queue(abc.ABC):
    """One open end of a queue.  A sender's end can not receive, and the other way round."""

    @abc.abstractmethod
    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        """Put one message; False when there was no room in time.  Raises `Broken` once the queue is removed."""

    def send_noted(self, message: bytes, kind: int, receipt: list[None]) -> None:
        """Put one message, however long that takes, and put an item into `receipt` exactly when it was accepted.

        That holds when a signal handler raises out of this call too, where the backend can make it so (System V):
        for wires whose messages carry no number, by which a receiver would know one that comes twice.
        """
        if self.send(message, kind, None):
            receipt.append(None)

    @abc.abstractmethod
    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        """Take one message as (bytes, System V type or None); None when none came in time.

        Until `done()` is called, the same message is returned again: a Python signal handler that raises
        between the system call and the caller's next line can then not lose it.
        """

    @abc.abstractmethod
    def done(self) -> None:
        """The message last received has been taken care of."""

    def last_sender(self) -> tuple[int, int] | None:
        """(pid, second since 1970) of the last message that anybody put; None when there was none.

        Never called unless a caller asks by name, and never under SELinux: looking at an object is a way back (IPC_STAT
        shows more than this).  Raises `SpecError` where the kernel does not tell.
        """
        raise SpecError("only System V queues tell who sent last: use backend = 'sysv', or no peer policy")

    def fileno(self) -> int | None:
        """A descriptor to poll for readiness, None where the kernel has none (System V)."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the queue; it goes on existing."""


class KernelObjects(abc.ABC):
    """Creation, opening and removal of one backend's queues and segments."""

    @abc.abstractmethod
    def new_keys(self, *, segment: bool) -> Keys:
        """Random keys (from `secrets`), not yet known to be free."""

    @abc.abstractmethod
    def create_queue(self, key: str, *, messages: int, message_size: int) -> None:
        """Make a queue, exclusively, that holds `messages` of `message_size` bytes.  Raises `KeyTaken`."""

    @abc.abstractmethod
    def create_segment(self, key: str, size: int) -> Memory:
        """Make a segment, exclusively, of `size` bytes, attached for writing.  Raises `KeyTaken`."""

    @abc.abstractmethod
    def give_queue(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        """Set the queue's owner, group (None: leave) and mode."""

    @abc.abstractmethod
    def give_segment(self, key: str, uid: int | None, gid: int | None, mode: int) -> None:
        """Set the segment's owner, group (None: leave) and mode."""

    @abc.abstractmethod
    def remove(self, keys: Keys) -> bool:
        """Remove both objects, waking or breaking whoever uses them; returns whether any existed."""

    @abc.abstractmethod
    def open_queue(self, key: str, role: Role, *, message_size: int, memory: Memory | None) -> Queue:
        """Open one end.  `memory` is the channel's segment, where a backend watches for its removal."""

    @abc.abstractmethod
    def open_segment(self, key: str, role: Role, size: int) -> Memory | None:
        """Attach a segment of at least `size` bytes; None when no segment has this key (yet)."""

    @abc.abstractmethod
    def own_segment(
        self, key: str, size: int, *, gid: int | None, mode: int, known: int
    ) -> tuple[Memory, int, bool]:
        """The sender's own segment under the published key: the one it made before, or a new one.

        `known` is the number this returned in an earlier process, 0 for none.  Returns (memory, number, made).
        Raises `Denied` when the key is taken by a segment that this sender did not make, `Broken` when the one it
        made is gone: its blocks are counted, so a new one can not take its place within the epoch.
        """


def squatted(key: str) -> Denied:
    """The error for a key that somebody else has put a segment under."""
    return Denied(
        f"segment {key}: there is a segment under this channel's key that this sender has no note of making (a "
        "stranger's, or an earlier sender was killed while making it): create the channel anew (sipc create --replace)"
    )


def lost(key: str) -> Broken:
    """The error for a sender's own segment that somebody removed."""
    return Broken(f"segment {key} was removed: create the channel anew (sipc create --replace)")


def attempt(try_once: Callable[[], bool], timeout: float) -> bool:
    """Call `try_once` until it is true or `timeout` seconds are over."""
    for pause in backoff(time.monotonic() + timeout):
        time.sleep(pause)
        if try_once():
            return True
    return False
