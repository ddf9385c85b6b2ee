# SPDX-License-Identifier: Apache-2.0
"""What comes in: the next messages of any of a stage's channels, waited for in the kernel.

Owns waiting.  With one channel the stage's own thread waits in the queue.  With several a thread waits in each queue,
hands over what came, and stops until that is finished; the stage takes what was handed over in the order of arrival.
So every channel has at most one block in hand, nothing polls, and everything but waiting happens in the main thread.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sipc.errors import EndOfStream
from sipc.guard.status import Counts, StageState, Status
from sipc.guard.stopping import Stopping
from sipc.receiver import Receiver
from sipc.spec import Transport

__all__ = ("Arrival", "Inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Messages of one block of one channel; `record` is the place in the block of the first."""

    channel: str
    receiver: Receiver
    seq: int
    record: int
    messages: list[bytes]


class Inputs:
    """The receiving ends of one stage."""

    def __init__(
        self, receivers: Mapping[str, Receiver], counts: Mapping[str, Counts], status: Status, stop: Stopping,
        *, packed: bool,
    ) -> None:  # fmt: skip
        """`packed`: all messages of a block at once, else one by one."""
        self._receivers = receivers
        self._counts = counts
        self._status = status
        self._stop = stop
        self._packed = packed
        self._handed: queue.SimpleQueue[tuple[str, Arrival | BaseException]] = queue.SimpleQueue()
        self._turns = {name: threading.Semaphore(0) for name in receivers}

    def arrivals(self, *, first: str | None, ended: set[str]) -> Iterator[Arrival]:
        """Everything that comes, until all streams have ended; each is finished when the next is asked for.

        `first` is the channel whose block a predecessor had in hand: it comes before all others.  Those `ended` are not
        waited for.
        """
        left = {name: receiver for name, receiver in self._receivers.items() if name not in ended}
        if first in left and len(left) > 1 and left[first].spec.transport is Transport.SEGMENT:
            arrival = self._alone(left[first], first)
            if arrival is None:
                del left[first]
            else:
                yield arrival
                left[first].finish()
        if len(left) == 1:
            ((name, receiver),) = left.items()
            while (arrival := self._alone(receiver, name)) is not None:
                yield arrival
                receiver.finish()
            return
        for name, receiver in left.items():
            threading.Thread(target=self._wait, args=(name, receiver), daemon=True, name=f"wait for {name}").start()
        while left:
            with self._waiting():
                name, got = self._handed.get()
            if isinstance(got, EndOfStream):
                del left[name]
            elif isinstance(got, BaseException):
                raise got
            else:
                self._count(got)
                yield got
                got.receiver.finish()
                self._turns[name].release()

    def _alone(self, receiver: Receiver, name: str) -> Arrival | None:
        try:
            with self._waiting():
                began = time.monotonic()
                try:
                    arrival = self._next(name, receiver)
                finally:
                    self._counts[name].blocked += time.monotonic() - began
        except EndOfStream:
            return None
        self._count(arrival)
        return arrival

    def _next(self, name: str, receiver: Receiver) -> Arrival:
        messages = receiver.receive_many() if self._packed else [receiver.receive()]
        record = receiver.record + 1 - len(messages)
        seq = (receiver.last_seq or 0) + 1
        return Arrival(channel=name, receiver=receiver, seq=seq, record=record, messages=messages)

    def _wait(self, name: str, receiver: Receiver) -> None:
        """The thread of one channel."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGALRM))  # the main thread's
        try:
            while True:
                began = time.monotonic()
                arrival = self._next(name, receiver)
                self._counts[name].blocked += time.monotonic() - began
                self._handed.put((name, arrival))
                self._turns[name].acquire()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread is told
            self._handed.put((name, error))

    def _count(self, arrival: Arrival) -> None:
        counts = self._counts[arrival.channel]
        counts.messages += len(arrival.messages)
        counts.bytes += sum(map(len, arrival.messages))
        self._status.state = StageState.RUNNING
        self._status.touch()

    def _waiting(self) -> Stopping:
        self._status.state = StageState.WAITING
        return self._stop
