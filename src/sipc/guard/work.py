# SPDX-License-Identifier: Apache-2.0
"""What the three kinds of stages do with a message, in the order that survives a kill.

Owns that order.  A source: take, note the intent, send, let go.  A filter: receive, judge, note the intent, keep what
is refused, log, send, finish.  A sink: receive, put, finish.  Before the intent nothing was done, and a successor
judges anew; after it everything is decided, and a successor does the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from sipc.errors import Broken, EndOfStream, QuarantineFull, RemoteProtocolError, SipcError, SpecError, Timeout
from sipc.guard.audit import Audit
from sipc.guard.filters import Filter
from sipc.guard.inputs import Arrival, Inputs
from sipc.guard.intents import Intent, Intents, digest_of
from sipc.guard.outputs import Outputs
from sipc.guard.quarantine import QuarantineStore
from sipc.guard.sinks import Sink
from sipc.guard.sources import DirectorySource, FileSource, Source, StreamSource
from sipc.guard.status import StageState, Status
from sipc.guard.stopping import Stopping
from sipc.guard.verdicts import Code, MessageId, Pass, Quarantine, Verdict
from sipc.receiver import Receiver

__all__ = ("FilterFailed", "Judged", "run_filter", "run_sink", "run_source")

# A part of a block is passed on when so much was judged of it: what is held in memory and in the intent stays small
# whatever a filter makes of its records, and a slow filter's work is lost to a kill for about a second at most.
_PART_BYTES, _PART_RECORDS, _PART_SECONDS = 4 << 20, 1024, 1.0


class FilterFailed(Exception):
    """The filter could not be started; no message was judged."""


class Judged:
    """A filter's three ways out for a message, beside its outputs: quarantine, audit, counters."""

    def __init__(
        self, judge: Filter, audit: Audit, store: QuarantineStore | None, status: Status, names: Mapping[str, str],
        audited: tuple[MessageId, str] | None,
    ) -> None:  # fmt: skip
        """`audited`: the last message that a predecessor logged, and its channel; `names`: channels as registered."""
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
            return self._filter.collect(most=_PART_BYTES, seconds=_PART_SECONDS)
        except SipcError as error:
            raise FilterFailed(str(error)) from error

    def settle(self, arrival: Arrival, epoch: int, first: int, verdicts: Sequence[Verdict]) -> None:
        """Keep what is refused, and log all of it; what was logged already is not done again."""
        channel = self._names[arrival.channel]
        try:
            for number, verdict in enumerate(verdicts, first):
                identity = MessageId(epoch=epoch, seq=arrival.seq, record=number)
                if self._audited is not None and self._audited[1] == channel and identity <= self._audited[0] \
                        and self._audited[0].epoch == epoch:  # fmt: skip
                    continue
                self._one(arrival.messages[number - arrival.record], identity, channel, verdict)
        finally:
            self._audit.sync()

    def _one(self, data: bytes, identity: MessageId, channel: str, verdict: Verdict) -> None:
        if isinstance(verdict, Pass):
            self._audit.record(data, identity, channel=channel, verdict=Code.PASS, passed=verdict.payload)
            self._status.verdicts[Code.PASS] += 1
        elif isinstance(verdict, Quarantine):
            self._keep(data, identity, channel, verdict)
            self._audit.record(data, identity, channel=channel, verdict=Code.QUARANTINE, reason=verdict.reason)
            self._status.verdicts[Code.QUARANTINE] += 1
        else:
            self._audit.record(data, identity, channel=channel, verdict=Code.DROP, reason=verdict.reason)
            self._status.verdicts[Code.DROP] += 1
        self._status.touch()

    def _keep(self, data: bytes, identity: MessageId, channel: str, verdict: Quarantine) -> None:
        if self._store is None:
            raise QuarantineFull(
                "the filter refused a message, and the stage has no quarantine to keep it in: the message is not "
                "finished: write quarantine = { directory = PATH } into the guard file, and start the stage again"
            )
        if self._store.keep(data, identity, channel=channel, reason=verdict.reason, detail=verdict.detail):
            self._status.quarantined += 1


def _over(last: Intent | None) -> Mapping[str, tuple[int, int]]:
    return last.over if last is not None else {}


def _ended(receivers: Mapping[str, Receiver], last: Intent | None) -> set[str]:
    """Inputs whose stream has ended, which a predecessor was not able to pass on."""
    over = _over(last)
    return {name for name, end in receivers.items() if end.at_end and over.get(name) != (end.epoch, end.last_seq or 0)}


def _all_over(receivers: Mapping[str, Receiver]) -> dict[str, tuple[int, int]]:
    return {name: (end.epoch, end.last_seq or 0) for name, end in receivers.items()}


def _in_hand(receivers: Mapping[str, Receiver], last: Intent | None) -> str | None:
    """The channel of the block that a predecessor had in hand, if it noted that."""
    if last is None or last.channel not in receivers:
        return None
    end = receivers[last.channel]
    return last.channel if last.about(last.channel, end.epoch, (end.last_seq or 0) + 1) else None


def run_source(source: Source, outputs: Outputs, intents: Intents, status: Status, stop: Stopping, *, run: str) -> None:
    """Until the source has ended, which a directory or a socket never does.

    A file is sent once in each run; where runs have no names, once as it is.
    """
    last = intents.last
    if isinstance(source, FileSource) and last is not None and last.ended and run in ("", last.run):
        if digest_of([source.take()]) == last.digest:
            return
        last = None
    closed = outputs.closed_since(last.marks) if last is not None and isinstance(source, FileSource) else set()
    while True:
        status.state = StageState.WAITING
        try:
            with stop:
                data = source.take()
        except EndOfStream:
            break
        except Broken as error:
            if isinstance(source, StreamSource):
                raise SpecError(f"standard input: {error}") from error  # what follows has no beginning, now or later
            raise
        status.state = StageState.RUNNING
        if isinstance(source, DirectorySource | FileSource):
            intent = _source_intent(source, data, outputs, intents)
            with stop:
                outputs.send([data], intent.marks)
        else:
            messages = [data] if not isinstance(source, StreamSource) else _read_already(source, data)
            outputs.send(messages, outputs.marks())
        source.done()
        stop.check()
    with stop:
        outputs.close(closed)
    sent = intents.last.digest if isinstance(source, FileSource) and intents.last is not None else ""
    intents.write(Intent(channel="", epoch=0, seq=0, digest=sent, marks=outputs.marks(), ended=True, run=run))


def _read_already(source: StreamSource, data: bytes) -> list[bytes]:
    """The message in hand and those that lie behind it in the source's buffer: they go in one block."""
    messages, size = [data], len(data)
    while size < _PART_BYTES and len(messages) < _PART_RECORDS:
        source.done()
        try:
            messages.append(source.take(0))
        except Timeout:
            break
        except Broken:
            break  # it comes again, when these are sent
        size += len(messages[-1])
    return messages


def _source_intent(source: DirectorySource | FileSource, data: bytes, outputs: Outputs, intents: Intents) -> Intent:
    """The intent for the message in hand: that of a predecessor who had it in hand, or a new one."""
    last, digest = intents.last, digest_of([data])
    if last is not None and isinstance(source, FileSource):
        known = last.digest == digest and not last.ended
    elif last is not None and isinstance(source, DirectorySource):
        noted = source.intended
        known = noted is not None and last.digest == digest and last.about("", noted.epoch, noted.seq)
    else:
        known = False
    if known and last is not None:
        intent = replace(last, marks=outputs.resumed([data], last.marks))
        intents.write(intent)
        return intent
    intent = Intent(channel="", epoch=outputs.epoch, seq=outputs.seq, digest=digest, marks=outputs.marks())
    intents.write(intent)
    if isinstance(source, DirectorySource):
        source.intend(MessageId(epoch=intent.epoch, seq=intent.seq))
    return intent


def run_filter(
    receivers: Mapping[str, Receiver],
    inputs: Inputs,
    judged: Judged,
    outputs: Outputs,
    intents: Intents,
    stop: Stopping,
    *,
    run: str,
) -> None:
    """Until all inputs have ended, and that was passed on."""
    last = intents.last
    ended = _ended(receivers, last)
    closed = outputs.closed_since(last.marks if last is not None else {})
    for arrival in inputs.arrivals(first=_in_hand(receivers, last), ended=ended):
        _pass_on(arrival, judged, outputs, intents, stop)
    with stop:
        outputs.close(closed)
    over = _all_over(receivers)
    intents.write(Intent(channel="", epoch=0, seq=0, digest="", marks=outputs.marks(), over=over, ended=True, run=run))


def _pass_on(arrival: Arrival, judged: Judged, outputs: Outputs, intents: Intents, stop: Stopping) -> None:
    """One block, in parts."""
    epoch, digest, last = arrival.receiver.epoch, digest_of(arrival.messages), intents.last
    at, end = arrival.record, arrival.record + len(arrival.messages)
    if last is not None and last.about(arrival.channel, epoch, arrival.seq):
        if last.digest != digest or not at <= last.first <= last.end <= end:
            before = f"{last.digest[:16]}..., as it was when it first came"
            arrival.receiver._machine.fail(RemoteProtocolError("block", f"{digest[:16]}...", before))
        payloads = last.payloads
        intent = replace(last, marks=outputs.resumed(payloads, last.marks))
        intents.write(intent)
        _carry_out(intent, arrival, judged, outputs, stop)
        at = last.end
    # In parts that the filter never sees, so that it judges the next one while this one is carried out.
    for start in range(at, end, _PART_RECORDS):
        judged.submit(arrival.messages[start - arrival.record : start - arrival.record + _PART_RECORDS])
    while at < end:
        stop.check()
        verdicts = judged.collect()
        intent = Intent(
            channel=arrival.channel, epoch=epoch, seq=arrival.seq, digest=digest, first=at, end=at + len(verdicts),
            verdicts=tuple(verdicts), marks=outputs.marks(), over=_over(intents.last),
        )  # fmt: skip
        intents.write(intent)
        _carry_out(intent, arrival, judged, outputs, stop)
        at = intent.end


def _carry_out(intent: Intent, arrival: Arrival, judged: Judged, outputs: Outputs, stop: Stopping) -> None:
    judged.settle(arrival, intent.epoch, intent.first, intent.verdicts)
    with stop:
        outputs.send(intent.payloads, intent.marks)


def run_sink(
    receivers: Mapping[str, Receiver], inputs: Inputs, sink: Sink, intents: Intents, stop: Stopping, *,
    may_repeat: bool, run: str,
) -> None:  # fmt: skip
    """Until all inputs have ended.  A sink that `may_repeat` is left in the middle of a message when asked to stop."""
    ended = _ended(receivers, intents.last)
    for arrival in inputs.arrivals(first=_in_hand(receivers, intents.last), ended=ended):
        epoch = arrival.receiver.epoch
        if len(receivers) > 1:
            # After a kill the sink is asked for this one again before it gets another channel's: it knows one message.
            noted = Intent(
                channel=arrival.channel, epoch=epoch, seq=arrival.seq, digest="", first=arrival.record,
                over=_over(intents.last),
            )  # fmt: skip
            intents.write(noted)
        with stop if may_repeat else nullcontext():
            for number, data in enumerate(arrival.messages, arrival.record):
                sink.put(data, MessageId(epoch=epoch, seq=arrival.seq, record=number))
    intents.write(Intent(channel="", epoch=0, seq=0, digest="", over=_all_over(receivers), ended=True, run=run))
