# SPDX-License-Identifier: Apache-2.0
"""What a filter's stage does with messages, in the order that survives a kill, and several steps at a time.

Owns that order.  Messages are taken into a batch (`held.py`) and finished towards their sender; judged; the intent is
noted (`intents.py`); what is refused is kept, all is logged, and the log is on disk; then what passes is sent.  Before
the intent nothing was done, and a successor judges anew; after it everything is decided, and a successor does the rest.

While one batch is judged, or its log is brought to the disk, the next is taken and handed to the filter: no more than
two are in hand.  fsync(2) alone has a thread; all the rest happens in the main thread.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from sipc.errors import QuarantineFull, RemoteProtocolError, SipcError, SpecError
from sipc.guard.audit import Audit
from sipc.guard.chain import Entry
from sipc.guard.filters import Filter
from sipc.guard.held import Batch, Held
from sipc.guard.inputs import Arrival, Inputs
from sipc.guard.intents import Intent, Intents
from sipc.guard.outputs import Outputs
from sipc.guard.quarantine import QuarantineStore
from sipc.guard.status import Status
from sipc.guard.stopping import Stopping
from sipc.guard.verdicts import Code, MessageId, Pass, Quarantine, Verdict
from sipc.receiver import Receiver

__all__ = ("FilterFailed", "Filtering", "Judged")

# A batch takes no more when it has so much; and a part of one is passed on when so much was judged of it, so that a
# slow filter's work is lost to a kill for about a second at most.
_BATCH_BYTES, _PART_RECORDS, _PART_SECONDS = 8 << 20, 8192, 1.0
_IN_HAND = 2  # batches
_AS_IT_CAME: tuple[Code, str | None] = (Code.PASS, "")


class FilterFailed(Exception):
    """The filter could not be started; no message was judged."""


class Judged:
    """A filter's three ways out for a message, beside its outputs: quarantine, audit, counters."""

    def __init__(
        self, judge: Filter, audit: Audit, store: QuarantineStore | None, status: Status, names: Mapping[str, str],
        audited: Entry | None,
    ) -> None:  # fmt: skip
        """`audited`: the last entry about messages that a predecessor made; `names`: channels as registered."""
        self._filter = judge
        self._audit = audit
        self._store = store
        self._status = status
        self._names = names
        self._audited = audited

    def submit(self, messages: Sequence[bytes]) -> None:
        """Begin to judge these."""
        try:
            self._filter.submit(messages)
        except SipcError as error:
            raise FilterFailed(str(error)) from error

    def collect(self) -> list[Verdict]:
        """The filter's verdicts on what comes next of them: a part, at least one."""
        try:
            return self._filter.collect(most=_BATCH_BYTES, seconds=_PART_SECONDS)
        except SipcError as error:
            raise FilterFailed(str(error)) from error

    def settle(self, batch: Batch, first: int, verdicts: Sequence[Verdict]) -> None:
        """Keep what is refused, and log all of it; what was logged already is not done again."""
        new = first
        entry, channel = self._audited, self._names[batch.channel]
        if entry is not None and entry.channel == channel and int(entry.epoch, 16) == batch.epoch:
            seq, record, count = entry.blocks[-1]
            new = max(first, batch.place_of(seq, record + count))
        fates = [
            _AS_IT_CAME if type(verdict) is Pass and verdict.payload is data else _fate(verdict)
            for data, verdict in zip(batch.messages[new : first + len(verdicts)], verdicts[new - first :], strict=True)
        ]
        start = new
        for fate, alike in groupby(fates):
            end = start + len(list(alike))
            self._run(batch, channel, start, verdicts[start - first : end - first], fate)
            start = end

    def _run(
        self, batch: Batch, channel: str, start: int, verdicts: Sequence[Verdict], fate: tuple[Code, str | None]
    ) -> None:
        """Messages that fare alike."""
        code, reason = fate
        done = len(verdicts)
        try:
            if code is Code.QUARANTINE:
                done = 0
                for seq, record, count in batch.blocks_of(start, start + len(verdicts)):
                    for number in range(record, record + count):
                        identity = MessageId(epoch=batch.epoch, seq=seq, record=number)
                        self._keep(batch.messages[start + done], identity, channel, verdicts[done])
                        done += 1
        finally:  # what is in safety is logged, whatever became of the rest
            self._audit.record(
                batch.messages[start : start + done], batch.blocks_of(start, start + done), channel=channel,
                epoch=batch.epoch, verdict=code, reason=reason or "",
                passed=[one.payload for one in verdicts if isinstance(one, Pass)] if reason is None else (),
            )  # fmt: skip
        self._status.verdicts[code] += len(verdicts)
        self._status.touch()

    def sync(self) -> None:
        """Bring to disk what was logged."""
        self._audit.sync()

    def _keep(self, data: bytes, identity: MessageId, channel: str, verdict: Verdict) -> None:
        if not isinstance(verdict, Quarantine):
            raise TypeError(f"{type(verdict).__name__} is nothing to keep")
        if self._store is None:
            raise QuarantineFull(
                "the filter refused a message, and the stage has no quarantine to keep it in: the message is not "
                "finished: write quarantine = { directory = PATH } into the guard file, and start the stage again"
            )
        if self._store.keep(data, identity, channel=channel, reason=verdict.reason, detail=verdict.detail):
            self._status.quarantined += 1


def _fate(verdict: Verdict) -> tuple[Code, str | None]:
    """What messages must have in common to be logged together; the reason is None for one that was changed."""
    if isinstance(verdict, Pass):
        return Code.PASS, None
    return Code.QUARANTINE if isinstance(verdict, Quarantine) else Code.DROP, verdict.reason


class Filtering:
    """The work of a filter's stage, from its ends opened to all streams ended."""

    def __init__(
        self, receivers: Mapping[str, Receiver], inputs: Inputs, judged: Judged, outputs: Outputs, held: Held,
        intents: Intents, stop: Stopping, report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._receivers = receivers
        self._inputs = inputs
        self._judged = judged
        self._outputs = outputs
        self._held = held
        self._intents = intents
        self._stop = stop
        self._report = report
        self._batches: deque[Batch] = deque()  # handed to the filter, oldest first
        self._have = {name: held.newest(name, end.epoch) for name, end in receivers.items()}
        self._syncing = ThreadPoolExecutor(1, "sync", _leave_signals)

    def finish_taken(self) -> None:
        """Finish the blocks that a predecessor took and was killed before it finished; before inputs are waited for.

        Else others could come first, and take their place in the files of batches: a block that comes when nobody knows
        any more that it was taken is taken twice.
        """
        for name, receiver in self._receivers.items():
            if self._have[name] > (receiver.last_seq or 0):
                with suppress(RemoteProtocolError):  # it is raised again, when what is in hand was passed on
                    receiver._finish_unseen()

    def run(self) -> None:
        """Until all inputs have ended, and everything was passed on."""
        try:
            self._take_up()
            while True:
                if not self._batches and not self._gather(self._inputs.next):
                    return
                self._pass_on(self._batches[0])
                self._held.done(self._batches.popleft())
        finally:
            self._syncing.shutdown()

    def _take_up(self) -> None:
        """Go on with what a predecessor had in hand."""
        if not self._held.check({end.epoch for end in self._receivers.values()}):
            self._report("note: what was in hand when the power failed is given up with the channel that it came from")
        last = self._intents.last
        for batch in self._held.pending:
            receiver = self._receivers.get(batch.channel)
            if receiver is None or receiver.epoch != batch.epoch:
                self._report(
                    f"note: {len(batch.messages)} messages of {batch.channel} were in hand when that channel was made "
                    "anew: they are given up with the rest of what was in it"
                )
            elif last is not None and (last.batch, last.epoch) == (batch.number, batch.epoch):
                if len(last.verdicts) != last.end - last.first:
                    raise SpecError(
                        f"the intent about batch {batch.number} in hand is of more messages than that has: was one of "
                        "them changed? Remove held.* and intent.* in the state directory, and nothing else; then what "
                        "was in hand may be lost, or come twice"
                    )
                intent = replace(last, marks=self._outputs.resumed(last.payloads, last.marks))
                self._intents.write(intent)
                self._log(batch, intent.first, intent.verdicts)
                self._judged.sync()
                with self._stop:
                    self._outputs.send(intent.payloads, intent.marks)
                self._submit(batch, intent.end)
                continue
            else:
                self._submit(batch, 0)
                continue
            self._held.done(batch)

    def _submit(self, batch: Batch, start: int) -> None:
        """Hand a batch to the filter, in parts so that it judges the next one while this one is passed on."""
        self._batches.append(batch)
        batch.judged = start
        for at in range(start, len(batch.messages), _PART_RECORDS):
            self._judged.submit(batch.messages[at : at + _PART_RECORDS])

    def _gather(self, take: Callable[[], Arrival | None]) -> bool:
        """Take what is there into a new batch, and hand it to the filter; whether anything was."""
        arrival = take()
        batch: Batch | None = None
        while arrival is not None:
            if arrival.seq > self._have[arrival.channel]:
                if batch is None:
                    batch = self._held.begin(arrival.channel, arrival.receiver.epoch)
                self._held.add(batch, arrival.seq, arrival.record, arrival.messages)
                self._have[arrival.channel] = arrival.seq
            # Else a predecessor was killed when it had taken this one, and not finished it: see `finish_taken`.
            self._inputs.finish(arrival)
            if batch is None:
                arrival = take()
                continue
            if batch.size >= _BATCH_BYTES or len(batch.messages) >= _PART_RECORDS:
                break
            arrival = self._inputs.next_now(batch.channel)
        if batch is None:
            return False
        self._submit(batch, 0)
        return True

    def _pass_on(self, batch: Batch) -> None:
        """One batch, in parts as the filter judges it."""
        while batch.judged < len(batch.messages):
            self._stop.check()
            verdicts = self._judged.collect()
            first, end = batch.judged, batch.judged + len(verdicts)
            intent = Intent(
                batch=batch.number, epoch=batch.epoch, first=first, end=end, given=batch.messages[first:end],
                verdicts=tuple(verdicts), marks=self._outputs.marks(),
                over=self._intents.last.over if self._intents.last is not None else {},
            )  # fmt: skip
            self._intents.write(intent)
            payloads = intent.payloads
            self._log(batch, first, verdicts)
            synced = self._syncing.submit(self._judged.sync)
            try:
                if len(self._batches) < _IN_HAND:
                    self._gather(self._inputs.next_now)
            finally:
                synced.result()
            with self._stop:
                self._outputs.send(payloads, intent.marks)
            batch.judged = end

    def _log(self, batch: Batch, first: int, verdicts: Sequence[Verdict]) -> None:
        """What was logged before something failed is on the disk all the same; else it is still to be synced."""
        try:
            self._judged.settle(batch, first, verdicts)
        except BaseException:
            self._judged.sync()
            raise


def _leave_signals() -> None:
    """They are the main thread's: one that came here would not end what that waits for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGALRM))
