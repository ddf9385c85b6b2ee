# SPDX-License-Identifier: Apache-2.0
"""What comes in: the next messages of any of a stage's channels, waited for in the kernel.

Owns waiting.  With one channel the stage's own thread waits in the queue.  With several a thread waits in each queue,
hands over what came, and stops until that is finished; the stage takes what was handed over in the order of arrival.
So every channel has at most one block in hand that is not finished, and nothing polls.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sipc.errors import EndOfStream, SipcError
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
        self._turns: dict[str, threading.Semaphore] = {}  # of the inputs that have a thread
        self._alone: str | None = None  # the one input that has none
        self._failed: BaseException | None = None

    def begin(self, ended: set[str]) -> None:
        """Take what comes, but not from inputs whose streams have `ended`."""
        left = [name for name in self._receivers if name not in ended]
        if len(left) < 2:
            self._alone = left[0] if left else None
            return
        for name in left:
            self._turns[name] = threading.Semaphore(0)
            waiting = threading.Thread(target=self._wait, args=(name,), daemon=True, name=f"wait for {name}")
            waiting.start()

    def next(self) -> Arrival | None:
        """What comes next, to be finished before the next is asked for; None when all streams have ended."""
        if self._failed is not None:
            raise self._failed
        if self._alone is not None:
            return self._from(self._alone)
        while self._turns:
            with self._waiting():
                name, got = self._handed.get()
            if not isinstance(got, BaseException):
                return self._counted(got)
            if not isinstance(got, EndOfStream):
                raise got
            del self._turns[name]
        return None

    def next_now(self, only: str | None = None) -> Arrival | None:
        """What has come already, if anything has; whatever else there is, `next` says.

        `only`: of this channel alone, of which one was just finished.
        """
        if self._alone is not None:
            try:
                return self._counted(self._next(self._alone, 0))
            except SipcError:
                return None  # it is raised again
        if only is not None:
            return None  # its thread has begun to wait again; others come first
        while self._turns and self._failed is None:
            try:
                name, got = self._handed.get_nowait()
            except queue.Empty:
                return None
            if not isinstance(got, BaseException):
                return self._counted(got)
            if isinstance(got, EndOfStream):
                del self._turns[name]
            else:
                self._failed = got
        return None

    def finish(self, arrival: Arrival) -> None:
        """Its messages are in safety, or done with: its sender may go on."""
        arrival.receiver.finish()
        if arrival.channel in self._turns:
            self._turns[arrival.channel].release()

    def arrivals(self, *, first: str | None, ended: set[str]) -> Iterator[Arrival]:
        """Everything that comes, until all streams have ended; each is finished when the next is asked for.

        `first` is the channel whose block a predecessor had in hand: it comes before all others.  Those `ended` are not
        waited for.
        """
        left = self._receivers.keys() - ended
        if first in left and len(left) > 1 and self._receivers[first].spec.transport is Transport.SEGMENT:
            arrival = self._from(first)
            if arrival is None:
                ended = {*ended, first}
            else:
                yield arrival
                self.finish(arrival)
        self.begin(ended)
        while (arrival := self.next()) is not None:
            yield arrival
            self.finish(arrival)

    def _from(self, name: str) -> Arrival | None:
        try:
            with self._waiting(), self._counts[name]:
                arrival = self._next(name, None)
        except EndOfStream:
            return None
        return self._counted(arrival)

    def _next(self, name: str, timeout: float | None) -> Arrival:
        receiver = self._receivers[name]
        messages = receiver.receive_many(timeout) if self._packed else [receiver.receive(timeout)]
        record = receiver.record + 1 - len(messages)
        seq = (receiver.last_seq or 0) + 1
        return Arrival(channel=name, receiver=receiver, seq=seq, record=record, messages=messages)

    def _wait(self, name: str) -> None:
        """The thread of one channel."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGALRM))  # the main thread's
        turn = self._turns[name]
        try:
            while True:
                with self._counts[name]:
                    arrival = self._next(name, None)
                self._handed.put((name, arrival))
                turn.acquire()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread is told
            self._handed.put((name, error))

    def _counted(self, arrival: Arrival) -> Arrival:
        counts = self._counts[arrival.channel]
        counts.messages += len(arrival.messages)
        counts.bytes += sum(map(len, arrival.messages))
        self._status.state = StageState.RUNNING
        self._status.touch()
        return arrival

    def _waiting(self) -> Stopping:
        self._status.state = StageState.WAITING
        return self._stop
