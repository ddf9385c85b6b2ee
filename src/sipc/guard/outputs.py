# SPDX-License-Identifier: Apache-2.0
"""What goes out: the same messages to every channel that leads from a stage, each exactly once.

Owns the comparison that makes it so: an intent has the number of each output's newest block from before, the channel
knows the number of its newest block now, and how messages become blocks depends on nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sipc.guard.intents import Mark, already_sent
from sipc.guard.status import Counts, Status
from sipc.sender import Sender

__all__ = ("Outputs",)


class Outputs:
    """The sending ends of one stage."""

    def __init__(self, senders: Mapping[str, Sender], counts: Mapping[str, Counts], status: Status) -> None:
        self._senders = senders
        self._counts = counts
        self._status = status

    @property
    def first(self) -> Sender:
        """The first of them."""
        return next(iter(self._senders.values()))

    @property
    def epoch(self) -> int:
        """That of the first output: by it and `seq` the messages of a source are told apart."""
        return self.first.epoch

    @property
    def seq(self) -> int:
        """The block of the first output that comes next."""
        return self.first.last_seq + 1

    @property
    def largest(self) -> int:
        """Bytes of the largest message that every output takes."""
        return min(sender.spec.max_message for sender in self._senders.values())

    def marks(self) -> dict[str, Mark]:
        """Where the outputs stand: to be noted before anything is sent."""
        return {name: Mark(epoch=sender.epoch, before=sender.last_seq) for name, sender in self._senders.items()}

    def resumed(self, messages: Sequence[bytes], marks: Mapping[str, Mark]) -> dict[str, Mark]:
        """Where the outputs stand, of messages that a predecessor was sending: to be noted before the rest is sent.

        An output that was created anew since has none of them that counts: what it had is gone.
        """
        now = {}
        for name, sender in self._senders.items():
            start, mark = 0, marks.get(name)
            if mark is not None:
                start = mark.start
                if mark.epoch == sender.epoch:
                    start += already_sent(sender, messages[start:], sender.last_seq - mark.before)
            now[name] = Mark(epoch=sender.epoch, before=sender.last_seq, start=start)
        return now

    def send(self, messages: Sequence[bytes], marks: Mapping[str, Mark]) -> None:
        """Send to each output what it does not have."""
        for name, sender in self._senders.items():
            rest = messages[marks[name].start :]
            if not rest:
                continue
            counts = self._counts[name]
            began = time.monotonic()
            try:
                sender.send_many(rest)
            finally:
                counts.blocked += time.monotonic() - began
            counts.messages += len(rest)
            counts.bytes += sum(map(len, rest))
            self._status.touch()

    def closed_since(self, marks: Mapping[str, Mark]) -> set[str]:
        """Outputs whose stream a predecessor closed after its newest intent."""
        closed = set()
        for name, sender in self._senders.items():
            mark = marks.get(name)
            before = mark.before if mark is not None and mark.epoch == sender.epoch else 0
            if sender.resumption.in_order and sender.last_seq > before:
                closed.add(name)
        return closed

    def close(self, closed: set[str]) -> None:
        """Close every stream in order, but for those that a predecessor `closed` and that had nothing since."""
        for name, sender in self._senders.items():
            if name in closed and sender.last_seq == sender.resumption.last_seq:
                sender._announce(None)  # perhaps its end was committed and not announced
            else:
                sender.close()

    def leave(self) -> None:
        """Let go without a word, as a kill would: a successor goes on with the stream."""
        for sender in self._senders.values():
            if not sender.closed:
                sender._let_go("its stage has stopped")
